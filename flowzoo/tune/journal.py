"""Optuna's journal in a file, which mends what a writer left that was killed in the middle of a line.

Imported late, because it imports Optuna.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import BinaryIO

from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from flowzoo.storage import write_atomic

GRACE = 10  # seconds after which the lock of a writer that was killed is taken from it
BLOCK = 1 << 16


def backend(file: Path) -> JournalFileBackend:
    """The journal in a file, its last line mended.

    Args:
        file: absolute, in a folder that is there.
    """
    lock = _MendingLock(file)
    if file.exists():
        lock.acquire()
        lock.release()
    return JournalFileBackend(str(file), lock_obj=lock)


class _MendingLock(JournalFileOpenLock):
    """Whoever gets it finds a file whose last line is whole: what another appends to a torn one spoils both."""

    def __init__(self, file: Path) -> None:
        super().__init__(str(file), grace_period=GRACE)
        self.file = file

    def acquire(self) -> bool:
        super().acquire()
        try:
            mend(self.file)
        except BaseException:
            self.release()
            raise
        return True


def mend(file: Path) -> Path | None:
    """Cut off a last line that is not whole, and keep it in a file beside; the caller holds the lock.

    Returns:
        That file, or None if there was nothing to mend.
    """
    try:
        handle = open(file, "rb+")  # noqa: SIM115 - closed below
    except FileNotFoundError:
        return None
    with handle:
        size = handle.seek(0, os.SEEK_END)
        start = _start_of_last_line(handle, size)
        handle.seek(start)
        last = handle.read()
        if not last or _is_whole(last):
            return None
        backup = file.with_name(f"{file.name}.torn-{time.time_ns()}")
        write_atomic(backup, last)
        handle.truncate(start)
        os.fsync(handle.fileno())
    return backup


def _start_of_last_line(handle: BinaryIO, size: int) -> int:
    """Where the last line begins, whether it has an end or not."""
    end = size - 1  # the last byte may be the end of that line
    while end > 0:
        begin = max(0, end - BLOCK)
        handle.seek(begin)
        found = handle.read(end - begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        end = begin
    return 0


def _is_whole(line: bytes) -> bool:
    try:
        return line.endswith(b"\n") and isinstance(json.loads(line), dict)
    except ValueError:
        return False
