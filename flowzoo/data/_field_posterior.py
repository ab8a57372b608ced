"""What ``fields`` knows of its posteriors: their density at any theta, and draws of them at maps of their own."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from flowzoo.data._cosmology import HIGH, LOW, prior
from flowzoo.data._data import References
from flowzoo.seeding import generator

if TYPE_CHECKING:
    from flowzoo.data.fields import Fields

_POINTS, _MAPS = 128, 128  # of the grid that normalises a posterior, a parameter; maps at a time
_OBSERVATIONS, _DRAWS, _CELLS = 10, 2000, 256


def log_prob(fields: Fields, theta: Tensor, x: Tensor) -> Tensor:
    """log p(theta | x) per unit of both parameters, in nats: the likelihood at theta, normalised on a grid.

    Args:
        fields: whose maps they are.
        theta: ``(..., 2)``.
        x: ``(..., 1, H, W)``.

    Returns:
        ``(...)``, minus infinity outside of the prior.

    Raises:
        ValueError: if the maps have another shape.
    """
    found = []
    maps, flat, box = x.reshape(-1, *x.shape[-3:]), theta.reshape(-1, 2), prior()
    for some, values in zip(maps.split(_MAPS), flat.split(_MAPS), strict=True):
        some, inside = some.double(), box.covers(values)
        grid, log_p = fields.posterior(some, _POINTS)
        # At the peak of the grid likelihood and posterior are both known: their ratio is the evidence.
        peak, best = log_p.flatten(1).max(1)
        at_peak = grid.reshape(-1, 2)[best]
        evidence = fields.true_log_prob(some, at_peak) - peak
        # A theta outside may be no universe at all.
        found.append(fields.true_log_prob(some, values.double().where(inside[:, None], at_peak)) - evidence)
        found[-1] = torch.where(inside, found[-1], -math.inf)
    return torch.cat(found).reshape(theta.shape[:-1]).to(theta.dtype)


def references(fields: Fields) -> References:
    """Ten maps that are no events, and draws ``(10, 2000, 2)``: of 256 x 256 cells, uniform within each."""
    truth = prior().sample(_OBSERVATIONS, generator(fields.seed, "observation theta"))
    x = fields.simulate(truth, generator(fields.seed, "observation"))
    grid, log_p = fields.posterior(x, _CELLS)
    source = generator(fields.seed, "reference")
    u = torch.rand(_OBSERVATIONS, _DRAWS, generator=source, dtype=torch.float64)
    cumulative = log_p.flatten(1).softmax(1).cumsum(1)
    cell = torch.searchsorted(cumulative, u * cumulative[:, -1:])
    jitter = torch.rand(*cell.shape, 2, generator=source, dtype=torch.float64) - 0.5
    width = torch.tensor(HIGH, dtype=torch.float64) - torch.tensor(LOW, dtype=torch.float64)
    theta = grid.reshape(-1, 2)[cell] + jitter * width / _CELLS
    return References(x, theta.float(), truth, note=f"exact draws, from a grid of {_CELLS} x {_CELLS} cells")
