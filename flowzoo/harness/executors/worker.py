"""A process that does job after job: ``python -m flowzoo.harness.executors.worker [DEVICE]``.

A job is a line of JSON on standard input, its result one on standard output. It ends when the input does, and if that
happens in the middle of a job (the parent is gone), it writes a checkpoint first, as it does on SIGTERM.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import traceback
from typing import Any

from flowzoo import preempt, progress
from flowzoo.harness.jobs import Job, do, use_device
from flowzoo.record import one_line


def main() -> None:
    """Do jobs until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal: the parent tells us what to do
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no result
    progress.silence()  # the terminal is that of all workers
    use_device(sys.argv[1] if len(sys.argv) > 1 else None)
    jobs: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    busy = threading.Event()
    threading.Thread(target=_listen, args=(jobs, busy), daemon=True).start()

    def say(answer: dict[str, Any]) -> None:
        channel.write(json.dumps(answer) + "\n")

    try:
        with preempt.heeded():
            say({"ready": True})
            while (line := jobs.get()) is not None:
                busy.set()
                say(_answer(line))
                busy.clear()
    except (preempt.Preempted, BrokenPipeError):
        # Nothing is to be cleaned up, and the parent waits: no thread and no library may hold up the end.
        os._exit(preempt.STATUS)


def _answer(line: str) -> dict[str, Any]:
    try:
        return {"result": do(Job(**json.loads(line)), show=False)}
    except Exception as error:
        if not isinstance(error, OSError) and not type(error).__module__.startswith("flowzoo."):
            traceback.print_exc()  # a fault of ours: the line alone would not say where
        return {"error": one_line(error), "errno": getattr(error, "errno", None)}


def _listen(jobs: queue.SimpleQueue[str | None], busy: threading.Event) -> None:
    for line in sys.stdin:
        jobs.put(line)
    jobs.put(None)
    if busy.is_set():
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
