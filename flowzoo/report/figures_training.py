"""How the trainings went: NLL against the step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from flowzoo.report._style import INK, Style, verbatim
from flowzoo.report.table import Cell

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HISTORY = "training.history"  # (V, 3): step, NLL of training since the last one, NLL of validation
_START = 0.1  # of the validations: the axis need not reach what was before these, nor what a flow unlearns later


def training(dataset: str, cells: Sequence[Cell], styles: Mapping[str, Style]) -> Figure:
    """NLL of validation against the step, of training fainter, a line for each seed; a dot at the best validation.

    Args:
        dataset: its name.
        cells: with ``training.history``.
        styles: by model.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 3.6), layout="constrained")
    axes = figure.subplots()
    labelled: set[str] = set()
    lows, highs = [], []
    for cell in cells:
        model, history = cell.record.model, cell.scores[HISTORY].double()
        step, train, validation = history.unbind(1)
        style = styles[model]
        axes.plot(step, train, color=style.colour, linestyle=style.dash, linewidth=0.8, alpha=0.35)
        label = None if model in labelled else verbatim(model)
        axes.plot(step, validation, color=style.colour, linestyle=style.dash, linewidth=1.4, label=label)
        best = int(validation.argmin())
        axes.plot(step[best], validation[best], "o", color=style.colour, markersize=4)
        labelled.add(model)
        lows.append(float(validation.min()))
        highs.append(_descent(validation))
    low, high = min(lows), max(highs)
    margin = 0.06 * (high - low) or 1.0
    axes.set_ylim(low - margin, high + margin)
    axes.set_xlabel("step")
    axes.set_ylabel("NLL (nats per event)")
    axes.set_title(f"{verbatim(dataset)}: validation, and training fainter", loc="left", fontsize=11, fontweight="bold")
    axes.tick_params(colors=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    return figure


def _descent(validation: Tensor) -> float:
    """The highest validation from the first tenth, before which nothing has been learnt, to the best."""
    best = int(validation.argmin())
    first = min(round(_START * len(validation)), best)
    return float(validation[first : best + 1].max())
