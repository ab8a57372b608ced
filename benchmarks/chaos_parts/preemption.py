"""Ask fit, bench and tune to end (SIGTERM) at random times of their work, again and again.

A command so asked must end within five seconds with status 75, with the state of its training on the disk and nothing
half written, and the same command must go on to the very numbers of an undisturbed one. A training that has begun is
left at the step at which it was asked: none of its steps is taken twice. A command that was through before it heard of
it ends with status 0.
"""

from __future__ import annotations

import random
import signal
import tempfile
import time
from functools import partial
from pathlib import Path

from chaos_parts import commands, moments
from chaos_parts.commands import Command
from chaos_parts.compare import contents, differences, left_over, trials
from chaos_parts.counts import FAULT, UNCHANGED, Row
from chaos_parts.kills import memory
from chaos_parts.moments import watch
from flowzoo import preempt

LIMIT = 5.0  # seconds from the signal to the end of the process
TIMES, SHORT = 25, 1  # of each command
STEPS = {"fit": 1500, "bench": 400, "tune": 200}  # of a training
SHORT_STEPS = {"fit": 400, "bench": 120, "tune": 60}


def run(short: bool, seed: int) -> list[Row]:
    """A row for each command."""
    with tempfile.TemporaryDirectory(dir=memory()) as name:
        root = Path(name)
        commands.write_data(root / "data.npz")
        if short:
            return [_row(kind, steps, root, SHORT, seed) for kind, steps in SHORT_STEPS.items()]
        rows = [_row(kind, steps, root, TIMES, seed) for kind, steps in STEPS.items()]
        return [*rows, _row("bench", STEPS["bench"], root, 4, seed, "--workers", "2")]


def arguments(kind: str, steps: int, data: Path, out: Path, *more: str) -> list[str]:
    """A command of this kind that writes to ``out``."""
    if kind == "bench":
        return commands.bench(data, out, *more, steps=steps, tune=None)
    own = ["--steps", str(steps), "--set", "train.evaluate_every=20", "--set", "train.checkpoint_every=50"]
    own = [*commands.data_options(data), "--device", "cpu", *own, *more]
    if kind == "fit":
        return ["fit", "--model", "nice", *commands.MODELS["nice"], *own, "--out", str(out / "flow.safetensors")]
    models = [word for options in commands.MODELS.values() for word in options]
    return ["tune", "--models", "maf,nice", *models, *own, "--trials", "3", "--out", str(out)]


def unlike(kind: str, out: Path, reference: Path) -> list[str]:
    """What is not as in the undisturbed run."""
    if kind == "bench":
        return differences(out, reference)
    if kind == "tune":
        same = trials(out) == trials(reference)
        return [] if same else [f"other trials: {trials(out)}, undisturbed {trials(reference)}"]
    (got, meta), (want, known) = (contents(folder / "flow.safetensors") for folder in (out, reference))
    same = got.keys() == want.keys() and all(got[key].equal(want[key]) for key in want) and meta == known
    return [] if same else ["the flow differs"]


def _row(kind: str, steps: int, root: Path, times: int, seed: int, *more: str) -> Row:
    row = Row("preemption", " ".join((kind, *more)))
    source = random.Random(f"{seed} preemption {row.what}")
    reference, log = root / f"{kind}-undisturbed", root / f"{kind}-undisturbed.log"
    reference.mkdir(exist_ok=True)
    whole = commands.succeed(
        arguments(kind, steps, root / "data.npz", reference, *more), root / "words", partial(watch, log)
    ).seconds
    slowest, through, runs, asked = 0.0, 0, 0, 0
    while asked < times:
        runs += 1
        out = root / f"{row.what.replace(' ', '')}{runs}"
        out.mkdir()
        own, log = arguments(kind, steps, root / "data.npz", out, *more), out.with_suffix(".log")
        found: list[str] = []
        here = 0
        while True:
            process = Command(own, out.with_suffix(".words"), partial(watch, log))
            signalled = None
            if process.listens() and asked < times and here < 4:
                process.wait(source.uniform(0.0, 0.6 * whole))
                if process.poll() is None:
                    signalled = _ask(process)
            if process.wait() is None:
                process.kill()
                process.wait()
                found.append("it did not end")
                break
            if signalled is not None:
                asked, here = asked + 1, here + 1
                slowest = max(slowest, signalled)
                if process.status == 0:
                    through += 1
                    break
                found += _problems(process, signalled, out)
                continue
            break
        if process.status != 0:
            found.append(f"ended with {process.status}: {process.said()[-500:]}")
        found = found or unlike(kind, out, reference)
        taken, wanted = (moments.steps_of(path) for path in (log, root / f"{kind}-undisturbed.log"))
        if not more and taken != wanted:  # workers are processes that are not watched
            found.append(f"steps taken {dict(taken)}, undisturbed {dict(wanted)}")
        for _ in range(max(here, 1) - bool(found) if here or found else 0):
            row.add(UNCHANGED)
        if found:
            row.add(FAULT, f"{out.name}: " + "; ".join(found))
    row.note = f"slowest end {slowest:.1f} s" + (f"; {through} through before they heard of it" if through else "")
    return row


def _ask(process: Command) -> float:
    """Send SIGTERM; the seconds until the process is over."""
    began = time.monotonic()
    process.kill(signal.SIGTERM)
    process.wait()
    return time.monotonic() - began


def _problems(process: Command, seconds: float, out: Path) -> list[str]:
    found = []
    if process.status != preempt.STATUS:
        found.append(f"status {process.status}: {process.said()[-300:]}")
    if process.said() != f"flowzoo: {preempt.LINE}\n":
        found.append(f"says {process.said()[-300:]!r}")
    if seconds > LIMIT:
        found.append(f"ended {seconds:.1f} s after the signal")
    if left_over(out):
        found.append(f"left {left_over(out)}")
    return found
