"""Coupling: one part of the channels is transformed given the other part and the context."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flowzoo.layers.spline import rational_quadratic


class AffineCoupling(nn.Module):
    r""":math:`y_b = x_b\, e^{s(x_a, c)} + t(x_a, c),\ y_a = x_a` (Dinh et al. 2017, section 3.2).

    The log-scale is bounded, :math:`s = B \tanh(\tilde s / B)`, so that no step can stretch by more than
    :math:`e^B`: that keeps the float32 round trip of a deep stack.

    Args:
        channels: C; the first C // 2 condition, the others are transformed. With one channel the context alone
            conditions.
        net: ``(x_a, context) -> 2 (C - C // 2)`` channels.
        bound: B.
    """

    def __init__(self, channels: int, net: nn.Module, bound: float = 2.0) -> None:
        super().__init__()
        self.kept = channels // 2
        self.net = net
        self.bound = bound

    def to_latent(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and shift the second part."""
        a, b = x[:, : self.kept], x[:, self.kept :]
        log_scale, shift = self._affine(a, c)
        return torch.cat([a, b * torch.exp(log_scale) + shift], 1), log_scale.flatten(1).sum(1)

    def to_data(self, y: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """Undo it: the first part, which conditions, is still there."""
        a, b = y[:, : self.kept], y[:, self.kept :]
        log_scale, shift = self._affine(a, c)
        return torch.cat([a, (b - shift) * torch.exp(-log_scale)], 1), -log_scale.flatten(1).sum(1)

    def _affine(self, a: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        raw, shift = self.net(a, c).chunk(2, dim=1)
        return self.bound * torch.tanh(raw / self.bound), shift


class SplineCoupling(nn.Module):
    """A rational-quadratic spline on one part of a vector given the other (Durkan et al. 2019, section 3.2).

    Args:
        kept: positions that condition.
        moved: positions that are transformed.
        net: ``((N, kept), context) -> (N, moved * (3 K - 1))``.
        bound: half-width of the interval that the spline transforms.
    """

    def __init__(self, kept: slice, moved: slice, net: nn.Module, bound: float) -> None:
        super().__init__()
        self.kept, self.moved = kept, moved
        self.net = net
        self.bound = bound

    def to_latent(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """Transform the moved part."""
        return self._transform(x, c, inverse=False)

    def to_data(self, y: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """Transform it back."""
        return self._transform(y, c, inverse=True)

    def _transform(self, x: Tensor, c: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        moved = x[:, self.moved]
        parameters = self.net(x[:, self.kept], c).unflatten(1, (moved.shape[1], -1))
        moved, log_slope = rational_quadratic(moved, parameters, bound=self.bound, inverse=inverse)
        y = x.clone()
        y[:, self.moved] = moved
        return y, log_slope.sum(1)
