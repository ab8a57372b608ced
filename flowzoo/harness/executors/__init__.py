"""Executors: functions that get jobs done and call back with the result of each, in any order."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from flowzoo.config import ConfigError
from flowzoo.harness.jobs import Job, do
from flowzoo.registry import MissingDependency

OnDone = Callable[[Job, dict[str, Any]], None]
Executor = Callable[[Sequence[Job], OnDone], None]
NAMES = ("here", "local", "dask")


def here(jobs: Sequence[Job], on_done: OnDone, *, show: bool | None = None) -> None:
    """One job after another in this process; ``show`` forces the progress bar on or off."""
    for job in jobs:
        on_done(job, do(job, show))


def choose(
    name: str | None = None,
    *,
    workers: int = 1,
    threads: int = 1,
    scheduler: str | None = None,
    cluster: Path | str | None = None,
) -> Executor | None:
    """An executor from options; None for ``here``, which needs none.

    Args:
        name: ``here``, ``local`` or ``dask``; by default what the other options ask for.
        workers: processes of ``local``; of a Dask scheduler, how many of its workers may join one study.
        threads: cores of each of these, as ``bench.threads`` says.
        scheduler: address of a Dask scheduler.
        cluster: config file of a cluster; see ``flowzoo.harness.executors.cluster``.

    Raises:
        ConfigError: for options that do not go together, or a config of a cluster that cannot be used.
        MissingDependency: if ``dask`` is asked for and not installed.
    """
    if name is None:
        name = "dask" if scheduler or cluster else "local" if workers != 1 else "here"
    if name not in NAMES:
        raise ConfigError(f"executor must be one of {', '.join(NAMES)}; got '{name}'")
    if workers < 1:
        raise ConfigError(f"workers must be at least 1; got {workers}")
    if (scheduler or cluster) and name != "dask":
        raise ConfigError(f"a scheduler or a cluster is for the executor dask; got executor '{name}'")
    if workers > 1 and (name == "here" or cluster):
        other = "the cluster's config says how many workers it has" if cluster else f"got executor '{name}'"
        raise ConfigError(f"{workers} workers are for the executor local or a --scheduler; {other}")
    if name == "here":
        return None
    if name == "local":
        from flowzoo.harness.executors.local import local

        return partial(local, workers=workers, threads=threads)
    if not (scheduler or cluster):
        raise ConfigError("the executor dask needs --scheduler tcp://host:8786 or --cluster FILE")
    if scheduler and not re.fullmatch(r"(\w+://)?[^\s/]+:\d+", scheduler):
        raise ConfigError(f"scheduler must be an address such as tcp://host:8786; got '{scheduler}'")
    from flowzoo.harness.executors import cluster as clusters

    config = clusters.ClusterConfig(workers=workers) if cluster is None else clusters.read(Path(cluster))
    try:
        from flowzoo.harness.executors.on_dask import on_dask
    except ModuleNotFoundError as error:
        raise MissingDependency(
            f"the executor dask needs the package '{error.name}', which is not installed: pip install flowzoo[cluster]"
        ) from error
    return partial(on_dask, scheduler=scheduler, config=config)


def size(executor: Executor | None) -> int:
    """How many workers of an executor of ``choose`` may join one study."""
    options: dict[str, Any] = getattr(executor, "keywords", {})
    config = options.get("config")
    if config is None:
        return options.get("workers", 1)
    return config.workers if config.adapt is None else config.adapt.maximum
