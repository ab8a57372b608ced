"""How far behind the best each model is, with its error: the first figure to look at."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from flowzoo.report._style import INK, REAL, Style, verbatim
from flowzoo.report.columns import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LINEAR = 1.0  # nats up to which an axis of decades is linear
_FAR = 20.0  # times as far as the second as the last is, from where it would hide what tells the others apart


def nll(dataset: str, rows: Sequence[Row], styles: Mapping[str, Style]) -> Figure:
    r"""NLL less that of the best, paired by event, with two standard errors over groups; filled: tied with the best.

    Args:
        dataset: its name.
        rows: of the table, in its order, each with ``delta_nll``.
        styles: by model.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    figure = Figure(figsize=(7.0, 1.1 + 0.3 * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color=REAL, linewidth=0.8)
    ends = [0.0]
    for i, row in enumerate(rows):
        colour = styles[row["model"]].colour
        error = 0.0 if math.isnan(row["delta_se"]) else 2 * row["delta_se"]
        ends += [row["delta_nll"] - error, row["delta_nll"] + error]
        axes.errorbar(
            row["delta_nll"],
            -i,
            xerr=error,
            fmt="o",
            color=colour,
            markerfacecolor=colour if row["tied"] else "white",
            capsize=3,
        )
    axes.set_yticks([-i for i in range(len(rows))], [verbatim(row["model"]) for row in rows])
    axes.set_ylim(-len(rows) + 0.4, 0.6)
    behind = [row["delta_nll"] for row in rows if row["delta_nll"] > 0]
    if behind and max(behind) > _FAR * max(_LINEAR, min(behind)):
        axes.set_xscale("symlog", linthresh=_LINEAR)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlim(min(ends) - 0.5 * _LINEAR, 2 * max(ends))
    axes.set_xlabel("NLL less that of the best (nats per event, ± 2 standard errors)")
    axes.set_title(verbatim(dataset), loc="left", fontsize=11, fontweight="bold")
    axes.tick_params(colors=INK)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
