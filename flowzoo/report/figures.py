"""The figures of a run: NLL and training; of images, maps and power spectra; of catalogues, projections, marginals,
contours and MMD; of posteriors, their calibration.

They are drawn from the table and from the tensors that a cell keeps beside its record: ``training.history``,
``examples.*``, ``power_spectrum.*``, ``mmd.*``, and ``sbc.*``, ``hpd.*``, ``tarp.*``, ``posterior_error.*``.
matplotlib is imported when the first one is drawn, and without pyplot: no state of the process is changed, no window
opened.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from flowzoo.record import one_line
from flowzoo.report import (
    figures_calibration,
    figures_contours,
    figures_corner,
    figures_maps,
    figures_marginals,
    figures_mmd,
    figures_nll,
    figures_particles,
    figures_spectra,
    figures_training,
)
from flowzoo.report._style import Shown, Style, shown, styles
from flowzoo.report.columns import by_dataset, has
from flowzoo.report.table import Cell, Table
from flowzoo.storage import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOLDER = "figures"
DPI = 150


def figures(cells: Sequence[Cell], table: Table | None = None) -> dict[str, Figure]:
    """Draw what the cells allow.

    Args:
        cells: finished cells in any order, failed ones too; of each model the lowest seed is shown.
        table: theirs.

    Returns:
        ``nll.<dataset>`` where the table compares two models, and ``training.<dataset>``.
        ``maps.<dataset>`` (real maps and draws) and ``power.<dataset>`` (power spectra and their ratio) to the figure;
        of images of several channels one each, ``maps.<dataset>.<channel>``. Of vector events with groups, such as
        galaxies, ``marginals.<dataset>``, ``corner.<dataset>.<model>``, ``mmd.<dataset>``, and where columns have the
        role of a position ``particles.<dataset>.<model>`` and ``contours.<dataset>``.
        Where posteriors were tested, ``calibration.<dataset>``.
    """
    return {stem: draw() for stem, draw in _plan(cells, table).items()}


def write_figures(cells: Sequence[Cell], folder: Path, table: Table | None = None) -> list[Path]:
    """Write ``figures/*.png`` into the directory of a run.

    What cannot be drawn or written is a warning, and the others are written: no figure is worth a run.

    Args:
        cells: as for ``figures``.
        folder: the run directory.
        table: as for ``figures``.

    Returns:
        The files, those of the comparison first.
    """
    written = []
    for stem, draw in _plan(cells, table).items():
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


def _plan(cells: Sequence[Cell], table: Table | None = None) -> dict[str, Callable[[], Figure]]:
    """By file name, how to draw it."""
    known = styles(cells)
    plan = _comparison(cells, table, known)
    for found in shown(cells, figures_maps.NEEDED, known):
        events = found.first["examples.real"].ndim
        if events == 3:
            plan |= _catalogue(found)
        for i, name in enumerate(figures_maps.channels(found) if events == 5 else ()):
            plan[_stem("maps", found.dataset, name)] = partial(figures_maps.gallery, found, i)
    for found in shown(cells, figures_spectra.NEEDED, known):
        for i, name in enumerate(figures_spectra.channels(found)):
            plan[_stem("power", found.dataset, name)] = partial(figures_spectra.spectra, found, i)
    for found in shown(cells, figures_mmd.NEEDED, known):
        if figures_mmd.shows(found):
            plan[_stem("mmd", found.dataset, "")] = partial(figures_mmd.mmd, found)
    for found in figures_calibration.calibrated(cells, known):
        plan[_stem("calibration", found.dataset, "")] = partial(figures_calibration.calibration, found)
    return plan


def _comparison(
    cells: Sequence[Cell], table: Table | None, known: Mapping[str, Style]
) -> dict[str, Callable[[], Figure]]:
    """What there is of any data: how far the models are apart, and how they were trained."""
    plan: dict[str, Callable[[], Figure]] = {}
    for dataset, rows in ({} if table is None else by_dataset(table)).items():
        compared = [row for row in rows if has(row, "delta_nll")]
        if len(compared) > 1:
            plan[_stem("nll", dataset, "")] = partial(figures_nll.nll, dataset, compared, known)
    trained: dict[str, list[Cell]] = {}
    for cell in cells:
        if len(cell.scores.get(figures_training.HISTORY, ())) > 1:  # a closed form has but one
            trained.setdefault(cell.record.dataset, []).append(cell)
    for dataset, found in trained.items():
        plan[_stem("training", dataset, "")] = partial(figures_training.training, dataset, found, known)
    return plan


def _catalogue(found: Shown) -> dict[str, Callable[[], Figure]]:
    """Of particles: what their columns and the roles of these allow."""
    plan: dict[str, Callable[[], Figure]] = {}
    for model in found.scores if figures_particles.shows(found) else ():
        plan[_stem("particles", found.dataset, model)] = partial(figures_particles.particles, found, model)
    if figures_contours.shows(found):
        plan[_stem("contours", found.dataset, "")] = partial(figures_contours.contours, found)
    plan[_stem("marginals", found.dataset, "")] = partial(figures_marginals.marginals, found)
    for model in found.scores if figures_corner.shows(found) else ():
        plan[_stem("corner", found.dataset, model)] = partial(figures_corner.corner, found, model)
    return plan


def _stem(kind: str, dataset: str, channel: str) -> str:
    return ".".join(filter(None, [kind, dataset, re.sub(r"[^\w+-]+", "_", channel).strip("_")]))
