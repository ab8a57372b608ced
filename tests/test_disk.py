"""Memory and disks that give out: the reason is said, what is finished stays, and the same command goes on."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import flowzoo
from flowzoo import record, train
from flowzoo.harness.folder import RunDirectoryError
from flowzoo.storage import write_atomic

ROOT = Path(__file__).parents[1]
DATA = {"x": torch.randn(120, 2, generator=torch.Generator().manual_seed(0))}
OPTIONS = {"train": {"steps": 10, "evaluate_every": 5}, "draws": 20, "device": "cpu", "show": False, "baseline": False}
MODELS = {"maf": {"num_steps": 1, "hidden_features": 8}, "nice": {"num_steps": 2, "hidden_features": 8}}


def bench(out: Path) -> flowzoo.harness.BenchResult:
    return flowzoo.bench(MODELS, **DATA, out=out, **OPTIONS)


@pytest.mark.slow
def test_memory_and_disks_give_out_and_nothing_is_lost() -> None:
    found = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "chaos.py"), "disk", "--short"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    if "not run" in found.stdout:
        pytest.skip(found.stderr.strip().splitlines()[0])
    assert "| full, tuned bench | 1 |" in found.stdout


def test_model_that_runs_out_of_memory_is_a_failed_cell_and_the_grid_goes_on(tmp_path, monkeypatch) -> None:
    real = train.fit

    def fit(*given, label, **options):
        if " maf " in label:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return real(*given, label=label, **options)

    monkeypatch.setattr(train, "fit", fit)
    found = bench(tmp_path / "run")
    assert [(known.model, known.status) for known in found.records] == [("maf", "failed"), ("nice", "ok")]
    assert "out of memory" in str(found.records[0].reason)
    monkeypatch.undo()
    assert bench(tmp_path / "run").failed == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_disk_that_refuses_ends_the_bench_in_one_line_and_keeps_what_is_finished(tmp_path, monkeypatch, number) -> None:
    out, real = tmp_path / "run", os.fsync

    def refuses(fd: int) -> None:
        if ".data.nice.0." in os.readlink(f"/proc/self/fd/{fd}"):
            raise OSError(number, os.strerror(number))
        real(fd)

    monkeypatch.setattr(os, "fsync", refuses)
    with pytest.raises(RunDirectoryError, match=rf"{os.strerror(number)}\); what is finished is kept") as caught:
        bench(out)
    assert "\n" not in str(caught.value)
    finished = out / "cells" / "data.maf.0.json"
    before = finished.read_bytes()
    assert record.load(finished).status == "ok"
    assert not list(out.rglob(".*.tmp"))
    monkeypatch.undo()
    assert bench(out).failed == []
    assert finished.read_bytes() == before


def test_file_that_does_not_fit_leaves_the_one_before(tmp_path, monkeypatch) -> None:
    path = tmp_path / "table.csv"
    write_atomic(path, b"before")

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(path, b"after")
    assert path.read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["table.csv"]


@pytest.mark.skipif(
    os.geteuid() == 0, reason="root may write anywhere: the disk part of benchmarks/chaos.py mounts one"
)
def test_folder_that_may_not_be_written_is_one_line(tmp_path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(RunDirectoryError, match=r"cannot write to .* \(Permission denied\); give another --out"):
        bench(tmp_path / "run")
    tmp_path.chmod(0o700)
