"""A scheduler and workers as processes of this machine, and what becomes of cells when they die."""

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flowzoo import lease, preempt, record
from flowzoo.checkpoint import CheckpointError, read_meta
from flowzoo.config import ConfigError
from flowzoo.harness import execute, jobs
from flowzoo.harness.executors import choose, cluster
from flowzoo.harness.jobs import JobError, plan_of
from flowzoo.harness.run import LEASES
from flowzoo.harness.settings import Settings
from flowzoo.registry import MissingDependency

psutil = pytest.importorskip("psutil", reason="distributed brings it")
distributed = pytest.importorskip("distributed", reason="the executor dask needs flowzoo[cluster]")
on_dask = pytest.importorskip("flowzoo.harness.executors.on_dask")

ROOT = Path(__file__).parents[2]
TIMING = ("train_seconds", "sample_seconds_per_1000", "posterior_seconds", "peak_memory_mb")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    preempt.forget()


def settings(seeds: int = 2, **train: Any) -> Settings:
    bench = {"baseline": False, "seeds": [*range(seeds)], "device": "cpu", "draws": 20, "posteriors": 0}
    bench["together"] = False  # as workers train them
    options = {"steps": 600, "patience": 0, "evaluate_every": 100, "checkpoint_every": 20, **train}
    maf = {"num_steps": 1, "hidden_features": [16]}
    return Settings([("two_moons", {"num_events": 300})], {"maf": maf}, options, bench=bench)


def until(true: Callable[[], Any], seconds: float = 100.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.005)
    return found


def start(*arguments: str, log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as file:
        return subprocess.Popen([sys.executable, "-m", *arguments], stdout=file, stderr=file)


@pytest.fixture(scope="module")
def dask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """The address of a scheduler, and its process before those of three workers that each offer a GPU by name."""
    place = tmp_path_factory.mktemp("dask")
    begun = []
    try:
        options = ("--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--no-show", "--scheduler-file")
        file = place / "scheduler.json"
        begun.append(start("distributed.cli.dask_scheduler", *options, str(file), log=place / "scheduler.log"))
        until(file.exists)
        import json

        address = until(lambda: json.loads(file.read_text() or "{}"))["address"]
        for i in range(3):
            begun.append(
                start(
                    *("distributed.cli.dask_worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard"),
                    *("--resources", "GPU=1", "--local-directory", str(place), "--host", "127.0.0.1"),
                    log=place / f"worker{i}.log",
                )
            )
        yield address, begun
    finally:
        for process in begun:
            process.kill()
            process.wait()


def content(path: Path) -> dict[str, Any]:
    """A record without what depends on how busy the machine is, and when it was made."""
    known = dataclasses.asdict(record.load(path))
    known["metrics"] = {k: v for k, v in known["metrics"].items() if k not in TIMING}
    del known["run"]
    return known


class Log(threading.Thread):
    """Who has had the lease of a cell, how far its training had come, and which records have been there."""

    def __init__(self, name: str) -> None:
        super().__init__(daemon=True)
        self.cell, self.owners, self.steps, self.records = name, list[int](), list[int](), set[tuple[int, int]]()
        self.over = threading.Event()
        self.start()

    def run(self) -> None:
        while not self.over.wait(0.005):
            owner = lease.holder(Path("run") / LEASES / self.cell)
            if owner is not None and owner.pid not in self.owners:
                self.owners.append(owner.pid)
            with contextlib.suppress(CheckpointError, OSError):  # not there, or just replaced
                step = read_meta(Path("run/checkpoints") / f"{self.cell}.state.safetensors")["state"]["step"]
                self.steps += [step] if step not in self.steps[-1:] else []
            with contextlib.suppress(OSError):
                seen = (Path("run/cells") / f"{self.cell}.json").stat()
                self.records.add((seen.st_ino, seen.st_mtime_ns))


@pytest.mark.slow
def test_cells_of_workers_that_die_go_on_elsewhere_and_are_written_once(dask) -> None:
    address, [_, *workers] = dask
    given = settings(steps=2000, checkpoint_every=400, evaluate_every=400)
    execute(plan_of(given), "whole")
    logs = [Log(f"two_moons.maf.{seed}") for seed in (0, 1)]
    ended: list[int] = []

    def disturb() -> None:
        for log, how in zip(logs, (signal.SIGKILL, signal.SIGTERM), strict=True):
            until(lambda log=log: log.owners and log.steps)
            # Well past that checkpoint, by the worker's own clock: while it is still at it, SIGTERM asks for no other.
            worker = psutil.Process(log.owners[0])
            reached = worker.cpu_times().user
            until(lambda worker=worker, reached=reached: worker.cpu_times().user > reached + 0.1)
            os.kill(log.owners[0], how)
            ended.append(log.owners[0])

    disturber = threading.Thread(target=disturb, daemon=True)
    disturber.start()
    Path("gpu.yaml").write_text("resources: {GPU: 1}\n")
    execute(plan_of(given), "run", settings=given, executor=choose(scheduler=address, cluster="gpu.yaml"))
    disturber.join()
    for log in logs:
        log.over.set()
        log.join()
        assert len(log.owners) == 2, "one that was ended, and one that took over"
        assert log.steps == sorted(log.steps), "it went on from the checkpoint"
        assert len(log.records) == 1, "the record was written once"
        name = f"{log.cell}.json"
        assert content(Path("run/cells", name)) == content(Path("whole/cells", name))
        got, want = (Path(folder, "cells", f"{log.cell}.safetensors").read_bytes() for folder in ("run", "whole"))
        assert got == want
    assert {process.pid for process in workers if process.poll() is not None} == set(ended)
    assert any(step % 400 for step in logs[1].steps), "SIGTERM asked for a checkpoint"
    assert not (Path("run") / LEASES).exists()


@pytest.mark.slow
def test_scheduler_that_is_lost_is_one_line_and_the_same_command_goes_on(dask) -> None:
    address, [scheduler, *_] = dask
    given = settings(1, steps=100_000)
    log = Log("two_moons.maf.0")
    threading.Thread(target=lambda: (until(lambda: log.steps), scheduler.kill()), daemon=True).start()
    with pytest.raises(JobError, match="the connection to the Dask scheduler was lost; what is finished is kept"):
        execute(plan_of(given), "run", settings=given, executor=choose(scheduler=address))
    log.over.set()
    log.join()
    until(lambda: not lease.is_held(Path("run") / jobs.LEASES / log.cell))  # the worker ends with its scheduler
    assert not Path("run/cells/two_moons.maf.0.json").exists()


def test_scheduler_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_dask, "CONNECT", 0.5)
    given = settings()
    with pytest.raises(ConfigError, match=r"no Dask scheduler at tcp://127\.0\.0\.1:1 \("):
        execute(plan_of(given), "run", settings=given, executor=choose(scheduler="tcp://127.0.0.1:1"))
    with pytest.raises(ConfigError, match="the scheduler at tls://host:1 needs TLS: give its files in --cluster FILE"):
        execute(plan_of(given), "run", settings=given, executor=choose(scheduler="tls://host:1"))


