"""Invertible linear mixing of channels, parametrised by its PLU factors (Kingma and Dhariwal 2018, section 3.2)."""

from __future__ import annotations

from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LOG_SCALE_FLOOR = -5.0  # a diagonal of U below e^-5 would make the triangular solve lose float32's digits


class LULinear(nn.Module):
    r""":math:`y = P L U x` along dimension 1 of ``(N, C)`` or ``(N, C, H, W)``.

    P is a fixed permutation, L unit-lower and U upper triangular, with the diagonal of U as sign times exponential,
    so that :math:`\log\lvert\det\rvert = H W \sum_i s_i`. L and U are masked at every use and cannot drift outside
    their triangles. It starts at a random rotation.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        rotation = torch.linalg.qr(torch.randn(channels, channels))[0]
        permutation, lower, upper = torch.linalg.lu(rotation)
        diagonal = upper.diagonal()
        self.permutation: Tensor
        self.sign: Tensor
        self.register_buffer("permutation", permutation)
        self.register_buffer("sign", diagonal.sign())
        self.lower = nn.Parameter(lower.tril(-1))
        self.upper = nn.Parameter(upper.triu(1))
        # the inverse of the smooth floor below, so that the layer starts at the rotation itself
        above = diagonal.abs().log().clamp_min(LOG_SCALE_FLOOR + 1e-3) - LOG_SCALE_FLOOR
        self.raw_log_scale = nn.Parameter(above + torch.log(-torch.expm1(-above)))

    def to_latent(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """Multiply by the matrix; ``c`` is not used."""
        lower, upper, log_scale = self._factors()
        weight = self.permutation @ lower @ upper
        if x.ndim == 2:
            y = F.linear(x, weight)
        else:
            y = F.conv2d(x, weight[:, :, None, None])
        return y, (log_scale.sum() * prod(x.shape[2:])).expand(len(x))

    def to_data(self, y: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """Two triangular solves; ``c`` is not used."""
        lower, upper, log_scale = self._factors()
        columns = y.movedim(1, 0).flatten(1)
        columns = torch.linalg.solve_triangular(lower, self.permutation.T @ columns, upper=False, unitriangular=True)
        columns = torch.linalg.solve_triangular(upper, columns, upper=True)
        x = columns.unflatten(1, (len(y), *y.shape[2:])).movedim(0, 1)
        return x, (-log_scale.sum() * prod(y.shape[2:])).expand(len(y))

    def _factors(self) -> tuple[Tensor, Tensor, Tensor]:
        log_scale = LOG_SCALE_FLOOR + F.softplus(self.raw_log_scale)
        eye = torch.eye(len(log_scale), dtype=log_scale.dtype, device=log_scale.device)
        lower = self.lower.tril(-1) + eye
        upper = self.upper.triu(1) + torch.diag(self.sign * log_scale.exp())
        return lower, upper, log_scale
