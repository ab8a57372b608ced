"""Neural spline flow by coupling, normflows' implementation (Durkan et al. 2019, arXiv:1906.04032)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar

from flowzoo.bijectors import Bijector
from flowzoo.flow import ConditionalFlow
from flowzoo.models._normflows import spline_chain
from flowzoo.models._spline_coupling import SplineCouplingConfig, SplineCouplingFlow
from flowzoo.registry import MODELS


@MODELS.register
@dataclass(frozen=True)
class NormflowsNSF(SplineCouplingConfig):
    """Monotone rational-quadratic coupling of Durkan et al. 2019 (RQ-NSF (C)), built of normflows' layers.

    As in the paper, a permutation and a learned LU-factored linear map stand next to each coupling (so an
    event of D numbers costs D^2 weights a step), and the half of the event that conditions a coupling passes
    through a spline of its own. The options are those of ``SplineCouplingConfig``.
    """

    backend: ClassVar[str] = "normflows 1.7"

    def build(
        self,
        event_shape: Sequence[int],
        context_shape: Sequence[int],
        *,
        x_map: Bijector | None = None,
        context_map: Bijector | None = None,
    ) -> ConditionalFlow:
        """See ``ModelConfig``."""
        transform = spline_chain(self, self._features(event_shape), prod(context_shape))
        return SplineCouplingFlow(transform, event_shape, context_shape, x_map=x_map, context_map=context_map)
