"""Seeds of a config that a bench trains at once: the same table, and a word in each record."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from flowzoo import build, lease, record, train
from flowzoo.harness import execute, together
from flowzoo.harness.folder import RunDirectoryError
from flowzoo.harness.plan import Cell
from flowzoo.harness.run import LEASES
from flowzoo.joint import Joint

Plan = Callable[..., list[Cell]]
QUICK = {"posteriors": 0, "draws": 20, "seeds": (0, 1, 2)}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def joints(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many flows took steps together, once for each group of them."""
    seen: list[int] = []
    begin = Joint.__init__

    def counted(self: Joint, steppers: Any) -> None:
        seen.append(len(steppers))
        begin(self, steppers)

    monkeypatch.setattr(Joint, "__init__", counted)
    return seen


def numbers(out: str) -> list[dict[str, float]]:
    """All metrics that are no times, and the scores of every test event."""
    found = []
    for path in sorted(Path(out, "cells").glob("*.json")):
        known = record.load(path)
        timed = {"train_seconds", "sample_seconds_per_1000", "peak_memory_mb"}
        found.append({name: value for name, value in known.metrics.items() if name not in timed})
        found[-1] |= {str(i): value for i, value in enumerate(record.load_scores(path)["log_prob"].tolist())}
    return found


def notes(out: str) -> list[str]:
    return [note for path in sorted(Path(out, "cells").glob("*.json")) for note in record.load(path).notes]


def test_seeds_at_once_give_the_table_of_seeds_one_by_one(plan: Plan, joints: list[int]) -> None:
    execute(plan(["gaussian", "maf"], together=False, **QUICK), "alone")
    assert joints == []
    execute(plan(["gaussian", "maf"], **QUICK), "run")
    assert joints == [3]
    assert {len(cell) for cell in numbers("run")} == {len(cell) for cell in numbers("alone")}
    for one, other in zip(numbers("run"), numbers("alone"), strict=True):
        assert one.keys() == other.keys()
        scores = [name for name in one if name == "nll_nats" or name.isdigit()]
        assert {name: one[name] for name in scores} == pytest.approx({name: other[name] for name in scores}, abs=1e-3)
    assert sum("at once with 2 more of its seeds" in note for note in notes("run")) == 3
    assert not any("at once" in note for note in notes("alone"))
    assert not list(Path("run").rglob("*.state.*"))
    assert not Path("run", LEASES).exists()


def test_bench_that_was_killed_goes_on_with_the_seeds_that_are_left(
    plan: Plan, joints: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(plan(["maf"], **QUICK), "undisturbed")
    cells = plan(["maf"], train={"checkpoint_every": 5}, **QUICK)
    step, taken = Joint.step, []

    class Killed(BaseException):
        pass

    def killed(self: Joint) -> None:
        taken.append(step(self))
        if len(taken) == 12:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Joint, "step", killed)
        with pytest.raises(Killed):
            execute(cells, "run")
    execute(cells[:1], "run")  # the first one alone, from its checkpoint
    execute(cells, "run")
    assert joints == [3, 3, 2]
    assert len(taken) == 12
    assert numbers("run") == numbers("undisturbed")


def test_large_flows_are_trained_one_by_one_unless_asked(
    plan: Plan, joints: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(together, "SMALL", 10)
    execute(plan(["maf"], **QUICK), "run")
    assert joints == []
    execute(plan(["maf"], together=True, **QUICK), "asked")
    assert joints == [3]


def test_flows_whose_steps_are_large_are_trained_one_by_one(plan: Plan, joints: list[int]) -> None:
    given = {"options": {"num_events": 1500}, "train": {"batch_size": 1024, "steps": 2, "evaluate_every": 2}, **QUICK}
    execute(plan(["naf"], **given), "large")
    assert joints == []
    execute(plan(["maf"], **given), "small")
    assert joints == [3]


def test_model_that_cannot_be_scored_is_a_record_and_the_rest_goes_on(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Any, *given: Any) -> None:
        raise RuntimeError("a fault of this model")

    monkeypatch.setattr(type(build("naf", 2, 2)), "_to_latent", broken)
    done = execute(plan(["naf"], **QUICK), "run")
    assert [found.reason for found in done.failed] == ["RuntimeError: a fault of this model"] * 3


def test_what_cannot_be_trained_at_once_is_trained_one_by_one_and_says_why(
    plan: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    done = execute(plan(["maf"], train={"context_noise": (0.0, 0.1)}, **QUICK), "run")
    assert done.failed == []
    said = capsys.readouterr().err
    assert said.startswith("two_moons maf: its seeds are trained one by one (several levels of context_noise")
    assert said.count("\n") == 1


def test_fault_is_left_to_the_cells_and_a_full_disk_is_not(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*given: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(train, "fit_together", broken)
    error: Exception = torch.OutOfMemoryError("no room\nfor five")
    assert execute(plan(["maf"], **QUICK), "run").failed == []
    assert "its seeds go on one by one (OutOfMemoryError: no room for five)" in capsys.readouterr().err
    error = OSError(28, "No space left on device")
    with pytest.raises(RunDirectoryError, match="No space left"):
        execute(plan(["maf"], **QUICK), "full")


def test_cell_that_another_process_is_at_is_left_to_it(plan: Plan, joints: list[int], tmp_path: Path) -> None:
    cells = plan(["maf"], **QUICK)
    held = lease.take(tmp_path / LEASES / cells[1].stem)
    assert held is not None
    with held:
        together.train_together(cells, tmp_path)
    assert joints == []
    assert not list(tmp_path.rglob("*.state.*"))
