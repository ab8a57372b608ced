"""Bernstein polynomial flow, by zuko."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from flowzoo.bijectors import Bijector
from flowzoo.flow import ConditionalFlow
from flowzoo.models._zuko import ZukoFlow, flows
from flowzoo.nets import widths
from flowzoo.registry import MODELS


@MODELS.register
@dataclass(frozen=True)
class BPF:
    r"""Autoregressive increasing Bernstein polynomials on [-5, 5], the identity outside.

    Ramasinghe, Fernando, Khan and Barnes 2021, arXiv:2102.03509, section 3. The inverse is bisected.

    Args:
        num_steps: autoregressive transforms.
        hidden_features: widths of each masked network; an int is two equal layers.
        degree: of the polynomials.
    """

    num_steps: int = 3
    hidden_features: int | tuple[int, ...] = (128, 128)
    degree: int = 16

    family: ClassVar[str] = "autoregressive, polynomial"
    backend: ClassVar[str] = "zuko"
    events: ClassVar[str] = "any (flattened)"
    contexts: ClassVar[str] = "any (flattened)"
    inverse: ClassVar[str] = "D network passes a transform, each bisected"
    paper: ClassVar[str] = "Ramasinghe et al. 2021, arXiv:2102.03509"

    def build(
        self,
        event_shape: Sequence[int],
        context_shape: Sequence[int],
        *,
        x_map: Bijector | None = None,
        context_map: Bijector | None = None,
    ) -> ConditionalFlow:
        """See ``flowzoo.models.ModelConfig``."""

        def make(features: int, context: int) -> Any:
            return flows.BPF(
                features,
                context,
                transforms=self.num_steps,
                hidden_features=widths(self.hidden_features),
                degree=self.degree,
            )

        return ZukoFlow(event_shape, context_shape, make, x_map=x_map, context_map=context_map)

    @classmethod
    def suggest(cls, trial: Any) -> BPF:
        """Depth, width and degree."""
        return cls(
            num_steps=trial.suggest_int("num_steps", 1, 6),
            hidden_features=trial.suggest_categorical("hidden_features", [64, 128, 256, 512]),
            degree=trial.suggest_int("degree", 8, 32),
        )
