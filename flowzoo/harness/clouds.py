"""Real and drawn events as clouds of points: what point statistics are taken over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from flowzoo.data import Split, Splits
from flowzoo.flow import ConditionalFlow
from flowzoo.metrics import Clouds
from flowzoo.seeding import generator

LEAST = 100  # points in half a cloud, below which a group does not make a cloud of its own
POPULATION = (200, 300)  # groups, and events of each, that left-out groups are compared with
EXAMPLES = (2, 5000)  # groups, and events of each, that are kept for pictures


@dataclass(frozen=True)
class RealClouds:
    """Which test events make the clouds, the same for every model.

    Args:
        rows: ``(K, 2, m)`` test events.
        groups: ``(K,)`` labels; empty where one cloud holds all.
        examples: ``(k, n)`` test events of a few groups, for pictures; ``(0, 0)`` where there are no such groups.
        population: as in ``Clouds``, in data units.
        population_context: as in ``Clouds``.
        note: what they are, in one line.
    """

    rows: Tensor
    groups: Tensor
    examples: Tensor
    population: Tensor
    population_context: Tensor
    note: str


def real_clouds(splits: Splits, groups: int, points: int, draws: int) -> RealClouds | str:
    """Choose the test events.

    Whether groups have clouds of their own, and how many points, follows from the sizes of all groups, so that it is
    the same for every fold: their distances go into one column.

    Args:
        splits: whose test part is looked at.
        groups: K at most, a seeded choice.
        points: m at most, where groups have clouds of their own.
        draws: test events at most, where one cloud holds them all.

    Returns:
        The choice, or the reason why there is none.
    """
    test = splits.test
    labels, index, counts = torch.unique(test.groups, return_inverse=True, return_counts=True)
    source = generator(splits.seed, "clouds")
    order = torch.randperm(len(test), generator=source).to(index.device)
    size = min(points, _half(splits))
    if not size or len(splits.data.event_shape) != 1:
        return _one_cloud(splits, index, len(labels), draws)
    able = (counts >= 2 * size).nonzero().flatten()
    if not len(able):
        return f"no test group has {2 * size} events, as most groups have"
    chosen = able[torch.randperm(len(able), generator=source).to(able.device)[:groups]].sort().values
    of_group = index[order]
    # In a random order, so that each half is a fair sample of its group.
    rows = torch.stack([order[of_group == g][: 2 * size].reshape(2, size) for g in chosen])
    left_out = "" if len(able) == len(labels) else f"; {len(labels) - len(able)} have fewer than {2 * size} events"
    note = f"{size} real and drawn events a half, of {len(chosen)} of {len(labels)} test groups{left_out}"
    shown = chosen[counts[chosen] >= counts[chosen].double().median()][: EXAMPLES[0]]
    each = min(EXAMPLES[1], int(counts[shown].min()))
    examples = torch.stack([order[of_group == g][:each] for g in shown])
    return RealClouds(rows, labels[chosen], examples, *_population(splits), note)


def _half(splits: Splits) -> int:
    """Points in half a cloud that four of five groups have, 0 if most have fewer than ``LEAST``."""
    assert splits.data.groups is not None
    counts = torch.unique(splits.data.groups, return_counts=True)[1]
    able = counts[counts >= 2 * LEAST]
    if 2 * len(able) < len(counts):
        return 0
    return int(able.sort().values[len(able) // 5]) // 2


def _nobody(splits: Splits) -> tuple[Tensor, Tensor]:
    """No population."""
    test = splits.test
    return torch.zeros(0, 0, splits.data.event_shape.numel(), device=test.x.device), test.contexts[:0]


def _one_cloud(splits: Splits, group: Tensor, count: int, draws: int) -> RealClouds | str:
    """All test groups in one cloud, each group in one of its halves."""
    test, source = splits.test, generator(splits.seed, "clouds", "halves")
    if count < 2:
        return "one test group of few events: no second half to compare with"
    half = (torch.randperm(count, generator=source).to(group.device) < count // 2)[group]
    order = torch.randperm(len(test), generator=source).to(group.device)[:draws]
    size = min(int(half[order].sum()), int((~half[order]).sum()))
    if size < 2:
        return f"{len(order)} draws leave no two events in each half of the test groups"
    rows = torch.stack([order[half[order]][:size], order[~half[order]][:size]])[None]
    nothing = torch.zeros(0, dtype=torch.long)
    note = f"{size} events a half, of all test groups"
    return RealClouds(rows, nothing, nothing[None][:0], *_nobody(splits), note)


def _population(splits: Splits) -> tuple[Tensor, Tensor]:
    """Real events of many groups of all three parts, and a context of each."""
    data, device = splits.data, splits.test.x.device
    if data.levels is not None:  # raw integers are not what is drawn
        return _nobody(splits)
    assert data.groups is not None
    assert data.context_index is not None
    assert data.context is not None
    labels, index, counts = torch.unique(data.groups, return_inverse=True, return_counts=True)
    source = generator(splits.seed, "clouds", "population")
    chosen = torch.randperm(len(labels), generator=source)
    chosen = chosen[counts[chosen] >= LEAST][: POPULATION[0]].sort().values
    each = min(POPULATION[1], int(counts[chosen].min()))
    by_group = torch.argsort(index, stable=True)
    starts = counts.cumsum(0) - counts
    # With replacement: one draw for all groups, whatever their sizes.
    along = torch.rand(len(chosen), each, generator=source, dtype=torch.float64) * counts[chosen, None]
    rows = by_group[starts[chosen, None] + along.long()]
    return data.x[rows].float().to(device), data.context[data.context_index[rows[:, 0]]].float().to(device)


@torch.no_grad()
def drawn_clouds(flow: ConditionalFlow, known: RealClouds, test: Split, spread: Tensor, seed: int) -> Clouds:
    """A draw at the context of every chosen event; both in units of ``spread``."""
    shape = known.rows.shape
    rows = known.rows.flatten()
    drawn = flow.sample(test.contexts[test.context_index[rows]], generator=generator(seed, "clouds"))
    real, drawn = ((x / spread).flatten(1).reshape(*shape, -1) for x in (test.fixed[rows], drawn))
    context = test.contexts[test.context_index[known.rows[:, 0, 0]]]
    return Clouds(
        real=real,
        drawn=drawn,
        groups=known.groups,
        context=context if len(known.groups) else context[:0],
        population=known.population / spread.flatten() if known.population.numel() else known.population,
        population_context=known.population_context,
    )


@torch.no_grad()
def examples(flow: ConditionalFlow, known: RealClouds, test: Split, seed: int) -> Mapping[str, Tensor]:
    """Events of a few groups and as many draws, in data units, for pictures; nothing where groups have no clouds."""
    if len(known.examples) == 0:
        return {}
    shape, rows = known.examples.shape, known.examples.flatten()
    drawn = flow.sample(test.contexts[test.context_index[rows]], generator=generator(seed, "examples"))
    first = known.examples[:, 0]
    return {
        "examples.context": test.contexts[test.context_index[first]].cpu(),
        "examples.group": test.groups[first].cpu(),
        "examples.real": test.fixed[rows].reshape(*shape, -1).cpu(),
        "examples.drawn": drawn.reshape(*shape, -1).cpu(),
    }
