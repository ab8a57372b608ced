from __future__ import annotations

import builtins
import multiprocessing
import threading
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages._rdb.models import BaseModel
from optuna.trial import TrialState
from sqlalchemy.exc import ProgrammingError

from flowzoo.config import ConfigError
from flowzoo.tune.journal import mend
from flowzoo.tune.storage import open_storage

REFUSED = {
    "sqlite://": "must be a file, sqlite:///FILE",
    "sqlite:///:memory:": "must be a file",
    "sqlite:////no/such/study.db": "there is no folder /no/such; make it",
    "postgresql+psycopg://me:secret@localhost:1/x": "://me:\\*\\*\\*@localhost:1/x' cannot be opened .*refused",
    "redis://host": "expected sqlite:///FILE, postgresql",
    "nonsense": "expected sqlite:///FILE, .* or journal:FILE; got 'nonsense'",
    "journal:/no/such/study.log": "there is no folder /no/such; make it",
}


@pytest.mark.parametrize("url", REFUSED)
def test_storage_that_cannot_be_is_one_line(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigError, match=REFUSED[url]) as caught:
        open_storage(url, tmp_path)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_storage_beside_which_no_leases_can_be_is_one_line(tmp_path: Path) -> None:
    leases = tmp_path / "study.db.leases"
    leases.write_text("a file where the folder of the leases would be")
    with pytest.raises(
        ConfigError, match=rf"^tune.storage: workers write into {leases}, and cannot \(Not a directory\)$"
    ):
        open_storage(None, tmp_path)


def test_missing_driver_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name.split(".")[0] == "psycopg":
            raise ModuleNotFoundError("No module named 'psycopg'", name="psycopg")
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"needs psycopg, which is not installed: pip install flowzoo\[postgres\]"):
        open_storage("postgresql+psycopg://localhost/x", tmp_path)


@pytest.mark.parametrize("prefix", ["sqlite:///", "journal:"])
def test_file_that_is_something_else_is_one_line(tmp_path: Path, prefix: str) -> None:
    file = tmp_path / "thesis.tex"
    file.write_text("\\documentclass{article}\n" * 300)
    with pytest.raises(
        ConfigError, match=r"not a database|it is no journal of Optuna, or a line of it is damaged"
    ) as e:
        open_storage(f"{prefix}{file}", tmp_path)
    assert "\n" not in str(e.value)


def test_paths_are_absolute_and_folders_of_leases_beside_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    for url, shown, leases in (
        (None, f"sqlite:///{tmp_path}/run/study.db", tmp_path / "run/study.db.leases"),
        ("sqlite:///mine.db", f"sqlite:///{tmp_path}/mine.db", tmp_path / "mine.db.leases"),
        ("journal:mine.log", f"{tmp_path}/mine.log", tmp_path / "mine.log.leases"),
        (f"journal://{tmp_path}/mine.log", f"{tmp_path}/mine.log", tmp_path / "mine.log.leases"),
    ):
        opened = open_storage(url, Path("run"))
        assert (opened.url, opened.leases.absolute()) == (shown, leases)
        assert open_storage(url, tmp_path / "other").home == opened.home or url is None


def test_home_is_one_for_all_that_open_a_folder_at_once(tmp_path: Path) -> None:
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(open_storage(f"journal:{tmp_path}/s.log", tmp_path).home))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    assert len(set(found)) == 1


def _make(url: str, folder: Path, barrier: Any) -> None:
    barrier.wait()
    optuna.create_study(storage=open_storage(url, folder).storage, study_name="s", load_if_exists=True)


def test_many_can_make_the_same_database_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(4)
    url = f"sqlite:///{tmp_path}/study.db"
    workers = [context.Process(target=_make, args=(url, tmp_path, barrier)) for _ in range(4)]
    for process in workers:
        process.start()
    for process in workers:
        process.join(60)
    assert [process.exitcode for process in workers] == [0] * 4


# -- the journal ----------------------------------------------------------------------------------------------------