def test_cell_over_which_workers_die_again_and_again_has_failed() -> None:
    [cell] = plan_of(settings(1))
    jobs.remember("", [cell])
    error = distributed.KilledWorker("key", None, 3)
    future = SimpleNamespace(status="error", exception=lambda: error)
    found = on_dask._result(jobs.cell_job(cell, Path("run")), future)
    assert (found["status"], found["reason"]) == ("failed", "4 workers died over it; out of memory?")
    assert record.load(Path("run/cells/two_moons.maf.0.json")) == record.Record(**found)


def test_missing_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    monkeypatch.delitem(sys.modules, "flowzoo.harness.executors.on_dask")
    with pytest.raises(MissingDependency, match=r"pip install flowzoo\[cluster\]"):
        choose(scheduler="tcp://host:8786")


# -- the config


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("kind: slrum", "c.yaml.kind: Input should be 'slurm'"),
        ("kinds: slurm", "c.yaml has no option 'kinds': did you mean 'kind'?"),
        ("workers: 0", "workers must be at least 1; got 0"),
        ("adapt: {minimum: 3, maximum: 2}", "adapt must have 0 <= minimum <= maximum"),
        ("adapt: {max: 2}", "c.yaml: adapt has no option 'max': did you mean 'maximum'?"),
        ("resources: {GPU: none}", "c.yaml.resources: Input should be a valid number"),
        ("resources: {GPU: -1}", "resources must be positive"),
        ("security: {ca: gone.pem}", "security.ca must be a file in PEM; there is none at 'gone.pem'"),
        ("- slurm", "c.yaml:1: expected a mapping"),
    ],
)
def test_config_that_cannot_be_is_refused_by_name(text: str, says: str) -> None:
    Path("c.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        cluster.read(Path("c.yaml"))
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("workers: 2", "a cluster needs its kind, one of slurm, pbs"),
        (
            "{kind: slurm, options: {queue: gpu}}",
            "slurm clusters need the option cores, such as {cores: 4,",
        ),
        (
            "{kind: slurm, options: {cores: 1, memory: 1 GB, quue: gpu}}",
            "no option 'quue': did you mean 'queue'? theirs are",
        ),
    ],
)
def test_options_that_the_batch_system_does_not_take_are_one_line(text: str, says: str) -> None:
    Path("c.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        cluster.make(cluster.read(Path("c.yaml")))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_tls_is_of_all_three_roles() -> None:
    for name in ("ca", "cert", "key"):
        Path(f"{name}.pem").touch()
    Path("c.yaml").write_text("security: {ca: ca.pem, cert: cert.pem, key: key.pem}")
    tls = cluster.security_of(cluster.read(Path("c.yaml")))
    assert tls.require_encryption
    for role in ("client", "scheduler", "worker"):
        found = tls.get_tls_config_for_role(role)
        assert {name: found[name] for name in ("ca_file", "cert", "key")} == {
            "ca_file": "ca.pem",
            "cert": "cert.pem",
            "key": "key.pem",
        }


def test_job_script_is_that_of_the_docs() -> None:
    config = cluster.read(ROOT / "configs" / "cluster-slurm.yaml")
    with cluster.make(config) as made:
        script = made.job_script().replace(made.scheduler_address, "tcp://login-node:8786")
    assert f"```bash\n{script.strip()}\n```" in (ROOT / "docs" / "clusters.md").read_text()


def test_two_schedulers_of_one_login_node_do_not_want_the_same_port() -> None:
    config = cluster.read(ROOT / "configs" / "cluster-slurm.yaml")
    with cluster.make(config) as one, cluster.make(config) as other:
        assert one.scheduler_address != other.scheduler_address
