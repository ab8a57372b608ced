"""What a cell will cost, from a few timed steps of it."""

from __future__ import annotations

import time
from dataclasses import dataclass

from flowzoo.harness.plan import Cell
from flowzoo.harness.run import cpu_threads
from flowzoo.stepper import Stepper

TIMED_STEPS = 3


@dataclass(frozen=True)
class Cost:
    """Of one cell, on this machine as it is now.

    Args:
        parameters: trainable numbers.
        step_seconds: of one training step.
        steps: at most.
        seconds: of training, at most: of all levels of noise, and of the training without context.
    """

    parameters: int
    step_seconds: float
    steps: int
    seconds: float


def estimate(cell: Cell) -> Cost:
    """Time a few training steps of a throw-away flow."""
    flow = cell.build()
    parameters = sum(p.numel() for p in flow.parameters() if p.requires_grad)
    if not parameters:
        return Cost(0, 0.0, 0, 0.0)
    stepper = Stepper(flow, cell.source.splits.train, cell.fit, cell.seed)
    with cpu_threads(cell.bench.threads):
        stepper.step()
        started = time.perf_counter()
        for _ in range(TIMED_STEPS):
            stepper.step()
        float(stepper.loss_sum)  # waits for the device
        each = (time.perf_counter() - started) / TIMED_STEPS
    given = cell.source.splits.data.context_shape.numel() > 0
    levels = len(cell.fit.noise_levels) if given else 1
    seconds = levels * each * cell.fit.steps
    if cell.fit.minutes is not None:
        seconds = min(seconds, 60 * cell.fit.minutes)
    if cell.bench.context_gain and given:  # about: without its context a flow is a little smaller
        alone = each * cell.fit.steps
        seconds += alone if cell.fit.minutes is None else min(alone, 60 * cell.fit.minutes)
    return Cost(parameters, each, cell.fit.steps, seconds)
