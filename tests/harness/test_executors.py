import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import flowzoo
from flowzoo import cli, lease, preempt, record
from flowzoo.checkpoint import read_meta
from flowzoo.config import ConfigError
from flowzoo.harness import execute, jobs
from flowzoo.harness.executors import choose, size
from flowzoo.harness.executors import local as processes
from flowzoo.harness.executors.local import local
from flowzoo.harness.jobs import Job, JobError, cell_job, do, plan_of, remember
from flowzoo.harness.plan import Cell
from flowzoo.harness.settings import Settings, dump
from flowzoo.preempt import Preempted

TIMING = ("train_seconds", "sample_seconds_per_1000", "posterior_seconds", "peak_memory_mb")
TRAIN = {"steps": 600, "patience": 0, "evaluate_every": 100, "checkpoint_every": 20}
# An evaluation that takes no longer than the training.
QUICK = {"draws": 20, "posteriors": 0}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    preempt.forget()


def settings(**train: Any) -> Settings:
    """Two cells of MAF on 300 events, each of some seconds of training."""
    maf = {"num_steps": 1, "hidden_features": [16]}
    bench = {"baseline": False, "seeds": [0, 1], "device": "cpu", "together": False, **QUICK}
    return Settings([("two_moons", {"num_events": 300})], {"maf": maf}, {**TRAIN, **train}, bench=bench)


def unhurried(table: pd.DataFrame) -> pd.DataFrame:
    """A table without what depends on how busy the machine is."""
    return table.drop(columns=[name for name in TIMING if name in table])


def content(path: Path) -> dict[str, Any]:
    """A record without what depends on how busy the machine is, and when it was made."""
    known = dataclasses.asdict(record.load(path))
    known["metrics"] = {k: v for k, v in known["metrics"].items() if k not in TIMING}
    del known["run"]
    return known


def until(true: Callable[[], Any], seconds: float = 100.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.005)
    return found


def children() -> set[int]:
    found = set()
    for task in Path("/proc/self/task").iterdir():
        found |= {int(pid) for pid in (task / "children").read_text().split()}
    return found


def worker_at(name: str) -> int | None:
    """The process that has the lease of a cell."""
    owner = lease.holder(Path("run") / jobs.LEASES / name)
    return None if owner is None else owner.pid


class Killer(threading.Thread):
    """Kills whichever process is at a cell, so many times, once its training has written a checkpoint."""

    def __init__(self, name: str, times: int) -> None:
        super().__init__(daemon=True)
        self.cell, self.times, self.killed = name, times, list[int]()
        self.start()

    def run(self) -> None:
        state = Path("run/checkpoints") / f"{self.cell}.state.safetensors"
        while len(self.killed) < self.times:
            pid = worker_at(self.cell)
            if pid is not None and pid not in self.killed and pid != os.getpid() and state.exists():
                os.kill(pid, signal.SIGKILL)
                self.killed.append(pid)
            time.sleep(0.005)


# -- jobs


def test_job_is_text_and_its_cell_is_found_again() -> None:
    given = settings()
    cells = plan_of(given)
    made = [cell_job(cell, Path("run"), dump(given)) for cell in cells]
    text = json.dumps([dataclasses.asdict(job) for job in made])
    jobs._plans.clear()
    for values, cell in zip(json.loads(text), cells, strict=True):
        assert jobs._cell_of(Job(**values)).hash == cell.hash


def test_job_that_is_done_is_not_done_again(plan: Callable[..., list[Cell]], fits: list[str]) -> None:
    [cell] = plan(**QUICK)
    remember("", [cell])
    job = cell_job(cell, Path("run"))
    first = do(job)
    assert do(job) == first
    assert len(fits) == 1
    assert record.load(Path("run/cells/two_moons.maf.0.json")) == record.Record(**first)


