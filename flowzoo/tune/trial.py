"""One trial: a training whose validations are reported, and what came of it."""

from __future__ import annotations

import gc
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from flowzoo import train
from flowzoo.checkpoint import CheckpointError, read_meta, versions
from flowzoo.lease import Lease
from flowzoo.record import one_line
from flowzoo.storage import DISK
from flowzoo.train_config import FitConfig
from flowzoo.tune.study import StudyError
from flowzoo.tune.task import Task

if TYPE_CHECKING:
    from optuna.trial import Trial


class Lost(Exception):
    """The trial is somebody else's by now."""


class _Pruned(Exception):
    """The pruner has seen enough."""


@dataclass(frozen=True)
class Outcome:
    """What came of a trial.

    Args:
        state: ``"COMPLETE"``, ``"PRUNED"`` or ``"FAIL"``, as Optuna calls them.
        value: minus the best validation NLL, in nats per event, of a complete one.
        reason: why it failed or was pruned, in one line.
        attributes: for the study: ``seconds``, ``device``, ``version``; of a complete one ``best_step``.
    """

    state: str
    value: float | None = None
    reason: str = ""
    attributes: dict[str, Any] = field(default_factory=dict)


def run_trial(trial: Trial, task: Task, state: Path, lease: Lease, *, first: bool, show: bool | None = None) -> Outcome:
    """Train what a trial says. Who is killed in the middle leaves a checkpoint, from which the next one goes on.

    Args:
        trial: of Optuna; those of its parameters that are there already stay as they are.
        task: what is tuned, and how.
        state: where the state of the training is kept.
        lease: of this trial.
        first: whether it is that of the config as it stands.
        show: force the progress bar on or off.

    Raises:
        Lost: if the storage or the lease says that the trial is somebody else's.
        StudyError: if the storage no longer answers.
        OSError: if the disk is full or cannot be written.
    """
    from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError

    splits, device = task.splits, task.splits.train.x.device
    began = time.monotonic() - _spent(state, task.fit)
    kind, value, reason = "COMPLETE", None, ""
    attributes: dict[str, Any] = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "version": versions()["flowzoo"],
    }
    try:
        model, config = task.space.drawn(trial, as_it_stands=first)
        report, label = _Report(trial, lease, last_step(task.fit)), f"{task.study} trial {trial.number}"
        options: dict[str, Any] = {"seed": task.seed, "checkpoint": state, "label": label, "show": show}
        try:
            result = train.fit(task.build(model), splits, config, on_validation=report, **options)
        except CheckpointError:  # damaged, or of another study: it has no say
            forget(state, task.fit)
            result = train.fit(task.build(model), splits, config, on_validation=report, **options)
        attributes["best_step"] = result.best_step
        if result.status != "ok":
            kind, reason = "FAIL", f"{result.status}: {result.reason}"
        elif not math.isfinite(result.validation_nll):
            kind, reason = "FAIL", f"its best validation NLL was {result.validation_nll}"
        else:
            value = -result.validation_nll
    except _Pruned as pruned:
        kind, reason = "PRUNED", str(pruned)
    except Lost:
        raise
    except UpdateFinishedTrialError:
        raise Lost from None
    except StorageInternalError as error:
        raise StudyError(f"the storage of the study does not answer: {one_line(error.__cause__ or error)}") from None
    except (torch.OutOfMemoryError, MemoryError) as error:
        kind, reason = "FAIL", f"out of memory: {str(error).splitlines()[0] if str(error) else 'of the host'}"
    except Exception as error:
        if isinstance(error, OSError) and error.errno in DISK:
            raise
        kind, reason = "FAIL", one_line(error)
    if kind == "FAIL":  # what the exception held is free by now
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return Outcome(kind, value, reason, {"seconds": time.monotonic() - began, **attributes})


def last_step(fit: FitConfig) -> int:
    """The step of the last validation of a training that nothing ends early; levels of noise follow one another."""
    return len(fit.noise_levels) * (fit.steps + 1) - 1


class _Report:
    """Called after each validation: tells the study, and asks whether to go on."""

    def __init__(self, trial: Trial, lease: Lease, last: int) -> None:
        self.trial, self.lease, self.last = trial, lease, last
        # Who goes on with a trial comes past validations again that are known.
        self.known = max(trial.storage.get_trial(trial._trial_id).intermediate_values, default=-1)

    def __call__(self, step: int, nll: float) -> None:
        if self.lease.lost:
            raise Lost
        if step > self.known:
            self.trial.report(-nll, step)
        # At its end there is nothing to spare, and its best validation may have been an earlier one.
        if self.known <= step < self.last and self.trial.should_prune():
            raise _Pruned(f"worse than others at step {step}")


def states(state: Path, fit: FitConfig) -> list[Path]:
    """Where the training of a trial keeps its state: in several files where it chooses among levels of noise."""
    return [state, *(train.level_path(state, i) for i in range(len(fit.noise_levels)))]


def forget(state: Path, fit: FitConfig) -> None:
    """Remove the state of a trial's training, and what a kill in the middle of writing it left."""
    for path in states(state, fit):
        path.unlink(missing_ok=True)
    for path in state.parent.glob(f".{state.name.removesuffix('.safetensors')}.*.tmp"):
        path.unlink(missing_ok=True)


def _spent(state: Path, fit: FitConfig) -> float:
    """Seconds that were spent on a trial before, as far as its checkpoints know."""
    total = 0.0
    for path in states(state, fit):
        try:
            total += float(read_meta(path)["state"]["seconds"])
        except (FileNotFoundError, CheckpointError, KeyError):
            continue
    return total
