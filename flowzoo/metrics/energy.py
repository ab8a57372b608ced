"""Energy distance between draws and test events."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from flowzoo.metrics._metric import Column, Evaluation
from flowzoo.metrics._points import compare, mean_over_pairs, mean_within, points, results
from flowzoo.registry import METRICS


@METRICS.register
@dataclass(frozen=True)
class Energy:
    r"""Unbiased estimate of the energy distance, in training spreads.

    .. math:: \mathcal E(P, Q) = 2\, \mathbb E \lVert x - y \rVert - \mathbb E \lVert x - x' \rVert
              - \mathbb E \lVert y - y' \rVert

    (Székely and Rizzo 2013, J. Stat. Plan. Inference 143, 1249.) It has no width to choose, grows with the
    square of a small shift and in proportion to a large one, and is zero for P = Q alone. The last two means are over
    pairs of two different points: a U-statistic, unbiased, about zero for P = Q and hence also **negative**. (The usual
    V-statistic has the n pairs of a point and itself in it, and is never negative.) In one dimension it is twice the
    integral of the squared difference of the distribution functions.

    Args:
        max_points: at most this many points of a half.
    """

    max_points: int = 2000

    needs: ClassVar[tuple[str, ...]] = ("clouds",)
    columns: ClassVar[tuple[Column, ...]] = (
        Column(
            "energy",
            "lower",
            "unbiased energy distance of draws to test events, training spreads; 0, also below, is perfect",
            "energy_floor",
        ),
        Column("energy_floor", "none", "the same between two halves of the test events"),
    )

    def __call__(self, evaluation: Evaluation) -> dict[str, float | Tensor | str]:
        """See the class."""
        found = points(evaluation, "an unbiased energy distance", most=self.max_points)
        value, floor = compare(found, energy_distance)
        return results(["energy"], value, floor, found)


def energy_distance(a: Tensor, b: Tensor) -> Tensor:
    """Unbiased energy distance of two samples.

    Args:
        a: ``(N, D)``.
        b: ``(M, D)``.

    Returns:
        A scalar tensor, in the units of ``a`` and ``b``.
    """
    return 2 * mean_over_pairs(_itself, a, b) - mean_within(_itself, a) - mean_within(_itself, b)


def _itself(distance: Tensor) -> Tensor:
    return distance
