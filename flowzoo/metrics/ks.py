"""Kolmogorov-Smirnov distance of every marginal of the draws from that of the test events."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from flowzoo.metrics._metric import Column, Evaluation
from flowzoo.metrics._points import compare, points, results
from flowzoo.registry import METRICS


@METRICS.register
@dataclass(frozen=True)
class KolmogorovSmirnov:
    r"""Largest difference of two empirical distribution functions, of the worst marginal.

    .. math:: D_j = \sup_t \lvert F^\mathrm{real}_j(t) - F^\mathrm{drawn}_j(t) \rvert, \qquad
              \mathrm{ks} = \max_j D_j

    (Smirnov 1948, Ann. Math. Stat. 19, 279, two-sample.) The maximum over columns and not their mean: one column of ten
    that is wrong (a spike at the edge of a range, a missing atom) is what it is asked for, and a mean would show a
    tenth of it. Of m points a half, D_j of equal distributions is about 0.87 sqrt(2 / m), and the maximum
    higher: so is the floor. All D_j are kept as ``by_column`` and ``floor_by_column``, ``(K, D)``.
    """

    needs: ClassVar[tuple[str, ...]] = ("clouds",)
    columns: ClassVar[tuple[Column, ...]] = (
        Column("ks", "lower", "Kolmogorov-Smirnov distance of the worst marginal, 0 to 1", "ks_floor"),
        Column("ks_floor", "none", "the same between two halves of the test events"),
    )

    def __call__(self, evaluation: Evaluation) -> dict[str, float | Tensor | str]:
        """See the class."""
        found = points(evaluation, "a distribution function", least=1)

        def both(a: Tensor, b: Tensor) -> Tensor:
            each = ks_distance(a, b)
            return torch.cat([each.amax(0, keepdim=True), each])

        # The maximum is within each comparison, as in the floor: of the mean of two it would be lower.
        value, floor = compare(found, both)
        kept = {"by_column": value[:, 1:], "floor_by_column": floor[:, 1:]}
        return results(["ks"], value[:, 0], floor[:, 0], found) | kept


def ks_distance(a: Tensor, b: Tensor) -> Tensor:
    """Two-sample Kolmogorov-Smirnov distance per column; ties count as they should.

    Args:
        a: ``(N, D)``.
        b: ``(M, D)``.

    Returns:
        ``(D,)``.
    """
    a, b = a.T.contiguous().sort().values, b.T.contiguous().sort().values
    both = torch.cat([a, b], 1)
    shares = [torch.searchsorted(t, both, right=True).double() / t.shape[1] for t in (a, b)]
    return (shares[0] - shares[1]).abs().amax(1)
