"""Kill a tuned bench again and again, and compare what is left of it with an undisturbed run.

Runs a bench of two small models with a study for each, kills it (SIGKILL), and runs the same command again. Some kills
come at a random time, no later than half of what the undisturbed run took; the others at a random event of a kind: a
step of a trial or of a training, a file that is half written, or whole and not in its place, or just in its place, a
write to the study before or in its commit. So is a bench of two seeds, which are trained at once. Where a bench
finishes before its kill, it begins anew in an empty folder.

Every folder must end with the table of an undisturbed run, equal in every digit of every column but those of time and
memory, with the same per-event scores, weights, trials and configs, and without a trace of what was half written. A
training whose record or trial was finished may not begin again.
"""

from __future__ import annotations

import json
import random
import signal
import tempfile
from functools import partial
from pathlib import Path

from chaos_parts import commands, moments
from chaos_parts.commands import Command
from chaos_parts.compare import differences, finished
from chaos_parts.counts import FAULT, UNCHANGED, Row
from chaos_parts.moments import Moment, watch

AT_RANDOM = "at a random time"
EACH, RANDOM = 5, 10  # kills at each place, and at random times: 50 together
TOGETHER = (moments.TRAINING, moments.CHECKPOINT, moments.RECORD)
FEW = (moments.TRIAL, moments.STUDY, moments.CHECKPOINT, moments.RECORD, moments.TUNED)  # of the short form
CHECKPOINT_EVERY = 5


def run(short: bool, seed: int) -> list[Row]:
    """A row for each place of a kill; a difference is a fault of the last kill before it."""
    source = random.Random(f"{seed} kills")
    places, each, at_random = (FEW, 1, 1) if short else (moments.PLACES, EACH, RANDOM)
    due = [place for place in places for _ in range(each)] + [AT_RANDOM] * at_random
    source.shuffle(due)
    rows = _kill(due, (), "", source)
    due = [moments.TRAINING] if short else [*TOGETHER, AT_RANDOM] * 4
    return rows + _kill(due, ("--seeds", "0,1"), ", two seeds at once", source)


def _kill(due: list[str], more: tuple[str, ...], kind: str, source: random.Random) -> list[Row]:
    """Kill a bench with these options at these places, from the last one to the first."""
    rows: dict[str, Row] = {}
    with tempfile.TemporaryDirectory(dir=memory()) as name:
        root = Path(name)
        data, reference = root / "data.npz", root / "undisturbed"
        commands.write_data(data)
        log = root / "undisturbed.log"
        spent = commands.succeed(commands.bench(data, reference, *more), root / "words", partial(watch, log)).seconds
        counts = json.loads(log.with_suffix(".counts").read_text())
        runs = 0
        while due:
            runs += 1
            killed, found = _folder(root / f"run{runs}", data, more, reference, due, counts, spent, source)
            for place in killed[: len(killed) - bool(found)]:
                rows.setdefault(place, Row("kills", place + kind)).add(UNCHANGED)
            if found:
                place = killed[-1] if killed else "never"
                rows.setdefault(place, Row("kills", place + kind)).add(FAULT, "; ".join(found))
    return [rows[place] for place in sorted(rows)]


def _folder(
    out: Path,
    data: Path,
    more: tuple[str, ...],
    reference: Path,
    due: list[str],
    counts: dict[str, int],
    spent: float,
    source: random.Random,
) -> tuple[list[str], list[str]]:
    """Kill and begin again until the bench is through: the places of the kills, and what is wrong."""
    arguments, words, log = commands.bench(data, out, *more), out.with_suffix(".words"), out.with_suffix(".log")
    killed: list[str] = []
    found: list[str] = []
    over: dict[str, str] = {}
    while True:
        place = due[-1] if due else None
        moment = None
        if place is not None and place != AT_RANDOM:
            # Among the first half, so that after some kills there still is one.
            number = source.randint(1, max(1, counts[place] // 2))
            moment = Moment(place, number, source.choice((source.random(), 1.0)))
        already = len(moments.begun(log))
        process = Command(arguments, words, partial(watch, log, moment))
        if place == AT_RANDOM and process.listens():
            process.wait(source.uniform(0, spent / 2))
            process.kill()
        if process.wait() is None:
            process.kill()
            process.wait()
            return killed, [*found, f"{out.name}: it did not end"]
        twice = sorted(over.keys() & set(moments.begun(log)[already:]))
        found += [f"{out.name}: {label} was finished, and trained again" for label in twice]
        if process.status != -signal.SIGKILL:
            break
        if place is None:
            raise RuntimeError("somebody else kills here")
        killed.append(due.pop())
        now = finished(out) if out.exists() else {}
        found += [f"{out.name}: {label} was finished, and is not any more" for label in over.keys() - now.keys()]
        found += [f"{out.name}: {label} was written again" for label, when in over.items() if now.get(label) != when]
        over = now
    if process.status != 0:
        return killed, [*found, f"{out.name}: ended with {process.status}: {process.said()[-600:]}"]
    found += differences(out, reference)
    taken, wanted = moments.steps_of(log), moments.steps_of(reference.with_suffix(".log"))
    for label in wanted:
        if taken[label] < wanted[label] or taken[label] > wanted[label] + len(killed) * 2 * CHECKPOINT_EVERY:
            found.append(f"{out.name}: {label} took {taken[label]} steps, undisturbed {wanted[label]}")
    return killed, found


def memory() -> str | None:
    """A folder in memory if there is one: a study waits for the disk some forty times a trial."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None
