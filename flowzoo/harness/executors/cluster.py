"""The config of a cluster: how workers are asked for, what they offer, and how they talk to one another."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from flowzoo import config as configs
from flowzoo.config import ConfigError
from flowzoo.harness.settings import read_mapping

KINDS = {
    "slurm": "SLURMCluster",
    "pbs": "PBSCluster",
    "sge": "SGECluster",
    "lsf": "LSFCluster",
    "oar": "OARCluster",
    "moab": "MoabCluster",
    "htcondor": "HTCondorCluster",
    "local": "LocalCluster",
}


@dataclass(frozen=True)
class Adapt:
    """How many batch jobs there are, as the work asks for them."""

    minimum: int = 0
    maximum: int = 1


@dataclass(frozen=True)
class Security:
    """Files in PEM with which all sides prove who they are, and encrypt; the same for all."""

    ca: str = ""
    cert: str = ""
    key: str = ""


@dataclass(frozen=True)
class ClusterConfig:
    """A cluster as its users ask for it.

    Args:
        kind: of batch system, one of ``KINDS``; none where a scheduler is given by its address.
        workers: batch jobs, of one worker each.
        adapt: instead of ``workers``: ``{minimum: 0, maximum: 8}``, as the work asks for them.
        resources: what a worker offers and a job takes: ``{GPU: 1}``.
        security: ``{ca: FILE, cert: FILE, key: FILE}`` for TLS; everybody on the network can else run code as you.
        options: of the class of dask-jobqueue: queue, account, cores, memory, walltime, ...
    """

    kind: Literal["slurm", "pbs", "sge", "lsf", "oar", "moab", "htcondor", "local"] | None = None
    workers: int = 1
    adapt: Adapt | None = None
    resources: dict[str, float] = field(default_factory=dict)
    security: Security | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"workers must be at least 1; got {self.workers}")
        if self.adapt is not None and not 0 <= self.adapt.minimum <= self.adapt.maximum > 0:
            raise ValueError(f"adapt must have 0 <= minimum <= maximum and maximum > 0; got {self.adapt}")
        if any(amount <= 0 for amount in self.resources.values()):
            raise ValueError(f"resources must be positive; got {self.resources}")


def read(path: Path) -> ClusterConfig:
    """Read the config of a cluster.

    Raises:
        ConfigError: in one line, for a file that cannot be read, an option that does not exist or does not fit.
    """
    values = read_mapping(path)
    parts: Mapping[str, type] = {"adapt": Adapt, "security": Security}
    for name, cls in parts.items():
        if isinstance(values.get(name), dict):
            values[name] = configs.make(cls, values[name], f"{path}: {name}")
    config = configs.make(ClusterConfig, values, str(path))
    if config.security is not None:
        for name, file in vars(config.security).items():
            if not file or not Path(file).expanduser().is_file():
                raise ConfigError(f"{path}: security.{name} must be a file in PEM; there is none at '{file}'")
    return config


def security_of(config: ClusterConfig) -> Any:
    """``distributed.Security``, or None without TLS."""
    if config.security is None:
        return None
    from distributed import Security as Tls

    ca, cert, key = (str(Path(file).expanduser()) for file in vars(config.security).values())
    parts = {f"tls_{role}_{part}": file for role in ("client", "scheduler", "worker")
             for part, file in (("cert", cert), ("key", key))}  # fmt: skip
    return Tls(tls_ca_file=ca, require_encryption=True, **parts)


def make(config: ClusterConfig) -> Any:
    """The cluster of dask-jobqueue, with no workers yet.

    Each worker does one job at a time, whatever its cores: they are for ``bench.threads``.

    Raises:
        ConfigError: in one line, for options that its class does not take.
    """
    import dask_jobqueue
    from dask_jobqueue.local import LocalCluster

    if config.kind is None:
        raise ConfigError(f"a cluster needs its kind, one of {', '.join(KINDS)}; or give a scheduler's address")
    cls = LocalCluster if config.kind == "local" else getattr(dask_jobqueue, KINDS[config.kind])
    _check_options(config, cls)
    # A scheduler serves HTTP even without its dashboard: on any free port, as others may have 8787 on a login node.
    scheduler = {"dashboard": False, "dashboard_address": ":0"}
    options = {"processes": 1, "scheduler_options": scheduler, **config.options}
    extra = [] if options.get("cores") == options["processes"] else ["--nthreads", "1"]
    if config.resources:
        extra += ["--resources", ",".join(f"{name}={amount:g}" for name, amount in config.resources.items())]
    options["worker_extra_args"] = [*options.get("worker_extra_args", []), *extra]
    security = security_of(config)
    if security is not None:
        options |= {"security": security, "protocol": "tls://"}
    try:
        return cls(**options)
    except (TypeError, ValueError, RuntimeError, OSError) as error:
        text = " ".join(str(error).split())
        raise ConfigError(f"options of a {config.kind} cluster: {text}") from None


def _check_options(config: ClusterConfig, cls: Any) -> None:
    """Refuse an option that the class of the cluster does not take, and the lack of one that it needs."""
    import dask.config

    made_of = (*cls.__mro__, *cls.job_cls.__mro__)
    named = (inspect.signature(part.__init__).parameters.values() for part in made_of if "__init__" in vars(part))
    known = sorted({p.name for group in named for p in group if p.kind is not p.VAR_KEYWORD} - {"self", "args"})
    for name in config.options:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean '{near[0]}'? " if near else ""
            raise ConfigError(f"{config.kind} clusters have no option '{name}': {hint}theirs are {', '.join(known)}")
    for name in ("cores", "memory"):  # of a batch job; they may stand in Dask's own config
        if config.options.get(name) is None and dask.config.get(f"jobqueue.{config.kind}.{name}", None) is None:
            raise ConfigError(f"{config.kind} clusters need the option {name}, such as {{cores: 4, memory: 32 GB}}")