def test_failed_record_from_before_is_replaced_and_one_of_this_run_is_not(
    plan: Callable[..., list[Cell]], fits: list[str], break_maf: Callable[[Exception], None]
) -> None:
    [cell] = plan(**QUICK)
    remember("", [cell])
    break_maf(RuntimeError("no"))
    job = cell_job(cell, Path("run"))
    assert do(job)["status"] == do(job)["status"] == "failed"
    assert len(fits) == 1
    assert do(cell_job(cell, Path("run")))["status"] == "failed"  # the next run tries again
    assert len(fits) == 2


def test_job_waits_for_who_is_at_it_and_takes_what_it_made(
    plan: Callable[..., list[Cell]], fits: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "POLL", 0.01)
    [cell] = plan(**QUICK)
    remember("", [cell])
    job = cell_job(cell, Path("run"))
    other = lease.take(Path("run") / jobs.LEASES / job.name)
    assert other is not None
    waiting = threading.Thread(target=lambda: found.append(do(job)))
    found: list[dict[str, Any]] = []
    waiting.start()
    made = jobs.run_cell(cell, Path("run"), lease=other)
    time.sleep(0.1)
    assert waiting.is_alive()
    other.release()
    waiting.join()
    assert record.Record(**found[0]) == made
    assert len(fits) == 1


def test_who_lost_the_lease_writes_no_record(plan: Callable[..., list[Cell]]) -> None:
    [cell] = plan(**QUICK)
    path = Path("run/leases/cell")
    held = lease.take(path)
    assert held is not None
    path.unlink()
    with pytest.raises(lease.LeaseLost, match=r"another process has taken two_moons\.maf\.0"):
        jobs.run_cell(cell, Path("run"), lease=held)
    assert not Path("run/cells").exists()


def test_worker_with_other_data_is_told_so(plan: Callable[..., list[Cell]]) -> None:
    job = cell_job(plan(**QUICK)[0], Path("run"))
    remember("", plan(options={"num_events": 301}, **QUICK))
    with pytest.raises(JobError, match=r"something else here \(hash \w{16}, and \w{16} where .* has other data"):
        do(job)
    with pytest.raises(JobError, match="/gone: No such file or directory here; workers need a file system in common"):
        do(dataclasses.replace(job, settings="data: digits", cwd="/gone"))


# -- options


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"name": "ray"}, "executor must be one of here, local, dask; got 'ray'"),
        ({"workers": 0}, "workers must be at least 1; got 0"),
        ({"name": "dask"}, "the executor dask needs --scheduler tcp://host:8786 or --cluster FILE"),
        ({"scheduler": "foo"}, "scheduler must be an address such as tcp://host:8786; got 'foo'"),
        ({"name": "local", "scheduler": "tcp://a:1"}, "a scheduler or a cluster is for the executor dask; got"),
        ({"name": "here", "workers": 2}, "2 workers are for the executor local or a --scheduler; got executor 'here'"),
        (
            {"cluster": "c.yaml", "workers": 2},
            "2 workers are for the executor local or a --scheduler; the cluster's config says how many workers it has",
        ),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        choose(**options)
    assert str(caught.value).startswith(says)


def test_executors_say_how_many_workers_may_join_a_study(tmp_path: Path) -> None:
    pytest.importorskip("dask_jobqueue")
    file = tmp_path / "cluster.yaml"
    file.write_text("kind: local\nadapt: {minimum: 0, maximum: 8}\noptions: {cores: 1, memory: 1 GB}\n")
    given = [{}, {"workers": 3}, {"scheduler": "tcp://a:1"}, {"scheduler": "tcp://a:1", "workers": 4}]
    assert [size(choose(**options)) for options in given] == [1, 3, 1, 4]
    assert size(choose(cluster=file)) == 8


def test_data_from_python_stay_in_this_process() -> None:
    with pytest.raises(ConfigError, match=r"data given from Python cannot go to other processes; write a file"):
        flowzoo.bench("maf", x=torch.randn(100, 2, generator=torch.manual_seed(0)), workers=2, out="run")
    assert not Path("run").exists()


# -- processes


