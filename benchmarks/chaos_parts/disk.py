"""Memory that is not there, a disk that is full, and folders that cannot be written.

A model that runs out of memory is a FAILED cell, or trial, with the reason, and the grid goes on. A disk that is full
or read-only ends a command with status 2 and one line; what is finished is whole, what was there before is as it was,
no temporary file is left, and once there is room the same command ends with the numbers of an undisturbed one.

The disks are small file systems in memory, which only root may mount: without that these rows are empty and say so.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import flowzoo
from chaos_parts import commands, moments
from chaos_parts.commands import Command, do, one_line, succeed
from chaos_parts.compare import contents, differences, files, left_over, trials
from chaos_parts.counts import FAULT, PREVIOUS, REFUSED, Row
from chaos_parts.kills import memory
from flowzoo import record

TIMES, SHORT = 4, 1  # of each
SIZE = 4 << 20  # bytes of the small disk
KEPT = "what is finished is kept"
RAN_OUT = "CUDA out of memory. Tried to allocate 20.00 GiB."


def run(short: bool, seed: int) -> list[Row]:
    """A row for each fault and each command."""
    times = SHORT if short else TIMES
    with tempfile.TemporaryDirectory(dir=memory()) as name:
        root = Path(name)
        data, reference = root / "data.npz", root / "undisturbed" / "run"
        commands.write_data(data)
        reference.parent.mkdir()
        log = reference.parent / "log"
        succeed(commands.bench(data, reference), root / "words", partial(moments.watch, log))
        steps = moments.steps_of(log)
        rows = [_cells(root, data, reference, steps, times, seed), _trials(root, data, reference, steps, times, seed)]
        why = _cannot_mount(root)
        if why:
            print(f"disk: full and read-only disks NOT RUN: {why}", file=sys.stderr)
            return [*rows, Row("disk", "full, read-only", f"not run: {why}")]
        rows.append(_full_bench(root, data, reference, times, seed))
        rows.append(_full_fit(root, data, times, seed))
        rows.append(_read_only(root, data, reference, short))
    return rows


def _out_of_memory(label: str, number: int) -> Callable[[str, int], None]:
    def on_step(now: str, step: int) -> None:
        import torch

        if (now, step) == (label, number):
            raise torch.OutOfMemoryError(RAN_OUT)

    return on_step


def _cells(root: Path, data: Path, reference: Path, steps: dict[str, int], times: int, seed: int) -> Row:
    row, source = Row("disk", "out of memory in a cell of a bench"), random.Random(f"{seed} cells")
    labels = sorted(label for label in steps if " trial " not in label)
    for i in range(times):
        out, label = root / f"cells{i}", source.choice(labels)
        arguments = commands.bench(data, out)
        broken = _out_of_memory(label, source.randint(1, steps[label]))
        log = out.with_suffix(".log")
        found: list[str] = []
        process = do(arguments, out.with_suffix(".words"), partial(moments.watch, log, None, broken))
        if process.status != 1:
            found.append(f"status {process.status} instead of 1: {process.said()[-500:]}")
        records = {path.stem: record.load(path) for path in out.glob("cells/*.json")}
        stem = label.replace(" seed ", ".").replace(" ", ".")
        wrong = [known.stem for known in records.values() if (known.status == "ok") == (known.stem == stem)]
        if wrong or len(records) != 4:
            found.append(f"{label} should have failed, and {wrong} of {sorted(records)} did not go as they should")
        elif "out of memory" not in (records[stem].reason or ""):
            found.append(f"the reason is {records[stem].reason!r}")
        if not (out / "table.csv").exists() or left_over(out):
            found.append(f"no table, or left {left_over(out)}")
        again = do(arguments, out.with_suffix(".words"), partial(moments.watch, log))
        found += differences(out, reference) if again.status == 0 else [again.said()[-500:]]
        row.add(FAULT if found else REFUSED, f"{label}: {'; '.join(found)}")
    return row


def _trials(root: Path, data: Path, reference: Path, steps: dict[str, int], times: int, seed: int) -> Row:
    row, source = Row("disk", "out of memory in a trial of a bench"), random.Random(f"{seed} trials")
    labels = sorted(label for label in steps if " trial " in label)
    for i in range(times):
        out, label = root / f"trials{i}", source.choice(labels)
        broken = _out_of_memory(label, source.randint(1, steps[label]))
        watch = partial(moments.watch, out.with_suffix(".log"), None, broken)
        process = do(commands.bench(data, out), out.with_suffix(".words"), watch)
        study, _, number = label.partition(" trial ")
        got, wanted = trials(out), trials(reference)
        found = [] if process.status == 0 else [f"status {process.status}: {process.said()[-500:]}"]
        if len(got.get(study, [])) != len(wanted[study]):
            found.append(f"{len(got.get(study, []))} trials")
        else:
            failed = got[study][int(number)]
            if failed[1] != "FAIL" or "out of memory" not in str(failed[5]):
                found.append(f"trial {number} is {failed}")
            if got[study][: int(number)] != wanted[study][: int(number)]:
                found.append("trials before it differ")
        others = [name for name in wanted if name != study and got.get(name) != wanted[name]]
        found += [f"{others} differ"] if others else []
        found += [f"left {left_over(out)}"] if left_over(out) else []
        row.add(FAULT if found else REFUSED, f"{label}: {'; '.join(found)}")
    return row


def _full_bench(root: Path, data: Path, reference: Path, times: int, seed: int) -> Row:
    row, source = Row("disk", "full, tuned bench"), random.Random(f"{seed} full")
    needed = sum(len(content) for content in files(reference).values())
    for i in range(times):
        with small_disk(root / f"full{i}") as disk:
            out, words = disk / "run", root / f"full{i}.words"
            # The first model is there already.
            succeed(commands.bench(data, out, tune=None, models=["maf"]), words)
            before = {name: content for name, content in files(out).items() if name.startswith(("cells", "checkp"))}
            free = source.randrange(0, int(0.8 * needed))
            fill(disk, free)
            process = do(commands.bench(data, out), words)
            found = _stopped(process, out, reference, before)
            (disk / "ballast").unlink()
            again = do(commands.bench(data, out), words)
            found += differences(out, reference) if again.status == 0 else [again.said()[-500:]]
            row.add(FAULT if found else PREVIOUS, f"{free} bytes free: {'; '.join(found)}")
    row.note = "the same command went on each time"
    return row


def _full_fit(root: Path, data: Path, times: int, seed: int) -> Row:
    row, source = Row("disk", "full, fit onto a flow that is there"), random.Random(f"{seed} fit")

    def arguments(folder: Path, number: int) -> list[str]:
        own = ["--steps", "60", "--set", "train.checkpoint_every=10", "--seed", str(number), "--device", "cpu"]
        return [
            "fit",
            "--model",
            "maf",
            *commands.MODELS["maf"],
            *commands.data_options(data),
            *own,
            "--out",
            str(folder / "flow.safetensors"),
            "--overwrite",  # of another seed
        ]

    wanted = root / "fit"
    wanted.mkdir()
    succeed(arguments(wanted, 1), root / "words")
    needed = (wanted / "flow.safetensors").stat().st_size
    for i in range(times):
        with small_disk(root / f"fit{i}") as disk:
            succeed(arguments(disk, 0), root / "words")
            before = files(disk)
            free = source.randrange(0, 4 * needed)
            fill(disk, free)
            process = do(arguments(disk, 1), root / "words")
            found = one_line(process, "No space left on device")
            problems = [found] if found else []
            after = {name: content for name, content in files(disk).items() if "ballast" not in name}
            if after.items() < before.items() or left_over(disk):
                problems.append(f"changed {sorted(after)}")
            flowzoo.load(disk / "flow.safetensors")
            (disk / "ballast").unlink()
            succeed(arguments(disk, 1), root / "words")
            (got, meta), (want, known) = (contents(folder / "flow.safetensors") for folder in (disk, wanted))
            if meta != known or any(not got[key].equal(want[key]) for key in want):
                problems.append("the flow differs")
            row.add(FAULT if problems else PREVIOUS, f"{free} bytes free: {'; '.join(problems)}")
    return row


def _read_only(root: Path, data: Path, reference: Path, short: bool) -> Row:
    """The whole folder, or a part of it, before the run or from a step of it on."""
    row = Row("disk", "read-only folders, tuned bench", "the same command went on each time")
    cases: list[tuple[str, str | None]] = [("", None), ("cells", None), ("checkpoints", None), ("tuned", None)]
    late = ["table.maf trial 1", "table nice seed 0", "table maf-tuned seed 0"]
    cases += [(part, label) for part in ("cells", "checkpoints") for label in late]
    for i, (part, label) in enumerate(cases[::5] if short else cases):
        out, words = root / f"read{i}", root / f"read{i}.words"
        target = out / part
        target.mkdir(parents=True)
        (out / "cells").mkdir(exist_ok=True)
        _mount("--bind", str(target), str(target))

        def lock(target: Path = target) -> None:
            _mount("-o", "remount,bind,ro", str(target))

        def on_step(now: str, step: int, label: str | None = label, lock: Callable[[], None] = lock) -> None:
            if (now, step) == (label, 3):
                lock()

        try:
            if label is None:
                lock()
            watch = partial(moments.watch, root / f"read{i}.log", None, on_step)
            process = do(commands.bench(data, out), words, watch)
            found = _stopped(process, out, reference, {})
        finally:
            subprocess.run(["umount", str(target)], check=True)
        again = do(commands.bench(data, out), words)
        found += differences(out, reference) if again.status == 0 else [again.said()[-500:]]
        row.add(FAULT if found else PREVIOUS, f"{part or 'all'}, {label}: {'; '.join(found)}")
    return row


def _stopped(process: Command, out: Path, reference: Path, before: dict[str, bytes]) -> list[str]:
    """What is wrong with a bench that the disk ended."""
    found = [words for words in [one_line(process, str(out))] if words]
    now = files(out)
    found += [f"{name} has changed" for name, content in before.items() if now.get(name) != content]
    found += [f"left {left_over(out)}"] if left_over(out) else []
    for path in sorted(out.glob("cells/*.json")):
        known, wanted = record.load(path), record.load(reference / "cells" / path.name)
        if known.status != "ok" or known.metrics["nll_nats"] != wanted.metrics["nll_nats"]:
            found.append(f"{path.name} is {known.status}: {known.reason}")
        record.load_scores(path)
    for path in sorted(out.glob("checkpoints/*.safetensors")):
        contents(path)
    return found


@contextmanager
def small_disk(path: Path) -> Iterator[Path]:
    """A file system of ``SIZE`` bytes, mounted there."""
    path.mkdir()
    _mount("-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(path))
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def fill(disk: Path, free: int) -> None:
    """Leave about so many bytes."""
    now = os.statvfs(disk)
    size = now.f_bavail * now.f_frsize - free // now.f_frsize * now.f_frsize
    with open(disk / "ballast", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, size)


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True, text=True)


def _cannot_mount(root: Path) -> str:
    """Why no small disk can be had, or nothing."""
    try:
        with small_disk(root / "probe"):
            return ""
    except (OSError, subprocess.CalledProcessError) as error:
        return f"no small disk can be mounted ({' '.join(str(getattr(error, 'stderr', None) or error).split())})"
