"""A small network of the whole context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from torch import nn

from flowzoo.nets import mlp
from flowzoo.registry import EMBEDDINGS


@EMBEDDINGS.register
@dataclass(frozen=True)
class MLP:
    """Two linear layers with a SiLU between them, of all numbers of a context.

    Args:
        hidden_features: width between them.
    """

    hidden_features: int = 128

    def build(self, context_shape: Sequence[int], features: int, image: tuple[int, int, int] | None) -> nn.Module:
        """See ``flowzoo.embeddings.EmbeddingConfig``; ``(N, features)``. An image is a vector like any other."""
        return nn.Sequential(nn.Flatten(), *mlp(prod(context_shape), features, (self.hidden_features,)))
