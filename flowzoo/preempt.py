"""Preemption: SIGTERM asks a training for a checkpoint, and the process ends within seconds with status 75.

A batch system that takes a machine back sends SIGTERM and, some seconds later, SIGKILL. Inside ``heeded`` the signal
sets a flag, which a training looks at after each step. Where nothing looks (one step takes too long, or no training is
on) ``Preempted`` is raised wherever the program is; and where Python itself is stuck inside a long call, the process
ends. Files are written atomically, so the last checkpoint is in place at any moment.
"""

from __future__ import annotations

import atexit
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STATUS = 75  # EX_TEMPFAIL of sysexits.h: try again
LINE = "preempted (SIGTERM); the same command goes on from here"
RAISE_AFTER, END_AFTER = 3.5, 4.5  # seconds after the signal


class Preempted(BaseException):
    """The process was asked to end. No ``Exception``: it is no failure of a cell or of a trial."""


_asked = threading.Event()
_overdue = threading.Event()


def asked() -> bool:
    """Whether this process shall end: write a checkpoint, if there is something to write, and raise ``Preempted``."""
    return _asked.is_set()


def ask() -> None:
    """Ask for it without a signal."""
    _asked.set()


def forget() -> None:
    """Take it back: a new piece of work begins."""
    _asked.clear()
    _overdue.clear()


@contextmanager
def heeded() -> Iterator[None]:
    """Inside the block SIGTERM is heeded, where this is the main thread; elsewhere it is as it was.

    Raises:
        Preempted: from anywhere in the block, some seconds after the signal.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    forget()
    # Python runs a handler between two of its own instructions, which may be a while: the system's part of it writes
    # the number of the signal to a socket at once, and a thread reads it there.
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    over = threading.Event()
    before = signal.signal(signal.SIGTERM, _on_signal)
    fd_before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    watcher = threading.Thread(target=_watch, args=(ours, over), name="preempt", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        signal.set_wakeup_fd(fd_before)
        theirs.close()
        watcher.join()
        ours.close()
        _overdue.clear()
        signal.signal(signal.SIGTERM, before)  # last: until here a signal is no more than a flag


def ignore_at_exit() -> None:
    """Have SIGTERM change nothing of the status of a process whose work is done, while Python takes itself down."""
    atexit.register(signal.signal, signal.SIGTERM, signal.SIG_IGN)


def _on_signal(number: int, frame: FrameType | None) -> None:
    _asked.set()
    if _overdue.is_set():
        raise Preempted


def _watch(signals: socket.socket, over: threading.Event) -> None:
    """Wait for SIGTERM, then see to it that the process ends, step by step."""
    while numbers := signals.recv(64):
        if signal.SIGTERM in numbers:
            _asked.set()
            break
    else:  # closed: the block is over
        return
    if over.wait(RAISE_AFTER):
        return
    _overdue.set()
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
    if not over.wait(END_AFTER - RAISE_AFTER):
        print(f"flowzoo: {LINE}", file=sys.stderr, flush=True)
        os._exit(STATUS)
