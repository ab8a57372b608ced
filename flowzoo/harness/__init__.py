"""The harness: plan, run, record, compare. ``bench`` is the main job."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from flowzoo import checkpoint, record
from flowzoo import config as configs
from flowzoo.config import ConfigError
from flowzoo.data import Data
from flowzoo.flow import ConditionalFlow
from flowzoo.harness.plan import BenchConfig, Cell, Source, default_out, make_plan, open_source
from flowzoo.harness.run import run_cell
from flowzoo.record import Record
from flowzoo.report import Table, make_table, read_cells, to_csv, to_latex, to_markdown
from flowzoo.storage import write_atomic
from flowzoo.train import FitConfig

__all__ = ["BenchConfig", "BenchResult", "RunDirectoryError", "bench", "execute", "make_plan", "open_source"]


class RunDirectoryError(ValueError):
    """A run directory that is in use, or holds another run."""


@dataclass(frozen=True)
class BenchResult:
    """What a bench found.

    Args:
        comparison: the table with its footnotes (``flowzoo.report.to_markdown`` and the like render it).
        path: the run directory.
        failed: the records of failed cells.
    """

    comparison: Table
    path: Path
    failed: list[Record]

    @property
    def table(self) -> pd.DataFrame:
        """One row per dataset and model."""
        return self.comparison.frame

    @property
    def flows(self) -> dict[str, ConditionalFlow]:
        """By model name, the flow of the seed with the best validation (of the first dataset)."""
        best: dict[str, tuple[float, Path]] = {}
        first = self.table["dataset"].iloc[0]
        for file in sorted((self.path / "checkpoints").glob(f"{first}.*.safetensors")):
            if file.name.endswith(".state.safetensors"):
                continue
            meta = checkpoint.read_meta(file)
            nll = min((h["validation_nll"] for h in meta["fit"]["history"]), default=0.0)
            name = meta["flow"]["model"]
            if name not in best or nll < best[name][0]:
                best[name] = (nll, file)
        return {name: checkpoint.load(file) for name, (_, file) in best.items()}


def bench(
    models: Sequence[str] | Mapping[str, Mapping[str, Any]],
    data: str | Data | Sequence[str] = "digits",
    *,
    x: Any = None,
    context: Any = None,
    groups: Any = None,
    seeds: Sequence[int] = (0,),
    out: str | Path | None = None,
    train: Mapping[str, Any] | None = None,
    show: bool | None = None,
    **options: Any,
) -> BenchResult:
    """Train several conditional flows on the same splits and compare them.

    Args:
        models: names, or names with options (``{"maf": {"num_steps": 8}}``).
        data: a registered dataset, several, or a ``flowzoo.Data``. Ignored if ``x`` is given.
        x: ``(N, *event)`` events of your own, in their units.
        context: ``(N, *context)`` for them.
        groups: ``(N,)`` what the split may not tear apart; errors are taken over these.
        seeds: one cell per dataset, model and seed.
        out: run directory; the same arguments go on where a killed run stopped.
        train: options of ``FitConfig``.
        show: force the progress bar on or off.
        **options: further options of ``BenchConfig``.

    Raises:
        UnknownName, MissingDependency, ConfigError: before anything trains, in one line.
        RunDirectoryError: if ``out`` is in use or holds another run.
    """
    config = configs.make(BenchConfig, {"seeds": tuple(seeds), **options}, "bench")
    if x is not None:
        data = _own_data(x, context, groups)
    if isinstance(data, Data):
        sources = [open_source("data", {}, config, data)]
    else:
        names = [data] if isinstance(data, str) else data
        sources = [open_source(name, {}, config) for name in names]
    chosen = models if isinstance(models, Mapping) else {name: {} for name in models}
    cells = make_plan(sources, chosen, configs.make(FitConfig, train or {}, "train"), config)
    return execute(cells, out or config.out, show=show)


def execute(
    cells: Sequence[Cell],
    out: str | Path | None = None,
    *,
    command: str | None = None,
    show: bool | None = None,
    on_record: Callable[[Record, bool], None] | None = None,
) -> BenchResult:
    """Run the cells of a plan that have no record yet, and write the tables.

    Args:
        cells: the plan.
        out: run directory.
        command: what made it, for its README; by default this process's command line.
        show: force the progress bar on or off.
        on_record: called with each cell's record, and whether it was there already.

    Raises:
        RunDirectoryError: if the directory cannot be written, is in use by another process, or holds a record of
            the same cell with other options.
    """
    from filelock import FileLock, Timeout

    folder = Path(out or default_out(cells))
    try:
        (folder / "cells").mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise RunDirectoryError(
            f"{folder} is in use by another flowzoo process; wait for it, or give another --out"
        ) from None
    except OSError as error:
        raise RunDirectoryError(f"cannot write to {folder} ({error.strerror}); give another --out") from None
    try:
        finished = _finished(cells, folder)
        _write_readme(folder, command or " ".join(map(shlex.quote, ["flowzoo", *sys.argv[1:]])), cells)
        done = []
        for cell in cells:
            known = finished.get(_stem(cell))
            result = known or run_cell(cell, folder, show=show)
            done.append(result)
            if on_record is not None:
                on_record(result, known is not None)
        return _conclude(cells, done, folder)
    finally:
        lock.release()


def _finished(cells: Sequence[Cell], folder: Path) -> dict[str, Record]:
    """Records of cells that are over; failed ones are run again."""
    found = {}
    for cell in cells:
        path = folder / "cells" / f"{_stem(cell)}.json"
        if not path.exists():
            continue
        known = record.load(path)
        if known.hash != cell.hash:
            raise RunDirectoryError(
                f"{path} was made with other options ({_difference(known.config, cell.config)}); "
                "give another --out, or delete it"
            )
        if known.status == "ok":
            found[_stem(cell)] = known
    return found


def _difference(old: Any, new: Any, prefix: str = "") -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(k for k in new if k not in old)]:
            if old.get(key) != new.get(key):
                return _difference(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else key)
    return f"{prefix} was {old}, now {new}" if prefix else "other data, or another version of flowzoo"


def _conclude(cells: Sequence[Cell], done: Sequence[Record], folder: Path) -> BenchResult:
    everything, unreadable = read_cells(folder / "cells")
    if unreadable:
        raise RunDirectoryError(str(unreadable[0]))
    planned = {_stem(cell) for cell in cells}
    table = make_table([cell for cell in everything if cell.record.stem in planned])
    write_atomic(folder / "table.csv", to_csv(table).encode())
    write_atomic(folder / "table.md", to_markdown(table).encode())
    write_atomic(folder / "table.tex", to_latex(table).encode())
    return BenchResult(table, folder, [r for r in done if r.status != "ok"])


def _write_readme(folder: Path, command: str, cells: Sequence[Cell]) -> None:
    sources: dict[str, Source] = {cell.source.name: cell.source for cell in cells}
    lines = ["# A flowzoo run", "", "Made by, and resumed with:", "", f"    {command}", ""]
    for name, source in sources.items():
        lines.append(f"- `{name}`: {source.note}; split hash `{source.splits.hash}`")
        lines += [f"  - {note}" for note in source.splits.data.notes]
    lines += [
        "",
        "| file | what it is |",
        "| --- | --- |",
        "| `table.csv` `table.md` `table.tex` | the comparison, a row per dataset and model |",
        "| `cells/*.json` | one record per dataset, model and seed |",
        "| `cells/*.safetensors` | log q of each test event (nats) and its group |",
        "| `checkpoints/*.safetensors` | trained flows: `flowzoo.load(path)` |",
        "",
    ]
    write_atomic(folder / "README.md", "\n".join(lines).encode())


def _stem(cell: Cell) -> str:
    return record.stem(cell.source.name, cell.name, cell.seed)


def _own_data(x: Any, context: Any, groups: Any) -> Data:
    def tensor(values: Any) -> Tensor:
        return values if isinstance(values, Tensor) else torch.as_tensor(values)

    events = tensor(x)
    labels = None
    if groups is not None:
        labels = torch.from_numpy(pd.factorize(pd.Series(list(groups)))[0]).long()
    if not events.is_floating_point():
        raise ConfigError(
            f"x is {events.dtype}: give floats, or for integer data a flowzoo.Data with levels=(low, step, count)"
        )
    return Data(
        x=events[:, None] if events.ndim == 1 else events,
        context=None if context is None else tensor(context).float().reshape(len(events), -1),
        groups=labels,
    )
