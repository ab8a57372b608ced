"""Workers of a Dask cluster, which share a file system with this process and with one another."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import queue
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from distributed import Client, Future, KilledWorker, Security, Status, WorkerPlugin

from flowzoo import preempt
from flowzoo.config import ConfigError
from flowzoo.harness.executors import OnDone, cluster
from flowzoo.harness.jobs import Job, JobError, do, give_up

CONNECT = 20.0  # seconds to reach a scheduler
POLL = 0.5  # seconds between two looks at whether the scheduler is there and this process shall end
RETRIES = 2  # of a job that raises; one whose worker dies is done again too, a few times


def on_dask(
    jobs: Sequence[Job],
    on_done: OnDone,
    *,
    scheduler: str | None,
    config: cluster.ClusterConfig,
) -> None:
    """Do jobs on a Dask cluster.

    Args:
        jobs: what to do.
        on_done: called in this process with each result, as it comes.
        scheduler: its address, such as ``tcp://host:8786``; None to start a cluster as the config says.
        config: what a job takes, TLS, and how to start a cluster.

    Raises:
        ConfigError: for options that the cluster does not take.
        JobError: if the scheduler cannot be reached or is lost, or a job finds a fault that is none of its own.
        Preempted: if this process shall end. Jobs on workers of a scheduler that is not ours may go on for a while.
    """
    if not jobs:
        return
    with _quiet(), _client(scheduler, config) as client:
        client.register_plugin(_Heed())
        events: queue.SimpleQueue[tuple[Job, Future]] = queue.SimpleQueue()
        futures = []
        for job in jobs:
            future = client.submit(
                _do,
                dataclasses.asdict(job),
                key=f"flowzoo-{job.kind}-{job.name}-{uuid.uuid4().hex[:8]}",
                resources=config.resources or None,
                retries=RETRIES,
                pure=False,
            )
            futures.append(future)
            future.add_done_callback(lambda future, job=job: events.put((job, future)))
        try:
            for _ in jobs:
                job, future = _next(events, client)
                on_done(job, _result(job, future))
        finally:
            with contextlib.suppress(Exception):  # of a scheduler that is gone
                client.cancel(futures, force=True)


class _Heed(WorkerPlugin):
    """A worker that is told to close asks the training in it for a checkpoint."""

    name = "flowzoo-preempt"

    def teardown(self, worker: Any) -> None:
        if worker.status is not Status.running:  # else another client comes with a plugin of its own
            preempt.ask()


def _do(values: dict[str, Any]) -> dict[str, Any]:
    """What runs on a worker."""
    try:
        return do(Job(**values), show=False)
    except preempt.Preempted:
        raise JobError(f"{values['name']}: the worker was told to close") from None


def _next(events: queue.SimpleQueue[tuple[Job, Future]], client: Client) -> tuple[Job, Future]:
    while True:
        if preempt.asked():
            raise preempt.Preempted
        if client.status not in ("running", "connecting"):
            raise _lost()
        with contextlib.suppress(queue.Empty):
            return events.get(timeout=POLL)


def _result(job: Job, future: Future) -> dict[str, Any]:
    if future.status == "finished":
        found: dict[str, Any] = future.result()
        return found
    if future.status != "error":  # cancelled, or lost with its scheduler
        raise _lost()
    error = future.exception()
    if isinstance(error, KilledWorker):
        return give_up(job, f"{error.allowed_failures + 1} workers died over it; out of memory?")
    if isinstance(error, OSError) or type(error).__module__.startswith("flowzoo."):
        raise error
    raise JobError(f"{job.name}: {type(error).__name__}: {error}") from error


def _lost() -> JobError:
    return JobError(
        "the connection to the Dask scheduler was lost; what is finished is kept, and the same command goes on"
    )


@contextlib.contextmanager
def _client(scheduler: str | None, config: cluster.ClusterConfig) -> Iterator[Client]:
    security = cluster.security_of(config)
    if scheduler is not None:
        tls = (security or Security()).get_connection_args("client").get("ssl_context")
        if scheduler.startswith("tls://") and tls is None:
            raise ConfigError(f"the scheduler at {scheduler} needs TLS: give its files in --cluster FILE, as security")
        try:
            client = Client(scheduler, timeout=CONNECT, security=security, set_as_default=False)
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(f"no Dask scheduler at {scheduler} ({str(error).splitlines()[0]})") from None
        with client:
            yield client
        return
    with cluster.make(config) as made:
        if config.adapt is None:
            made.scale(jobs=config.workers)
        else:
            made.adapt(minimum_jobs=config.adapt.minimum, maximum_jobs=config.adapt.maximum)
        with Client(made, set_as_default=False) as client:
            yield client


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Dask's own tracebacks are kept off the terminal; what they mean is said in a line."""
    logger = logging.getLogger("distributed")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)
