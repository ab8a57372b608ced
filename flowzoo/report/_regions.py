"""Regions of highest density that enclose stated shares of particles: their numbers, and how they are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from flowzoo.report._catalogue import Array, Axis
from flowzoo.report._style import REAL

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BINS = 96  # along each axis of a smooth density
_BLUR = 0.085  # its standard deviation at n = 1, of the length of an axis; Scott's rule for a normal density has 0.1
_LEAST_BLUR = 0.8  # bins
_BEYOND = 0.5  # of an axis, at both its ends, where densities are still counted


def smooth_density(u: Array, v: Array, weights: Array | None = None) -> Array:
    """A histogram of the unit square, blurred by a Gaussian that keeps the sum.

    Its width falls with n^(-1/6), as that of Scott's rule does in two dimensions, and is the same along both axes. It
    is smaller than that rule's, because galaxies are more peaked than a normal density.

    Args:
        u: ``(n,)``, positions along the first axis; those outside [0, 1] count for n alone.
        v: ``(n,)``, along the second.
        weights: ``(n,)``, not negative.

    Returns:
        ``(B, B)``, the first index along u; its sum is the share of the weight that lies inside.
    """
    total = float(len(u) if weights is None else weights.sum()) or 1.0
    counts = np.histogram2d(u, v, BINS, ((0, 1), (0, 1)), weights=weights)[0]
    sigma = max(_LEAST_BLUR, _BLUR * BINS * max(len(u), 1) ** (-1 / 6))
    away = np.subtract.outer(np.arange(BINS), np.arange(BINS)) / sigma
    kernel = np.exp(-0.5 * away**2)
    kernel /= kernel.sum(0)
    blurred: Array = kernel @ counts @ kernel.T / total
    return blurred


def enclosing(density: Array, u: Array, v: Array, fractions: Sequence[float], weights: Array | None = None) -> Array:
    """Levels of a density above which the stated shares of the particles lie.

    A level is a quantile of the density at the particles themselves, so that the region encloses its share of **all**
    of them, whatever was blurred and whatever lies outside the square, where the density is 0.

    Args:
        density: ``(B, B)`` of the unit square, taken as linear between the centres of its bins.
        u: ``(n,)``.
        v: ``(n,)``.
        fractions: shares to enclose.
        weights: ``(n,)``, not negative.

    Returns:
        ``(len(fractions),)``; 0 where so much does not lie inside.
    """
    if not len(u):
        return np.zeros(len(fractions))
    heights = density_at(density, u, v)
    order = np.argsort(-heights, kind="stable")
    share = np.cumsum(np.ones(len(u)) if weights is None else weights[order])
    # Rounding of the sum does not take one particle more.
    levels: Array = heights[order][np.searchsorted(share, np.asarray(fractions) * share[-1] * (1 - 1e-9))]
    return levels


def density_at(density: Array, u: Array, v: Array) -> Array:
    """A density of the unit square at points, linear between the centres of its bins; 0 outside."""
    inside = (u >= 0) & (u <= 1) & (v >= 0) & (v <= 1)
    count = len(density)
    a, b = (np.clip(np.where(inside, s, 0.0) * count - 0.5, 0, count - 1) for s in (u, v))
    i, j = (np.minimum(s.astype(int), count - 2) for s in (a, b))
    a, b = a - i, b - j
    low = (1 - b) * density[i, j] + b * density[i, j + 1]
    high = (1 - b) * density[i + 1, j] + b * density[i + 1, j + 1]
    heights: Array = np.where(inside, (1 - a) * low + a * high, 0.0)
    return heights


def draw_regions(
    at: Axes,
    points: tuple[Array, Array],
    axes: tuple[Axis, Axis],
    fractions: Sequence[float],
    *,
    greys: Sequence[str] = (),
    colour: str = REAL,
    weights: Array | None = None,
) -> None:
    """Outline what encloses the fractions of the points, and fill it where there are greys.

    A region that reaches far beyond the axes is left out: within them it has no whole outline.

    Args:
        at: the panel.
        points: ``(n,)`` along each axis.
        axes: that are shown.
        fractions: from the largest to the smallest.
        greys: one each, to fill with.
        colour: of the lines.
        weights: ``(n,)``, not negative.
    """
    wide = [axis.padded(_BEYOND) for axis in axes]
    u, v = (axis.scaled(values) for axis, values in zip(wide, points, strict=True))
    density = smooth_density(u, v, weights)
    levels = enclosing(density, u, v, fractions, weights)
    inside = np.unique(levels[(levels > density.min()) & (levels < density.max())])
    if not len(inside):
        return
    centres = (np.arange(BINS) + 0.5) / BINS
    x, y = (axis.at(centres) for axis in wide)
    if greys:
        at.contourf(x, y, density.T, [*inside, 1.001 * density.max()], colors=greys[-len(inside) :])
    at.contour(x, y, density.T, inside, colors=colour, linewidths=0.7 if greys else 1.15)
