"""Coupling: one part of the channels is transformed given the other part and the context."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowzoo.layers.spline import rational_quadratic
from flowzoo.nets import Given

Scale = Literal["tanh", "sigmoid", "none"]

SIGMOID_FLOOR = 1e-3  # least scale of the sigmoid form, as published for HIGlow


class AffineCoupling(nn.Module):
    r""":math:`y_b = x_b\, e^{s(x_a, c)} + t(x_a, c),\ y_a = x_a` (Dinh et al. 2017, section 3.2).

    The scale is bounded, so that no step can stretch without end: that keeps the float32 round trip of a deep stack.

    - ``"tanh"``: :math:`s = B \tanh(h / B)`; h = 0 is a scale of one.
    - ``"sigmoid"``: :math:`e^s = (1 - f)\,\sigma(h + 2) + f` with f = 0.001, the form of Glow's and HIGlow's code
      (Friedman and Hassan 2022, arXiv:2211.12724); h = 0 is a scale of 0.88.
    - ``"none"``: additive coupling, s = 0 (Dinh et al. 2015, arXiv:1410.8516).

    Args:
        channels: C; the first C // 2 condition, the others are transformed. With one channel the context alone
            conditions.
        net: ``(x_a, context) -> `` a scale and a shift for each of the C - C // 2 others (only a shift if additive).
        bound: B.
        scale: form of the scale.
    """

    def __init__(self, channels: int, net: nn.Module, bound: float = 2.0, scale: Scale = "tanh") -> None:
        super().__init__()
        self.kept = channels // 2
        self.net = net
        self.bound = bound
        self.scale = scale

    def to_latent(self, x: Tensor, c: Given) -> tuple[Tensor, Tensor]:
        """Scale and shift the second part."""
        a, b = x[:, : self.kept], x[:, self.kept :]
        return self._transform(a, b, self._affine(a, c))

    def to_data(self, y: Tensor, c: Given) -> tuple[Tensor, Tensor]:
        """Undo it: the first part, which conditions, is still there."""
        a, b = y[:, : self.kept], y[:, self.kept :]
        affine = self._affine(a, c)
        return torch.cat([a, self._restore(b, affine)], 1), -affine[0].flatten(1).sum(1)

    def recompute(self, y: Tensor, c: Given) -> tuple[Tensor, Tensor, Tensor]:
        """From the output: the input, a leaf that requires gradient, and output and log|det| with graph.

        For ``flowzoo.layers.reversible``. The network, which is nearly all of the work, runs once.
        """
        x = y.detach().clone().requires_grad_()
        # A copy, so that autograd does not take the line that fills in the second part for a change of what it saved.
        a = x[:, : self.kept].clone()
        affine = self._affine(a, c)
        with torch.no_grad():
            x[:, self.kept :] = self._restore(y[:, self.kept :], affine)
        return x, *self._transform(a, x[:, self.kept :], affine)

    def _transform(self, a: Tensor, b: Tensor, affine: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        log_scale, shift = affine
        return torch.cat([a, b * torch.exp(log_scale) + shift], 1), log_scale.flatten(1).sum(1)

    def _restore(self, b: Tensor, affine: tuple[Tensor, Tensor]) -> Tensor:
        log_scale, shift = affine
        return (b - shift) * torch.exp(-log_scale)

    def _affine(self, a: Tensor, c: Given) -> tuple[Tensor, Tensor]:
        if self.scale == "none":
            shift = self.net(a, c)
            return torch.zeros_like(shift), shift
        raw, shift = self.net(a, c).chunk(2, dim=1)
        if self.scale == "sigmoid":
            # log((1 - f) sigma(u) + f) = log sigma(u) + log(1 + f e^-u), which neither under- nor overflows
            return F.logsigmoid(raw + 2) + F.softplus(math.log(SIGMOID_FLOOR) - raw - 2), shift
        return self.bound * torch.tanh(raw / self.bound), shift


class SplineCoupling(nn.Module):
    """A rational-quadratic spline on one part of the channels given the other (Durkan et al. 2019, section 3.2).

    Args:
        kept: channels that condition.
        moved: channels that are transformed.
        net: ``(kept channels, context) -> moved * (3 K - 1)`` channels.
        bound: half-width of the interval that the spline transforms.
    """

    def __init__(self, kept: slice, moved: slice, net: nn.Module, bound: float) -> None:
        super().__init__()
        self.kept, self.moved = kept, moved
        self.net = net
        self.bound = bound

    def to_latent(self, x: Tensor, c: Given) -> tuple[Tensor, Tensor]:
        """Transform the moved part."""
        return self._transform(x, c, inverse=False)

    def to_data(self, y: Tensor, c: Given) -> tuple[Tensor, Tensor]:
        """Transform it back."""
        return self._transform(y, c, inverse=True)

    def _transform(self, x: Tensor, c: Given, inverse: bool) -> tuple[Tensor, Tensor]:
        moved = x[:, self.moved]
        parameters = self.net(x[:, self.kept], c).unflatten(1, (moved.shape[1], -1))
        moved, log_slope = rational_quadratic(moved, parameters, bound=self.bound, inverse=inverse, dim=2)
        y = x.clone()
        y[:, self.moved] = moved
        return y, log_slope.flatten(1).sum(1)
