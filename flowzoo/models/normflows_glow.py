"""Glow for images, class-conditional in its base, normflows' implementation (arXiv:1807.03039)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from flowzoo.bijectors import Bijector
from flowzoo.flow import ConditionalFlow
from flowzoo.models._embeds import Embeds
from flowzoo.models._normflows import GlowFlow, glow
from flowzoo.registry import MODELS


@MODELS.register
@dataclass(frozen=True)
class NormflowsGlow(Embeds):
    """Multiscale Glow of Kingma and Dhariwal 2018, built of normflows' layers.

    The steps do not see the context. As in the paper's class-conditional Glow it enters the base alone, where
    it shifts and scales each channel of each level: made for one-hot classes, and all that it can say of
    another vector is linear in it. ``cglow`` conditions every step.

    Args:
        num_levels: squeezes; height and width must divide by ``2**num_levels``.
        num_steps: steps (actnorm, invertible 1x1, affine coupling) a level.
        hidden_features: channels of a coupling's network (3x3, 1x1, 3x3 convolutions).
        scale_map: how a coupling makes its scale. The paper's ``"sigmoid"`` divides by numbers below 1 on the
            way to the data: on digits it has the best held-out NLL, but about one draw in 10^4 overflows
            (and is NaN and counted). ``"sigmoid_inv"`` multiplies instead, so that draws stay small;
            ``"exp"`` is unbounded both ways.
    """

    family: ClassVar[str] = "coupling, affine"
    backend: ClassVar[str] = "normflows 1.7"
    events: ClassVar[str] = "images (C, H, W); H and W divide by 2**num_levels"
    contexts: ClassVar[str] = "one-hot classes or none; at the base only"
    inverse: ClassVar[str] = "closed form, one pass"
    paper: ClassVar[str] = "Kingma and Dhariwal 2018, arXiv:1807.03039"

    # its smallest image has four pixels, too many to integrate over
    conformance: ClassVar[dict[str, Any]] = {"event": (1, 4, 4), "context": (3,), "line": None, "plane": None}

    num_levels: int = 2
    num_steps: int = 4
    hidden_features: int = 32
    scale_map: Literal["sigmoid", "sigmoid_inv", "exp"] = "sigmoid"

    def __post_init__(self) -> None:
        for name in ("num_levels", "num_steps", "hidden_features"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")

    def build(
        self,
        event_shape: Sequence[int],
        context_shape: Sequence[int],
        *,
        x_map: Bijector | None = None,
        context_map: Bijector | None = None,
    ) -> ConditionalFlow:
        """See ``ModelConfig``."""
        if len(event_shape) != 3:
            raise ValueError(
                f"normflows-glow needs images, event_shape (C, H, W); got {tuple(event_shape)}. "
                "For vectors take normflows-nsf."
            )
        factor = 2**self.num_levels
        if any(size % factor or size == 0 for size in event_shape[1:]):
            raise ValueError(
                f"normflows-glow with num_levels={self.num_levels} needs height and width that divide by "
                f"{factor}; got event_shape {tuple(event_shape)}. Lower num_levels, or crop or pad them."
            )
        if len(context_shape) != 1:
            raise ValueError(
                f"normflows-glow needs classes as one-hot vectors, context_shape (K,), or (0,) for none; "
                f"got {tuple(context_shape)}. For other contexts take cglow."
            )
        model = glow(
            event_shape,
            num_classes=context_shape[0],
            num_levels=self.num_levels,
            num_steps=self.num_steps,
            hidden_features=self.hidden_features,
            scale_map=self.scale_map,
        )
        return GlowFlow(model, event_shape, context_shape, x_map=x_map, context_map=context_map)

    @classmethod
    def suggest(cls, trial: Any) -> Self:
        """See ``ModelConfig``."""
        return cls(
            num_steps=trial.suggest_int("num_steps", 2, 12, step=2),
            hidden_features=trial.suggest_categorical("hidden_features", [32, 64, 128]),
        )
