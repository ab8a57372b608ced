"""Maximum mean discrepancy between draws and test events, and against the distance of galaxies in context."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from flowzoo.metrics._metric import Clouds, Column, Evaluation
from flowzoo.metrics._points import PAIRS, compare, mean_over_pairs, mean_within, points, results
from flowzoo.registry import METRICS

MEDIAN_OF = 2000  # points whose distances give the bandwidth: two million of them
SAME = 1e-10  # squared distance, in bandwidths squared, below which two points are one point taken twice


@METRICS.register
@dataclass(frozen=True)
class MMD:
    r"""Unbiased estimate of the squared maximum mean discrepancy under a Gaussian kernel.

    .. math:: \mathrm{MMD}^2(P, Q) = \mathbb E\, k(x, x') + \mathbb E\, k(y, y') - 2\, \mathbb E\, k(x, y), \qquad
              k(x, y) = e^{-\lVert x - y \rVert^2 / 2 \sigma^2}

    with sigma the median distance between two points of the reference, which is real. The first two means are over
    pairs of two *different* points (Gretton et al. 2012, JMLR 13, lemma 6, eq. 3), so each is an unbiased estimate of
    its expectation, and so is the sum: zero on average where P = Q, hence also **negative**. It is zero in expectation
    for P = Q alone, since the kernel is characteristic. (GalacticFlow's is linear, k = x . y: there MMD^2 is the
    squared difference of means, and blind to shape.)

    Where test galaxies have clouds of their own, draws of each are also compared with real particles of every galaxy
    of the population, and so are its real particles: three tensors for a figure of MMD^2 against the distance in
    context. Draws of a galaxy should be as far from the others as its own particles are.

    Args:
        max_points: at most this many points of a half.
        population_points: at most this many of a galaxy, for the figure.
    """

    max_points: int = 2000
    population_points: int = 300

    needs: ClassVar[tuple[str, ...]] = ("clouds",)
    columns: ClassVar[tuple[Column, ...]] = (
        Column(
            "mmd",
            "lower",
            "unbiased MMD^2 of draws to test events, Gaussian kernel of median width; 0, also below, is perfect",
            "mmd_floor",
        ),
        Column("mmd_floor", "none", "the same between two halves of the test events"),
    )

    def __call__(self, evaluation: Evaluation) -> dict[str, float | Tensor | str]:
        """See the class."""
        found = points(evaluation, "an unbiased MMD", most=self.max_points)
        value, floor = compare(found, lambda a, b: mmd2(a, b, bandwidth(a)), symmetric=False)
        values = results(["mmd"], value, floor, found)
        if found.population.numel() and len(found.context) == len(found.real):
            values |= across(found, self.population_points)
        return values


def mmd2(a: Tensor, b: Tensor, width: Tensor) -> Tensor:
    """Unbiased MMD^2 of two samples.

    Args:
        a: ``(N, D)``.
        b: ``(M, D)``.
        width: sigma of the kernel.

    Returns:
        A scalar tensor, 2 at most.
    """
    kernel = gaussian(width)
    return mean_within(kernel, a) + mean_within(kernel, b) - 2 * mean_over_pairs(kernel, a, b)


def bandwidth(a: Tensor) -> Tensor:
    """The median distance between two points of ``(N, D)``; 1 where more than half of all points are one."""
    median = torch.nn.functional.pdist(a[:MEDIAN_OF]).median()
    return torch.where(median > 0, median, torch.ones_like(median))


def gaussian(width: Tensor) -> Callable[[Tensor], Tensor]:
    """The kernel as a function of distance."""
    # The exponential in float32, four times as fast: its rounding, 1e-7, is random and far below what samples scatter.
    return lambda distance: (distance.square() / (-2 * width.square())).float().exp().double()


def across(found: Clouds, most: int) -> dict[str, float | Tensor | str]:
    r"""MMD^2 of each cloud to every group of the population, with the kernel of the cloud.

    A galaxy's own particles may be in the population, and there a particle may be drawn twice. A pair of a point and
    itself is left out of every mean, which then is over pairs of different particles, and the estimate unbiased still.

    Args:
        found: K clouds with a context each, and a population of G groups.
        most: points of each that are used.

    Returns:
        ``to_population`` ``(K, G)`` of the draws, ``real_to_population`` of the real points, and ``context_distance``
        ``(K, G)``, Euclidean, each column of the context in units of its spread over the population.
    """
    population = found.population[:, :most].double()
    rows: dict[str, list[Tensor]] = {"to_population": [], "real_to_population": []}
    for real, drawn in zip(found.real[:, 0, :most], found.drawn[:, 0, :most], strict=True):
        width, centre = bandwidth(real), real.mean(0)
        others = (population - centre) / width
        within = _kernel_means(others, others)
        for name, cloud in (("to_population", drawn), ("real_to_population", real)):
            own = ((cloud - centre) / width)[None]
            rows[name].append(_kernel_means(own, own) + within - 2 * _kernel_means(own, others))
    stacked: dict[str, float | Tensor | str] = {name: torch.stack(row) for name, row in rows.items()}
    ours, theirs = (context.flatten(1).double() for context in (found.context, found.population_context))
    spread = theirs.std(0, correction=0)
    ours, theirs = ((context - theirs.mean(0))[:, spread > 0] / spread[spread > 0] for context in (ours, theirs))
    return stacked | {"context_distance": (ours[:, None] - theirs).norm(dim=-1)}


def _kernel_means(a: Tensor, b: Tensor) -> Tensor:
    """Mean kernel of width 1 between ``(1 or G, n, D)`` and ``(1 or G, m, D)``, group by group, of different points."""
    count = max(len(a), len(b))
    each = max(1, PAIRS // (a.shape[1] * b.shape[1]))
    means = []
    for start in range(0, count, each):
        part_a, part_b = (t if len(t) == 1 else t[start : start + each] for t in (a, b))
        squared = torch.cdist(part_a, part_b).square()
        same = (squared < SAME).sum((-2, -1)).double()  # each has a kernel of 1
        total = squared.div_(-2).float().exp_().sum((-2, -1), dtype=torch.float64)
        means.append((total - same) / (squared[0].numel() - same).clamp_min(1))
    return torch.cat(means)
