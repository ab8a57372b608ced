"""One cell: train, evaluate, time. Whatever happens, there is a record."""

from __future__ import annotations

import datetime
import math
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowzoo import checkpoint, record, train
from flowzoo.data import Data, Splits
from flowzoo.flow import ConditionalFlow
from flowzoo.harness._reach import reach_of
from flowzoo.harness.context_gain import COLUMNS as GAIN_COLUMNS
from flowzoo.harness.context_gain import context_gain
from flowzoo.harness.digests import metric_digests
from flowzoo.harness.evaluate import evaluate_flow
from flowzoo.harness.memory import PeakMemory
from flowzoo.harness.plan import Cell
from flowzoo.lease import Lease, LeaseLost
from flowzoo.metrics import NotComputed
from flowzoo.record import Record
from flowzoo.report.figures_training import HISTORY
from flowzoo.storage import DISK, write_atomic

LEASES = "leases"  # of cells that somebody is at: the folder in a run directory


def run_cell(cell: Cell, folder: Path, *, show: bool | None = None, lease: Lease | None = None) -> Record:
    """Train and evaluate one cell, and write its record.

    A run that was killed goes on from its last checkpoint. A cell that fails gets a record with the reason, and
    keeps its checkpoint, so that what fails after the training does not train again.

    Args:
        cell: of the plan.
        folder: the run directory.
        show: force the progress bar on or off.
        lease: under which this is done, where other processes may do it too.

    Raises:
        OSError: if the disk is full or cannot be written; then there is no record.
        LeaseLost: if another process has taken the cell; then there is no record of this one.
    """
    stem, state = cell.stem, state_path(cell, folder)
    states = state_paths(cell, folder)
    state.parent.mkdir(parents=True, exist_ok=True)
    splits = cell.source.splits
    common = _about(cell)

    def write(done: Record, scores: dict[str, Tensor] | None = None) -> Record:
        if lease is not None and lease.lost:
            raise LeaseLost(f"another process has taken {stem}")
        record.save(done, folder / "cells", scores)
        return done

    if not any(path.exists() for path in states):  # what a second training left belongs to a first one that is gone
        _twin_state(state).unlink(missing_ok=True)
    memory = PeakMemory(splits.train.x.device)
    memory.start()
    try:
        flow = cell.build()
        label = label_of(cell)
        result = train.fit(flow, splits, cell.fit, seed=cell.seed, checkpoint=state, label=label, show=show)
        save_flow(flow, flow_path(stem, folder), cell, result)
        metrics = {
            "num_parameters": float(sum(p.numel() for p in flow.parameters())),
            "train_steps": float(result.steps),
            "train_seconds": result.seconds,
        }
        if math.isfinite(result.validation_nll):
            metrics["validation_nll"] = result.validation_nll
        if result.status != "ok":
            reason = f"{result.reason}; the weights of step {result.best_step}, the best validation, are kept"
            done = write(Record(**common, status="failed", reason=reason, metrics=metrics))
        else:
            found = evaluate_flow(flow, cell.source, cell.seed, cell.bench)
            found.scores[HISTORY] = _history(result)
            peak = memory.read()  # of this training, before a second one
            if cell.bench.context_gain:
                try:
                    gain = context_gain(cell, found.scores["log_prob"], _twin_state(state), label, show=show)
                    found.metrics |= gain.metrics
                    found.scores["context_gain.by_event"] = gain.by_event
                except NotComputed as reason:
                    found.missing |= {column.name: str(reason) for column in GAIN_COLUMNS}
            metrics |= found.metrics
            if peak is not None:
                metrics["peak_memory_mb"] = peak
            else:
                found.missing["peak_memory_mb"] = "the system does not tell the peak of a part of a process"
            notes = [*splits.data.notes, *found.notes, f"training: {_in_words(result)}"]
            if "examples.group" in found.scores and splits.data.group_names:
                common["labels"]["groups"] = [splits.data.group_names[g] for g in found.scores["examples.group"]]
            done = Record(**common, status="ok", metrics=metrics, missing=found.missing, notes=notes)
            write(done, found.scores)
    except LeaseLost:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in DISK:
            raise
        return write(Record(**common, status="failed", reason=record.one_line(error)))
    for path in (*states, _twin_state(state)):
        path.unlink(missing_ok=True)
    return done


def fail_cell(cell: Cell, folder: Path, reason: str) -> Record:
    """Write the record of a cell that no process survives. Its checkpoint is kept."""
    done = Record(**_about(cell), status="failed", reason=reason)
    record.save(done, folder / "cells")
    return done


def take_twin(cell: Cell, twin: Record, folder: Path) -> Record:
    """Write the record of a tuned cell whose config is the default one, which has been run: a copy of all its files."""
    write_atomic(flow_path(cell.stem, folder), flow_path(twin.stem, folder).read_bytes())
    note = "the config as it stood was the best of its study: this is the same training"
    done = replace(twin, model=cell.label, notes=[*twin.notes, note])
    record.save(done, folder / "cells", record.load_scores(record_path(twin.stem, folder)))
    return done