def journal(tmp_path: Path, trials: int = 3) -> tuple[Path, optuna.Study]:
    file = tmp_path / "study.log"
    study = optuna.create_study(storage=open_storage(f"journal:{file}", tmp_path).storage, study_name="s")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=trials)
    return file, study


def test_who_finds_the_tables_half_made_leaves_no_connection_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, engines = BaseModel.metadata.create_all, list[Any]()

    def create_all(engine: Any) -> None:
        engines.append(engine)
        if len(engines) == 1:
            engine.connect().close()  # into the pool
            raise ProgrammingError("CREATE TABLE studies", {}, Exception("relation already exists"))
        real(engine)

    monkeypatch.setattr(BaseModel.metadata, "create_all", create_all)
    opened = open_storage(f"sqlite:///{tmp_path}/study.db", tmp_path)
    assert len(engines) == 2
    assert engines[0].pool.checkedin() == 0
    opened.close()


def test_torn_last_line_is_cut_off_and_kept_beside(tmp_path: Path) -> None:
    file, _ = journal(tmp_path)
    whole = file.read_bytes()
    lines = whole.splitlines(keepends=True)
    torn = lines[-1][:-9]
    file.write_bytes(b"".join(lines[:-1]) + torn)
    storage = open_storage(f"journal:{file}", tmp_path).storage
    assert file.read_bytes() == b"".join(lines[:-1])
    assert [p.read_bytes() for p in tmp_path.glob("study.log.torn-*")] == [torn]
    assert not (tmp_path / "study.log.lock").exists()
    # its last line was the end of the third trial, which is on again
    states = [t.state for t in optuna.load_study(storage=storage, study_name="s").trials]
    assert states == [TrialState.COMPLETE] * 2 + [TrialState.RUNNING]


def test_writer_that_was_there_before_the_tear_does_not_append_to_it(tmp_path: Path) -> None:
    file, study = journal(tmp_path, 1)
    with open(file, "ab") as handle:
        handle.write(b'{"op_code":4,"worker_id":"kill')  # another worker, killed
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    again = optuna.load_study(storage=open_storage(f"journal:{file}", tmp_path).storage, study_name="s")
    assert [t.state for t in again.trials] == [TrialState.COMPLETE] * 3
    assert len(list(tmp_path.glob("study.log.torn-*"))) == 1


@pytest.mark.parametrize(
    ("content", "left"),
    [
        (b"", b""),
        (b"{", b""),
        (b'{"a":1}\n', b'{"a":1}\n'),
        (b'{"a":1}\n\n', b'{"a":1}\n'),
        (b'{"a":1}\n{"a":2}{"a":3}\n', b'{"a":1}\n'),
        (b'{"a":1}\n' + b"\0" * 500, b'{"a":1}\n'),
        (b'{"a":1}\n{"a":"' + b"x" * 200_000, b'{"a":1}\n'),
        (b'{"a":1}\n{"a":"' + b"x" * 200_000 + b'"}\n', None),
        (b'{"a":"' + b"x" * 70_000 + b'"}\n"a', b'{"a":"' + b"x" * 70_000 + b'"}\n'),
    ],
    ids=range(9),
)
def test_mended(tmp_path: Path, content: bytes, left: bytes | None) -> None:
    file = tmp_path / "log"
    file.write_bytes(content)
    backup = mend(file)
    assert file.read_bytes() == (content if left is None else left)
    assert (backup is None) == (left is None or left == content)
    if backup is not None:
        assert file.read_bytes() + backup.read_bytes() == content
    assert mend(file) is None


def test_damage_in_the_middle_is_named(tmp_path: Path) -> None:
    file, _ = journal(tmp_path)
    lines = file.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2][:-20] + b"\n"
    file.write_bytes(b"".join(lines))
    with pytest.raises(ConfigError, match=r"a line of it is damaged \(JSONDecodeError: .*; give another file"):
        open_storage(f"journal:{file}", tmp_path)
