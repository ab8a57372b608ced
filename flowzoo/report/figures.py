"""The figures of a run: maps beside maps, power spectra beside power spectra; for images alone.

They are drawn from the tensors that a cell keeps beside its record, ``examples.*`` and ``power_spectrum.*``. matplotlib
is imported when the first one is drawn, and without pyplot: no state of the process is changed, no window opened.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from flowzoo.record import one_line
from flowzoo.report import figures_maps, figures_spectra
from flowzoo.report._style import shown, styles
from flowzoo.report.table import Cell
from flowzoo.storage import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOLDER = "figures"
DPI = 150


def figures(cells: Sequence[Cell]) -> dict[str, Figure]:
    """Draw what the cells allow.

    Args:
        cells: finished cells in any order, failed ones too; of each model the lowest seed is shown.

    Returns:
        ``maps.<dataset>`` (real maps and draws) and ``power.<dataset>`` (power spectra and their ratio) to the figure;
        of images of several channels one each, ``maps.<dataset>.<channel>``. Nothing for data that are not images.
    """
    return {stem: draw() for stem, draw in _plan(cells).items()}


def write_figures(cells: Sequence[Cell], folder: Path) -> list[Path]:
    """Write ``figures/*.png`` into the directory of a run.

    What cannot be drawn or written is a warning, and the others are written: no figure is worth a run.

    Args:
        cells: as for ``figures``.
        folder: the run directory.

    Returns:
        The files, those of the maps first.
    """
    written = []
    for stem, draw in _plan(cells).items():
        path = folder / FOLDER / f"{stem}.png"
        try:
            content = io.BytesIO()
            draw().savefig(content, format="png", dpi=DPI)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, content.getvalue())
        except Exception as error:  # whatever it is, the numbers stand without it
            warnings.warn(f"{path} was not written ({one_line(error)}); the tables are", RuntimeWarning, stacklevel=2)
        else:
            written.append(path)
    return written


def _plan(cells: Sequence[Cell]) -> dict[str, Callable[[], Figure]]:
    """By file name, how to draw it."""
    known = styles(cells)
    plan: dict[str, Callable[[], Figure]] = {}
    for found in shown(cells, figures_maps.NEEDED, known):
        if found.first["examples.real"].ndim != 5:
            continue
        for i, name in enumerate(figures_maps.channels(found)):
            plan[_stem("maps", found.dataset, name)] = partial(figures_maps.gallery, found, i)
    for found in shown(cells, figures_spectra.NEEDED, known):
        for i, name in enumerate(figures_spectra.channels(found)):
            plan[_stem("power", found.dataset, name)] = partial(figures_spectra.spectra, found, i)
    return plan


def _stem(kind: str, dataset: str, channel: str) -> str:
    return ".".join(filter(None, [kind, dataset, re.sub(r"[^\w+-]+", "_", channel).strip("_")]))