@pytest.mark.slow
def test_table_of_two_workers_is_that_of_one_process_though_one_is_killed() -> None:
    given = settings()
    whole = execute(plan_of(given), "whole")
    killer = Killer("two_moons.maf.0", 1)
    seen: list[tuple[str, bool]] = []
    reached: list[int] = []

    def watch() -> None:
        until(lambda: killer.killed)
        reached.append(read_meta(Path("run/checkpoints/two_moons.maf.0.state.safetensors"))["state"]["step"])

    watcher = threading.Thread(target=watch)
    watcher.start()
    two = execute(
        plan_of(given),
        "run",
        settings=given,
        executor=choose(workers=2),
        on_record=lambda found, known: seen.append((found.stem, known)),
    )
    watcher.join()
    assert len(killer.killed) == 1
    assert reached[0] >= 20
    assert sorted(seen) == [("two_moons.maf.0", False), ("two_moons.maf.1", False)]
    pd.testing.assert_frame_equal(unhurried(two.table), unhurried(whole.table))
    for name in ("two_moons.maf.0", "two_moons.maf.1"):
        assert content(Path(f"run/cells/{name}.json")) == content(Path(f"whole/cells/{name}.json"))
        assert (
            Path(f"run/cells/{name}.safetensors").read_bytes() == Path(f"whole/cells/{name}.safetensors").read_bytes()
        )
    assert not (Path("run") / jobs.LEASES).exists()
    assert not list(Path("run").rglob("*.tmp"))
    assert not children()


@pytest.mark.slow
def test_cell_whose_process_is_killed_three_times_has_failed_and_the_grid_goes_on() -> None:
    given = settings(steps=100_000)
    given.models["gaussian"] = {}
    given.bench["seeds"] = [0]
    killer = Killer("two_moons.maf.0", 3)
    done = execute(plan_of(given), "run", settings=given, executor=choose("local"))
    assert len(killer.killed) == 3
    rows = {known.stem: (known.status, known.reason) for known in done.records}
    why = "the process was killed (signal 9) 3 times; out of memory?"
    assert rows == {"two_moons.maf.0": ("failed", why), "two_moons.gaussian.0": ("ok", None)}
    assert why in Path("run/table.md").read_text()
    assert Path("run/checkpoints/two_moons.maf.0.state.safetensors").exists()  # for the same command
    assert not children()


