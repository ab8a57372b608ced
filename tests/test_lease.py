import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from flowzoo import lease
from flowzoo.lease import Lease, Owner, holder, is_held, take


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "leases" / "digits.maf.0"


def until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.01)


def leave(path: Path, owner: Owner | None, age: float = 0.0) -> None:
    """A lease file of somebody, or a torn one, last touched so many seconds ago."""
    path.parent.mkdir(exist_ok=True)
    path.write_text("{" if owner is None else json.dumps(asdict(owner)))
    then = time.time() - age
    os.utime(path, (then, then))


def elsewhere() -> Owner:
    return Owner("another-host", "another boot", os.getpid(), "1", "a" * 32)


def dead() -> Owner:
    """A process of this machine that is over."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return Owner(*lease._machine(), process.pid, "1", "b" * 32)


def test_only_one_has_it_until_it_is_released(path: Path) -> None:
    assert not is_held(path)  # nor is its folder there
    with take(path) as first:
        assert first is not None
        assert holder(path) == first.owner
        assert first.owner.host == socket.gethostname()
        assert is_held(path)
        assert take(path) is None
        assert not first.lost
    assert list(path.parent.iterdir()) == []
    assert not is_held(path)
    second = take(path)
    assert second is not None
    first.release()  # once more: not what the second has
    assert holder(path) == second.owner
    second.release()


def test_dead_process_of_this_machine_loses_it_at_once(path: Path) -> None:
    leave(path, dead())
    assert not is_held(path)
    with take(path) as taken:
        assert taken is not None
        assert holder(path) == taken.owner


def test_process_that_was_given_the_number_of_a_dead_one_is_another(path: Path) -> None:
    ours = Owner(*lease._machine(), os.getpid(), lease._start(os.getpid()), "c" * 32)
    leave(path, ours)
    assert take(path) is None
    leave(path, replace(ours, start="1"))
    with take(path) as taken:
        assert taken is not None


def test_zombie_is_dead(path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    owner = Owner(*lease._machine(), process.pid, lease._start(process.pid), "d" * 32)
    assert owner.lives()
    process.kill()
    until(lambda: lease._start(process.pid) == "")  # and nobody has waited for it
    assert process.returncode is None
    assert not owner.lives()
    process.communicate()


@pytest.mark.parametrize("owner", [elsewhere(), None])
def test_process_of_another_machine_and_a_torn_file_lose_it_when_they_expire(path: Path, owner: Owner | None) -> None:
    leave(path, owner, age=5.0)
    assert is_held(path, expiry=10.0)
    assert take(path, expiry=10.0) is None
    assert not is_held(path, expiry=4.0)
    with take(path, expiry=4.0) as taken:
        assert taken is not None
    assert list(path.parent.iterdir()) == []


def test_age_is_by_the_clock_of_the_file_system(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(path, elsewhere(), age=5.0)
    monkeypatch.setattr(time, "time", lambda: 1e12)  # this machine's own clock is far ahead
    assert take(path, expiry=10.0) is None


def test_live_owner_keeps_it_beyond_the_expiry_by_touching_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Owner, "is_here", False)  # as another machine sees it
    with take(path, expiry=0.3) as first:
        assert first is not None
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            assert take(path, expiry=0.3) is None
            time.sleep(0.05)
        assert not first.lost


def test_owner_that_slept_finds_it_lost_and_leaves_the_new_one_in_peace(path: Path) -> None:
    first = take(path)
    assert first is not None
    leave(path, elsewhere())  # taken over meanwhile
    assert first.lost
    first.release()
    assert holder(path) == elsewhere()
    path.unlink()


def test_released_and_gone_by_another_is_lost_too(path: Path) -> None:
    first = take(path)
    assert first is not None
    path.unlink()
    assert first.lost
    first.release()
    assert not first.path.exists()


def test_thread_of_a_lost_lease_no_longer_touches_it(path: Path) -> None:
    first = take(path, expiry=0.12)
    assert first is not None
    leave(path, elsewhere(), age=100.0)
    time.sleep(0.2)
    assert time.time() - path.stat().st_mtime > 90
    assert first.lost


TAKERS = """
import sys, time
from pathlib import Path
from flowzoo.lease import take
path, log, times = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
got = 0
while got < times:
    held = take(path)
    if held is None:
        continue
    with held:
        with log.open("x"):   # only one may be in here
            pass
        log.unlink()
        got += 1
        if sys.argv[4] == "dies":
            import os, signal
            os.kill(os.getpid(), signal.SIGKILL)
print(got)
"""


def test_several_processes_are_never_in_it_together(path: Path, tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", TAKERS, str(path), str(tmp_path / "inside"), "60", "lives"]
    takers = [subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert [taker.communicate(timeout=60)[0] for taker in takers] == ["60\n"] * 4
    assert list(path.parent.iterdir()) == []


def test_each_of_several_that_die_one_after_another_takes_over_from_a_dead_one(path: Path, tmp_path: Path) -> None:
    leave(path, dead())
    arguments = [sys.executable, "-c", TAKERS, str(path), str(tmp_path / "inside"), "1", "dies"]
    takers = [subprocess.Popen(arguments) for _ in range(6)]
    assert [taker.wait(timeout=60) for taker in takers] == [-signal.SIGKILL] * 6
    assert not (tmp_path / "inside").exists()
    with take(path) as taken:
        assert taken is not None


def test_guard_of_a_taker_that_was_killed_in_the_middle_is_no_obstacle(path: Path) -> None:
    leave(path, dead())
    leave(path.with_name(f"{path.name}~"), dead())
    with take(path) as taken:
        assert taken is not None
    assert list(path.parent.iterdir()) == []


def test_file_system_without_links_does_too(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*paths: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with take(path) as first:
        assert first is not None
        assert take(path) is None
    leave(path, dead())
    with take(path) as second:
        assert second is not None
    assert list(path.parent.iterdir()) == []


def test_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        take(tmp_path / "file" / "lease")


def test_fork_does_not_release_what_its_parent_has(path: Path) -> None:
    first = take(path)
    assert first is not None
    child = Lease.__new__(Lease)
    child.__dict__.update(first.__dict__, owner=replace(first.owner, pid=first.owner.pid + 1))
    child._over = type(first._over)()
    child.release()
    assert holder(path) == first.owner
    first.release()


def test_expiry_must_be_positive(path: Path) -> None:
    with pytest.raises(ValueError, match="expiry must be positive, in seconds; got 0"):
        take(path, expiry=0)
