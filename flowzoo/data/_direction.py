"""From pairs (theta, x) for a likelihood p(x | theta) to pairs for a posterior p(theta | x)."""

from __future__ import annotations

from dataclasses import replace

import torch

from flowzoo.bijectors import Bijector, Columns, Compose, Log, Logit, Standardize
from flowzoo.data._data import Data
from flowzoo.inference import Prior

EDGE = 1e-6  # of a bounded parameter's range, which the logit keeps from infinity: all that can leak out of it


def toward_theta(data: Data) -> Data:
    """The same pairs with theta as the event and what was the event as the context.

    Each event keeps its group, so a theta of several observations is not torn apart. Parameters go through a map that
    sends the support of the prior to the whole line, so that no flow can leak out of it.

    Raises:
        ValueError: if the data have no prior, theta is the event already, or the observations are integers.
    """
    if data.prior is None or data.theta != "context":
        raise ValueError("direction 'posterior' needs data whose context is a parameter with a prior")
    if data.levels is not None:
        raise ValueError("direction 'posterior' needs continuous observations; these are integers")
    assert data.context is not None
    assert data.context_index is not None
    return replace(
        data,
        x=data.context[data.context_index],
        context=data.x,
        context_index=torch.arange(len(data)),
        names=data.context_names,
        units=data.context_units,
        context_names=data.names,
        context_units=data.units,
        x_map=support_map(data.prior),
        context_map=data.x_map,
        theta="event",
        # What is known of x says nothing of theta.
        periodic=(),
        augment=(),
        side=None,
        true_log_prob=None,
        references={},
    )


def support_map(prior: Prior) -> Bijector:
    """The support of a prior onto the line, column by column, then standardised."""
    maps: list[Bijector] = []
    for i, (low, high) in enumerate(zip(prior.low.tolist(), prior.high.tolist(), strict=True)):
        if low > float("-inf") and high < float("inf"):
            maps.append(Columns([i], Logit(low, high, EDGE)))
        elif low == 0:
            maps.append(Columns([i], Log()))
    return Compose(*maps, Standardize((prior.dim,)))
