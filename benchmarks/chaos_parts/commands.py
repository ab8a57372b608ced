"""Commands of flowzoo as processes that begin at once: forks of this one, in which everything is imported.

A fork runs what ``python -m flowzoo`` runs, with a command line, files for what it prints, and a process number of its
own, so it can be killed like any other. This process itself trains nothing: a fork begins without threads.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from flowzoo import cli
from flowzoo.harness import reporting

# What a bench imports at first use.
for _name in (
    *("flowzoo.harness.tuning", "flowzoo.models.maf", "flowzoo.models.nice", "flowzoo.data.table"),
    *("optuna.storages._rdb.alembic", "alembic.command", "zuko.flows", "pyarrow.pandas_compat", "rich.console"),
    *("safetensors.torch", "pydantic.type_adapter", "sqlalchemy.dialects.sqlite", "filelock", "scipy.stats"),
    "torch._dynamo",  # of the first optimizer
):
    with suppress(ImportError):
        importlib.import_module(_name)

# Every command draws its figures anew, out of what is compared here, and would take a fifth of its time for it.
reporting.write_figures = lambda *given: []

EVENTS = 200
MODELS = {
    "maf": ["--set", "maf.num_steps=1", "--set", "maf.hidden_features=8"],
    "nice": ["--set", "nice.num_steps=2", "--set", "nice.hidden_features=8"],
}
BUSY = 60  # seconds after which a command that goes on is a fault


def write_data(path: Path, seed: int = 0) -> None:
    """A table with two columns that depend on a third."""
    source = np.random.default_rng(seed)
    c = source.normal(size=(EVENTS, 1))
    np.savez(path, x=np.concatenate([c + 0.5 * source.normal(size=(EVENTS, 1)), c**2 - c], 1) + 0.1, c=c)


def data_options(path: Path) -> list[str]:
    """What names that table on a command line."""
    return ["--data", "table", "--set", f"data.path={path}", "--set", "data.x=x", "--set", "data.context=c"]


def bench(
    data: Path, out: Path, *more: str, steps: int = 40, tune: int | None = 3, models: Sequence[str] = tuple(MODELS)
) -> list[str]:
    """A bench of two small models, tuned or not."""
    training = ["--steps", str(steps), "--set", "train.evaluate_every=10", "--set", "train.checkpoint_every=5"]
    budget = [] if tune is None else ["--tune", str(tune)]
    rest = ["--device", "cpu", "--set", "bench.draws=20", *budget, "--out", str(out), *more]
    own = [word for model in models for word in MODELS[model]]
    chosen = ["--models", ",".join(models), "--set", "bench.baseline=false", *own]
    return ["bench", *chosen, *data_options(data), *training, *rest]


class Command:
    """A command that runs.

    Args:
        arguments: after ``flowzoo``.
        words: file to which its output is added; its errors go to ``<words>.err``, which begins empty.
        before: called in the new process, before the command.
    """

    def __init__(self, arguments: Sequence[str], words: Path, before: Callable[[], None] | None = None) -> None:
        self.words, self.errors = words, words.with_name(f"{words.name}.err")
        self.began = time.monotonic()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if not self.pid:
            status = 70
            try:
                for number, path, how in ((1, self.words, os.O_APPEND), (2, self.errors, os.O_TRUNC)):
                    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | how, 0o644), number)
                sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
                sys.argv = ["flowzoo", *arguments]
                if before is not None:
                    before()
                cli.main()
            except SystemExit as over:
                status = int(over.code or 0)
            except BaseException:
                traceback.print_exc()
            finally:
                with suppress(BaseException):
                    sys.stdout.flush()
                os._exit(status)
        self.status: int | None = None
        self.seconds = 0.0

    def poll(self) -> int | None:
        """Its status (of a killed one minus the signal), or None while it runs."""
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status, self.seconds = os.waitstatus_to_exitcode(status), time.monotonic() - self.began
        return self.status

    def wait(self, seconds: float = BUSY) -> int | None:
        """Its status once it is over, or None if it still runs after so long."""
        end = time.monotonic() + seconds
        while self.poll() is None and time.monotonic() < end:
            time.sleep(0.002)
        return self.status

    def listens(self) -> bool:
        """Wait until it has a handler for SIGTERM, as its work begins; False if it is over before."""
        while self.poll() is None:
            with suppress(OSError):
                status = Path(f"/proc/{self.pid}/status").read_text()
                caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))
                if int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1:
                    return True
            time.sleep(0.002)
        return False

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send it a signal."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def said(self) -> str:
        """Its errors."""
        return self.errors.read_text(errors="replace")


def do(arguments: Sequence[str], words: Path, before: Callable[[], None] | None = None) -> Command:
    """Run a command to its end.

    Raises:
        RuntimeError: if it does not come to an end.
    """
    command = Command(arguments, words, before)
    if command.wait() is None:
        command.kill()
        raise RuntimeError(f"after {BUSY} s it still runs: flowzoo {' '.join(arguments)}")
    return command


def succeed(arguments: Sequence[str], words: Path, before: Callable[[], None] | None = None) -> Command:
    """Run a command that must succeed."""
    command = do(arguments, words, before)
    if command.status != 0:
        raise RuntimeError(f"ended with {command.status}: flowzoo {' '.join(arguments)}\n{command.said()}")
    return command


def one_line(command: Command, *needles: str) -> str:
    """What is wrong with how a command refused: nothing if with status 2 and one line that holds these words."""
    said = command.said()
    if command.status != 2:
        return f"status {command.status} instead of 2: {said[-800:]}"
    if said.count("\n") != 1 or not said.startswith("flowzoo: "):
        return f"not one line: {said[-800:]}"
    missing = [needle for needle in needles if needle not in said]
    return f"says nothing of {missing}: {said}" if missing else ""
