"""The validation NLL: of the same events each time."""

from __future__ import annotations

import torch
from torch import Tensor

from flowzoo import distributed
from flowzoo.data import Split
from flowzoo.flow import ConditionalFlow
from flowzoo.seeding import generator


class Validation:
    """Scores a flow on a fixed choice of the events of a split.

    Args:
        split: the validation split.
        count: events at most.
        seed: of the choice.
    """

    def __init__(self, split: Split, count: int, seed: int) -> None:
        x, index, weights = _choice(split, count, seed)
        # Every process scores a part: else the more of them there are, the larger a share of the time this takes.
        own = distributed.share_of(len(x))
        used, index = torch.unique(index, return_inverse=True)
        self.events = (
            *(x[own], split.contexts[used], index[own]),
            None if weights is None else weights[own],
        )
        self.share = len(x[own]) / len(x)

    def nll(self, flow: ConditionalFlow) -> float:
        """The mean NLL in nats, the same number in all processes; waits for the device."""
        return distributed.total(self.share * mean_nll(flow, *self.events) if len(self.events[0]) else 0.0)


def mean_nll(
    flow: ConditionalFlow,
    x: Tensor,
    context: Tensor,
    index: Tensor | None = None,
    weights: Tensor | None = None,
) -> float:
    """Mean negative log-likelihood in nats, without gradient, in eval mode; as ``log_prob``, with weights of mean 1."""
    was_training = flow.training
    flow.eval()
    with torch.no_grad():
        scores = flow(x, context, index).double()
        value = float(-(scores if weights is None else weights * scores).mean())
    flow.train(was_training)
    return value


def _choice(split: Split, count: int, seed: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """The fixed events that validation scores, all or a seeded choice; rows of their contexts, weights of mean 1."""
    x, index, weights = split.fixed, split.context_index, split.weights
    if len(x) > count:
        rows = torch.randperm(len(x), generator=generator(seed, "validation")).to(x.device)
        if weights is None:
            rows = rows[:count]
        else:  # as many of each group: a few heavy events would stand for the small ones
            _, group, counts = torch.unique(split.groups[rows], return_inverse=True, return_counts=True)
            order = torch.argsort(group, stable=True)
            place = torch.arange(len(x), device=x.device) - (counts.cumsum(0) - counts)[group[order]]
            rows = rows[order][place < max(1, count // len(counts))]
            _, group, counts = torch.unique(split.groups[rows], return_inverse=True, return_counts=True)
            weights = (len(rows) / len(counts) / counts.double())[group]
        x, index = x[rows], index[rows]
    return x, index, weights
