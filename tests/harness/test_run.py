import errno
import json
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import flowzoo
from flowzoo import checkpoint, record
from flowzoo.data import Splits
from flowzoo.harness import run
from flowzoo.harness.plan import Cell
from flowzoo.harness.run import run_cell, state_path
from flowzoo.stats import clustered_mean
from flowzoo.stepper import Stepper

Plan = Callable[..., list[Cell]]
Break = Callable[[Exception | Callable[[Tensor], Tensor]], None]


def scores(folder: Path, stem: str = "two_moons.maf.0") -> dict[str, Tensor]:
    return record.load_scores(folder / "cells" / f"{stem}.json")


def poisoned(cell: Cell) -> Cell:
    """The same cell, with a test split that is NaN throughout."""
    test = cell.source.splits.test
    splits = replace(cell.source.splits, test=replace(test, x=torch.full_like(test.x, math.nan)))
    return replace(cell, source=replace(cell.source, splits=splits))


def test_record_agrees_with_the_saved_flow_and_the_saved_scores(plan: Plan, tmp_path: Path) -> None:
    cell = plan(data="digits", draws=50)[0]
    done = run_cell(cell, tmp_path)
    flow = flowzoo.load(tmp_path / "checkpoints" / "digits.maf.0.safetensors")
    # A split made afresh: the number must be had from the file and the seed alone.
    test = Splits.make(cell.source.splits.data, seed=0).test
    with torch.no_grad():
        again = -flow(test.fixed, test.context).double()
    assert done.status == "ok"
    assert done.metrics["nll_nats"] == pytest.approx(float(again.mean()), rel=1e-6)
    held = scores(tmp_path, "digits.maf.0")
    mean, se = clustered_mean(-held["log_prob"], held["group"])
    assert done.metrics["nll_nats"] == pytest.approx(mean, rel=1e-12)
    assert done.metrics["nll_se"] == pytest.approx(se, rel=1e-12)
    assert done.metrics["bits_per_dim"] == pytest.approx(mean / 64 / math.log(2), rel=1e-12)
    assert len(held["log_prob"]) == done.n_test == len(test)
    assert record.load(tmp_path / "cells" / "digits.maf.0.json") == done


def test_a_cell_repeats_to_the_last_bit(plan: Plan, tmp_path: Path) -> None:
    once, twice = (run_cell(plan()[0], tmp_path / name) for name in "ab")
    timing = ("train_seconds", "sample_seconds_per_1000", "posterior_seconds", "peak_memory_mb")
    for key in once.metrics.keys() - set(timing):
        assert once.metrics[key] == twice.metrics[key], key
    assert torch.equal(scores(tmp_path / "a")["log_prob"], scores(tmp_path / "b")["log_prob"])


def test_test_split_is_not_touched_before_evaluation(plan: Plan, tmp_path: Path) -> None:
    clean, poison = plan()[0], poisoned(plan()[0])
    run_cell(clean, tmp_path / "clean")
    done = run_cell(poison, tmp_path / "poison")
    name = "checkpoints/two_moons.maf.0.safetensors"
    (want, known), (got, meta) = (checkpoint.load_tensors(tmp_path / d / name) for d in ("clean", "poison"))
    assert all(torch.equal(want[k], got[k]) for k in want)
    assert known["fit"] == meta["fit"]  # validation and training losses, to the last bit
    assert done.status == "ok"
    for column in ("nll_nats", "nll_se", "excess_nll", "context_use", "roundtrip_error", "sw"):
        assert column not in done.metrics
        assert done.missing[column]
    assert done.missing["nll_nats"] == "log q is not finite at 60 of 60 test events"
    assert done.missing["roundtrip_error"] == "it came out as nan"
    text = (tmp_path / "poison" / "cells" / "two_moons.maf.0.json").read_text()
    assert "nan" not in json.dumps(json.loads(text)["metrics"]).lower()


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (RuntimeError("mat1 and mat2\n  do not fit"), "RuntimeError: mat1 and mat2 do not fit"),
        (
            torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 9 GiB"),
            "OutOfMemoryError: CUDA out of memory",
        ),
        (MemoryError(), "MemoryError"),
        (FileNotFoundError(2, "No such file or directory", "weights.pt"), "weights.pt"),
    ],
)
def test_cell_that_raises_is_a_record_with_its_reason(
    plan: Plan, tmp_path: Path, break_maf: Break, fault: Exception, reason: str
) -> None:
    cell = plan()[0]
    break_maf(fault)
    done = run_cell(cell, tmp_path)
    assert (done.status, done.metrics, done.hash) == ("failed", {}, cell.hash)
    assert done.reason is not None
    assert reason in done.reason
    assert "\n" not in done.reason
    assert record.load(tmp_path / "cells" / "two_moons.maf.0.json") == done
    assert scores(tmp_path) == {}


