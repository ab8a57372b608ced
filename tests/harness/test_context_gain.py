"""What a context is worth: as theory says, zero for an idle one, paired by event, and a run killed in the middle."""

import math

import pytest
import torch

import flowzoo
from flowzoo import record
from flowzoo.harness.context_gain import context_gain, without_context
from flowzoo.harness.run import run_cell
from flowzoo.metrics import NotComputed


def linear(count=4000, slope=1.0):
    source = torch.Generator().manual_seed(0)
    c = torch.randn(count, 1, generator=source)
    return slope * c + torch.randn(count, 1, generator=source), c


def gain_of(x, context, out, **options):
    result = flowzoo.bench(["gaussian"], x=x, context=context, out=out, context_gain=True, **options)
    return result.table.iloc[0]


def test_gain_of_a_linear_gaussian_is_the_mutual_information(tmp_path):
    row = gain_of(*linear(), tmp_path)
    # x = c + noise of equal variance: I(x; c) = log(2) / 2
    assert row["context_gain"] == pytest.approx(0.5 * math.log(2), abs=4 * row["context_gain_se"])
    assert 0 < row["context_gain_se"] < 0.05


def test_idle_context_is_worth_nothing(tmp_path):
    row = gain_of(*linear(slope=0.0), tmp_path)
    assert abs(row["context_gain"]) < 0.01


def test_twin_sees_the_same_events_and_no_context(plan):
    (cell,) = plan(["maf"])
    twin = without_context(cell)
    assert twin.source.splits.data.context_shape == (0,)
    for part in ("train", "validation", "test"):
        ours, theirs = getattr(cell.source.splits, part), getattr(twin.source.splits, part)
        assert torch.equal(ours.x, theirs.x)
        assert torch.equal(ours.groups, theirs.groups)
        assert theirs.context.shape == (len(ours), 0)
    assert twin.build().context_shape == (0,)


def test_data_without_context_has_no_gain_and_says_so(plan, tmp_path):
    (cell,) = plan(["maf"])
    with pytest.raises(NotComputed, match="the data has no context"):
        context_gain(without_context(cell), torch.zeros(1), tmp_path / "state.safetensors", "label")


def test_cell_with_gain_leaves_no_state_and_one_record(plan, tmp_path):
    (cell,) = plan(["maf"], context_gain=True)
    done = run_cell(cell, tmp_path)
    assert done.status == "ok"
    assert math.isfinite(done.metrics["context_gain"])
    left = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert left == [f"{cell.stem}.safetensors"]
    assert record.load(tmp_path / "cells" / f"{cell.stem}.json").metrics == done.metrics


def test_gain_repeats_when_the_run_is_killed_between_the_two_trainings(plan, tmp_path, monkeypatch):
    (cell,) = plan(["maf"], context_gain=True)
    whole = run_cell(cell, tmp_path / "whole")

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("flowzoo.harness.run.context_gain", killed)
        with pytest.raises(KeyboardInterrupt):
            run_cell(cell, tmp_path / "torn")
    again = run_cell(cell, tmp_path / "torn")
    assert again.metrics["context_gain"] == whole.metrics["context_gain"]
    assert again.metrics["nll_nats"] == whole.metrics["nll_nats"]


def test_scatter_of_the_gain_over_seeds_stands_beside_it(tmp_path):
    x, context = linear(400)
    result = flowzoo.bench(
        ["maf"], x=x, context=context, out=tmp_path, context_gain=True, seeds=(0, 1), train={"steps": 5}, baseline=False
    )
    row = result.table.iloc[0]
    cells = [record.load(p).metrics["context_gain"] for p in sorted((tmp_path / "cells").glob("*.json"))]
    assert row["context_gain_seed_se"] == pytest.approx(abs(cells[0] - cells[1]) / 2)


def test_state_of_a_second_training_whose_first_is_gone_is_no_obstacle(plan, tmp_path):
    (cell,) = plan(["maf"], context_gain=True)
    left = tmp_path / "checkpoints" / f"{cell.stem}.without_context.state.safetensors"
    left.parent.mkdir()
    left.write_bytes(b"of another run")
    assert run_cell(cell, tmp_path).status == "ok"
    assert not left.exists()
