"""MMD of drawn galaxies to every real galaxy, by how far that is in the space of contexts; and of real ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from flowzoo.report._catalogue import Array, legend, legend_rows
from flowzoo.report._style import INK, REAL, WIDTH, Shown, frame, model_lines, verbatim

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NEEDED = ("mmd.context_distance", "mmd.to_population", "mmd.real_to_population")
BINS = 8  # of distance, each with as many pairs
LEAST = 4  # pairs in a bin
_IN_ROW = 5  # entries of the legend
_BAND = "#DADADA"


class Trend(NamedTuple):
    """How MMD² goes with the distance.

    Args:
        distance: ``(B,)``, the median of each bin; the first is 0, a galaxy and itself, where there are such pairs.
        middle: ``(B,)``, median of MMD².
        low: ``(B,)``, its 16th percentile.
        high: ``(B,)``, its 84th.
    """

    distance: Array
    middle: Array
    low: Array
    high: Array


def trend(distance: Array, squares: Array, bins: int = BINS) -> Trend:
    """Medians in bins of distance that have equally many pairs; those at distance 0 are a bin of their own.

    Args:
        distance: ``(P,)``.
        squares: ``(P,)``, MMD² of each pair; pairs that are not finite are left out.
        bins: at most, of distances above 0; fewer where they would have fewer than 4 pairs.
    """
    told = np.isfinite(distance) & np.isfinite(squares)
    distance, squares = distance[told], squares[told]
    away = distance > 0
    order = np.argsort(distance[away], kind="stable")
    parts = np.array_split(order, max(1, min(bins, len(order) // LEAST)))
    both = [(distance[away][part], squares[away][part]) for part in parts if len(part)]
    if not away.all():
        both.insert(0, (distance[~away], squares[~away]))
    rows = [(np.median(d), *np.percentile(s, (50, 16, 84))) for d, s in both]
    return Trend(*np.asarray(rows, dtype=float).reshape(-1, 4).T)


def shows(found: Shown) -> bool:
    """Whether there is a pair to show."""
    distance, real = found.first[NEEDED[0]], found.first[NEEDED[2]]
    # Without a context, or of one group alone, there is no distance.
    return distance.ndim == 2 and bool((distance > 0).any()) and bool(real.isfinite().any())


def mmd(found: Shown) -> Figure:
    """MMD² against the distance of contexts, and that of each drawn galaxy against that of the real one.

    Black is the data alone, each held-out galaxy against every real one. A model that knows the galaxies lies on it, at
    distance 0 (a galaxy and itself) too; one that ignores its context is flat. The estimate is unbiased and so may be
    negative; then the axis is linear between its least ticks.

    Args:
        found: models with ``mmd.context_distance``, ``.to_population`` and ``.real_to_population (K, G)``.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    distance, real = (_flat(found.first[name]) for name in (NEEDED[0], NEEDED[2]))
    drawn = {model: _flat(scores[NEEDED[1]]) for model, scores in found.scores.items()}
    entries = _legend(found)
    layout = ConstrainedLayoutEngine(h_pad=0.05, w_pad=0.08)
    figure = Figure(
        figsize=(WIDTH, 4.4 + 0.2 * legend_rows(entries, _IN_ROW) + (0.2 if found.note else 0)), layout=layout
    )
    left, right = figure.subplots(1, 2, width_ratios=(1.35, 1))
    squares = np.concatenate([real, *drawn.values()])
    scale, highest = _scale(squares), float(squares[np.isfinite(squares)].max())
    base = trend(distance, real)
    left.fill_between(base.distance, base.low, base.high, color=_BAND, linewidth=0)
    left.plot(distance, real, ".", color=REAL, markersize=2.2, alpha=0.3, rasterized=True)
    left.plot(base.distance, base.middle, "o-", color=REAL, linewidth=2.2, markersize=4)
    ends = _ends(real, scale)
    right.plot(ends, ends, color=REAL, linewidth=1)
    for model, values in drawn.items():
        style = found.styles[model]
        dots: dict[str, Any] = {"color": style.colour, "markersize": 2.4, "rasterized": True}
        left.plot(distance, values, ".", alpha=0.3, **dots)
        middle = trend(distance, values)
        left.plot(
            middle.distance, middle.middle, "o", color=style.colour, linestyle=style.dash, linewidth=1.5, markersize=4
        )
        right.plot(real, values, ".", alpha=0.6, **dots)
    for at in (left, right):
        frame(at, labelsize=8.5)
        at.set_yscale(**scale)
        _ticks(at.yaxis, scale, highest)
        if scale["value"] == "symlog":
            at.axhline(0, color=INK, linewidth=0.5, linestyle=":")
    right.set_xscale(**scale)
    _ticks(right.xaxis, scale, ends[1])
    right.set_xlim(*ends)
    left.set_xlim(left=-0.03 * float(distance[np.isfinite(distance)].max() or 1.0))
    left.set_xlabel("distance of the contexts, each column in units of its spread", fontsize=10)
    left.set_ylabel("MMD$^2$ to a real galaxy", fontsize=10)
    right.set_xlabel("MMD$^2$, real to real", fontsize=10)
    right.set_ylabel("MMD$^2$, drawn to real", fontsize=10)
    title = f"{verbatim(found.dataset)}: held-out galaxies against every real one"
    figure.suptitle(title, fontsize=12, fontweight="bold", x=0.02, ha="left")
    legend(figure, entries, _IN_ROW, verbatim(found.note))
    return figure


def _flat(values: Any) -> Array:
    flat: Array = values.double().flatten().cpu().numpy()
    return flat


def _scale(squares: Array) -> dict[str, Any]:
    """Logarithmic; where values are negative, linear up to the size of the most negative one."""
    told = squares[np.isfinite(squares)]
    if not len(told) or told.min() > 0:
        return {"value": "log"}
    # The most negative one is noise; were it tiny, decades of nothing would fill the page.
    return {"value": "symlog", "linthresh": float(max(-told.min(), 1e-4 * told.max())), "linscale": 0.4}


def _ends(real: Array, scale: dict[str, Any]) -> tuple[float, float]:
    """Of the axis of the real ones, with a little room."""
    told = real[np.isfinite(real)]
    low, high = float(told.min()), float(told.max())
    if scale["value"] == "log":
        return low / 1.5, high * 1.5
    return min(0.0, 1.5 * low), max(1.5 * high, scale["linthresh"])


def _legend(found: Shown) -> dict[str, Any]:
    """By label, what stands before it."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    line = Line2D([], [], color=REAL, marker="o", markersize=4, linewidth=2.2)
    entries = {"real to real": line, "its scatter": Patch(color=_BAND)}
    return entries | model_lines(found, marker="o", markersize=4)


def _ticks(line: Any, scale: dict[str, Any], highest: float) -> None:
    """Of a symmetric logarithm: 0, and the decades that are clear of it."""
    from matplotlib.ticker import FixedLocator, NullFormatter

    if scale["value"] == "log":
        return
    least = 1.5 * scale["linthresh"]
    decades = 10.0 ** np.arange(np.floor(np.log10(least)), np.floor(np.log10(max(highest, least))) + 1)
    between = np.outer(decades, np.arange(2, 10)).flatten()
    line.set_major_locator(FixedLocator([0.0, *decades[decades >= least]]))
    line.set_minor_locator(FixedLocator(between[(between >= least) & (between <= highest)].tolist()))
    line.set_minor_formatter(NullFormatter())
