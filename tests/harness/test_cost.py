from collections.abc import Callable

import pytest
import torch

from flowzoo.harness.cost import TIMED_STEPS, estimate
from flowzoo.harness.plan import Cell
from flowzoo.stepper import Stepper

Plan = Callable[..., list[Cell]]


def test_parameters_are_those_of_the_flow(plan: Plan) -> None:
    cell = plan()[0]
    assert estimate(cell).parameters == sum(p.numel() for p in cell.build().parameters())


def test_closed_form_costs_no_training(plan: Plan) -> None:
    cost = estimate(plan(["gaussian"])[0])
    assert (cost.parameters, cost.seconds, cost.steps) == (0, 0.0, 0)


def test_time_is_steps_times_the_time_of_one(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 10.0 + 0.5 * TIMED_STEPS])
    monkeypatch.setattr("flowzoo.harness.cost.time.perf_counter", lambda: next(clock))
    cost = estimate(plan(train={"steps": 40})[0])
    assert (cost.step_seconds, cost.seconds) == (0.5, 20.0)


def test_minutes_bound_the_time(plan: Plan) -> None:
    assert estimate(plan(train={"steps": 10**9, "minutes": 2})[0]).seconds == 120


def test_estimate_takes_a_few_steps_and_leaves_the_cell_as_it_was(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    cell, taken = plan()[0], []
    before = cell.build().state_dict()
    real = Stepper.step
    monkeypatch.setattr(Stepper, "step", lambda self: (taken.append(1), real(self))[1])
    estimate(cell)
    assert len(taken) == TIMED_STEPS + 1
    after = cell.build().state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
