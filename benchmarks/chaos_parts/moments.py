"""Moments of a command: a log of what it does, and a kill at one of them.

``watch`` is called in the process of a command. It writes to a log each training that begins (a line with its label)
and each step of it (a dot), so that one can see afterwards what was done twice; and it ends the process by SIGKILL at
the n-th event of a place, in the middle of a file if that is being written.
"""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TRIAL, TRAINING, STUDY = "in a trial", "in a training", "in a write of the study"
CHECKPOINT, FLOW, RECORD = "in a write of a checkpoint", "in a write of a flow", "in a write of a record"
TUNED, TABLE = "between tuning and training", "in a write of the tables"
PLACES = (TRIAL, TRAINING, STUDY, CHECKPOINT, FLOW, RECORD, TUNED, TABLE)


@dataclass(frozen=True)
class Moment:
    """When to kill.

    Args:
        place: one of ``PLACES``.
        number: of the event there, from 1.
        part: of a file that is being written, what has reached the disk.
    """

    place: str
    number: int
    part: float = 1.0


def place_of(path: str) -> str | None:
    """To which place the writing of a file belongs; of a temporary file, that which it will be."""
    folder, name = os.path.split(path)
    if name.startswith(".") and name.endswith(".tmp"):
        name = name[1:].rsplit(".", 2)[0]
    folder = os.path.basename(folder)
    if name.endswith(".state.safetensors"):
        return CHECKPOINT
    known = {"checkpoints": FLOW, "cells": RECORD, "tuned": TUNED}
    return known.get(folder, TABLE if name.startswith("table.") else None)


def watch(log: Path, moment: Moment | None = None, on_step: Callable[[str, int], None] | None = None) -> None:
    """Log what this process does from now on.

    Args:
        log: the file, which is added to.
        moment: when to kill it.
        on_step: called before each step with the label of its training and a number from 1.
    """
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    from flowzoo import train
    from flowzoo.joint import Joint
    from flowzoo.stepper import Stepper

    out = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    counts: Counter[str] = Counter()
    now = {"label": "", "step": 0}

    def at(place: str | None, tear: Callable[[], None] = lambda: None) -> None:
        if place is None:
            return
        counts[place] += 1
        log.with_suffix(".counts").write_text(json.dumps(counts))
        if moment is not None and (place, counts[place]) == (moment.place, moment.number):
            tear()
            os.kill(os.getpid(), signal.SIGKILL)

    fit, step, together, fsync, replace = train.fit, Stepper.step, Joint.step, os.fsync, os.replace

    def watched_fit(*arguments: Any, **options: Any) -> Any:
        now.update(label=options["label"], step=0)
        os.write(out, f"\n{options['label']}\t".encode())
        return fit(*arguments, **options)

    def watched_step(self: Stepper) -> None:
        now["step"] += 1
        if on_step is not None:
            on_step(now["label"], now["step"])
        step(self)
        os.write(out, b".")
        at(TRIAL if " trial " in now["label"] else TRAINING)

    def watched_together(self: Joint) -> None:
        together(self)
        at(TRAINING)

    def watched_fsync(fd: int) -> None:
        size = os.fstat(fd).st_size
        at(
            place_of(os.readlink(f"/proc/self/fd/{fd}")),
            lambda: os.ftruncate(fd, int(size * moment.part)) if moment is not None and moment.part < 1 else None,
        )
        fsync(fd)

    def watched_replace(source: Any, target: Any, **options: Any) -> None:
        replace(source, target, **options)
        at(place_of(str(target)))

    def before_commit(connection: Any) -> None:
        at(STUDY)

    def after_statement(*given: Any) -> None:
        if given[2].lstrip()[:6].upper() in ("INSERT", "UPDATE"):
            at(STUDY)

    train.fit, Stepper.step, Joint.step = watched_fit, watched_step, watched_together  # type: ignore[assignment]
    os.fsync, os.replace = watched_fsync, watched_replace
    event.listen(Engine, "commit", before_commit)
    event.listen(Engine, "after_cursor_execute", after_statement)


def steps_of(log: Path) -> Counter[str]:
    """The steps that were taken, by label of the training, all attempts together."""
    found: Counter[str] = Counter()
    for line in log.read_text().splitlines() if log.exists() else []:
        label, tab, dots = line.partition("\t")
        if tab:
            found[label] += dots.count(".")
    return found


def begun(log: Path) -> list[str]:
    """The labels of trainings, as often as they were begun or gone on with."""
    return [line.partition("\t")[0] for line in (log.read_text().splitlines() if log.exists() else []) if line]
