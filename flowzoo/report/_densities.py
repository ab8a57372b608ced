"""Densities of draws in one and two dimensions, as smooth as the draws themselves ask for.

``_regions`` blurs galaxies, of which there are many alike, by a rule of thumb. A posterior may be a thin crescent or
two, which that rule smears; here the width of the blur is chosen by how well it foretells each draw from the others.
"""

from __future__ import annotations

import numpy as np

from flowzoo.report._catalogue import Array, Axis

_FLOOR = 0.01  # of a uniform density is mixed in, so that no single draw far from all others decides the width
_WIDEST = 1 / 10  # blur, of the length of an axis
_STEPS = 14  # widths that are tried
BINS = tuple(range(15, 76, 5))  # of a marginal
_LEAST = 0.6  # bins: below it the lines of a region follow single bins


def fitted_density(u: Array, v: Array, bins: int) -> Array:
    r"""A histogram of the unit square, blurred by a Gaussian as wide as the leave-one-out likelihood allows.

    With n draws, a kernel K of width s and :math:`f_{-i} = (n f(x_i) - K(0)) / (n - 1)`, the score of a width is
    :math:`\sum_i \log(0.99 f_{-i} + 0.01)` (Silverman 1986, Density Estimation, section 3.4.4; the uniform share is
    ours, because a heavy tail would otherwise widen all). Of the widths whose score is within a standard error of the
    best one's, the greatest is taken: an outline that noise alone would bend is straight. Draws that repeat, as those
    of a Markov chain or of importance weights do, count once in this choice. The blur is reflected at the edges, so
    nothing leaks out.

    Args:
        u: ``(n,)``, positions along the first axis; those outside [0, 1] are beyond the square.
        v: ``(n,)``, along the second.
        bins: along each axis.

    Returns:
        ``(B, B)``, the first index along u; its sum is the share of the draws that lie inside.
    """
    n = max(len(u), 1)
    counts = _counts(u, v, bins)
    once_u, once_v = np.unique(np.stack([u, v]), axis=1)
    single = _counts(once_u, once_v, bins)
    once = single.sum()
    # Where the histogram is empty no draw asks for the density.
    there = single > 0
    times = single[there]
    widths = np.geomspace(_LEAST, max(_WIDEST * bins, _LEAST), _STEPS if once > 1 else 1)
    logs = np.empty((len(widths), len(times)))
    for row, sigma in zip(logs, widths, strict=True):
        kernel = _kernel(sigma, bins)
        own = np.outer(kernel.diagonal(), kernel.diagonal())
        left = (kernel @ single @ kernel.T - own)[there] / max(once - 1, 1) * bins**2
        row[:] = np.log((1 - _FLOOR) * left.clip(0) + _FLOOR)
    scores = logs @ times
    lost = logs - logs[scores.argmax()]
    error = np.sqrt((lost - (lost @ times / max(once, 1))[:, None]) ** 2 @ times)
    chosen = _kernel(widths[scores >= scores.max() - error].max(), bins)
    density: Array = chosen @ counts @ chosen.T / n
    return density


def bin_count(values: Array, axis: Axis) -> int:
    r"""The number of equal bins along an axis with the least cross-validated squared error.

    .. math:: J(B) = \frac{B}{n - 1} \Bigl(2 - (n + 1) \sum_b p_b^2\Bigr)

    with :math:`p_b` the shares of the bins (Rudemo 1982, Scand. J. Statist. 9, 65), in lengths of the axis.
    """
    u, n = axis.scaled(values), len(values)
    shares = [np.histogram(u, bins, (0, 1))[0] / n for bins in BINS]
    risks = [bins / (n - 1) * (2 - (n + 1) * float(p @ p)) for bins, p in zip(BINS, shares, strict=True)]
    return BINS[int(np.argmin(risks))]


def _counts(u: Array, v: Array, bins: int) -> Array:
    """``(B, B)``: draws in each cell of the unit square."""
    inside = (u >= 0) & (u <= 1) & (v >= 0) & (v <= 1)
    i, j = (np.minimum((s[inside] * bins).astype(int), bins - 1) for s in (u, v))
    counts: Array = np.bincount(i * bins + j, minlength=bins * bins).reshape(bins, bins).astype(float)
    return counts


def _kernel(sigma: float, bins: int) -> Array:
    """``(B, B)``: a Gaussian about each bin, reflected at both edges; each column sums to 1."""
    at = np.arange(bins)
    images = (np.subtract.outer(at, at), np.add.outer(at, at) + 1, 2 * bins - 1 - np.add.outer(at, at))
    kernel = np.exp(-0.5 * (np.stack(images) / sigma) ** 2).sum(0)
    found: Array = kernel / kernel.sum(0)
    return found
