"""Precision, recall, density and coverage of draws, by nearest neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from flowzoo.metrics._metric import Column, Evaluation
from flowzoo.metrics._points import compare, distances, points, results
from flowzoo.registry import METRICS

NAMES = ("precision", "recall", "density", "coverage")
SAME = 1e-6  # training spreads, as far apart as matrix products put two copies of a point


@METRICS.register
@dataclass(frozen=True)
class PRDC:
    r"""What share of the draws lies among real points, and what share of the real points has draws nearby.

    With :math:`B_k(x)` the ball around a point of a sample that reaches its k-th nearest other point there, N real
    points X and M draws Y,

    .. math:: \mathrm{precision} = \tfrac1M \sum_j 1[\exists i: Y_j \in B_k(X_i)], \qquad
              \mathrm{recall} = \tfrac1N \sum_i 1[\exists j: X_i \in B_k(Y_j)], \\
              \mathrm{density} = \tfrac{1}{kM} \sum_{ij} 1[Y_j \in B_k(X_i)], \qquad
              \mathrm{coverage} = \tfrac1N \sum_i 1[\exists j: Y_j \in B_k(X_i)]

    (Kynkäänniemi et al. 2019, arXiv:1904.06991; Naeem et al. 2020, arXiv:2002.09797.) Low
    precision or density: draws where nothing is; low recall or coverage: a mode is dropped. For P = Q the N - 1 fellows
    of X_i and the M draws are exchangeable, so exactly :math:`\mathbb E\,\mathrm{density} = 1` and
    :math:`\mathbb E\,\mathrm{coverage} = 1 - \prod_{l=1}^{k} \frac{N - l}{N + M - l}`: 0.97 for k = 5 and N = M.
    Precision and recall have no such number, and one far outlier with a large ball raises either: read them against
    their floor. Balls are Euclidean, in units of the training spreads.

    Args:
        k: neighbours that a ball reaches.
        max_points: at most this many points of a half.
    """

    k: int = 5
    max_points: int = 2000

    needs: ClassVar[tuple[str, ...]] = ("clouds",)
    columns: ClassVar[tuple[Column, ...]] = (
        Column("precision", "higher", "share of draws within reach of 5 real neighbours", "precision_floor"),
        Column("precision_floor", "none", "the same between two halves of the test events"),
        Column("recall", "higher", "share of test events within reach of 5 drawn neighbours", "recall_floor"),
        Column("recall_floor", "none", "the same between two halves of the test events"),
        Column("density", "none", "real balls of 5 neighbours around a draw, over 5; 1 is perfect", "density_floor"),
        Column("density_floor", "none", "the same between two halves of the test events"),
        Column("coverage", "higher", "share of test events with a draw among their 5 neighbours", "coverage_floor"),
        Column("coverage_floor", "none", "the same between two halves of the test events"),
    )

    def __call__(self, evaluation: Evaluation) -> dict[str, float | Tensor | str]:
        """See the class."""
        found = points(evaluation, f"{self.k} neighbours", least=self.k + 1, most=self.max_points)
        value, floor = compare(found, lambda a, b: prdc(a, b, self.k), symmetric=False)
        return results(NAMES, value, floor, found)


def prdc(real: Tensor, drawn: Tensor, k: int) -> Tensor:
    """Precision, recall, density and coverage.

    Args:
        real: ``(N, D)``.
        drawn: ``(M, D)``.
        k: neighbours that a ball reaches; less than N and M.

    Returns:
        ``(4,)``, in this order.
    """
    reach_real, reach_drawn = reach(real, k) + SAME, reach(drawn, k) + SAME
    balls = torch.zeros(len(drawn), dtype=torch.float64, device=real.device)  # real ones that hold a draw
    recalled, covered = [], []
    for rows, apart in distances(real, drawn):
        inside = apart <= reach_real[rows, None]
        balls += inside.sum(0)
        covered.append(inside.any(1))
        recalled.append((apart <= reach_drawn).any(1))
    shares = (balls > 0, torch.cat(recalled), balls / k, torch.cat(covered))
    return torch.stack([share.double().mean() for share in shares])


def reach(x: Tensor, k: int) -> Tensor:
    """Distance of each of ``(N, D)`` to its k-th nearest other point, ``(N,)``."""
    # The nearest of all is the point itself.
    return torch.cat([part.topk(k + 1, largest=False).values[:, k] for _, part in distances(x, x)])
