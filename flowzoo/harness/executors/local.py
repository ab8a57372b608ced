"""Processes of this machine: each does job after job, and one that dies has its job done again by a fresh one."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

from flowzoo import preempt
from flowzoo.harness.executors import OnDone
from flowzoo.harness.jobs import Job, JobError, give_up

DEATHS = 3  # of processes over one job, before it is given up
POLL = 0.2  # seconds between two looks at whether this process shall end
# Seconds in which workers write a checkpoint and end; less where this process itself has only so many.
PATIENCE, HURRY = 5.0, 3.0

# Of libraries that take all cores unless told otherwise; N processes would fight for them.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def local(jobs: Sequence[Job], on_done: OnDone, *, workers: int, threads: int = 1) -> None:
    """Do jobs in processes of this machine, each with its own GPU in turn if there are several, else with some cores.

    Args:
        jobs: what to do.
        on_done: called in this process with each result, as it comes.
        workers: how many processes.
        threads: cores of each.

    Raises:
        JobError: if a worker cannot start, or finds a fault that is none of a single job.
        OSError: if the disk is full or cannot be written.
        Preempted: if this process shall end; the workers have written checkpoints then, if there was time.
    """
    waiting, deaths, left = deque(jobs), Counter[str](), len(jobs)
    events: queue.SimpleQueue[tuple[_Worker, dict[str, Any] | None]] = queue.SimpleQueue()
    alive: list[_Worker] = []
    devices = _devices()
    try:
        for slot in range(min(workers, len(jobs))):
            alive.append(_Worker(devices[slot % len(devices)], threads, events))
        while left:
            if preempt.asked():
                raise preempt.Preempted
            try:
                worker, said = events.get(timeout=POLL)
            except queue.Empty:
                continue
            if said is None:
                lost, how = worker.buried()
                alive[alive.index(worker)] = _Worker(worker.device, threads, events)
                worker.forget()
                if lost is None:
                    continue
                deaths[lost.name] += 1
                if deaths[lost.name] < DEATHS:
                    waiting.appendleft(lost)
                else:
                    left -= 1
                    on_done(lost, give_up(lost, f"the process {how} {DEATHS} times" + _guess(how)))
            elif "error" in said:
                raise _error(said)
            elif "result" in said and worker.job is not None:
                job, worker.job = worker.job, None
                left -= 1
                on_done(job, said["result"])
            for idle in alive:
                if waiting and idle.ready and idle.job is None:
                    idle.give(waiting.popleft())
    finally:
        _end(alive, HURRY if preempt.asked() else PATIENCE)


class _Worker:
    """A process, the job that it is at, and a thread that listens to it; None in ``events`` is its end."""

    def __init__(
        self, device: str | None, threads: int, events: queue.SimpleQueue[tuple[_Worker, dict[str, Any] | None]]
    ) -> None:
        self.device, self.ready = device, False
        self.job: Job | None = None
        command = [sys.executable, "-m", "flowzoo.harness.executors.worker", *([device] if device else [])]
        own = {name: os.environ.get(name, str(threads)) for name in THREAD_VARIABLES}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **own}
        )
        self.ear = threading.Thread(target=self._listen, args=(events,), daemon=True)
        self.ear.start()

    def give(self, job: Job) -> None:
        self.job = job
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has just died, which the ear will hear
            self.process.stdin.write(json.dumps(dataclasses.asdict(job)) + "\n")
            self.process.stdin.flush()

    def buried(self) -> tuple[Job | None, str]:
        """The job that a dead worker was at, if any, and how it died.

        Raises:
            JobError: if it could not even start: another would fare no better.
        """
        status = self.process.wait()
        how = f"was killed (signal {-status})" if status < 0 else f"ended with status {status}"
        if not self.ready:
            raise JobError(f"a worker {how} before it could begin; what it printed says why")
        return self.job, how

    def close(self) -> None:
        """Say that there are no more jobs."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()

    def forget(self) -> None:
        """Close what is left of it, once it is over."""
        self.process.wait()
        self.ear.join()
        self.close()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _listen(self, events: queue.SimpleQueue[tuple[_Worker, dict[str, Any] | None]]) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            try:
                said = json.loads(line)
            except ValueError:  # torn: it was killed while it wrote
                break
            self.ready = True
            events.put((self, said))
        events.put((self, None))


def _end(workers: Sequence[_Worker], patience: float) -> None:
    """Let workers end, and end those that do not; none is left."""
    for worker in workers:
        worker.close()
        if worker.job is not None or not worker.ready:
            worker.process.send_signal(signal.SIGTERM)
    end = time.monotonic() + patience
    try:
        for worker in workers:
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.process.wait(max(0.0, end - time.monotonic()))
    finally:
        for worker in workers:
            worker.process.kill()
        for worker in workers:
            worker.forget()


def _devices() -> list[str | None]:
    """What the workers take in turn: one of several GPUs each, or whatever the settings say."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [f"cuda:{i}" for i in range(count)] if count > 1 else [None]


def _error(said: dict[str, Any]) -> Exception:
    if said["errno"] is not None:
        return OSError(said["errno"], os.strerror(said["errno"]))
    return JobError(said["error"])


def _guess(how: str) -> str:
    return "; out of memory?" if how.endswith(f"(signal {signal.SIGKILL.value})") else ""
