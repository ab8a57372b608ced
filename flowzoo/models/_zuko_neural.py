"""zuko's monotone networks, with the slope carried along: no autograd, and no ``f`` without ``f'``."""

from __future__ import annotations

import torch
from torch import Tensor

from flowzoo.models import _quiet_zuko  # noqa: F401

# isort: split
from zuko.flows.neural import MNN
from zuko.nn import MonotonicLinear

from flowzoo.models._zuko_exact import WithSlope


class MonotoneNetworks(MNN):
    """zuko's stack of networks, one for each feature; an ``MNN`` becomes one by its class."""

    def forward(self, signal: Tensor, due: Tensor | None = None) -> NetworkTransform:
        """The transforms of ``(..., D, S)`` signals, or of those of the features ``due`` alone."""
        layers = [layer for layer in self.network if isinstance(layer, MonotonicLinear)]
        weights = [(layer.weight.abs(), layer.bias) for layer in layers]
        if due is not None:
            weights = [(w.index_select(0, due), b.index_select(0, due)) for w, b in weights]
        return NetworkTransform(weights, signal)


class NetworkTransform(WithSlope):
    r"""Networks of increasing layers, whose hidden ones end in :math:`\mathrm{elu}(h)` or :math:`-\mathrm{elu}(-h)`.

    The second halves are taken with the other sign, in the weights, so that all is elu, of which one exponential is
    the slope, and nearly the value. Events are along the last axis, so that each operation is on what lies together.

    Args:
        weights: of each layer ``(D, out, in)``, nowhere negative, and the biases ``(D, out)``; of what goes in x is
            the first, and behind it is the signal.
        signal: ``(..., D, S)`` of at most one batch dimension.
    """

    def __init__(self, weights: list[tuple[Tensor, Tensor]], signal: Tensor) -> None:
        super().__init__(None)
        signed: list[tuple[Tensor, Tensor]] = []
        for i, (w, b) in enumerate(weights):
            after = w if i == 0 else _half_negative(w, 2)
            last = i == len(weights) - 1
            signed.append((after, b) if last else (_half_negative(after, 1), _half_negative(b, 1)))
        (first, bias), *self.rest = signed
        self.first = first[..., :1]
        given = signal[..., None] if signal.ndim == 2 else signal.permute(1, 2, 0)
        # What the signal sends to the first layer is the same at every evaluation.
        self.given = torch.baddbmm(bias[..., None], first[..., 1:], given)

    def f_and_g(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The networks and their slopes: ``(..., D)``."""
        value = torch.addcmul(self.given, self.first, x.t()[:, None])
        slope = self.first
        for w, b in self.rest:
            rate = value.clamp(max=0).exp()
            value = torch.baddbmm(b[..., None], w, value.relu() + (rate - 1))
            slope = w @ (rate * slope)
        return value[:, 0].t(), slope[:, 0].t()


def _half_negative(w: Tensor, dim: int) -> Tensor:
    one, other = w.chunk(2, dim)
    return torch.cat([one, -other], dim)
