"""A corner plot of what a flow says of the parameters of one observation."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from flowzoo.report._catalogue import Axis, corner_legend, tick
from flowzoo.report._densities import bin_count, fitted_density
from flowzoo.report._numbers import power_of
from flowzoo.report._parameters import Column, columns_of
from flowzoo.report._regions import enclosing
from flowzoo.report._style import INK, PALETTE, WIDTH, text, verbatim, width

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FRACTIONS = (0.95, 0.68)
_FILLS = ("#BBD9EC", "#5DA5D2")  # within 95 %, within 68 %: tints of the line
_LINE, _TRUTH, _BEST = PALETTE[0], PALETTE[1], "#000000"
_BOUND = "#8A8A8A"
_FINE, _COARSE, _MANY = 256, 128, 5  # bins of a region; of more parameters than that many, whose panels are small
_ONE = 61  # bins of a constant, an odd number that has one in the middle
_LETTER = 0.065  # inches, of a number beside an axis
# In inches.
_LEFT, _BOTTOM, _RIGHT, _TOP, _GAP, _TILE = 0.95, 0.85, 0.2, 0.8, 0.06, 2.3
_UNTITLED = 0.4  # in place of _TOP
_SMALL = 1.3  # tile, below which letters are small and numbers are turned


def draw_posterior(
    theta: Tensor,
    names: Sequence[str],
    units: Sequence[str] = (),
    *,
    truth: Tensor | None = None,
    best: Tensor | None = None,
    bounds: tuple[Tensor, Tensor] | None = None,
    title: str = "",
) -> Figure:
    """A corner plot: marginals with their median and 68 % interval, regions of highest density with 68 and 95 %.

    A region encloses its share of **all** draws, those beyond the axes too; how much is blurred before it is outlined
    is told by the draws (``fitted_density``), so a thin crescent stays thin. The interval is from the 16th to the 84th
    percentile. Draws with a value that is not finite are left out, and the figure says how many.

    Args:
        theta: ``(L, D)`` draws in their own units; of more than 12 parameters the first 12 are shown.
        names: ``(D,)``.
        units: ``(D,)``, or none.
        truth: ``(D,)``, what made the observation; NaN where it is not known.
        best: ``(D,)``, where the posterior is highest.
        bounds: ``(D,)`` each, the lowest and highest values that the prior allows; infinite where there are none.
        title: in bold, if any.

    Raises:
        ValueError: if the shapes do not agree, or fewer than two draws are finite.
    """
    from matplotlib.figure import Figure

    columns, note = columns_of(theta, names, units, truth, best, bounds)
    count = len(columns)
    tile = min(_TILE if count > 1 else 1.5 * _TILE, (WIDTH - _LEFT - _RIGHT - (count - 1) * _GAP) / count)
    step, small = tile + _GAP, tile < _SMALL
    beside = 1.9 if count == 1 else 0.0  # where a single panel has its legend
    page = max(_LEFT + count * step - _GAP + _RIGHT + beside, 1.5 * width(title) + 0.3)
    top = _TOP if title else _UNTITLED
    height = top + count * step - _GAP + _BOTTOM + (0.15 if note else 0)
    figure = Figure(figsize=(page, height))
    titles, sizes = _titles(columns, tile)
    bins = _FINE if count <= _MANY else _COARSE
    for row in range(count):
        for column in range(row + 1):
            x, y = _LEFT + column * step, height - top - row * step - tile
            at = figure.add_axes((x / page, y / height, tile / page, tile / height))
            if row == column:
                _marginal(at, columns[row])
                at.set_title(titles[row], fontsize=sizes, pad=6)
            else:
                _pair(at, columns[column], columns[row], bins, small)
                _ticks(at, columns[row].shown, "y", tile)
            _ticks(at, columns[column].shown, "x", tile)
            left = column == 0 < row
            at.tick_params(labelsize=6.5 if small else 8, labelbottom=row == count - 1, labelleft=left, pad=2)
            if row == column:
                at.tick_params(axis="y", which="both", left=False, right=False)
    for i, one in enumerate(columns):
        how: dict[str, Any] = {"fontsize": 8 if small else 10, "ha": "center", "va": "center"}
        label = one.label
        if width(label) > 1.1 * tile:
            label = label.replace(" [", "\n[", 1)
        along = height - top - i * step - tile / 2
        below = _BOTTOM - (0.55 if small else 0.45) + (0.15 if note else 0)
        figure.text((_LEFT + i * step + tile / 2) / page, below / height, label, **how)
        if i:
            figure.text(0.25 / page, along / height, label, rotation=90, **how)
    figure.text(0.12 / page, 1 - 0.14 / height, verbatim(title), fontsize=12, fontweight="bold", va="top")
    figure.text(0.12 / page, 0.06 / height, verbatim(note), fontsize=8, color=INK)
    _legend(figure, columns, small, top)
    return figure


def _titles(columns: Sequence[Column], tile: float) -> tuple[list[str], float]:
    """Median and interval of each, behind its name where all have room for that, and the size of the letters."""
    said = [column.interval for column in columns]
    named = [f"{text(column.name)} = {one}" for column, one in zip(columns, said, strict=True)]

    def widest(titles: Sequence[str]) -> float:
        # A raised and a lowered error stand above each other.
        return max(width(re.sub(r"_\{-.*?\}", "", title).replace(r"\times", "x")) for title in titles)

    size = 7.0 if tile < _SMALL else 9.5
    if tile >= _SMALL and widest(named) * size / 10 < 1.05 * tile:
        return named, size
    return said, max(4.5, min(size, 10 * tile / widest(said)))


def _marginal(at: Axes, column: Column) -> None:
    """A histogram, with the median and the 68 % interval."""
    bins = _ONE if column.constant else bin_count(column.values, column.axis)
    counts, edges = np.histogram(column.values, bins, (column.axis.low, column.axis.high))
    at.stairs(counts, edges, fill=True, color=_FILLS[0])
    at.stairs(counts, edges, color=_LINE, linewidth=1.2)
    if not column.constant:
        low, middle, high = np.percentile(column.values, (16, 50, 84))
        at.axvline(middle, color=_LINE, linewidth=1.1, linestyle="--")
        for value in (low, high):
            at.axvline(value, color=_LINE, linewidth=0.9, linestyle=":")
    _marks(at, column, "x")
    at.plot(column.best, 0.05, "+", color=_BEST, markersize=6, markeredgewidth=1.2, transform=at.get_xaxis_transform())
    at.set_ylim(0, 1.08 * max(counts.max(), 1))


def _pair(at: Axes, across: Column, up: Column, bins: int, small: bool) -> None:
    """Regions of two parameters; where one of them is constant, intervals of the other on a line."""
    if across.constant or up.constant:
        for (low, high), wide, colour in zip(((2.5, 97.5), (16, 84)), (2.0, 4.0), _FILLS, strict=True):
            ends = [np.percentile(c.values, (low, high)) for c in (across, up)]
            at.plot(*ends, color=colour, linewidth=wide, solid_capstyle="butt")
    else:
        u, v = across.axis.scaled(across.values), up.axis.scaled(up.values)
        density = fitted_density(u, v, bins)
        levels = np.unique(enclosing(density, u, v, FRACTIONS))
        levels = levels[(levels > 0) & (levels < density.max())]
        centres = (np.arange(bins) + 0.5) / bins
        x, y = across.axis.at(centres), up.axis.at(centres)
        if len(levels):
            at.contourf(x, y, density.T, [*levels, 1.001 * density.max()], colors=_FILLS[-len(levels) :])
            at.contour(x, y, density.T, levels, colors=_LINE, linewidths=0.8)
    _marks(at, across, "x")
    _marks(at, up, "y")
    if math.isfinite(across.truth) and math.isfinite(up.truth):
        at.plot(across.truth, up.truth, "s", color=_TRUTH, markersize=2.2 if small else 3.5, zorder=4)
    at.plot(across.best, up.best, "+", color=_BEST, markersize=5 if small else 7, markeredgewidth=1.2, zorder=5)


def _marks(at: Axes, column: Column, along: str) -> None:
    """Lines at the truth and at the bounds of the prior."""
    line = at.axvline if along == "x" else at.axhline
    if math.isfinite(column.truth):
        line(column.truth, color=_TRUTH, linewidth=1.1, zorder=3)
    for bound in column.bounds:
        if column.shown.low < bound < column.shown.high:
            line(bound, color=_BOUND, linewidth=0.8, linestyle="-.", zorder=1)


def _ticks(at: Axes, axis: Axis, along: str, tile: float) -> None:
    """As of any panel; long numbers are divided by a power of ten, and turned where they would touch."""
    from matplotlib.ticker import FuncFormatter

    small = tile < _SMALL
    tick(at, axis, along, 3 if small else 4)
    line = at.xaxis if along == "x" else at.yaxis
    unit = 10.0 ** power_of(max(abs(axis.low), abs(axis.high)))
    places = line.get_majorticklocs() / unit
    digits = next(n for n in range(6, 17) if n == 16 or len({f"{place:.{n}g}" for place in places}) == len(places))
    line.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value / unit:.{digits}g}".replace("-", "\N{MINUS SIGN}"))
    )
    long = sum(len(f"{place:.{digits}g}") + 1 for place in places) * _LETTER > tile
    for number in at.get_xticklabels() if along == "x" and (small or long) else ():
        number.set(rotation=45, ha="right", rotation_mode="anchor")


def _legend(figure: Figure, columns: Sequence[Column], small: bool, top: float) -> None:
    """In the empty corner; of a single panel beside it."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    entries: dict[str, Any] = {}
    if len(columns) > 1:
        fills = tuple(Patch(facecolor=fill, edgecolor=_LINE, linewidth=0.8) for fill in _FILLS)
        entries["highest density: 95, 68 %"] = fills
    entries["median"] = Line2D([], [], color=_LINE, linestyle="--", linewidth=1.1)
    entries["16th, 84th percentile"] = Line2D([], [], color=_LINE, linestyle=":", linewidth=1.1)
    if any(math.isfinite(c.truth) for c in columns):
        entries["truth"] = Line2D([], [], color=_TRUTH, marker="s", markersize=3.5, linewidth=1.1)
    if any(math.isfinite(c.best) for c in columns):
        mark: dict[str, Any] = {"marker": "+", "markersize": 7, "markeredgewidth": 1.3}
        entries["maximum a posteriori"] = Line2D([], [], color=_BEST, linestyle="none", **mark)
    if any(c.shown.low < bound < c.shown.high for c in columns for bound in c.bounds):
        entries["bound of the prior"] = Line2D([], [], color=_BOUND, linestyle="-.", linewidth=0.8)
    corner_legend(figure, entries, _RIGHT, top, small)
