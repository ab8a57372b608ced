from collections.abc import Callable

import pytest
import torch
from rich.console import Console
from torch import Tensor

from flowzoo import build
from flowzoo.cli.training import _show_plan
from flowzoo.descent import Descent
from flowzoo.engine import Eager
from flowzoo.flow import ConditionalFlow
from flowzoo.harness.cost import TIMED_STEPS, Cost, TooLarge, estimate
from flowzoo.harness.memory import kept_of
from flowzoo.harness.plan import Cell
from flowzoo.models._glow import Glow
from flowzoo.stepper import Stepper

Plan = Callable[..., list[Cell]]


def test_parameters_are_those_of_the_flow(plan: Plan) -> None:
    cell = plan()[0]
    assert estimate(cell).parameters == sum(p.numel() for p in cell.build().parameters())


def test_closed_form_costs_no_training(plan: Plan) -> None:
    cost = estimate(plan(["gaussian"])[0])
    assert (cost.parameters, cost.seconds, cost.steps) == (0, 0.0, 0)


class Clock:
    """Time that passes only in steps: for each a fixed part, and one for each event."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fixed: float, each: float) -> None:
        self.now, self.sizes = 10.0, list[int]()
        monkeypatch.setattr("flowzoo.harness.cost.time.perf_counter", lambda: self.now)
        real = Eager.__call__

        def slow(engine: Eager, *batch: Tensor) -> Tensor:
            self.sizes.append(len(batch[0]))
            self.now += fixed + each * len(batch[0])
            return real(engine, *batch)

        monkeypatch.setattr(Eager, "__call__", slow)


def test_time_is_steps_times_the_time_of_one(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch, 0.5, 0.0)
    cost = estimate(plan(train={"steps": 40, "batch_size": 8})[0])
    assert (cost.step_seconds, cost.seconds, cost.extrapolated) == (pytest.approx(0.5), pytest.approx(20.0), False)


@pytest.mark.parametrize(("fixed", "each"), [(0.0, 0.5), (0.3, 0.2), (2.0, 1.0)])
def test_slow_step_is_told_from_a_few_events(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, fixed: float, each: float
) -> None:
    clock = Clock(monkeypatch, fixed, each)
    cost = estimate(plan(train={"steps": 40, "batch_size": 200})[0])
    assert cost.extrapolated
    assert (cost.batch, cost.timed) == (200, max(clock.sizes))
    assert max(clock.sizes) <= 8
    assert clock.now - 10 < 10
    if len(set(clock.sizes)) > 1:  # a line through two sizes is the truth here
        assert cost.step_seconds == pytest.approx(fixed + 200 * each)
    else:
        assert cost.step_seconds == pytest.approx(100 * (fixed + 2 * each))


def test_what_does_not_grow_with_the_events_is_not_multiplied(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, 0.5, 0.001)
    cost = estimate(plan(train={"batch_size": 200})[0])
    assert not cost.extrapolated
    assert cost.step_seconds == pytest.approx(0.7)
    assert max(clock.sizes) == 200


@pytest.mark.parametrize("ema", [0.0, 0.99])
@pytest.mark.parametrize("batch_size", [1, 50, 200])
def test_memory_is_that_of_weights_and_of_what_a_whole_step_keeps(plan: Plan, batch_size: int, ema: float) -> None:
    cell = plan(train={"batch_size": batch_size, "ema": ema})[0]
    flow = cell.build()
    batch = Stepper(flow, cell.source.splits.train, cell.fit, 0).take()
    trained = sum(p.nbytes for p in flow.parameters())
    held = trained + sum(b.nbytes for b in flow.buffers())
    found = estimate(cell).memory - held - (3 + bool(ema)) * trained
    assert found == pytest.approx(sum(kept_of(flow, batch)), rel=0.01)


def test_flow_that_recomputes_is_measured_as_it_trains() -> None:
    batch = torch.randn(16, 1, 8, 8), torch.randn(16, 2)
    recomputed, plain = (
        build("cglow", (1, 8, 8), (2,), num_levels=1, num_steps=8, hidden_features=16, reversible=choice)
        for choice in (True, False)
    )
    assert 0 < sum(kept_of(recomputed, batch)) < sum(kept_of(plain, batch)) / 2


def test_part_of_a_batch_is_recomputed_where_the_whole_is(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"size": 8, "num_contexts": 20, "maps_per_context": 4}
    cell = plan(["cglow"], data="fields", options=options, train={"batch_size": 32})[0]
    plain = estimate(cell).memory
    flow = cell.build()
    assert isinstance(flow, Glow)
    monkeypatch.setattr("flowzoo.models._glow.PLAIN_BYTES", flow.kept_bytes(16))  # of a part there would be no need
    assert estimate(cell).memory < plain / 1.5


@pytest.mark.parametrize(("model", "built"), [("galacticflow", False), ("maf", True)])
def test_parameters_beyond_the_memory_are_refused_before_they_are_made_if_they_can_be_counted(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, model: str, built: bool
) -> None:
    cell, builds, steps = plan([model])[0], list[Cell](), list[Descent]()
    needed = 16 * estimate(cell).parameters
    real = Cell.build

    def build_and_note(self: Cell) -> ConditionalFlow:
        builds.append(self)
        return real(self)

    monkeypatch.setattr("flowzoo.harness.cost.free_memory", lambda device: needed - 1)
    monkeypatch.setattr(Cell, "build", build_and_note)
    monkeypatch.setattr(Descent, "__call__", lambda self, seen: steps.append(self))
    with pytest.raises(TooLarge, match=r"parameters take .* GB with gradients and moments, and .* GB are free here"):
        estimate(cell)
    assert bool(builds) == built
    assert not steps


def test_whole_step_that_would_not_fit_is_not_taken(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = plan(train={"batch_size": 200})[0]
    memory = estimate(cell).memory
    monkeypatch.setattr("flowzoo.harness.cost.free_memory", lambda device: memory - 1)
    clock = Clock(monkeypatch, 0.001, 0.001)
    cost = estimate(cell)
    assert (cost.fits, cost.extrapolated) == (False, True)
    assert max(clock.sizes) < 200
    assert cost.step_seconds == pytest.approx(0.201)


def test_plan_with_a_model_that_fails_has_the_other_rows(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = Cell.build

    def build_or_fail(self: Cell) -> ConditionalFlow:
        if self.name == "maf":
            raise RuntimeError("you tried to allocate\n34359738368 bytes")
        return real(self)

    monkeypatch.setattr(Cell, "build", build_or_fail)
    cells = plan(["gaussian", "maf", "realnvp"], seeds=(0, 1))
    assert not _show_plan(cells, Console(width=200))
    out, err = capsys.readouterr()
    rows = [line for line in out.splitlines() if line.startswith("two_moons")]
    assert len(rows) == 6
    failed = [row for row in rows if "maf" in row]
    assert len(failed) == 2
    assert all("cannot take a step: RuntimeError: you tried to allocate 34359738368 bytes" in row for row in failed)
    assert "nothing was trained" in out
    assert err == "2 of 6 cells cannot take a step, and are not counted.\n"


def test_plan_marks_what_was_not_measured_and_what_does_not_fit(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cost = Cost(1000, 135.0, 20, 2700.0, 40 * 10**9, 22 * 10**9, 256, 8)
    monkeypatch.setattr("flowzoo.harness.cost.estimate", lambda cell: cost)
    assert _show_plan(plan(), Console(width=200))
    out = capsys.readouterr().out
    (row,) = [line.split() for line in out.splitlines() if line.startswith("two_moons")]
    assert row == ["two_moons", "maf", "0", "1,000", "~135000.0", "20", "~2700", "!40.00"]
    assert "GB at least" in out
    assert "~ from steps of a few events" in out
    assert "! more than the 22.00 GB" in out


def test_seeds_of_one_config_are_timed_once(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def noted(cell: Cell) -> Cost:
        seen.append(cell.seed)
        return Cost(1, 1.0, 1, 1.0)

    monkeypatch.setattr("flowzoo.harness.cost.estimate", noted)
    assert _show_plan(plan(seeds=(0, 1, 2)), Console(width=200))
    assert seen == [0]


def test_minutes_bound_the_time(plan: Plan) -> None:
    assert estimate(plan(train={"steps": 10**9, "minutes": 2})[0]).seconds == 120


def test_estimate_takes_a_few_steps_and_leaves_the_cell_as_it_was(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    cell, taken = plan()[0], list[int]()
    before = cell.build().state_dict()
    real = Stepper.step

    def counted(self: Stepper) -> None:
        taken.append(1)
        real(self)

    Clock(monkeypatch, 0.0, 0.0)
    monkeypatch.setattr(Stepper, "step", counted)
    estimate(cell)
    assert len(taken) == TIMED_STEPS + 1
    after = cell.build().state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
