"""What the checks of metrics are run on: a metric with its options, and what it says of evaluations that are known."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from flowzoo.metrics import Column, Evaluation, MetricConfig, NotComputed, configure
from flowzoo.registry import METRICS
from flowzoo.testing._evaluations import WORLDS, evaluation
from flowzoo.testing._spoiling import copied
from flowzoo.testing._suite import NotApplicable

# Right and wrong flows of five worlds each: of chance, all of one side lie beyond all of the other once in 252 times.
REPEATS = 5

Found = dict[str, Any]  # columns to numbers or reasons, and tensors


@dataclass(frozen=True)
class MetricCase:
    """What a check is run on.

    Args:
        name: under which the metric is registered.
        metric: with its options.
        known: what it says of each evaluation, computed once.
    """

    name: str
    metric: MetricConfig
    known: dict[tuple[str, int, bool], Found] = field(default_factory=dict, compare=False, repr=False)

    def of(self, world: str, seed: int = 0, *, right: bool = True) -> Found:
        """What the metric says of a world, with a reason for every column where it declines."""
        key = (world, seed, right)
        if key not in self.known:
            self.known[key] = outcome(self.metric, evaluation(world, seed, right=right))
        return self.known[key]

    def worlds(self) -> list[str]:
        """Those in which any column is a number."""
        return [world for world in WORLDS if any(map(is_number, self.of(world).values()))]

    def world(self, column: Column) -> str | None:
        """The first in which this one is."""
        return next((world for world in WORLDS if is_number(self.of(world).get(column.name))), None)

    def repeated(self, column: Column, *, right: bool) -> list[float]:
        """The column in the first world that fills it, again and again; a reason is as bad as can be.

        Raises:
            NotApplicable: if no world fills it.
            AssertionError: if it is no number of a flow that is right.
        """
        world = self.world(column)
        if world is None:
            raise NotApplicable(f"no evaluation fills {column.name}")
        found = [self.of(world, seed, right=right).get(column.name) for seed in range(REPEATS)]
        numbers = [value if is_number(value) else None for value in found]
        if right and None in numbers:
            raise AssertionError(f"of a flow that is right {column.name} is {found[numbers.index(None)]!r}")
        worst = -math.inf if column.better == "higher" else math.inf
        return [worst if value is None else value for value in numbers]


def metric_case(name: str, **options: Any) -> MetricCase:
    """The case of a registered metric.

    Args:
        name: registered.
        options: of the metric, over those of its class attribute ``conformance``, ``{"options": {...}}``.
    """
    given = getattr(METRICS.get(name), "conformance", {}).get("options", {})
    return MetricCase(name, configure(name, {**given, **options}))


def outcome(metric: MetricConfig, given: Evaluation) -> Found:
    """What the harness would write down: numbers, and a reason for every column where the metric declines."""
    found = called(metric, given)
    return dict.fromkeys([column.name for column in metric.columns], found) if isinstance(found, str) else found


def called(metric: MetricConfig, given: Evaluation) -> Found | str:
    """What a metric returns, or the reason that it gives."""
    try:
        return dict(metric(copied(given)))  # evaluations are shared, and a faulty metric may change them
    except NotComputed as reason:
        return str(reason)


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a column has a value that a table shows."""
    return isinstance(value, float) and math.isfinite(value)


def worse(column: Column, value: float, than: float) -> bool:
    """Whether a value of a column that has a side is worse than another one."""
    if column.better == "zero":
        return abs(value) > abs(than)
    return (value < than) if column.better == "higher" else (value > than) and column.better == "lower"
