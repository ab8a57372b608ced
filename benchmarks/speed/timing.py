"""Calls timed side by side: interleaved rounds, medians, within a budget of time and of memory."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from flowzoo.record import one_line

Call = Callable[[], object]


class Timed(NamedTuple):
    """Seconds of a call, and of how many rounds: 1 where one call took more time than there is; or why it failed."""

    seconds: float
    rounds: int
    error: str = ""


@dataclass(frozen=True)
class Watch:
    """How to time.

    Args:
        device: where the calls do their work.
        rounds: in each of which every call has its turn.
        least: seconds of a turn at least; a faster call is repeated in it.
        most: seconds of a call at most: a longer one is timed once, and not at larger batches.
        warm: make two calls before any counts: the first may compile, and the second be captured as a graph.
    """

    device: torch.device
    rounds: int = 5
    least: float = 0.01
    most: float = 1.0
    warm: bool = False

    def seconds(self, call: Call, repeats: int = 1) -> float:
        """Of one call: of the process on a CPU, where others may have the core; by the clock on a GPU."""
        gpu = self.device.type == "cuda"
        clock = time.perf_counter if gpu else time.process_time
        self.wait()
        start = clock()
        for _ in range(repeats):
            call()
        self.wait()
        return (clock() - start) / repeats

    def wait(self) -> None:
        """Let the device finish what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def side_by_side(self, calls: Mapping[str, Call]) -> dict[str, Timed]:
        """Median seconds of each call."""
        found: dict[str, Timed] = {}
        turns: dict[str, tuple[Call, int]] = {}
        for name, call in calls.items():
            try:
                for _ in range(2 if self.warm else 0):
                    call()
                first = self.seconds(call)
                if first > self.most:
                    found[name] = Timed(first, 1)
                else:
                    again = self.seconds(call)  # the first call allocates, and may compile
                    turns[name] = call, min(100, max(1, math.ceil(self.least / max(again, 1e-6))))
            except Exception as error:  # an assertion of a library, or no memory
                found[name] = Timed(math.nan, 0, one_line(error))
        taken: dict[str, list[float]] = {name: [] for name in turns}
        for _ in range(self.rounds):
            for name, (call, repeats) in turns.items():
                taken[name].append(self.seconds(call, repeats))
        return {name: found.get(name) or Timed(statistics.median(taken[name]), self.rounds) for name in calls}


class Growth:
    """Times of one call at growing batches, and what the next is expected to take: a constant and a slope."""

    def __init__(self) -> None:
        self.points: list[tuple[int, float]] = []

    def add(self, batch: int, seconds: float) -> None:
        """Remember one."""
        self.points.append((batch, seconds))

    def expected(self, batch: int) -> float:
        """Seconds at a batch, from the last two; at least those of the last."""
        if not self.points:
            return 0.0
        last, seconds = self.points[-1]
        if len(self.points) == 1:
            return seconds
        before, earlier = self.points[-2]
        return seconds + max(0.0, (seconds - earlier) / (last - before)) * (batch - last)


def bytes_per_event(score: Callable[[Tensor, Tensor], Tensor], x: Tensor, c: Tensor, owner: nn.Module) -> float:
    """What the graph of one more event holds for the backward pass: the slope between 2 and all of these events."""

    def kept(count: int) -> int:
        own = {weight.untyped_storage().data_ptr() for weight in owner.parameters()}
        held: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                held[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            total = score(x[:count].clone(), c[:count].clone()).sum()  # a slice would hold all
        del total
        return sum(held.values())

    return max(0.0, kept(len(x)) - kept(2)) / (len(x) - 2)
