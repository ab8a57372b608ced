"""The options of a model whose contexts an embedding network may see first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self


@dataclass(frozen=True, kw_only=True)
class Embeds:
    """Options that a model's config inherits; ``flowzoo.models.build_from`` acts on them, and the model does not know.

    Args:
        embed: an embedding network (``flowzoo.embeddings``), trained with the flow and a part of it: ``"conv"``,
            ``"mlp"`` or one's own; None for none.
        embed_features: how many features it makes.
        context_image: ``(C, H, W)``, the image that the last C H W columns of a flat context are; None as the dataset
            says.
    """

    embed: str | None = None
    embed_features: int = 16
    context_image: tuple[int, int, int] | None = None

    def adapted(self, *, periodic: Sequence[int], context_image: tuple[int, int, int] | None) -> Self:
        """What was left to the dataset, filled in by what it declares; see ``flowzoo.models.adapt``."""
        return self if self.embed is None else replace(self, context_image=self.context_image or context_image)
