"""What a cell will cost in time and memory, from a few timed steps of it, of a part of the batch where it is large."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from flowzoo import models
from flowzoo.engine import Eager
from flowzoo.flow import ConditionalFlow
from flowzoo.harness.memory import kept_of
from flowzoo.harness.plan import Cell
from flowzoo.harness.run import cpu_threads
from flowzoo.seeding import generator
from flowzoo.stepper import Stepper

TIMED_STEPS = 3
LONG = 3.0  # seconds; a step that seems to take longer is not taken whole
FIRST, GROWTH = 2, 4  # events of the first step, not 1 as batch norms need two; and how much larger each next one is
MARGIN = 1.25  # what a step needs beyond what is counted, before it is taken
PER_PARAMETER = 4  # itself, its gradient and two moments


class TooLarge(ValueError):
    """A flow whose training cannot fit the memory of its device."""


@dataclass(frozen=True)
class Cost:
    """Of one cell, on this machine as it is now.

    Args:
        parameters: trainable numbers.
        step_seconds: of one training step.
        steps: at most.
        seconds: of training, at most: of all levels of noise, and of the training without context.
        memory: bytes that a training holds at least: weights, gradients, moments, the average of the weights, and what
            autograd keeps of a step.
        free: bytes that the device has; None where it does not say.
        batch: events of a step.
        timed: events of the largest step that was timed; where these are fewer, time goes on in a straight line.
    """

    parameters: int
    step_seconds: float
    steps: int
    seconds: float
    memory: int = 0
    free: int | None = None
    batch: int = 0
    timed: int = 0

    @property
    def extrapolated(self) -> bool:
        """Whether no whole step was timed."""
        return self.timed < self.batch

    @property
    def fits(self) -> bool:
        """Whether the device has the memory, as far as can be told."""
        return self.free is None or self.memory <= self.free


def estimate(cell: Cell) -> Cost:
    """Time a few training steps of a throw-away flow, within seconds and within the memory of the device.

    Raises:
        TooLarge: if the parameters alone are too many for the memory.
    """
    split = cell.source.splits.train
    free = free_memory(split.x.device)
    _refuse_too_large(cell, free)
    flow = cell.build()
    _check_parameters(flow, free)
    held = _nbytes(flow)
    parameters = sum(p.numel() for p in flow.parameters() if p.requires_grad)
    if not parameters:
        return Cost(0, 0.0, 0, 0.0, held, free)
    stepper = Stepper(flow, split, cell.fit, cell.seed)
    whole = stepper.batch_size
    # A part of a batch shall be computed as the whole will be: recomputed or not.
    recomputes = flow.prepares(whole)
    vars(flow)["prepares"] = lambda batch: recomputes
    with cpu_threads(cell.bench.threads):
        batch = stepper.take()
        trained = sum(p.nbytes for p in stepper.descent.parameters)
        memory = held + (PER_PARAMETER - 1 + bool(stepper.descent.ema)) * trained
        kept = _kept_of_whole(flow, batch, whole)
        limit = None if free is None else free / MARGIN

        def allowed(events: int) -> bool:
            return limit is None or memory + kept * events / whole <= limit

        timed, each = _step_seconds(stepper, batch, whole, allowed)
    given = cell.source.splits.data.context_shape.numel() > 0
    levels = len(cell.fit.noise_levels) if given else 1
    seconds = levels * each * cell.fit.steps
    if cell.fit.minutes is not None:
        seconds = min(seconds, 60 * cell.fit.minutes)
    if cell.bench.context_gain and given:  # about: without its context a flow is a little smaller
        alone = each * cell.fit.steps
        seconds += alone if cell.fit.minutes is None else min(alone, 60 * cell.fit.minutes)
    return Cost(parameters, each, cell.fit.steps, seconds, memory + kept, free, whole, timed)


def free_memory(device: torch.device) -> int | None:
    """Bytes that can be had of a GPU, or of this machine; None where the system does not tell."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)


def _refuse_too_large(cell: Cell, free: int | None) -> None:
    """Count the parameters without making them, where the model can be built so."""
    data = cell.source.splits.data
    try:
        with torch.device("meta"):
            source = generator(cell.seed, "init")
            flow = models.build_from(cell.model, data.event_shape, data.context_shape, generator=source)
    except Exception:  # what its building computes of values there is not on this device; it is built as it is
        return
    _check_parameters(flow, free)


def _check_parameters(flow: ConditionalFlow, free: int | None) -> None:
    trained = [p for p in flow.parameters() if p.requires_grad]
    needed = PER_PARAMETER * sum(p.nbytes for p in trained)
    if free is not None and needed > free:
        raise TooLarge(
            f"{sum(p.numel() for p in trained):,} parameters take {needed / 1e9:.2f} GB with gradients and moments, "
            f"and {free / 1e9:.2f} GB are free here: choose a smaller model or smaller events"
        )


def _nbytes(flow: ConditionalFlow) -> int:
    return sum(t.nbytes for t in (*flow.parameters(), *flow.buffers()))


def _part(batch: tuple[Tensor, ...], events: int) -> tuple[Tensor, ...]:
    """The first events of a batch; contexts that are shared stay all."""
    if len(batch) == 3:
        x, contexts, index = batch
        return x[:events], contexts, index[:events]
    return tuple(each[:events] for each in batch)


def _kept_of_whole(flow: ConditionalFlow, batch: tuple[Tensor, ...], whole: int) -> int:
    """Bytes that autograd keeps of a step, in a straight line through two small ones: contexts may be kept once."""
    few = min(FIRST, whole)
    more = min(2 * few, whole)
    low = sum(kept_of(flow, _part(batch, few)))
    if more == few:
        return low
    slope = (sum(kept_of(flow, _part(batch, more))) - low) / (more - few)
    return round(low + max(0.0, slope) * (whole - few))


def _step_seconds(
    stepper: Stepper, batch: tuple[Tensor, ...], whole: int, allowed: Callable[[int], bool]
) -> tuple[int, float]:
    """How many events were timed at most, and the seconds of a whole step by that."""
    engine = Eager(stepper.flow, stepper.descent)  # a part is not worth a compilation or a graph
    points: list[tuple[int, float]] = []
    events = min(FIRST, whole)
    while events < whole:
        seconds = _seconds(stepper, partial(engine, *_part(batch, events)))
        points.append((events, seconds))
        if seconds * whole / events <= LONG and allowed(whole):
            break
        larger = GROWTH * events
        if seconds > LONG / GROWTH or larger >= whole or not allowed(larger):
            return events, _line(points, whole)
        events = larger
    return whole, _seconds(stepper, stepper.step)


def _seconds(stepper: Stepper, step: Callable[[], None]) -> float:
    """Of one step, in the mean of some after the first; of the first, where that is long."""

    def timed(times: int) -> float:
        started = time.perf_counter()
        for _ in range(times):
            step()
        float(stepper.descent.loss_sum)  # waits for the device
        return (time.perf_counter() - started) / times

    first = timed(1)
    return first if first > LONG / GROWTH else timed(TIMED_STEPS)


def _line(points: list[tuple[int, float]], whole: int) -> float:
    """Seconds of a whole step from those of parts: what does not grow with the events is not multiplied."""
    events, seconds = points[-1]
    if len(points) == 1:
        return seconds * whole / events
    fewer, before = points[-2]
    slope = max(0.0, seconds - before) / (events - fewer)
    return seconds + slope * (whole - events)
