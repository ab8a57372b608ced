"""Log-log plots of files of results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from readme_parts.tables import RESIDENT, SERIES, US, WHATS, Line

DPI = 75
SAVED = {"dpi": DPI, "bbox_inches": "tight"}


def speed(lines: Sequence[Line], path: Path, source: str) -> None:
    """Seconds of an event against the batch: ours as lines, the libraries' dashed."""
    own = [line for line in lines if line["what"] in WHATS and line.get("seconds")]
    dims, models = sorted({line["D"] for line in own}), list(dict.fromkeys(line["model"] for line in own))
    size = (3.0 * max(1, len(dims)), 7.5)
    figure, axes = plt.subplots(len(WHATS), max(1, len(dims)), figsize=size, sharex=True, squeeze=False)
    for row, (what, text) in zip(axes, WHATS.items(), strict=True):
        for axis, dim in zip(row, dims, strict=False):
            for i, model in enumerate(models):
                for library in dict.fromkeys(line["library"] for line in own if line["model"] == model):
                    if library.endswith(RESIDENT):
                        continue
                    points = [
                        (line["batch"], line["seconds"] / line["batch"])
                        for line in own
                        if (line["what"], line["D"], line["model"], line["library"]) == (what, dim, model, library)
                    ]
                    style: dict[str, Any] = {"color": f"C{i}", "marker": ".", "lw": 1}
                    label = model if library == US and what == "step" and dim == dims[0] else None
                    if points:
                        axis.loglog(*zip(*points, strict=True), "-" if library == US else "--", label=label, **style)
            axis.set_title(f"{text}, D = {dim}", fontsize=9)
            axis.tick_params(labelsize=8)
        row[0].set_ylabel("seconds per event", fontsize=8)
    for axis in axes[-1]:
        axis.set_xlabel("batch", fontsize=8)
    figure.legend(loc="lower center", ncols=6, fontsize=8, bbox_to_anchor=(0.5, -0.03))
    figure.suptitle(f"flowzoo (lines) and the libraries (dashed): {lines[0]['machine']}", fontsize=10)
    _save(figure, path, source)


def together(lines: Sequence[Line], path: Path, source: str) -> None:
    """Five seeds over one against the weights."""
    own = [line for line in lines if line["what"] == "together" and line.get("ratio")]
    batches = sorted({line["batch"] for line in own})
    size = (3.4 * max(1, len(batches)), 3.2)
    figure, axes = plt.subplots(1, max(1, len(batches)), figsize=size, sharey=True, squeeze=False)
    for axis, batch in zip(axes[0], batches, strict=False):
        for i, model in enumerate(dict.fromkeys(line["model"] for line in own)):
            points = [(c["parameters"], c["ratio"]) for c in own if (c["model"], c["batch"]) == (model, batch)]
            if points:
                axis.loglog(*zip(*points, strict=True), color=f"C{i}", marker=".", lw=1, label=model)
        axis.axhline(5, color="0.3", lw=0.8)
        axis.axhline(4, color="0.3", lw=0.8, ls=":")
        axis.set_yticks([1, 2, 3, 4, 5, 6], ["1", "2", "3", "4", "5", "6"])
        axis.yaxis.set_minor_locator(matplotlib.ticker.NullLocator())
        axis.set_title(f"batch {batch:,}", fontsize=9)
        axis.set_xlabel("weights", fontsize=8)
        axis.tick_params(labelsize=8)
    axes[0][0].set_ylabel("five seeds over one", fontsize=8)
    axes[0][-1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    _save(figure, path, source)


def scaling(lines: Sequence[Line], path: Path, source: str) -> None:
    """Excess NLL against each of the three, with its power laws where they were fitted."""
    cells = [line for line in lines if line["what"] == "cell" and line.get("excess", 0) > 0]
    datasets, models = (list(dict.fromkeys(c[key] for c in cells)) for key in ("dataset", "model"))
    size = (3.6 * len(SERIES), 3.2 * max(1, len(datasets)))
    figure, axes = plt.subplots(max(1, len(datasets)), len(SERIES), figsize=size, sharey="row", squeeze=False)
    for row, dataset in zip(axes, datasets, strict=False):
        for axis, (series, text) in zip(row, SERIES.items(), strict=True):
            for i, model in enumerate(models):
                own = [c for c in cells if (c["dataset"], c["model"]) == (dataset, model) and series in c["series"]]
                style: dict[str, Any] = {"color": f"C{i % 10}", "label": model, "lw": 0.8}
                x, y, se = ([c[key] for c in own] for key in (series, "excess", "excess_se"))
                if own:
                    # An error below zero has no logarithm: the bar ends at a tenth of the value.
                    below = np.minimum(se, 0.9 * np.array(y))
                    axis.errorbar(x, y, yerr=[below, se], fmt=".", ms=5, **style)
                for fit in lines:
                    key = (fit["what"], fit.get("dataset"), fit.get("model"), fit.get("against"))
                    if key == ("fit", dataset, model, series):
                        ends = np.array([fit["low"], fit["high"]])
                        axis.plot(ends, fit["at_one"] * ends ** -fit["exponent"], color=style["color"], lw=0.8)
            axis.set_xscale("log")
            axis.set_yscale("log")
            axis.set_xlabel(text, fontsize=8)
            axis.tick_params(labelsize=8)
        row[0].set_ylabel(f"{dataset}: excess (nats)", fontsize=8)
    # One legend of all: a panel has not every model.
    handles: dict[str, Any] = {}
    for axis in axes.flat:
        handles |= dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    figure.legend(
        handles.values(), handles.keys(), loc="lower center", ncols=9, fontsize=8, bbox_to_anchor=(0.5, -0.06)
    )
    _save(figure, path, source)


def _save(figure: Any, path: Path, source: str) -> None:
    figure.tight_layout()
    figure.savefig(path, metadata={"Source": source, "Software": None}, **SAVED)
    plt.close(figure)
