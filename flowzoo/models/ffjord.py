"""FFJORD: a continuous flow, by zuko."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from flowzoo.layers.implicit import first_derivatives_only
from flowzoo.models._zuko import ZukoFlow, ZukoModel, flows
from flowzoo.nets import widths
from flowzoo.registry import MODELS


class _Continuous(ZukoFlow):
    """The solver's steps are shared by a batch, and never end if one event is NaN: such rows take no part."""

    def _to_latent(self, u: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        return _finite_rows(super()._to_latent, u, c)

    def _to_data(self, z: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        return _finite_rows(super()._to_data, z, c)


def _finite_rows(
    function: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], x: Tensor, c: Tensor
) -> tuple[Tensor, Tensor]:
    if torch.is_inference_mode_enabled():  # the trace is a derivative, of tensors that may have one
        with torch.inference_mode(False), torch.no_grad():
            return _finite_rows(function, x.clone(), c.clone())
    rows = [torch.isfinite(t.flatten(1)).all(1) for t in (x, c)]
    good = rows[0] & rows[1]
    # Through the solver a gradient's gradient is 0, and not what it should be.
    value, log_det = function(*(first_derivatives_only(_masked(t, good, 0.0)) for t in (x, c)))
    return _masked(value, good, math.nan), torch.where(good, log_det, math.nan)


def _masked(t: Tensor, good: Tensor, fill: float) -> Tensor:
    return torch.where(good.reshape(-1, *(1,) * (t.ndim - 1)), t, fill)


@MODELS.register
@dataclass(frozen=True)
class FFJORD(ZukoModel):
    r"""The flow of an ordinary differential equation :math:`\dot u = g(u, t, c)`, with the exact trace.

    .. math:: \log\lvert\det\rvert = \int_0^1 \mathrm{tr}\, \frac{\partial g}{\partial u}\, dt

    Grathwohl et al. 2019, arXiv:1810.01367, section 3, whose trace estimator is replaced by the exact trace, so that
    a log-density is a number and not a random variable; the price grows with D. zuko calls it CNF.

    Args:
        hidden_features: widths of the network g; an int is two equal layers.
        num_freqs: frequencies of the embedding of time.
        atol: absolute tolerance of the adaptive solver.
        rtol: relative tolerance.
    """

    hidden_features: int | tuple[int, ...] = (64, 64)
    num_freqs: int = 3
    atol: float = 1e-5
    rtol: float = 1e-4

    family: ClassVar[str] = "continuous"
    events: ClassVar[str] = "vectors of up to 256 (flattened)"
    inverse: ClassVar[str] = "one ODE, as the density"
    exempt: ClassVar[dict[str, str]] = {"step_does_not_wait": "the solver's adaptive step is chosen on the host"}
    paper: ClassVar[str] = "Grathwohl et al. 2019, arXiv:1810.01367"

    # The error of the ODE solver stands where other flows have rounding; its steps are chosen by the worst event of
    # a batch, so an event's score depends on its company within that error. Its steps are slow, so it takes few.
    conformance: ClassVar[dict[str, Any]] = {
        "options": {"atol": 1e-6, "rtol": 1e-5, "hidden_features": 16},
        "tolerance": 2e-3,
        "steps": 20,
    }

    flow_class: ClassVar[type[ZukoFlow]] = _Continuous
    max_features: ClassVar[int] = 256  # the exact trace takes D backward passes per evaluation

    def make(self, features: int, context: int) -> Any:
        """zuko's transforms; see ``ZukoModel``."""
        if features > self.max_features:
            raise ValueError(
                f"ffjord takes events of at most {self.max_features} numbers, because its exact trace costs one "
                f"backward pass for each; got {features}"
            )
        return flows.CNF(
            features,
            context,
            freqs=self.num_freqs,
            hidden_features=widths(self.hidden_features),
            atol=self.atol,
            rtol=self.rtol,
        )

    @classmethod
    def suggest(cls, trial: Any) -> FFJORD:
        """Width."""
        return cls(hidden_features=trial.suggest_categorical("hidden_features", [32, 64, 128, 256]))
