"""The harness: plan, run, record, compare. ``bench`` is the main job."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from flowzoo import checkpoint, record
from flowzoo import config as configs
from flowzoo.config import ConfigError
from flowzoo.data import Data
from flowzoo.flow import ConditionalFlow
from flowzoo.harness.plan import BenchConfig, Cell, Source, default_out, make_plan, open_source
from flowzoo.harness.run import cpu_threads, run_cell, state_path
from flowzoo.record import Record
from flowzoo.report import Cell as Finished
from flowzoo.report import Table, make_table, to_csv, to_latex, to_markdown
from flowzoo.storage import write_atomic
from flowzoo.train import FitConfig

TABLES = {"table.csv": to_csv, "table.md": to_markdown, "table.tex": to_latex}

__all__ = ["BenchConfig", "BenchResult", "RunDirectoryError", "bench", "execute", "make_plan", "open_source"]


class RunDirectoryError(ValueError):
    """A run directory that is in use, or holds another run."""


@dataclass(frozen=True)
class BenchResult:
    """What a bench found.

    Args:
        comparison: the table with its footnotes (``flowzoo.report.to_markdown`` and the like render it).
        path: the run directory.
        records: one per cell, in the order of the plan.
    """

    comparison: Table
    path: Path
    records: list[Record]

    @property
    def failed(self) -> list[Record]:
        """The records of failed cells."""
        return [known for known in self.records if known.status != "ok"]

    @property
    def table(self) -> pd.DataFrame:
        """One row per dataset and model."""
        return self.comparison.frame

    @property
    def flows(self) -> dict[str, ConditionalFlow]:
        """By model name, the flow of the seed with the best validation (of the first dataset)."""
        best: dict[str, tuple[float, Path]] = {}
        for known in self.records:
            if known.status != "ok" or known.dataset != self.records[0].dataset:
                continue
            file = self.path / "checkpoints" / f"{known.stem}.safetensors"
            nll = min((h["validation_nll"] for h in checkpoint.read_meta(file)["fit"]["history"]), default=0.0)
            if known.model not in best or nll < best[known.model][0]:
                best[known.model] = (nll, file)
        return {name: checkpoint.load(file) for name, (_, file) in best.items()}


def bench(
    models: str | Sequence[str] | Mapping[str, Mapping[str, Any]],
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
        models: a name, names, or names with options (``{"maf": {"num_steps": 8}}``).
        data: a registered dataset, several, or a ``flowzoo.Data``. Ignored if ``x`` is given.
        x: ``(N, *event)`` events of your own, in their units: a tensor, or what numpy makes an array of.
            ``(N,)`` are N events of one number.
        context: ``(N, *context)`` for them; ``(N,)`` is one number each.
        groups: ``(N,)`` numbers or text: what the split may not tear apart; errors are taken over these.
        seeds: one cell per dataset, model and seed.
        out: run directory; the same arguments go on where a killed run stopped.
        train: options of ``FitConfig``.
        show: force the progress bar on or off.
        **options: further options of ``BenchConfig``.

    Raises:
        UnknownName, MissingDependency, ConfigError: before anything trains, in one line.
        RunDirectoryError: if ``out`` is in use or holds another run.
    """
    command = _call(models=models, data=data, x=x, context=context, groups=groups, seeds=seeds, train=train, **options)
    config = configs.make(BenchConfig, {"seeds": tuple(seeds), **options}, "bench")
    if x is not None:
        data = _own_data(x, context, groups)
    if isinstance(data, Data):
        sources = [open_source("data", {}, config, data)]
    else:
        names = [data] if isinstance(data, str) else data
        sources = [open_source(name, {}, config) for name in names]
    models = [models] if isinstance(models, str) else models
    chosen = models if isinstance(models, Mapping) else {name: {} for name in models}
    cells = make_plan(sources, chosen, configs.make(FitConfig, train or {}, "train"), config)
    return execute(cells, out or config.out, command=command, show=show)


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
        RunDirectoryError: if the directory cannot be written, is in use by another process, holds the same cell
            with other options, or a damaged file.
    """
    folder = Path(out or default_out(cells))
    with _held(folder):
        finished = _finished(cells, folder)
        _write_readme(folder, command or shlex.join(["flowzoo", *sys.argv[1:]]), cells)
        done = []
        for cell in cells:
            known = finished.get(cell.stem)
            with cpu_threads(cell.bench.threads):
                result = known or run_cell(cell, folder, show=show)
            done.append(result)
            if on_record is not None:
                on_record(result, known is not None)
        return _conclude(done, folder)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """The run directory, made if it is not there, for this process alone; what the disk refuses is one line."""
    from filelock import FileLock, Timeout

    foreign = [name for name in (*TABLES, "README.md") if (folder / name).exists()]
    if foreign and not (folder / "cells").is_dir():
        raise RunDirectoryError(f"{folder} holds a {foreign[0]} and no run of flowzoo; give another --out")
    try:
        (folder / "cells").mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise RunDirectoryError(
            f"{folder} is in use by another flowzoo process; wait for it, or give another --out"
        ) from None
    except OSError as error:
        raise RunDirectoryError(f"cannot write to {folder} ({error.strerror}); give another --out") from error
    try:
        for torn in folder.rglob(".*.tmp"):  # of a process that was killed while it wrote
            torn.unlink()
        yield
    except BrokenPipeError:  # of the terminal, not of the folder
        raise
    except OSError as error:
        raise RunDirectoryError(
            f"cannot write to {folder} ({error.strerror or error}); what is finished is kept: "
            "make room, and the same command goes on"
        ) from error
    finally:
        lock.release()


def _finished(cells: Sequence[Cell], folder: Path) -> dict[str, Record]:
    """Records of cells that are over; failed ones are run again. All that is there must be of these very cells."""
    found = {}
    for cell in cells:
        path = folder / "cells" / f"{cell.stem}.json"
        if path.exists():
            known = record.load(path)
            if known.hash != cell.hash:
                raise _other(path, known.config, cell.config)
            if known.status == "ok":
                _scores(known, path)
                state_path(cell, folder).unlink(missing_ok=True)
                found[cell.stem] = known
        _check_state(cell, state_path(cell, folder))
    return found


def _check_state(cell: Cell, path: Path) -> None:
    """Refuse the state of a training that a killed run with other options left."""
    if not path.exists():
        return
    try:
        left = checkpoint.read_meta(path)["fit"]
        was = {
            "data": {"split hash": left["split"]},
            "model": {"name": left["recipe"]["model"], **left["recipe"]["config"]},
            "train": left["config"],
        }
    except (checkpoint.CheckpointError, KeyError, TypeError) as error:
        raise RunDirectoryError(
            f"{path}: not the state of a training ({record.one_line(error)}); delete it to train from the start"
        ) from error
    now = {key: cell.config[key] for key in ("model", "train")}
    if was != (now := {"data": {"split hash": cell.source.splits.hash}, **now}):
        raise _other(path, was, now)


def _scores(known: Record, path: Path) -> dict[str, Tensor]:
    """The per-event scores of a finished cell, which must average to the NLL of its record."""
    try:
        scores = record.load_scores(path)
        mean = -float(scores["log_prob"].double().mean())
    except Exception as error:  # safetensors' own error derives from Exception directly
        why = record.one_line(error)
    else:
        nll = known.metrics.get("nll_nats")
        if nll is None or abs(mean - nll) <= 1e-6 * max(1.0, abs(nll)):
            return scores
        why = f"they average to {mean:.6g} nats, the record says {nll:.6g}"
    raise RunDirectoryError(
        f"{path.with_suffix('.safetensors')}: not the scores of this cell ({why}); delete {path} to run it again"
    )


def _other(path: Path, was: Any, now: Any) -> RunDirectoryError:
    return RunDirectoryError(
        f"{path} was made with other options ({_difference(was, now)}); give another --out, or delete it"
    )


def _difference(old: Any, new: Any, prefix: str = "") -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(k for k in new if k not in old)]:
            if old.get(key) != new.get(key):
                return _difference(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else key)
    return f"{prefix} was {old}, now {new}" if prefix else "other data, or another version of flowzoo"


def _conclude(done: list[Record], folder: Path) -> BenchResult:
    finished = [
        Finished(known, _scores(known, folder / "cells" / f"{known.stem}.json") if known.status == "ok" else {})
        for known in done
    ]
    table = make_table(finished)
    for name, render in TABLES.items():
        write_atomic(folder / name, render(table).encode())
    return BenchResult(table, folder, done)


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


def _call(**arguments: Any) -> str:
    """The call of ``bench`` that a person can repeat, without the values of arrays."""

    def text(value: Any) -> str:
        if isinstance(value, str | Sequence | Mapping):
            return repr(value) if len(repr(value)) < 200 else f"<{type(value).__name__} of {len(value)}>"
        if isinstance(value, Data):
            return f"<{value.describe()}>"
        shape = getattr(value, "shape", None)
        return repr(value) if shape is None else f"<{type(value).__name__} of {'x'.join(map(str, shape))}>"

    if arguments["x"] is not None:
        del arguments["data"]
    return f"flowzoo.bench({', '.join(f'{k}={text(v)}' for k, v in arguments.items() if v is not None)})"


def _own_data(x: Any, context: Any, groups: Any) -> Data:
    events = _columns(x, "x")
    labels = None
    if groups is not None:
        if isinstance(groups, Tensor):
            groups = groups.detach().cpu().numpy()
        if np.ndim(groups) != 1:
            raise ConfigError(f"groups must be (N,), one label per event; got {np.shape(groups)}")
        codes = pd.factorize(pd.Series(list(groups)))[0]
        if (codes < 0).any():
            raise ConfigError(f"groups: {(codes < 0).sum()} of {len(codes)} events have none (NaN or None)")
        labels = torch.from_numpy(codes).long()
    if not events.is_floating_point():
        raise ConfigError(
            f"x is {events.dtype}: give floats, or for integer data a flowzoo.Data with levels=(low, step, count)"
        )
    return Data(x=events, context=None if context is None else _columns(context, "context").float(), groups=labels)


def _columns(values: Any, name: str) -> Tensor:
    """``(N, ...)`` on the host, from a tensor or whatever numpy makes an array of; ``(N,)`` is one column."""
    if not isinstance(values, Tensor):
        array = np.asarray(values)
        if array.dtype.kind not in "biuf":
            raise ConfigError(f"{name} must hold numbers; got {array.dtype}")
        # FITS files are big-endian, a memory map is read-only, a reversed view has negative strides: torch takes none.
        values = torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))
    values = values.detach().cpu()
    values = values[:, None] if values.ndim == 1 else values
    if values.dtype == torch.float64 and values.ndim > 1 and len(values) > 1:
        flat = values.flatten(1)
        lost, spread = (flat - flat.float()).abs().amax(0), flat.std(0)
        if bool(((lost > 5e-3 * spread) & (flat.amax(0) > flat.amin(0))).any()):  # Julian dates, large numbers
            raise ConfigError(f"{name}: float32 does not resolve its scatter; subtract an offset, or rescale it")
    return values
