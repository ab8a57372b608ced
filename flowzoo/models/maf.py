"""Masked autoregressive flow, by zuko."""

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
class MAF:
    r"""Affine autoregressive transforms :math:`z_i = x_i\, e^{s_i(x_{<i}, c)} + t_i(x_{<i}, c)`.

    Papamakarios, Pavlakou and Murray 2017, arXiv:1705.07057, section 3. The order of the features is reversed from one
    transform to the next. Of one feature it is a conditional Gaussian.

    Args:
        num_steps: autoregressive transforms.
        hidden_features: widths of each masked network; an int is two equal layers.
    """

    num_steps: int = 5
    hidden_features: int | tuple[int, ...] = (128, 128)

    family: ClassVar[str] = "autoregressive, affine"
    backend: ClassVar[str] = "zuko"
    events: ClassVar[str] = "any (flattened)"
    contexts: ClassVar[str] = "any (flattened)"
    inverse: ClassVar[str] = "D network passes a transform"
    paper: ClassVar[str] = "Papamakarios et al. 2017, arXiv:1705.07057"

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
            return flows.MAF(features, context, transforms=self.num_steps, hidden_features=widths(self.hidden_features))

        return ZukoFlow(event_shape, context_shape, make, x_map=x_map, context_map=context_map)

    @classmethod
    def suggest(cls, trial: Any) -> MAF:
        """Depth and width."""
        return cls(
            num_steps=trial.suggest_int("num_steps", 2, 10),
            hidden_features=trial.suggest_categorical("hidden_features", [64, 128, 256, 512]),
        )
