"""Marginals of every column of a catalogue, real and drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from flowzoo.report._catalogue import (
    Array,
    Axis,
    Galaxy,
    columns,
    galaxies,
    kind,
    label,
    legend,
    legend_rows,
    note,
    rest,
    tick,
)
from flowzoo.report._style import REAL, WIDTH, Shown, model_lines, verbatim

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 12  # of which marginals are shown
BINS = 60
_STEEP = 30.0  # highest bin of the real particles by their middle one, above which shares are logarithmic
_FILL = "#E2E2E2"


@dataclass(frozen=True)
class Marginal:
    """Histograms of one column on one axis.

    Args:
        axis: by the real particles.
        edges: ``(B + 1,)``, equal along the axis.
        real: ``(B,)``, shares of all real particles; those beyond the axis are missing from the sum.
        drawn: by model, ``(B,)``, shares of all its draws.
        steep: whether the shares are better shown by their logarithm.
    """

    axis: Axis
    edges: Array
    real: Array
    drawn: dict[str, Array]
    steep: bool


def marginal(seen: Sequence[Galaxy], column: int, bins: int = BINS) -> Marginal:
    """Of the particles of some galaxies together.

    Args:
        seen: whose particles.
        column: which is counted.
        bins: between the 0.5th and the 99.5th percentile of the real ones.
    """
    real = np.concatenate([galaxy.real[:, column] for galaxy in seen])
    axis = Axis.of(real)
    drawn = {
        model: _shares(np.concatenate([galaxy.drawn[model][:, column] for galaxy in seen]), axis, bins)
        for model in seen[0].drawn
    }
    shares = _shares(real, axis, bins)
    there = shares[shares > 0]
    steep = len(there) > 0 and float(there.max()) > _STEEP * float(np.median(there))
    return Marginal(axis, axis.at(np.linspace(0, 1, bins + 1)), shares, drawn, steep)


def marginals(found: Shown) -> Figure:
    """A histogram of every column, of all example galaxies together: the real ones black, each model in its colour.

    A column of positive values that span decades has a logarithmic axis; shares of very unequal bins have one, too.

    Args:
        found: models with ``examples.real`` and ``.drawn (K, n, D)``.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    seen = galaxies(found, len(found.first["examples.real"]))
    shown = columns(found, COLUMNS)
    across = next((n for n in (5, 4, 3) if len(shown) % n == 0), min(4, len(shown)))
    down = math.ceil(len(shown) / across)
    page = WIDTH if across > 2 else 3.6 * across + 0.5
    entries = _legend(found)
    in_row = 6 if across > 2 else 3
    height = down * (2.6 if across < 4 else 2.1) + 0.8 + 0.2 * legend_rows(entries, in_row)
    figure = Figure(figsize=(page, height), layout=ConstrainedLayoutEngine(h_pad=0.05, w_pad=0.05))
    grid = figure.subplots(down, across, squeeze=False)
    for i, at in enumerate(grid.flat):
        if i >= len(shown):
            at.set_axis_off()
            continue
        histograms(at, marginal(seen, shown[i]), found, list(found.scores))
        at.set_xlabel(label(found.labels, shown[i]), fontsize=10)
        at.tick_params(labelsize=8)
        if i % across == 0:
            at.set_ylabel("share in a bin [%]", fontsize=9.5)
    title = f"{verbatim(found.dataset)}: marginals of {kind(found, len(seen))}"
    figure.suptitle(title, fontsize=12, fontweight="bold", x=0.02, ha="left")
    legend(figure, entries, in_row, note(seen, found.scores, rest(found, COLUMNS), found.note))
    return figure


def histograms(at: Axes, shown: Marginal, found: Shown, models: Sequence[str]) -> None:
    """Draw a marginal: the real one filled and black, those of the models as lines."""
    real, drawn = 100 * shown.real, {model: 100 * shown.drawn[model] for model in models}
    at.stairs(real, shown.edges, fill=True, color=_FILL)
    at.stairs(real, shown.edges, color=REAL, linewidth=1.5)
    for model, values in drawn.items():
        style = found.styles[model]
        at.stairs(values, shown.edges, color=style.colour, linestyle=style.dash, linewidth=1.2)
    tick(at, shown.axis, "x", 4)
    highest = max(float(values.max()) for values in (real, *drawn.values()))
    # One wild bin of a model does not flatten the real ones.
    highest = min(highest, 3 * float(real.max())) or 1.0
    if shown.steep:
        at.set_yscale("log")
        at.set_ylim(float(real[real > 0].min()) / 2, 1.6 * highest)
    else:
        at.set_ylim(0, 1.08 * highest)


def _shares(values: Array, axis: Axis, bins: int) -> Array:
    """Of all values, in equal bins along the axis."""
    counts, _ = np.histogram(axis.scaled(values), bins, (0, 1))
    shares: Array = counts / max(len(values), 1)
    return shares


def _legend(found: Shown) -> dict[str, Any]:
    """By label, what stands before it."""
    from matplotlib.patches import Patch

    return {"real": Patch(facecolor=_FILL, edgecolor=REAL, linewidth=1.5)} | model_lines(found)
