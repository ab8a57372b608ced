import errno
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import flowzoo
from flowzoo import checkpoint
from flowzoo.checkpoint import CheckpointError
from flowzoo.config import ConfigError
from flowzoo.harness import execute
from flowzoo.harness.plan import Cell
from flowzoo.harness.single import evaluate_one, fit_one

Plan = Callable[..., list[Cell]]
TIMING = {"train_seconds", "sample_seconds_per_1000", "posterior_seconds", "peak_memory_mb"}


@pytest.mark.parametrize("data", ["digits", "two_moons"])
def test_fit_and_evaluate_give_the_numbers_of_the_bench(plan: Plan, tmp_path: Path, data: str) -> None:
    cell = plan(data=data, split_seed=3, seeds=(2,), draws=1000, posteriors=None, posterior_draws=200)[0]
    done = execute([cell], tmp_path / "run").records[0]
    fit_one(cell, tmp_path / "flow.safetensors")
    found = evaluate_one(tmp_path / "flow.safetensors")
    assert "nll_nats" in found.metrics
    for column in found.metrics.keys() - TIMING:
        assert found.metrics[column] == done.metrics[column], column
    benched = checkpoint.load_tensors(tmp_path / "run" / "checkpoints" / f"{cell.stem}.safetensors")
    alone = checkpoint.load_tensors(tmp_path / "flow.safetensors")
    assert all(torch.equal(benched[0][k], alone[0][k]) for k in benched[0])
    # and the bench's own file says the same
    assert (
        evaluate_one(tmp_path / "run" / "checkpoints" / f"{cell.stem}.safetensors").metrics["nll_nats"]
        == (done.metrics["nll_nats"])
    )


def test_fit_leaves_the_flow_alone(plan: Plan, tmp_path: Path) -> None:
    result = fit_one(plan(train={"checkpoint_every": 5})[0], tmp_path / "new" / "flow.safetensors")
    assert result.status == "ok"
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["flow.safetensors"]
    assert flowzoo.load(tmp_path / "new" / "flow.safetensors").sample(torch.zeros(3, 2)).shape == (3, 2)


def test_out_that_cannot_be_written_is_refused_before_training(plan: Plan, tmp_path: Path, fits: list[str]) -> None:
    (tmp_path / "file").touch()
    for out, words in ((tmp_path, "is a folder"), (tmp_path / "file" / "flow.safetensors", "cannot write to")):
        with pytest.raises(ConfigError, match=words):
            fit_one(plan()[0], out)
    assert fits == []


