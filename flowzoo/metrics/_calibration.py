"""What the calibration tests share: ranks with chance in them, tests of uniformity, Holm, bands of a distribution."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from flowzoo.metrics._metric import Evaluation, NotComputed, Posteriors
from flowzoo.metrics._regression import PAIRS
from flowzoo.seeding import generator

LEAST = 20  # observations, below which no test says anything
BINS = 10  # of chi-square, with 5 expected in each at least
GOOD_P, BAD_P = 0.05, 0.001  # the marks of every column of p
BLUR = 1e-3  # nats, of log densities that are ranked


def usable(evaluation: Evaluation, *, predicted: bool = False) -> Posteriors:
    """The posteriors of an evaluation, if they can be tested.

    Args:
        evaluation: of a flow.
        predicted: whether the test needs predictions of theta.

    Raises:
        NotComputed: if there are none, or too few observations or training pairs, or any that are not numbers, with
            their count.
    """
    found = evaluation.posteriors
    if found is None:
        raise NotComputed(evaluation.posteriors_missing)
    count = len(found.truth)
    if count < LEAST:
        raise NotComputed(f"{count} observations with known parameters; calibration needs {LEAST}")
    lost = int((~found.draws.isfinite().all(-1)).any(0).sum())
    if lost:
        raise NotComputed(f"posterior draws of {lost} of {count} observations are not finite")
    scores = [found.log_prob, found.truth_log_prob[None]]
    if found.log_likelihood is not None and found.truth_log_likelihood is not None:
        scores += [found.log_likelihood, found.truth_log_likelihood[None]]
    # Minus infinity is a rank like any other; what is NaN has none, and plus infinity is no density.
    lost = int((~(torch.cat(scores) < math.inf)).any(0).sum())
    if lost:
        raise NotComputed(f"log densities of {lost} of {count} observations are not numbers")
    if predicted and found.predicted is None:
        raise NotComputed(f"fewer than {PAIRS} training pairs; references that know x need as many")
    return found


def stream(evaluation: Evaluation, name: str) -> torch.Generator:
    """A stream of the cell's seed by name: a metric that asks for the same name sees the same chance."""
    return generator(evaluation.generator.initial_seed(), "calibration", name)


def randomised_pit(draws: Tensor, truth: Tensor, source: torch.Generator) -> Tensor:
    r"""Rank of the truth among L draws, made continuous by chance.

    .. math:: u = \frac{\#\{l: \theta_l < \theta^*\} + (1 + \#\{l: \theta_l = \theta^*\})\, U}{L + 1}, \qquad
              U \sim \mathrm{U}(0, 1)

    If the truth is one more draw, the rank with ties broken at random is uniform on 0 ... L, and so u is *exactly*
    uniform on [0, 1], for any L. (A test of the integers r against the continuous law is not: at N = 10,000 and
    L = 100 it rejects about every second exact posterior.)

    Args:
        draws: ``(L, *shape)``.
        truth: ``shape``.
        source: of U.

    Returns:
        ``shape`` in float64.
    """
    below, same = (draws < truth).sum(0), (draws == truth).sum(0)
    u = torch.rand(truth.shape, dtype=torch.float64, generator=source, device=source.device).to(truth.device)
    return (below + (1 + same) * u) / (len(draws) + 1)


def density_pit(scores: Tensor, truth: Tensor, source: torch.Generator) -> Tensor:
    """``randomised_pit`` of log densities, draws and truth alike blurred by a thousandth of a nat.

    The truth's is not computed as those of draws are, which a method interpolates or a flow has from its inverse. Where
    the density does not depend on theta, rounding would rank them, always to one side. The same noise on all of them
    leaves u exactly uniform.

    Args:
        scores: ``(L, N)``.
        truth: ``(N,)``.
        source: of the noise, and of U.

    Returns:
        ``(N,)`` in float64.
    """
    both = torch.cat([scores.double(), truth.double()[None]])
    noise = BLUR * torch.rand(both.shape, dtype=torch.float64, generator=source, device=source.device)
    blurred = both + noise.to(both.device)
    return randomised_pit(blurred[:-1], blurred[-1], source)


