"""Counts in random cells: chi-square of draws against test events (PQMass)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from flowzoo.metrics._metric import Column, Evaluation
from flowzoo.metrics._points import compare, distances, points, results
from flowzoo.registry import METRICS
from flowzoo.seeding import generator

EXPECTED = 5  # points of either sample in a cell, below which chi-square is no good approximation


@METRICS.register
@dataclass(frozen=True)
class PQMass:
    r"""Pearson's chi-square between the counts of two samples in Voronoi cells, per degree of freedom.

    Lemos et al. 2024, arXiv:2402.04355: R reference points are taken at random out of both samples together
    (and out of these samples), every other point belongs to the nearest of them, and with :math:`n_{sc}` points of
    sample s in cell c

    .. math:: \chi^2 = \sum_{s,c} \frac{(n_{sc} - e_{sc})^2}{e_{sc}}, \qquad e_{sc} = \frac{N_s N_c}{N}

    over cells that are not empty, of which there are C. If both samples are of one distribution, any choice of N_1
    of the N points is as probable as any other given the cells, the counts are hypergeometric, and exactly
    :math:`\mathbb E \chi^2 = (C - 1) N / (N - 1)`. The column is the mean over tessellations of
    :math:`\frac{N-1}{N} \chi^2 / (C - 1)`, so it is **1 on average for a perfect flow**.

    There is no column of p. Each tessellation gives a valid p-value, but they are of the same points, and neither
    their mean nor their median is one. Twice the median is (Rüger 1978, Metrika 25, 171), and so is twice the mean
    (Vovk and Wang 2020, Biometrika 107, 791), if conservative. Kept are ``floor_p_by_group``, twice the median over
    tessellations, and ``p_by_group``, twice the mean of those of both comparisons. They hold where points are
    independent: within a group, and not where half a cloud is made of several.

    Args:
        num_refs: R, if that leaves 5 points of each sample in a mean cell, else fewer.
        tessellations: how often the references are taken anew; the same places in every comparison.
        max_points: at most this many points of a half.
    """

    num_refs: int = 100
    tessellations: int = 50
    max_points: int = 2000

    needs: ClassVar[tuple[str, ...]] = ("clouds",)
    columns: ClassVar[tuple[Column, ...]] = (
        Column(
            "pqm_chi2",
            "lower",
            "chi^2 per degree of freedom of counts in random cells (PQMass); about 1 is perfect",
            "pqm_chi2_floor",
        ),
        Column("pqm_chi2_floor", "none", "the same between two halves of the test events"),
    )

    def __call__(self, evaluation: Evaluation) -> dict[str, float | Tensor | str]:
        """See the class."""
        found = points(evaluation, "counts in cells", least=4 * EXPECTED, most=self.max_points)
        count = 2 * found.real.shape[2]
        cells = min(self.num_refs, count // (2 * EXPECTED))
        source = generator(0, "pqmass", count)
        order = torch.rand(self.tessellations, count, generator=source).argsort(1)
        places = order[:, :cells].to(found.real.device)

        def both(a: Tensor, b: Tensor) -> Tensor:
            chi2, dof = cell_counts(a, b, places)
            n = count - cells
            p = torch.special.gammaincc(dof / 2, chi2 / 2).quantile(0.5)
            return torch.stack([((n - 1) / n * chi2 / dof).mean(), (2 * p).clamp_max(1)])

        value, floor = compare(found, both)
        # Of two p-values, too, twice the mean is one.
        kept = {"p_by_group": (2 * value[:, 1]).clamp_max(1), "floor_p_by_group": floor[:, 1]}
        return results(["pqm_chi2"], value[:, 0], floor[:, 0], found) | kept


def cell_counts(a: Tensor, b: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Pearson's chi-square of two samples over Voronoi cells, one for each tessellation.

    Args:
        a: ``(N, D)``.
        b: ``(M, D)``.
        places: ``(T, R)`` reference points, rows of both samples one after the other.

    Returns:
        Chi-square and degrees of freedom, 1 at least, ``(T,)`` each.
    """
    both = torch.cat([a, b])
    apart = torch.cat([part for _, part in distances(both, both)])
    rounds, cells = places.shape
    counts = torch.zeros(rounds, 2 * cells, dtype=torch.float64, device=a.device)
    sample = (torch.arange(len(both), device=a.device) >= len(a)).long()
    for row, where in zip(counts, places, strict=True):
        cell = apart[where].argmin(0)
        weight = torch.ones(len(both), dtype=torch.float64, device=a.device)
        weight[where] = 0
        row.scatter_add_(0, cell + cells * sample, weight)
    counts = counts.unflatten(1, (2, cells))
    of_cell, of_sample = counts.sum(1, keepdim=True), counts.sum(2, keepdim=True)
    expected = of_cell * of_sample / of_cell.sum(2, keepdim=True)
    chi2 = ((counts - expected).square() / expected.where(expected > 0, 1.0)).sum((1, 2))
    return chi2, ((of_cell[:, 0] > 0).sum(1).double() - 1).clamp_min(1)
