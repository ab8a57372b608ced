"""Several workers on one study, some of them killed: nothing is lost, nothing done twice, none left running."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest

from flowzoo.tune.storage import open_storage
from flowzoo.tune.worker import BEYOND, counts

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).with_name("workers.py")
NOBODY = 65534


def unprivileged() -> list[str]:
    """What makes a command another user's: PostgreSQL refuses to run as root."""
    if os.geteuid():
        return []
    if shutil.which("setpriv"):
        return ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    if shutil.which("runuser"):
        return ["runuser", "-u", "nobody", "--"]
    pytest.skip("PostgreSQL refuses to run as root, and there is neither setpriv nor runuser")


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL of our own, at a socket in a folder that goes with it."""
    missing = [tool for tool in ("initdb", "pg_ctl") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"PostgreSQL is not installed: there is no {' and no '.join(missing)} on the PATH")
    with tempfile.TemporaryDirectory(prefix="pg") as folder:
        if not os.geteuid():
            os.chown(folder, NOBODY, NOBODY)
        user, place = unprivileged(), f"{folder}/data"

        def run(*command: str) -> None:
            found = subprocess.run([*user, *command], cwd=folder, capture_output=True, text=True, timeout=120)
            assert found.returncode == 0, found.stdout + found.stderr

        run("initdb", "--no-sync", "-A", "trust", "-U", "flowzoo", "-E", "UTF8", "--locale=C", "-D", place)
        options = f"-k {folder} -c listen_addresses='' -c fsync=off"
        run("pg_ctl", "-w", "-D", place, "-l", f"{folder}/log", "-o", options, "start")
        try:
            yield f"postgresql+psycopg://flowzoo@/postgres?host={folder}"
        finally:
            run("pg_ctl", "-w", "-m", "immediate", "-D", place, "stop")


class Group:
    """Workers that run, and what their study holds."""

    def __init__(self, folders: list[Path], url: str, trials: int, heartbeat: int = 15) -> None:
        arguments = [",".join(map(str, folders)), url, str(trials), str(heartbeat)]
        self.process = subprocess.Popen([sys.executable, str(SCRIPT), *arguments], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.workers = [int(number) for number in self.process.stdout.readline().split()]
        self.opened = open_storage(None if url == "default" else url, folders[0])

    def trials(self) -> list[optuna.trial.FrozenTrial]:
        storage = self.opened.storage
        names = {study.study_name for study in storage.get_all_studies()}
        return optuna.load_study(study_name="two_moons.nice", storage=storage).trials if names else []

    def __enter__(self) -> Group:
        return self

    def __exit__(self, *error: object) -> None:
        self.opened.close()
        self.process.kill()
        self.process.communicate()

    def kill_when(self, finished: int, worker: int) -> None:
        """SIGKILL to a worker once so many trials have ended and it is in the middle of one."""
        end = time.monotonic() + 120
        while sum(counts(t) for t in self.trials()) < finished:
            assert time.monotonic() < end
            time.sleep(0.05)
        time.sleep(0.1)
        os.kill(self.workers[worker], signal.SIGKILL)

    def statuses(self) -> list[int]:
        out, _ = self.process.communicate(timeout=240)
        return [int(status) for status in out.split()]


def check(trials: list[optuna.trial.FrozenTrial], budget: int) -> None:
    assert [t.number for t in trials] == list(range(len(trials)))
    assert all(t.state.is_finished() for t in trials)
    assert sum(counts(t) for t in trials) == budget
    assert not [t.number for t in trials if t.state.name == "FAIL" and counts(t)]


@pytest.mark.parametrize("kind", ["sqlite", "journal", "postgres"])
def test_four_workers_two_of_them_killed_lose_nothing(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = {"sqlite": "default", "journal": f"journal:{tmp_path}/study.log"}.get(kind) or request.getfixturevalue(kind)
    with Group([tmp_path / "run"] * 4, url, 12) as group:
        group.kill_when(2, 0)
        group.kill_when(5, 1)
        assert group.statuses() == [-9, -9, 0, 0]
        trials = group.trials()
    check(trials, 12)
    taken_over = [t for t in trials if "attempts" in t.user_attrs]
    assert all(t.state.name in ("COMPLETE", "PRUNED") for t in taken_over)  # under their own numbers
    assert not [t for t in trials if "failed_trial" in t.system_attrs]
    assert not list((tmp_path / "run").glob("*.state*"))


def test_workers_that_share_no_folder_find_lost_trials_by_their_heartbeats(postgres: str, tmp_path: Path) -> None:
    url = postgres.replace("/postgres?", "/template1?")  # another, empty database
    with Group([tmp_path / "a", tmp_path / "b"], url, 8, heartbeat=1) as group:
        group.kill_when(2, 0)
        assert group.statuses() == [-9, 0]
        trials = group.trials()
    check(trials, 8)
    # One that was killed right before it told its end may have its reason: "worse than others at step 2".
    lost = [t for t in trials if t.state.name == "FAIL" and t.user_attrs.get("reason") != BEYOND]
    again = [t for t in trials if "failed_trial" in t.system_attrs]
    assert [t.system_attrs["failed_trial"] for t in again] == [t.number for t in lost]
    for before, after in zip(lost, again, strict=True):
        assert before.params.items() <= after.params.items()


def test_study_whose_process_was_killed_ends_with_the_very_same_trials(tmp_path: Path) -> None:
    def result(group: Group) -> list[object]:
        return [(t.number, t.state, t.params, t.values, t.intermediate_values) for t in group.trials()]

    with Group([tmp_path / "killed"], "default", 5) as group:
        group.kill_when(2, 0)
        assert group.statuses() == [-9]
        left = [t.number for t in group.trials() if not t.state.is_finished()]
    with Group([tmp_path / "killed"], "default", 5) as group:
        assert group.statuses() == [0]
        found = result(group)
        check(group.trials(), 5)
        assert all("attempts" in group.trials()[number].user_attrs for number in left)
    with Group([tmp_path / "undisturbed"], "default", 5) as group:
        assert group.statuses() == [0]
        assert result(group) == found