def ks_p(u: Tensor) -> Tensor:
    """One-sample Kolmogorov-Smirnov test against U(0, 1), exact for every N: ``(..., N)`` to p ``(...)``."""
    from scipy.stats import kstwo

    count = u.shape[-1]
    u = u.double().sort(-1).values
    step = torch.arange(1, count + 1, dtype=u.dtype, device=u.device) / count
    distance = torch.maximum((step - u).amax(-1), (u - step + 1 / count).amax(-1))
    return torch.as_tensor(kstwo.sf(distance.cpu().numpy(), count), dtype=u.dtype).to(u.device)


def chi2_p(u: Tensor, bins: int = BINS) -> Tensor:
    """Pearson's test of equal counts in equal bins, of 5 expected at least: ``(..., N)`` to p ``(...)``."""
    count = u.shape[-1]
    bins = max(2, min(bins, count // 5))
    cell = (u.double() * bins).long().clamp(0, bins - 1)
    counts = torch.zeros(*u.shape[:-1], bins, dtype=torch.float64, device=u.device)
    counts.scatter_add_(-1, cell, torch.ones_like(u, dtype=torch.float64))
    chi2 = (counts - count / bins).square().sum(-1) * bins / count
    return torch.special.gammaincc(torch.full_like(chi2, (bins - 1) / 2), chi2 / 2)


def uniform_p(u: Tensor) -> Tensor:
    r"""One p-value of uniformity from Kolmogorov-Smirnov and chi-square of 10 bins.

    .. math:: p = \tfrac12 - \tfrac1\pi \arctan \tfrac12 \bigl(\cot \pi p_\mathrm{KS} + \cot \pi p_{\chi^2}\bigr)

    (Cauchy combination, Liu and Xie 2020, J. Am. Stat. Assoc. 115, 393.) The first sees a mean that is off, the second
    a spread that is: each misses half of what the other sees. Twice the smaller of the two would be conservative,
    since both look at the same numbers; this is near its size whatever they have in common (a little above it here),
    and exact in the limit of small p. That it has its size at 5 % is tested, not trusted.

    Args:
        u: ``(..., N)`` in [0, 1].

    Returns:
        ``(...)``.
    """
    # cot has a pole at p = 1, where one perfect fit would outweigh any fault that the other test sees.
    cot = [1 / torch.tan(math.pi * p.clamp(1e-300, 0.999)) for p in (ks_p(u), chi2_p(u))]
    # atan2 keeps the digits of small p, which a difference from 1/2 would lose.
    return torch.atan2(torch.ones_like(cot[0]), (cot[0] + cot[1]) / 2) / math.pi


def holm(p: Tensor) -> Tensor:
    """p-values of a family, corrected so that any false rejection among them is as rare as it says.

    Holm 1979, Scand. J. Stat. 6, 65: the k-th smallest of m times m - k + 1, never below one before it. The smallest of
    them is the p-value of the family: that every member's null hypothesis is true.

    Args:
        p: ``(..., m)``.

    Returns:
        ``(..., m)`` in the same order.
    """
    sorted_p, order = p.sort(-1)
    factor = torch.arange(p.shape[-1], 0, -1, dtype=p.dtype, device=p.device)
    adjusted = (sorted_p * factor).cummax(-1).values.clamp_max(1)
    return torch.empty_like(adjusted).scatter_(-1, order, adjusted)


def ecdf_difference(u: Tensor, level: float = 0.95, points: int = 100) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Empirical distribution function less the diagonal, and the band that holds all of it with probability ``level``.

    Säilynoja, Bürkner and Vehtari 2022, Stat. Comput. 32, 32, section 2: at each point of the grid the central
    interval of Binomial(N, z), all with one pointwise level, the lowest with which the whole curve of a uniform sample
    stays inside in ``level`` of all cases. That probability is computed, not simulated.

    Args:
        u: ``(..., N)``.
        level: simultaneous.
        points: K, of the grid z = 1/K ... (K-1)/K.

    Returns:
        z ``(K-1,)``, difference ``(..., K-1)``, lower and upper edge ``(K-1,)``.
    """
    count = u.shape[-1]
    points = min(points, count)
    z = torch.arange(1, points, dtype=torch.float64, device=u.device) / points
    below = torch.searchsorted(
        u.double().contiguous().sort(-1).values, z.expand(*u.shape[:-1], -1).contiguous(), right=True
    )
    lower, upper = (torch.tensor(edge, dtype=torch.float64).to(z) for edge in _band(count, points, level))
    return z, below.double() / count - z, lower / count - z, upper / count - z


@functools.lru_cache(64)
def _band(count: int, points: int, level: float) -> tuple[list[int], list[int]]:
    """Lowest and highest counts below each point of the grid: the narrowest intervals that keep the level."""
    import numpy as np
    from scipy.stats import binom

    z = np.arange(1, points) / points

    def edges(outside: float) -> tuple[list[int], list[int]]:
        return (
            binom.ppf(outside / 2, count, z).astype(int).tolist(),
            binom.isf(outside / 2, count, z).astype(int).tolist(),
        )

    # Pointwise, the share outside lies between what a union bound allows and what one point does; halve its logarithm.
    low, high = math.log((1 - level) / points), math.log(1 - level)
    for _ in range(24):
        middle = (low + high) / 2
        if _stays_inside(count, points, *edges(math.exp(middle))) >= level:
            low = middle
        else:
            high = middle
    return edges(math.exp(low))


def _stays_inside(count: int, points: int, lower: list[int], upper: list[int]) -> float:
    """Probability that the counts of N uniform numbers below every point of the grid lie within the edges.

    The counts are a Poisson process that is known to have N events at the end, and its steps all have one law
    (Steck 1971, Ann. Math. Stat. 42, 1, has the problem; conditioning makes the recursion a convolution).
    """
    import numpy as np
    from scipy.stats import poisson

    step = poisson.pmf(np.arange(count + 1), count / points)
    step = step[: int(np.flatnonzero(step > 1e-18)[-1]) + 1]
    mass, first = np.ones(1), 0  # probability of each count from ``first`` on
    for a, b in zip([*lower, count], [*upper, count], strict=True):
        moved = np.convolve(mass, step)
        reach = np.zeros(b - a + 1)
        start, end = max(a, first), min(b, first + len(moved) - 1)
        if start > end:
            return 0.0
        reach[start - a : end - a + 1] = moved[start - first : end - first + 1]
        mass, first = reach, a
    return float(mass[0] / poisson.pmf(count, count))


def bootstrap_band(
    u: Tensor, grid: Tensor, source: torch.Generator, level: float = 0.95, resamples: int = 1000
) -> tuple[Tensor, Tensor]:
    """Pointwise percentile band of an empirical distribution function, from samples of its numbers with replacement.

    Args:
        u: ``(N,)``.
        grid: ``(K,)``.
        source: of the resamples, each of its own.
        level: of the band.
        resamples: how many.

    Returns:
        Lower and upper edge, ``(K,)`` each.
    """
    below = torch.searchsorted(u.double().sort().values, grid.to(u.device, torch.float64), right=True)
    inside = torch.cat([below[:1], below.diff(), (len(u) - below[-1:])]).double().cpu()
    # Resampled, the counts between the points are multinomial: no numbers need to be moved.
    chosen = torch.multinomial(inside.expand(resamples, -1), len(u), replacement=True, generator=source)
    counts = torch.zeros(resamples, len(grid) + 1, dtype=torch.float64)
    curves = counts.scatter_add_(1, chosen, torch.ones_like(chosen, dtype=torch.float64)).cumsum(1)[:, :-1] / len(u)
    edges = curves.quantile(torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64), dim=0)
    return edges[0].to(u.device), edges[1].to(u.device)
