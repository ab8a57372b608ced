"""Invertible linear mixing of channels (Kingma and Dhariwal 2018, section 3.2): by PLU factors, or in plainer forms."""

from __future__ import annotations

from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowzoo.nets import Given

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
        permutation, lower, upper = torch.linalg.lu(_rotation(channels))
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

    def to_latent(self, x: Tensor, c: Given) -> tuple[Tensor, Tensor]:
        """Multiply by the matrix; ``c`` is not used."""
        lower, upper, log_scale = self._factors()
        y = _mix(x, self.permutation @ lower @ upper)
        return y, (log_scale.sum() * prod(x.shape[2:])).expand(len(x))

    def to_data(self, y: Tensor, c: Given) -> tuple[Tensor, Tensor]:
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


class MatrixLinear(nn.Module):
    r""":math:`y = W x` with W a plain matrix, which starts at a random rotation; :math:`O(C^3)` for its determinant.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(_rotation(channels))

    def to_latent(self, x: Tensor, c: Given) -> tuple[Tensor, Tensor]:
        """Multiply by the matrix; ``c`` is not used."""
        return _mix(x, self.weight), self._log_det(x)

    def to_data(self, y: Tensor, c: Given) -> tuple[Tensor, Tensor]:
        """Solve; ``c`` is not used."""
        # Without a check for singularity, for which the host would wait.
        columns, _ = torch.linalg.solve_ex(self.weight, y.movedim(1, 0).flatten(1))
        return columns.unflatten(1, (len(y), *y.shape[2:])).movedim(0, 1), -self._log_det(y)

    def _log_det(self, x: Tensor) -> Tensor:
        return (torch.linalg.slogdet(self.weight)[1] * prod(x.shape[2:])).expand(len(x))


class Permutation(nn.Module):
    """A fixed random order of the channels, kept as a buffer.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.order: Tensor
        self.register_buffer("order", torch.randperm(channels))

    def to_latent(self, x: Tensor, c: Given) -> tuple[Tensor, Tensor]:
        """Reorder; ``c`` is not used."""
        return x.index_select(1, self.order), x.new_zeros(len(x))

    def to_data(self, y: Tensor, c: Given) -> tuple[Tensor, Tensor]:
        """Order as before; ``c`` is not used."""
        return y.index_select(1, self.order.argsort()), y.new_zeros(len(y))


def _rotation(channels: int) -> Tensor:
    return torch.linalg.qr(torch.randn(channels, channels))[0]


def _mix(x: Tensor, weight: Tensor) -> Tensor:
    # Products of matrices: of few channels they are several times faster than the 1x1 convolution that they equal.
    if x.ndim == 2:
        return (weight @ x.t()).t()  # events last in memory, where the halves of a coupling are blocks
    return torch.einsum("oc,nc...->no...", weight, x)
