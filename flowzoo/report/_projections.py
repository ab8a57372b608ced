"""The numbers of projected maps: what of a galaxy is seen, and the surface density and means in the bins of a plane."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flowzoo.report._catalogue import Array

LEAST = 5  # particles in a bin, below which nothing is said of it
_WITHIN = 95.0  # percentile of the real radii that a window reaches to
_FLAT = 0.36  # least height of an edge-on window, of its width
_BINS, _PER_BIN = (16, 56), 6.0  # least and most across a window; particles wanted per bin, on average


@dataclass(frozen=True)
class Window:
    """What of a galaxy is seen: centred, and one length is the same along all axes.

    Args:
        centre: of each position column.
        half: half the width, in units of the positions.
        height: half the height of an edge-on view.
        bins: across the width.
    """

    centre: tuple[float, ...]
    half: float
    height: float
    bins: int

    @classmethod
    def of(cls, positions: Array) -> Window:
        """Of real positions ``(n, 2 or 3)``: round their median, to the 95th percentile of the distance in x-y."""
        if not len(positions):
            return cls((0.0,) * positions.shape[1], 1.0, 1.0, _BINS[0])
        centre = np.median(positions, axis=0)
        away = positions - centre
        half = float(np.percentile(np.hypot(away[:, 0], away[:, 1]), _WITHIN)) or 1.0
        height = float(np.percentile(np.abs(away[:, 2]), _WITHIN)) if away.shape[1] > 2 else half
        bins = int(np.clip(math.sqrt(len(positions) / _PER_BIN), *_BINS))
        return cls(tuple(centre.tolist()), half, float(np.clip(height, _FLAT * half, half)), bins)

    def edges(self, up: int) -> tuple[Array, Array]:
        """Of square bins along x, and along y (``up`` = 1) or z (2)."""
        side = 2 * self.half / self.bins
        rows = max(1, round(2 * (self.half if up == 1 else self.height) / side))
        tall = rows * side / 2
        across: Array = np.linspace(self.centre[0] - self.half, self.centre[0] + self.half, self.bins + 1)
        above: Array = np.linspace(self.centre[up] - tall, self.centre[up] + tall, rows + 1)
        return across, above


@dataclass(frozen=True)
class Pair:
    """A quantity in the bins of a plane; NaN where too few particles tell it.

    Args:
        real: ``(Bx, By)``.
        drawn: ``(Bx, By)``.
        residual: ``(Bx, By)``: (drawn - real) / real if ``relative``, else drawn - real.
        relative: whether the real values have one sign, so that a ratio means something.
    """

    real: Array
    drawn: Array
    residual: Array
    relative: bool = True


def project(
    real: Array,
    drawn: Array,
    plane: tuple[int, int],
    edges: tuple[Array, Array],
    mass: int | None = None,
    means: Sequence[int] = (),
) -> list[Pair]:
    r"""Surface density, and means of columns, in the bins of a plane.

    .. math:: \Sigma_b = \frac{1}{A_b} \frac{\sum_{i \in b} m_i / n}{\sum_i m_i^\mathrm{real} / n^\mathrm{real}},
              \qquad \bar q_b = \frac{1}{n_b} \sum_{i \in b} q_i

    The density is a share of the real mass per area (of the number, m = 1, where no column is a mass): it does not
    depend on how many particles were kept for the figure, and drawn mass in excess of the real is seen. Means are over
    particles and not over mass, because a flow may draw a mass that is negative.

    A bin of fewer than 5 particles is blank. The residual of the density is told where real and drawn have 5 on
    average, which favours neither; that of a mean where both have 5. It is relative where the real column is positive
    (at its first percentile), and a difference where the sign changes, as that of a logarithm may.

    Args:
        real: ``(n, D)``.
        drawn: ``(m, D)``.
        plane: two columns.
        edges: of the bins along each, ``(Bx + 1,)`` and ``(By + 1,)``.
        mass: the column that is the mass.
        means: columns to average.

    Returns:
        The density, then each of the means.
    """
    sides = (real, drawn)
    counts = [_sums(rows, plane, edges) for rows in sides]
    enough = [count >= LEAST for count in counts]
    density = [_density(rows, real, plane, edges, mass) for rows in sides]
    told = counts[0] + counts[1] >= 2 * LEAST
    shown = [np.where(there, values, np.nan) for there, values in zip(enough, density, strict=True)]
    pairs = [Pair(shown[0], shown[1], np.where(told, _relative(*density), np.nan))]
    for column in means:
        first, second = (
            np.where(there, _sums(rows, plane, edges, rows[:, column]) / np.maximum(count, 1), np.nan)
            for rows, count, there in zip(sides, counts, enough, strict=True)
        )
        relative = bool(len(real)) and float(np.percentile(real[:, column], 1)) > 0
        pairs.append(Pair(first, second, _relative(first, second) if relative else second - first, relative))
    return pairs


def _density(rows: Array, real: Array, plane: tuple[int, int], edges: tuple[Array, Array], mass: int | None) -> Array:
    area = np.outer(np.diff(edges[0]), np.diff(edges[1]))
    if mass is None:
        return _sums(rows, plane, edges) / (area * max(len(rows), 1))
    each = float(real[:, mass].mean()) if len(real) else 1.0
    return _sums(rows, plane, edges, rows[:, mass]) / (area * max(len(rows), 1) * (each or 1.0))


def _sums(rows: Array, plane: tuple[int, int], edges: tuple[Array, Array], weights: Array | None = None) -> Array:
    sums: Array = np.histogram2d(rows[:, plane[0]], rows[:, plane[1]], edges, weights=weights)[0]
    return sums


def _relative(real: Array, drawn: Array) -> Array:
    """Infinite where there is something drawn and nothing real, NaN where there is neither."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return (drawn - real) / real
