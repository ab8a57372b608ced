"""Networks that turn a context into features, trained with the flow: one file a network.

A file registers a frozen dataclass of its options with ``build``. The network stands between the fixed map of the
context and the model (``ConditionalFlow.attach``), so any model takes any of them: ``--set model.embed=conv``.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Protocol

import torch
from torch import nn

from flowzoo.registry import EMBEDDINGS


class EmbeddingConfig(Protocol):
    """What an embedding's file registers: a frozen dataclass of its options with this interface."""

    def build(self, context_shape: Sequence[int], features: int, image: tuple[int, int, int] | None) -> nn.Module:
        """The network, with fresh weights: ``(N, *context)`` in network units to ``(N, F)``.

        Args:
            context_shape: of the data.
            features: how many features to make. F may be more, if columns of the context are passed on.
            image: shape of the image that the context is, or that its last columns are; None for no image.

        Raises:
            ValueError: for a context that the network cannot take, in one line.
        """
        ...


def make(
    name: str, context_shape: Sequence[int], *, features: int = 16, image: Sequence[int] | None = None
) -> tuple[nn.Module, int]:
    """An embedding network by name, and the width F of what it returns.

    Args:
        name: one of ``flowzoo.registry.EMBEDDINGS.names()``.
        context_shape: of the data, ``(D,)`` or an image ``(C, H, W)``.
        features: how many features to make.
        image: shape of the image that the last columns of a flat context are.

    Raises:
        UnknownName: for a name that no file and no entry point provides.
        ValueError: where there is no context, or it does not hold the image, or the network cannot take it.
    """
    shape = tuple(context_shape)
    if prod(shape) == 0:
        raise ValueError(f"embed '{name}' needs a context, and there is none; leave embed out, or choose data with one")
    if len(shape) == 3:
        if image is not None and tuple(image) != shape:
            raise ValueError(f"context_image is {tuple(image)}; the context is an image {shape}")
        image = shape
    if image is not None and (
        len(image) != 3 or (shape != tuple(image) and (len(shape) != 1 or prod(image) > shape[0]))
    ):
        raise ValueError(
            f"context_image must be (C, H, W) of the last C H W columns of a flat context; got {tuple(image)} with a "
            f"context {shape}"
        )
    net: nn.Module = EMBEDDINGS.get(name)().build(shape, features, None if image is None else tuple(image))
    with torch.no_grad():
        found = tuple(net(torch.zeros(2, *shape)).shape)
    if len(found) != 2 or found[0] != 2 or found[1] < 1:
        raise ValueError(f"embed '{name}' must turn 2 contexts into (2, F) features; it returned {found}")
    return net, found[1]
