"""Squeeze and factor-out: the multiscale architecture of RealNVP and Glow (Dinh et al. 2017, section 3.6)."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

from flowzoo.nets import Given, vector_of, zero_


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
    r"""Set the second half of the channels aside, Gaussianised given the first half and the context.

    .. math:: z = (x_b - \mu(x_a, c))\, e^{-s(x_a, c)}

    This is Glow's learned conditional base written as a layer, so that the base of every latent is the standard
    normal and the sampler cannot use another one than the density.

    Args:
        channels: C.
        net: ``(x_a, context) -> `` a mean and a log-scale for each of the others; None leaves them as they are.
        bound: the log-scale stays within (-bound, bound).
        kept: how many channels go on, from the first; C // 2 by default, 0 at the end of a flow.
    """

    def __init__(self, channels: int, net: nn.Module | None, bound: float = 3.0, kept: int | None = None) -> None:
        super().__init__()
        self.kept = channels // 2 if kept is None else kept
        self.net = net
        self.bound = bound

    def to_latent(self, x: Tensor, c: Given) -> tuple[Tensor, Tensor, Tensor]:
        """``x`` to ``(kept, latent, log|det|)``."""
        kept, part = x[:, : self.kept], x[:, self.kept :]
        if self.net is None:
            return kept, part, x.new_zeros(len(x))
        mean, log_scale = self._affine(self.net, kept, c)
        return kept, (part - mean) * torch.exp(-log_scale), -log_scale.flatten(1).sum(1)

    def to_data(self, kept: Tensor, z: Tensor, c: Given) -> tuple[Tensor, Tensor]:
        """``(kept, latent)`` to ``x``, with the log|det|."""
        if self.net is None:
            return torch.cat([kept, z], 1), z.new_zeros(len(z))
        mean, log_scale = self._affine(self.net, kept, c)
        return torch.cat([kept, z * torch.exp(log_scale) + mean], 1), log_scale.flatten(1).sum(1)

    def _affine(self, net: nn.Module, kept: Tensor, c: Given) -> tuple[Tensor, Tensor]:
        mean, raw = net(kept, c).chunk(2, dim=1)
        return mean, self.bound * torch.tanh(raw / self.bound)


class Diagonal(nn.Module):
    """A network whose output is one learned number per channel, zero at first: the learned diagonal base.

    Args:
        channels: of the output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, context: Given) -> Tensor:
        """``(N, C, ...)`` to ``(N, channels, ...)``, whatever the input."""
        shape = (len(x), len(self.value), *x.shape[2:])
        return self.value.reshape(1, -1, *(1,) * (x.ndim - 2)).expand(shape)


class ContextBase(nn.Module):
    """A network whose output is affine in the context alone, zero at first: one number per element of a part.

    It makes the class-conditional base of Glow's CIFAR-10 experiment (Kingma and Dhariwal 2018: one-hot class to mean
    and log-scale), here per element and not per channel, and of whatever else is a vector.

    Args:
        context_features: width of the context; with 0 what is learned is a base without context.
        shape: of the output, ``(channels, ...)``.
    """

    def __init__(self, context_features: int, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.bias = nn.Parameter(torch.zeros(prod(self.shape)))
        self.linear = None
        if context_features:
            self.linear = zero_(nn.Linear(context_features, prod(self.shape), bias=False))

    def forward(self, x: Tensor, context: Given) -> Tensor:
        """The context to ``(N, *shape)``, whatever ``x``."""
        flat = self.bias.expand(len(x), -1)
        if self.linear is not None:
            flat = flat + self.linear(vector_of(context))
        return flat.reshape(-1, *self.shape)

    def penalty(self) -> Tensor:
        """Mean square of the weights that belong to the context: what a regularisation keeps small."""
        return self.bias.new_zeros(()) if self.linear is None else self.linear.weight.square().mean()