def _history(result: train.FitResult) -> Tensor:
    """``(V, 3)``: step, training NLL since the last validation, validation NLL."""
    rows = [[row["step"], row["train_nll"], row["validation_nll"]] for row in result.history]
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, 3)


def _in_words(result: train.FitResult) -> str:
    """How a training went: why it stopped, with whom it shared its time, and by which engine if not the plain one."""
    others = f"; at once with {result.together - 1} more of its seeds, whose share of the time is not counted"
    engine = "" if result.engine == "eager" else f"; engine {result.engine}"
    return f"{result.reason}{others if result.together > 1 else ''}{engine}"


def _about(cell: Cell) -> dict[str, Any]:
    """What the record of a cell says of it, whatever becomes of it."""
    splits = cell.source.splits
    return {
        "dataset": cell.source.name,
        "model": cell.label,
        "seed": cell.seed,
        "fold": cell.source.fold,
        "hash": cell.hash,
        "n_train": len(splits.train),
        "n_test": len(splits.test),
        "split_hash": splits.hash,
        "config": cell.config,
        "run": provenance(splits.train.x.device),
        "labels": labels_of(splits.data),
    }


def label_of(cell: Cell) -> str:
    """A cell as a person reads it."""
    fold = "" if cell.source.fold is None else f" fold {cell.source.fold}"
    return f"{cell.source.name} {cell.label} seed {cell.seed}{fold}"


def _twin_state(state: Path) -> Path:
    return state.with_name(state.name.replace(".state.", ".without_context.state."))


def record_path(stem: str, folder: Path) -> Path:
    """Where the record of a cell lies in a run directory."""
    return folder / "cells" / f"{stem}.json"


def flow_path(stem: str, folder: Path) -> Path:
    """Where the trained flow of a cell lies."""
    return folder / "checkpoints" / f"{stem}.safetensors"


def state_path(cell: Cell, folder: Path) -> Path:
    """Where the state of a cell's training lies until it is over."""
    return folder / "checkpoints" / f"{cell.stem}.state.safetensors"


def state_paths(cell: Cell, folder: Path) -> dict[Path, train.FitConfig]:
    """Where the state of each of its trainings lies, several where it chooses among levels of noise, and its config."""
    path, levels = state_path(cell, folder), cell.fit.noise_levels
    if len(levels) == 1:
        return {path: cell.fit}
    return {path: cell.fit, **{train.level_path(path, i): cell.fit.at_level(i) for i in range(len(levels))}}


def labels_of(data: Data) -> dict[str, list[str]]:
    """What the data call their parts, as text: all that a figure needs to be read."""
    known = data.prior is not None
    found: dict[str, Sequence[Any]] = {
        "names": data.names,
        "units": data.units,
        "context_names": data.context_names,
        "context_units": data.context_units,
        "side": () if data.side is None else (f"{data.side[0]:g}", data.side[1]),
        "theta_names": data.theta_names if known else (),
        "theta_units": data.theta_units if known else (),
        "levels": () if data.levels is None else [f"{value:.17g}" for value in data.levels],
        **data.roles,
    }
    return {name: [str(value) for value in values] for name, values in found.items() if len(values)}


def save_flow(flow: ConditionalFlow, path: Path, cell: Cell, result: train.FitResult) -> None:
    """Write a trained flow with what it was trained on and how that went."""
    splits = cell.source.splits
    checkpoint.save(
        flow,
        path,
        data=cell.config["data"],
        train=cell.config["train"],
        split={
            "seed": splits.seed,
            "fractions": list(cell.bench.fractions),
            "folds": cell.bench.folds,
            "fold": cell.source.fold,
            "hash": splits.hash,
        },
        seed=cell.seed,
        columns={
            "names": list(splits.data.names),
            "units": list(splits.data.units),
            "context_names": list(splits.data.context_names),
            "context_units": list(splits.data.context_units),
            "fills": dict(splits.data.fills),
            "notes": list(splits.data.notes),
        },
        inference=_inference(splits),
        reach=reach_of(splits),
        fit={"status": result.status, "reason": result.reason, "history": result.history},
    )


def _inference(splits: Splits) -> dict[str, Any] | None:
    """What is theta, and its prior, so that posteriors need no data."""
    data = splits.data
    if data.prior is None:
        return None
    known: dict[str, Any] = {"theta": data.theta, "prior": data.prior.describe()}
    known |= {} if data.levels is None else {"step": data.levels.step}
    return known


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Inside the block torch uses this many threads on the CPU; the setting is process-wide, so it is put back."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def provenance(device: torch.device) -> dict[str, Any]:
    """Where numbers come from: device, versions, code of the metrics, commit, time."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "versions": checkpoint.versions(),
        "metrics": metric_digests(),
        "commit": _commit(),
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _commit() -> str | None:
    here = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty", "--exclude", "*"],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None if found.returncode == 0 else None
