"""Does the flow use its context? NLL with contexts shuffled between groups, minus NLL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from flowzoo.metrics._metric import Column, Evaluation, NotComputed
from flowzoo.registry import METRICS
from flowzoo.stats import clustered_mean


@METRICS.register
@dataclass(frozen=True)
class ContextUse:
    """How many nats per event the flow loses when each test group is given another group's context.

    Near zero the flow ignores what it is conditioned on. Large is not by itself good: a flow that has memorised the
    contexts of its training groups loses much too, and ``nll_nats`` on left-out groups tells the two apart.
    """

    needs: ClassVar[tuple[str, ...]] = ("scores",)
    columns: ClassVar[tuple[Column, ...]] = (
        Column("context_use", "none", "NLL with contexts shuffled between groups minus NLL, nats per event"),
    )

    def __call__(self, evaluation: Evaluation) -> dict[str, float]:
        """See the class."""
        if evaluation.contexts[0].numel() == 0:
            raise NotComputed("the data has no context")
        labels, group = torch.unique(evaluation.groups, return_inverse=True)
        count = len(labels)
        if count < 2:
            raise NotComputed("one test group: there is no other context to give it")
        # A random cyclic order of the groups moves every group, where a random permutation would leave some.
        source = evaluation.generator
        order = torch.randperm(count, generator=source, device=source.device).to(group.device)
        other = torch.empty_like(order)
        other[order] = order.roll(1)
        first = torch.full((count,), len(group), device=group.device).scatter_reduce(
            0, group, torch.arange(len(group), device=group.device), "amin"
        )
        shuffled = evaluation.context_index[first[other[group]]]
        loss = evaluation.scores.double() - evaluation.log_prob(evaluation.x, evaluation.contexts, shuffled).double()
        lost = int((~loss.isfinite()).sum())
        if lost:
            raise NotComputed(f"log q is not finite at {lost} of {len(loss)} test events under another context")
        return {"context_use": clustered_mean(loss, evaluation.groups, evaluation.weights)[0]}