def test_full_disk_is_one_line_and_the_state_stays(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = plan(train={"checkpoint_every": 5})[0]

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("flowzoo.harness.single.save_flow", full)
        with pytest.raises(ConfigError, match=r"No space left on device\); make room, and"):
            fit_one(cell, tmp_path / "flow.safetensors")
    assert (tmp_path / "flow.state.safetensors").exists()
    assert fit_one(cell, tmp_path / "flow.safetensors").status == "ok"
    assert [p.name for p in tmp_path.iterdir()] == ["flow.safetensors"]


def test_state_of_another_command_is_refused_and_kept(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = {"steps": 50, "checkpoint_every": 5}
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            fit_one(plan(train=train)[0], tmp_path / "flow.safetensors")
    state = tmp_path / "flow.state.safetensors"
    before = state.read_bytes()
    with pytest.raises(CheckpointError, match=r"flow\.state\.safetensors: written by a run with other options.*delete"):
        fit_one(plan(train={**train, "steps": 60})[0], tmp_path / "flow.safetensors")
    assert state.read_bytes() == before


def test_evaluation_of_what_was_saved_by_hand_needs_the_data_named(plan: Plan, tmp_path: Path) -> None:
    flow = plan()[0].build()
    flowzoo.save(flow, tmp_path / "flow.safetensors")
    with pytest.raises(ConfigError, match=r"does not say what it was trained on; give --data"):
        evaluate_one(tmp_path / "flow.safetensors")
    found = evaluate_one(tmp_path / "flow.safetensors", ("two_moons", {"num_events": 300}))
    assert "nll_nats" in found.metrics


def test_evaluation_of_arrays_from_python_needs_the_data_named(tmp_path: Path) -> None:
    x = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
    flowzoo.bench(models="gaussian", x=x, out=tmp_path / "run")
    with pytest.raises(ConfigError, match=r"was trained on data given in Python; give --data"):
        evaluate_one(tmp_path / "run" / "checkpoints" / "data.gaussian.0.safetensors")


def test_data_of_another_shape_is_refused_in_one_line(plan: Plan, tmp_path: Path) -> None:
    fit_one(plan()[0], tmp_path / "flow.safetensors")
    with pytest.raises(ConfigError, match=r"the flow takes events \(2,\) given \(2,\); 'digits' has \(1, 8, 8\)") as e:
        evaluate_one(tmp_path / "flow.safetensors", ("digits", {}))
    assert "\n" not in str(e.value)


def test_data_that_changed_since_training_is_refused(plan: Plan, tmp_path: Path) -> None:
    cell = plan()[0]
    fit_one(replace(cell, source=replace(cell.source, options={"num_events": 301})), tmp_path / "flow.safetensors")
    with pytest.raises(ConfigError, match=r"changed since .* its test events may have been trained on"):
        evaluate_one(tmp_path / "flow.safetensors")


def test_another_split_of_the_same_data_is_refused(plan: Plan, tmp_path: Path) -> None:
    fit_one(plan()[0], tmp_path / "flow.safetensors")
    with pytest.raises(ConfigError, match="test events may have been trained on"):
        evaluate_one(tmp_path / "flow.safetensors", options={"split_seed": 1})


def test_damaged_flow_is_refused(plan: Plan, tmp_path: Path) -> None:
    path = tmp_path / "flow.safetensors"
    fit_one(plan()[0], path)
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="altered or damaged"):
        evaluate_one(path)


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        ({"models": ("gaussian",)}, r"model.name was maf, now gaussian"),
        ({"options": {"num_events": 200}}, r"data.num_events was 300, now 200"),
        ({"seeds": (1,)}, r"seed was 0, now 1"),
        ({"split_seed": 1}, r"split hash was \w+, now \w+"),
    ],
)
def test_flow_of_something_else_is_not_replaced_unless_told(
    plan: Plan, tmp_path: Path, fits: list[str], other: dict[str, Any], difference: str
) -> None:
    path = tmp_path / "flow.safetensors"
    fit_one(plan()[0], path)
    before = path.read_bytes()
    with pytest.raises(
        ConfigError, match=rf"is a finished flow of something else \({difference}\); give .*--overwrite"
    ):
        fit_one(plan(**other)[0], path)
    assert path.read_bytes() == before
    assert len(fits) == 1
    fit_one(plan(**other)[0], path, overwrite=True)
    assert path.read_bytes() != before


def test_same_command_trains_the_same_flow_again(plan: Plan, tmp_path: Path, fits: list[str]) -> None:
    path = tmp_path / "flow.safetensors"
    fit_one(plan()[0], path)
    first = checkpoint.load_tensors(path)[0]
    fit_one(plan()[0], path)
    assert len(fits) == 2
    assert all(torch.equal(first[name], tensor) for name, tensor in checkpoint.load_tensors(path)[0].items())


def test_other_files_are_not_replaced_unless_told(plan: Plan, tmp_path: Path) -> None:
    table, state, bare = (tmp_path / name for name in ("gal.csv", "a.state.safetensors", "bare.safetensors"))
    table.write_text("x,y\n1,2\n")
    checkpoint.save_tensors(state, {}, {"format": 1})
    flowzoo.save(plan()[0].build(), bare)
    for path in (table, state, bare):
        with pytest.raises(ConfigError, match=r"exists, and is no flow that fit or bench wrote; give .*--overwrite"):
            fit_one(plan()[0], path)
    assert table.read_text() == "x,y\n1,2\n"
    fit_one(plan()[0], table, overwrite=True)
    assert checkpoint.read_meta(table)["flow"]["model"] == "maf"
