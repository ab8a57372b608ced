"""Four workers on one study of a hundred trials, two of them killed on the way, on each kind of storage.

Afterwards trials must be numbered without a gap, as many of them as the budget must have ended on their own merits,
and none may be left running. A trial whose worker was killed goes on under its number.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna

from chaos_parts.counts import FAULT, UNCHANGED, Row
from chaos_parts.kills import memory
from flowzoo.tune.storage import open_storage
from flowzoo.tune.worker import BEYOND, counts

SCRIPT = Path(__file__).parents[2] / "tests" / "tune" / "workers.py"
WORKERS, TRIALS, SHORT, STUDY = 4, 100, 12, "two_moons.nice"
NOBODY = 65534
WAIT = 400  # seconds


class Missing(RuntimeError):
    """What a storage needs is not there."""


def run(short: bool, seed: int) -> list[Row]:
    """A row for each storage; what is tried are trials."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    trials = SHORT if short else TRIALS
    rows = []
    with tempfile.TemporaryDirectory(dir=memory()) as name:
        root = Path(name)
        for kind in ("sqlite", "journal"):
            url = "default" if kind == "sqlite" else f"journal:{root}/study.log"
            rows.append(_row(kind, url, root / kind, trials, seed))
        try:
            with postgres() as url:
                rows.append(_row("PostgreSQL", url, root / "postgres", trials, seed))
        except Missing as why:
            print(f"workers on PostgreSQL: NOT RUN: {why}", file=sys.stderr)
            rows.append(Row("workers", "PostgreSQL", f"not run: {why}"))
    return rows


def _row(kind: str, url: str, folder: Path, trials: int, seed: int) -> Row:
    row = Row("workers", f"{kind}, {trials} trials")
    source = random.Random(f"{seed} workers {kind}")
    victims = source.sample(range(WORKERS), 2)
    moments = sorted(source.sample(range(1, trials * 3 // 4), 2))  # after so many trials have ended
    command = [sys.executable, str(SCRIPT), ",".join([str(folder)] * WORKERS), url, str(trials)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        pids = [int(number) for number in process.stdout.readline().split()]
        with open_storage(None if url == "default" else url, folder) as opened:
            end = time.monotonic() + WAIT

            def now() -> list[optuna.trial.FrozenTrial]:
                names = {study.study_name for study in opened.storage.get_all_studies()}
                return optuna.load_study(study_name=STUDY, storage=opened.storage).trials if STUDY in names else []

            for victim, moment in zip(victims, moments, strict=True):
                while sum(counts(t) for t in now()) < moment and time.monotonic() < end:
                    time.sleep(0.1)
                time.sleep(source.uniform(0, 0.3))
                os.kill(pids[victim], signal.SIGKILL)
            statuses = [int(word) for word in process.communicate(timeout=WAIT)[0].split()]
            found = now()
    finally:
        process.kill()
        process.communicate()
    taken_over = sum("attempts" in t.user_attrs for t in found)
    row.note = f"2 of {WORKERS} workers killed, {taken_over} trials taken over"
    wanted = [-signal.SIGKILL if i in victims else 0 for i in range(WORKERS)]
    if statuses != wanted:
        row.add(FAULT, f"workers ended with {statuses}, expected {wanted}")
    if [t.number for t in found] != list(range(len(found))):
        row.add(FAULT, f"numbers {[t.number for t in found]}")
    if (ended := sum(counts(t) for t in found)) != trials:
        row.add(FAULT, f"{ended} trials ended on their own merits, of {trials}")
    if list(folder.glob("*.state*")):
        row.add(FAULT, f"left {[path.name for path in folder.glob('*.state*')]}")
    for trial in found:
        lost = trial.state.name == "FAIL" and trial.user_attrs.get("reason") != BEYOND
        if not trial.state.is_finished() or lost or "failed_trial" in trial.system_attrs:
            row.add(FAULT, f"trial {trial.number} is {trial.state.name}: {trial.user_attrs}")
        elif counts(trial):
            row.add(UNCHANGED)
    return row


@contextmanager
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL of our own, at a socket in a folder that goes with it.

    Raises:
        Missing: if it is not installed, or cannot be run by this user.
    """
    missing = [tool for tool in ("initdb", "pg_ctl") if shutil.which(tool) is None]
    if missing:
        raise Missing(f"there is no {' and no '.join(missing)} on the PATH")
    user: list[str] = []
    if not os.geteuid():  # it refuses to run as root
        if not shutil.which("setpriv"):
            raise Missing("it refuses to run as root, and there is no setpriv")
        user = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    with tempfile.TemporaryDirectory(prefix="pg") as folder:
        if user:
            os.chown(folder, NOBODY, NOBODY)
        place = f"{folder}/data"

        def do(*command: str) -> None:
            subprocess.run([*user, *command], cwd=folder, check=True, timeout=120, stdout=subprocess.DEVNULL)

        do("initdb", "--no-sync", "-A", "trust", "-U", "flowzoo", "-E", "UTF8", "--locale=C", "-D", place)
        options = f"-k {folder} -c listen_addresses='' -c fsync=off"
        do("pg_ctl", "-w", "-D", place, "-l", f"{folder}/log", "-o", options, "start")
        try:
            yield f"postgresql+psycopg://flowzoo@/postgres?host={folder}"
        finally:
            do("pg_ctl", "-w", "-m", "immediate", "-D", place, "stop")
