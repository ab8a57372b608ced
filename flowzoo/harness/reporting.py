"""The report of a run, or of several together, from what is in their directories: nothing is trained."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from flowzoo.harness.folder import TABLES, RunDirectoryError, command_of, held
from flowzoo.harness.run import flow_path
from flowzoo.record import Record
from flowzoo.report import (
    Cell,
    Table,
    Verdict,
    join_folds,
    make_table,
    read_cells,
    to_csv,
    to_html,
    to_latex,
    to_markdown,
    verdicts,
    write_figures,
)
from flowzoo.storage import write_atomic

PAGE = "report.html"


@dataclass(frozen=True)
class Report:
    """What was written.

    Args:
        table: the comparison.
        verdicts: what it means, by dataset.
        figures: their files.
        page: the file with all of it.
    """

    table: Table
    verdicts: list[Verdict]
    figures: list[Path]
    page: Path


def write_report(cells: Sequence[Cell], folder: Path, flows: Mapping[str, Path], command: str = "") -> Report:
    """Write the tables, the figures and the page.

    Args:
        cells: finished ones, failed ones too; folds are joined.
        folder: where.
        flows: by ``Record.stem``, the file of its trained flow, if it is there.
        command: what made it.
    """
    cells = join_folds(cells)
    table = make_table(cells)
    found = verdicts(table, cells)
    for ending, text in (("csv", to_csv(table)), ("md", to_markdown(table, found)), ("tex", to_latex(table))):
        write_atomic(folder / f"table.{ending}", text.encode())
    # By name, so that a model has the same colour whoever draws it: this process, or another that finds the records.
    figures = write_figures(sorted(cells, key=lambda cell: cell.record.model), folder, table)
    # Of folds the first one's flow is shown.
    known = {stem.removesuffix(".fold0"): str(path) for stem, path in flows.items() if path.exists()}
    write_atomic(folder / PAGE, to_html(cells, table, figures, known, command).encode())
    return Report(table, found, figures, folder / PAGE)


def report(runs: Sequence[Path], out: Path | None = None) -> tuple[Report, list[str]]:
    """Write the report anew, of one run or of several side by side.

    A model that several runs have on the same dataset is called ``model@run`` there. They are compared where they were
    tested on the same split, and else say so.

    Args:
        runs: run directories.
        out: where the report goes; of one run by default into it.

    Returns:
        The report, and a line for each record that cannot be read.

    Raises:
        RunDirectoryError: if there is no run, or ``out`` holds something else.
    """
    found: list[tuple[Path, Cell]] = []
    faults: list[str] = []
    for run in runs:
        try:
            cells, errors = read_cells(run)
        except FileNotFoundError as error:
            raise RunDirectoryError(f"{error}; report takes what `flowzoo bench --out` wrote") from None
        if not cells:
            raise RunDirectoryError(f"{run} has no record of a finished cell yet")
        found += [(run, cell) for cell in cells]
        faults += [str(error) for error in errors]
    named = _named(found)
    flows = {
        cell.record.stem: _relative(flow_path(old.record.stem, run))
        for (run, old), cell in zip(found, named, strict=True)
    }
    if out is None and len(runs) == 1:
        with held(runs[0]):
            return write_report(named, runs[0], flows, command_of(runs[0])), faults
    if out is None:
        raise RunDirectoryError("the report of several runs goes into a folder of its own: give --out")
    if (out / "cells").exists() or ((out / TABLES[0]).exists() and not (out / PAGE).exists()):
        raise RunDirectoryError(f"{out} holds something else; give another --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
        return write_report(named, out, flows, "\n".join(filter(None, map(command_of, runs)))), faults
    except OSError as error:
        raise RunDirectoryError(f"cannot write to {out} ({error.strerror}); give another --out") from error


def _named(found: Sequence[tuple[Path, Cell]]) -> list[Cell]:
    """The cells; models that several runs have with the name of the run behind theirs."""
    runs = {(run, cell.record.dataset, cell.record.model) for run, cell in found}
    several = {key for key, count in Counter(key[1:] for key in runs).items() if count > 1}
    names = Counter(path.resolve().name for path in dict.fromkeys(run for run, _ in found))

    def name(run: Path, record: Record) -> str:
        if (record.dataset, record.model) not in several:
            return record.model
        short = run.resolve().name
        return f"{record.model}@{short if names[short] == 1 else f'{run.resolve().parent.name}-{short}'}"

    return [cell._replace(record=replace(cell.record, model=name(run, cell.record))) for run, cell in found]


def _relative(path: Path) -> Path:
    """As one types it: from here if it is below."""
    return Path(os.path.relpath(path)) if path.resolve().is_relative_to(Path.cwd()) else path.resolve()
