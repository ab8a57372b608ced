"""Squeeze and factor-out: the multiscale architecture of RealNVP and Glow (Dinh et al. 2017, section 3.6)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def squeeze(x: Tensor) -> Tensor:
    """``(N, C, H, W)`` to ``(N, 4 C, H / 2, W / 2)``: each 2 x 2 block of pixels becomes channels."""
    n, c, h, w = x.shape
    blocks = x.reshape(n, c, h // 2, 2, w // 2, 2)
    return blocks.permute(0, 1, 3, 5, 2, 4).reshape(n, 4 * c, h // 2, w // 2)


def unsqueeze(x: Tensor) -> Tensor:
    """The inverse of ``squeeze``."""
    n, c, h, w = x.shape
    blocks = x.reshape(n, c // 4, 2, 2, h, w)
    return blocks.permute(0, 1, 4, 2, 5, 3).reshape(n, c // 4, 2 * h, 2 * w)


class FactorOut(nn.Module):
    r"""Gaussianise the second half of the channels given the first half and the context, and set it aside.

    .. math:: z = (x_b - \mu(x_a, c))\, e^{-s(x_a, c)}

    This is Glow's learned conditional base written as a layer, so that the base of every latent is the standard
    normal and the sampler cannot use another one than the density.

    Args:
        channels: C; the first C // 2 go on.
        net: ``(x_a, context) -> 2 (C - C // 2)`` channels.
        bound: the log-scale stays within (-bound, bound).
    """

    def __init__(self, channels: int, net: nn.Module, bound: float = 3.0) -> None:
        super().__init__()
        self.kept = channels // 2
        self.net = net
        self.bound = bound

    def to_latent(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``x`` to ``(kept, latent, log|det|)``."""
        kept, part = x[:, : self.kept], x[:, self.kept :]
        mean, log_scale = self._affine(kept, c)
        return kept, (part - mean) * torch.exp(-log_scale), -log_scale.flatten(1).sum(1)

    def to_data(self, kept: Tensor, z: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """``(kept, latent)`` to ``x``, with the log|det|."""
        mean, log_scale = self._affine(kept, c)
        return torch.cat([kept, z * torch.exp(log_scale) + mean], 1), log_scale.flatten(1).sum(1)

    def _affine(self, kept: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        mean, raw = self.net(kept, c).chunk(2, dim=1)
        return mean, self.bound * torch.tanh(raw / self.bound)
