"""Negative log-likelihood of held-out events, in the units of the data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from flowzoo.metrics._metric import Column, Evaluation, NotComputed
from flowzoo.registry import METRICS
from flowzoo.stats import clustered_mean


@METRICS.register
@dataclass(frozen=True)
class NLL:
    r"""Mean negative log-likelihood of the test events.

    .. math:: \mathrm{nll} = -\frac1N \sum_i \log q(x_i \mid c_i), \qquad
              \mathrm{bits/dim} = \frac{\mathrm{nll}/D - \log\,\mathrm{step}}{\log 2}

    Of balanced data every group counts the same: the mean is over events with those weights. Bits per dimension exist
    for dequantised integer data alone, where they bound the discrete code length from above (Theis, van den Oord and
    Bethge 2016, section 3.1); the base of the logarithm and the width of a level are the whole difference from
    ``nll_per_dim``.
    """

    needs: ClassVar[tuple[str, ...]] = ("scores",)
    columns: ClassVar[tuple[Column, ...]] = (
        Column("nll_nats", "lower", "mean -log q of the test events, nats per event, in data units"),
        Column("nll_se", "none", "its standard error over test groups, nats"),
        Column("nll_per_dim", "lower", "nll_nats over the number of dimensions"),
        Column("bits_per_dim", "lower", "bits per dimension of dequantised integer data, an upper bound"),
        Column("excess_nll", "lower", "nll_nats minus that of the exact density, nats", good=0.02, bad=0.2),
    )

    def __call__(self, evaluation: Evaluation) -> dict[str, float]:
        """See the class."""
        mean, se = clustered_mean(-evaluation.scores, evaluation.groups, evaluation.weights)
        if not math.isfinite(mean):
            lost = int((~evaluation.scores.isfinite()).sum())
            raise NotComputed(f"log q is not finite at {lost} of {len(evaluation.scores)} test events")
        dims = evaluation.x[0].numel()
        values = {"nll_nats": mean, "nll_per_dim": mean / dims}
        if math.isfinite(se):
            values["nll_se"] = se
        if evaluation.step is not None:
            values["bits_per_dim"] = (mean / dims - math.log(evaluation.step)) / math.log(2)
        if evaluation.true_scores is not None:
            excess = evaluation.true_scores.double() - evaluation.scores.double()
            values["excess_nll"] = clustered_mean(excess, evaluation.groups, evaluation.weights)[0]
        return values