@pytest.mark.slow
@pytest.mark.parametrize(("how", "workers"), [(signal.SIGTERM, 2), (signal.SIGINT, 1), (signal.SIGKILL, 1)])
def test_no_worker_outlives_a_bench_that_is_told_to_end(how: signal.Signals, workers: int, folder: Path) -> None:
    options = ["--set", "data.num_events=300", "--set", "maf.hidden_features=16", "--set", "maf.num_steps=1"]
    bench = subprocess.Popen(
        [
            *(sys.executable, "-m", "flowzoo.cli", "bench", "--models", "maf", "--data", "two_moons"),
            *("--seeds", ",".join(map(str, range(workers))), "--executor", "local", "--workers", str(workers)),
            *(*options, "--set", "bench.baseline=false", "--device", "cpu", "--steps", "100000"),
            *("--set", "train.checkpoint_every=1000", "--set", "train.patience=0", "--out", "run"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # Who runs the tests in the background of a shell may have told it, and so them, to ignore Ctrl-C.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    names = [f"two_moons.maf.{seed}" for seed in range(workers)]
    states = [Path("run/checkpoints") / f"{name}.state.safetensors" for name in names]
    until(lambda: all(state.exists() for state in states) or bench.poll() is not None)
    pids = [until(lambda name=name: worker_at(name)) for name in names]
    assert bench.pid not in pids
    time.sleep(0.2)  # to be well between the first checkpoint, which is there, and the second
    sent = time.monotonic()
    bench.send_signal(how)
    _, said = bench.communicate(timeout=60)
    seconds = time.monotonic() - sent
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), 6.0)
    reached = [read_meta(state)["state"]["step"] for state in states]
    assert not list(folder.rglob("*.json"))
    match how:
        case signal.SIGTERM:
            assert (bench.returncode, said) == (75, f"flowzoo: {preempt.LINE}\n")
            assert seconds < 5
        case signal.SIGINT:
            assert (bench.returncode, said) == (130, "interrupted; the same command goes on from here\n")
        case signal.SIGKILL:
            assert "Traceback" not in said
    # A checkpoint on request: the steps of a schedule alone are multiples of 1000.
    assert any(step % 1000 for step in reached)


def test_fault_that_is_none_of_a_cell_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    given = settings()
    [job, _] = [cell_job(cell, Path("run"), dump(given)) for cell in plan_of(given)]
    with pytest.raises(JobError, match="something else here"):
        local([dataclasses.replace(job, identity="of other data")], lambda *_: None, workers=1)
    assert not children()
    monkeypatch.setattr(processes.sys, "executable", "/bin/false")
    with pytest.raises(JobError, match="a worker ended with status 1 before it could begin; what it printed says why"):
        local([job], lambda *_: None, workers=1)
    assert not children()


def test_preempted_parent_ends_its_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    preempt.ask()
    given = settings()
    job = cell_job(plan_of(given)[0], Path("run"), dump(given))
    with pytest.raises(Preempted):
        local([job], lambda *_: None, workers=2)
    assert not children()


# -- another run in the folder


def test_force_moves_what_does_not_fit_and_says_the_hashes_before(plan: Callable[..., list[Cell]]) -> None:
    old, [new] = execute(plan(["gaussian", "maf"], **QUICK), "run"), plan(train={"steps": 21}, **QUICK)
    was = next(known.hash for known in old.records if known.model == "maf")
    before = {p.name: p.read_bytes() for p in Path("run").rglob("two_moons.maf.0.*")}
    with pytest.raises(flowzoo.harness.RunDirectoryError) as caught:
        execute([new], "run")
    assert f"hash {was}, now {new.hash} (train.steps was 20, now 21)" in str(caught.value)
    assert "add --force" in str(caught.value)
    done = execute([new], "run", force=True)
    assert done.records[0].hash == new.hash
    assert {p.name: p.read_bytes() for p in Path("run/replaced/1").rglob("*.*")} == before
    assert Path("run/cells/two_moons.gaussian.0.json").exists()  # of no other cell of the plan
    execute(plan(train={"steps": 22}, **QUICK), "run", force=True)
    assert record.load(Path("run/replaced/2/cells/two_moons.maf.0.json")).hash == new.hash
    assert not Path("run/replaced/3").exists()


def test_force_leaves_what_fits(plan: Callable[..., list[Cell]], fits: list[str]) -> None:
    execute(plan(["gaussian", "maf"], **QUICK), "run")
    execute(plan(["gaussian", "maf"], **QUICK), "run", force=True)
    assert len(fits) == 2
    assert not Path("run/replaced").exists()


@pytest.mark.parametrize("damaged", ["cells/two_moons.maf.0.json", "checkpoints/two_moons.maf.0.state.safetensors"])
def test_force_moves_what_is_damaged(plan: Callable[..., list[Cell]], damaged: str) -> None:
    whole = execute(plan(**QUICK), "run")
    path = Path("run", damaged)
    if path.suffix == ".safetensors":
        Path("run/cells/two_moons.maf.0.json").unlink()
    path.write_bytes(b"torn")
    again = execute(plan(**QUICK), "run", force=True)
    assert Path("run/replaced/1", damaged).read_bytes() == b"torn"
    pd.testing.assert_frame_equal(unhurried(again.table), unhurried(whole.table))


def test_command_line_has_the_options(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["flowzoo", "bench", "--models", "maf", "--data", "two_moons", "--executor", "dask"]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    assert capsys.readouterr().err == "flowzoo: the executor dask needs --scheduler tcp://host:8786 or --cluster FILE\n"
