"""Activation normalisation: data-initialised scale and shift per channel, with a conditional one on top."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

from flowzoo.nets import mlp


class ActNorm(nn.Module):
    r""":math:`y = (x - \mu)\, e^{-s}` per channel (Kingma and Dhariwal 2018, section 3.1).

    ``initialize`` sets mu and s so that the first batch leaves with zero mean and unit variance. It is called once,
    by name; nothing hides in the forward pass.

    Args:
        channels: size of dimension 1 of ``(N, C)`` or ``(N, C, H, W)``.
        context_features: width of the context; if not 0 an MLP of the context, which starts at zero, adds a scale
            and a shift of its own (Friedman and Hassan 2022, arXiv:2211.12724: the conditional injector of HIGlow).
        hidden_features: widths of that MLP.
        bound: the conditional log-scale stays within (-bound, bound).
    """

    def __init__(
        self,
        channels: int,
        context_features: int = 0,
        hidden_features: Sequence[int] = (64,),
        bound: float = 2.0,
    ) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(channels))
        self.log_scale = nn.Parameter(torch.zeros(channels))
        self.bound = bound
        self.net = None
        if context_features:
            self.net = mlp(context_features, 2 * channels, hidden_features, zero_init=True)

    @torch.no_grad()
    def initialize(self, x: Tensor, c: Tensor) -> None:
        """Set mean and scale from a batch, over everything but the channels."""
        over = [0, *range(2, x.ndim)]
        self.mean.copy_(x.mean(over))
        self.log_scale.copy_(x.std(over, correction=0).clamp_min(1e-6).log())

    def to_latent(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """Normalise, then scale and shift by the context."""
        mean, log_scale = _like(x, self.mean[None]), _like(x, self.log_scale[None])
        y = (x - mean) * torch.exp(-log_scale)
        scale, shift = self._conditional(c)
        if scale is not None and shift is not None:
            y = y * torch.exp(_like(x, scale)) + _like(x, shift)
        return y, self._log_det(x, scale)

    def to_data(self, y: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """The inverse."""
        scale, shift = self._conditional(c)
        x = y
        if scale is not None and shift is not None:
            x = (x - _like(y, shift)) * torch.exp(-_like(y, scale))
        x = x * torch.exp(_like(y, self.log_scale[None])) + _like(y, self.mean[None])
        return x, -self._log_det(y, scale)

    def _conditional(self, c: Tensor) -> tuple[Tensor | None, Tensor | None]:
        if self.net is None:
            return None, None
        scale, shift = self.net(c).chunk(2, dim=1)
        return self.bound * torch.tanh(scale / self.bound), shift

    def _log_det(self, x: Tensor, scale: Tensor | None) -> Tensor:
        each = -self.log_scale.sum().expand(len(x))
        if scale is not None:
            each = each + scale.sum(1)
        return each * prod(x.shape[2:])


def _like(x: Tensor, channels: Tensor) -> Tensor:
    """``(N, C)`` with trailing axes to broadcast against ``x``."""
    return channels.reshape(*channels.shape, *(1,) * (x.ndim - 2))
