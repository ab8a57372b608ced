"""RealNVP on vectors, by zuko."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from flowzoo.bijectors import Bijector
from flowzoo.flow import ConditionalFlow
from flowzoo.models._zuko import ZukoFlow, coupling
from flowzoo.nets import widths
from flowzoo.registry import MODELS


@MODELS.register
@dataclass(frozen=True)
class RealNVP:
    r"""Affine couplings :math:`z_b = x_b\, e^{s(x_a, c)} + t(x_a, c)` with alternating masks.

    Dinh, Sohl-Dickstein and Bengio 2017, arXiv:1605.08803, section 3. zuko calls this class NICE too; ours of that
    name is additive. Of one feature it is a conditional Gaussian.

    Args:
        num_steps: couplings.
        hidden_features: widths of each network; an int is two equal layers.
    """

    num_steps: int = 10
    hidden_features: int | tuple[int, ...] = (128, 128)

    family: ClassVar[str] = "coupling, affine"
    backend: ClassVar[str] = "zuko"
    events: ClassVar[str] = "any (flattened)"
    contexts: ClassVar[str] = "any (flattened)"
    inverse: ClassVar[str] = "closed form, one pass"
    paper: ClassVar[str] = "Dinh et al. 2017, arXiv:1605.08803"

    def build(
        self,
        event_shape: Sequence[int],
        context_shape: Sequence[int],
        *,
        x_map: Bijector | None = None,
        context_map: Bijector | None = None,
    ) -> ConditionalFlow:
        """See ``flowzoo.models.ModelConfig``."""
        make = partial(coupling, steps=self.num_steps, hidden_features=widths(self.hidden_features))
        return ZukoFlow(event_shape, context_shape, make, x_map=x_map, context_map=context_map)

    @classmethod
    def suggest(cls, trial: Any) -> RealNVP:
        """Depth and width."""
        return cls(
            num_steps=trial.suggest_int("num_steps", 4, 20),
            hidden_features=trial.suggest_categorical("hidden_features", [64, 128, 256, 512]),
        )
