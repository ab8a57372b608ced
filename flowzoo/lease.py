"""A lease: a file that says who is at a piece of work, and that its owner touches every few seconds.

No ``flock``, which shared file systems may not have: a name is taken by ``link``, which one of several succeeds in.
Ages are differences of two times that the file system itself wrote, so clocks of machines may disagree.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import threading
import uuid
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

# A taker must itself hold the guard `<name>~` while it replaces a lease, and that guard may have been left by one that
# was killed in the middle of this, and so on: so many kills within milliseconds of one another are waited out instead.
GUARDS = 4
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)


class LeaseLost(RuntimeError):
    """Somebody else has taken the lease under which this was done."""


@dataclass(frozen=True)
class Owner:
    """Who holds a lease.

    Args:
        host: name of the machine.
        boot: of the machine's boot and of its namespace of process numbers; empty where the system does not say.
        pid: of the process.
        start: when that process began, in the system's own count; empty where it does not say.
        token: of this very lease.
    """

    host: str
    boot: str
    pid: int
    start: str
    token: str

    @property
    def is_here(self) -> bool:
        """Whether it is a process of this machine, so that one can see whether it lives."""
        return (self.host, self.boot) == _machine()

    def lives(self) -> bool:
        """Whether this process of this machine is there still, and is no other that was given its number."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except OSError:  # it is there, and not ours
            pass
        return not self.start or _start(self.pid) == self.start


class _Seen(NamedTuple):
    """A lease as it lies there: its owner, None if that cannot be read (yet), and its time."""

    owner: Owner | None
    time: float


class Lease:
    """A lease that ``take`` gave; a context manager that releases it. A thread refreshes it until then."""

    def __init__(self, path: Path, owner: Owner, expiry: float) -> None:
        self.path, self.owner, self.expiry = path, owner, expiry
        self._lost = False
        self._over = threading.Event()
        threading.Thread(target=self._refresh, name=f"lease {path.name}", daemon=True).start()

    @property
    def lost(self) -> bool:
        """Whether somebody else has taken it, because this process was suspended, say, for longer than the expiry."""
        if not self._lost and not self._over.is_set():
            try:
                self._lost = _read(self.path).owner != self.owner
            except FileNotFoundError:  # taken and released
                self._lost = not self._over.is_set()
            except OSError:  # a file system that hangs for a moment says nothing of others
                pass
        return self._lost

    def release(self) -> None:
        """Give it back; nothing happens if it is lost or given back already, or in a fork of its owner."""
        if os.getpid() == self.owner.pid and not self._over.is_set() and not self.lost:
            self._over.set()
            self.path.unlink(missing_ok=True)
        self._over.set()

    def _refresh(self) -> None:
        while not self._over.wait(self.expiry / 6) and not self.lost:
            with contextlib.suppress(OSError):  # the next time, or it expires
                os.utime(self.path)

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def take(path: Path, *, expiry: float = 60.0) -> Lease | None:
    """Take a lease, if nobody who lives has it.

    A process of this machine that is dead loses it at once; one that lives keeps it. A process of another machine loses
    it when it has not touched the file for longer than the expiry. Of several that take it at once, one gets it.

    Args:
        path: the file; its folder is made.
        expiry: seconds, the same for all; it is touched six times as often.

    Returns:
        The lease, or None if somebody else has it.

    Raises:
        OSError: if the folder cannot be written.
    """
    if expiry <= 0:
        raise ValueError(f"expiry must be positive, in seconds; got {expiry}")
    path.parent.mkdir(parents=True, exist_ok=True)
    owner = Owner(*_machine(), os.getpid(), _start(os.getpid()), uuid.uuid4().hex)
    return Lease(path, owner, expiry) if _take(path, owner, expiry, GUARDS) else None


def holder(path: Path) -> Owner | None:
    """Who holds a lease, dead or alive; None if nobody does, or it cannot be read."""
    try:
        return _read(path).owner
    except OSError:
        return None


def is_held(path: Path, *, expiry: float = 60.0) -> bool:
    """Whether somebody has a lease whom ``take`` would leave in peace; this process, perhaps."""
    if not path.exists():
        return False
    probe = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        probe.touch()
        return path.exists() and _stale(path, probe, expiry) is None
    except FileNotFoundError:  # it has gone, and its folder too
        return False
    finally:
        probe.unlink(missing_ok=True)


def _take(path: Path, owner: Owner, expiry: float, guards: int) -> bool:
    own = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    content = json.dumps(asdict(owner)).encode()
    try:
        own.write_bytes(content)
        if _link(own, path, content):
            return True
        stale = _stale(path, own, expiry)
        guard = path.with_name(f"{path.name}~")
        if stale is None or not guards or not _take(guard, owner, expiry, guards - 1):
            return False
        try:
            if _stale(path, own, expiry) != stale:  # another was faster
                return False
            os.replace(own, path)
            return True
        finally:
            guard.unlink(missing_ok=True)
    finally:
        own.unlink(missing_ok=True)


def _link(own: Path, path: Path, content: bytes) -> bool:
    """Give a whole file its name if nothing has that name; where there are no links, write it under its name."""
    try:
        os.link(own, path)
        return True
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
    try:
        with open(path, "xb") as file:
            file.write(content)
        return True
    except FileExistsError:
        return False


def _stale(path: Path, probe: Path, expiry: float) -> _Seen | None:
    """A lease that may be taken over, as it lies there; None if it may not, or is gone."""
    try:
        seen = _read(path)
    except FileNotFoundError:
        return None
    if seen.owner is not None and seen.owner.is_here:
        return None if seen.owner.lives() else seen
    os.utime(probe)
    return seen if probe.stat().st_mtime - seen.time > expiry else None


def _read(path: Path) -> _Seen:
    # `open` asks the server of a network file system for the file as it is; `stat` may answer from a cache.
    with open(path, "rb") as file:
        time = os.fstat(file.fileno()).st_mtime
        try:
            return _Seen(Owner(**json.loads(file.read())), time)
        except (ValueError, TypeError):
            return _Seen(None, time)


@cache
def _machine() -> tuple[str, str]:
    """The host, and what changes when it boots or its process numbers are those of a container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return socket.gethostname(), f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname(), ""


def _start(pid: int) -> str:
    """When a process began, in the system's count; empty if it is over, or the system does not say."""
    try:
        # The name, in parentheses, may itself have blanks and parentheses.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