def test_loss_that_becomes_nan_is_a_failure_that_names_its_step(plan: Plan, tmp_path: Path, break_maf: Break) -> None:
    calls = []

    def fault(z: Tensor) -> Tensor:
        calls.append(1)
        return z * math.nan if len(calls) > 5 else z

    cell = plan(train={"ema": 0})[0]
    break_maf(fault)
    done = run_cell(cell, tmp_path)
    assert done.status == "failed"
    assert done.reason is not None
    assert "the loss was not finite at step 5" in done.reason  # the first call is the validation before step 1
    assert "nll_nats" not in done.metrics
    held, _ = checkpoint.load_tensors(tmp_path / "checkpoints" / "two_moons.maf.0.safetensors")
    assert all(bool(torch.isfinite(t).all()) for t in held.values())


def test_what_fails_after_the_training_does_not_train_again(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell, steps = plan()[0], []
    real = Stepper.step
    monkeypatch.setattr(Stepper, "step", lambda self: (steps.append(1), real(self))[1])
    with monkeypatch.context() as patch:
        patch.setattr(run, "evaluate_flow", lambda *_: (_ for _ in ()).throw(MemoryError()))
        assert run_cell(cell, tmp_path).reason == "MemoryError"
    assert state_path(cell, tmp_path).exists()
    assert len(steps) == 20
    assert run_cell(cell, tmp_path).status == "ok"
    assert len(steps) == 20
    assert not state_path(cell, tmp_path).exists()


def test_finished_cell_leaves_no_state_and_no_temporary_file(plan: Plan, tmp_path: Path) -> None:
    run_cell(plan(train={"checkpoint_every": 5})[0], tmp_path)
    found = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    stem = "two_moons.maf.0"
    assert found == [f"cells/{stem}.json", f"cells/{stem}.safetensors", f"checkpoints/{stem}.safetensors"]


def test_full_disk_stops_the_run_and_leaves_no_half_written_file(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = plan(train={"checkpoint_every": 5})[0]
    whole = run_cell(cell, tmp_path / "undisturbed")
    real, room = os.fsync, [3]

    def fsync(handle: int) -> None:
        room[0] -= 1
        if room[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(OSError, match="No space left"):
            run_cell(cell, tmp_path / "full")
    files = [p for p in (tmp_path / "full").rglob("*") if p.is_file()]
    assert files == [state_path(cell, tmp_path / "full")]  # the first one, whole
    assert checkpoint.read_meta(files[0])["state"]["step"] in (5, 10)
    done = run_cell(cell, tmp_path / "full")
    assert done.metrics["nll_nats"] == whole.metrics["nll_nats"]


def test_sampling_that_is_too_dear_is_skipped_and_says_so(plan: Plan, tmp_path: Path) -> None:
    done = run_cell(plan(max_passes=0)[0], tmp_path)
    assert done.status == "ok"
    assert "nll_nats" in done.metrics
    for column in ("sample_seconds_per_1000", "roundtrip_error", "sw", "sw_floor"):
        assert column not in done.metrics
        assert "raise it to wait" in done.missing[column]


def test_fewer_draws_than_test_events_are_a_note(plan: Plan, tmp_path: Path) -> None:
    done = run_cell(plan(draws=20)[0], tmp_path)
    assert "sample statistics from 20 draws, at 20 of 60 test events" in done.notes


def test_record_says_where_its_numbers_come_from(plan: Plan, tmp_path: Path) -> None:
    done = run_cell(plan()[0], tmp_path)
    assert done.run["device"] == "cpu"
    assert done.run["threads"] == torch.get_num_threads()
    assert done.run["versions"]["torch"] == torch.__version__
    assert done.metrics["num_parameters"] > 0
    assert done.metrics["train_steps"] == 20
