"""Layers one after another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, cast

from torch import Tensor, nn

from flowzoo.nets import Given


class Layer(Protocol):
    """What a layer of ours is: two directions on ``(N, C, ...)``, each with the log|det| ``(N,)`` of that direction."""

    def to_latent(self, x: Tensor, c: Given) -> tuple[Tensor, Tensor]:
        """Towards the base."""
        ...

    def to_data(self, y: Tensor, c: Given) -> tuple[Tensor, Tensor]:
        """Towards the data; the inverse."""
        ...


class Chain(nn.Module):
    """Applies layers in order, and undoes them in reverse.

    Args:
        layers: modules with the interface of ``Layer``; those that also have ``initialize(x, c)`` are initialised by
            ``initialize`` with what reaches them.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def __iter__(self) -> Iterator[Layer]:
        return iter(cast(Sequence[Layer], self.layers))

    def initialize(self, x: Tensor, c: Given) -> Tensor:
        """Data-dependent initialisation; returns what leaves the last layer."""
        for layer in self:
            if hasattr(layer, "initialize"):
                layer.initialize(x, c)
            x, _ = layer.to_latent(x, c)
        return x

    def to_latent(self, x: Tensor, c: Given) -> tuple[Tensor, Tensor]:
        """All layers in order."""
        log_det = x.new_zeros(len(x))
        for layer in self:
            x, each = layer.to_latent(x, c)
            log_det = log_det + each
        return x, log_det

    def to_data(self, y: Tensor, c: Given) -> tuple[Tensor, Tensor]:
        """All layers in reverse."""
        log_det = y.new_zeros(len(y))
        for layer in reversed(list(self)):
            y, each = layer.to_data(y, c)
            log_det = log_det + each
        return y, log_det
