"""Scouts: points all over the prior where a density is looked at, so that no mode is lost between the nodes of a grid.

They are the same for every observation and every seed: the additive recurrence of Roberts (2018), whose points keep
their distance, through the inverse of the prior's distribution function.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from flowzoo.inference import _tiles

RATIO = {1: 1.618033988749895, 2: 1.324717957244746, 3: 1.2207440846057596}  # the root of x^(D+1) = x + 1
MISSES = 0.5  # nats between a scout's density and the polynomial of its tile from which the tile does not have it


def scouts(count: int, low: Tensor, high: Tensor, normal: Tensor | None) -> tuple[Tensor, Tensor]:
    """Points ``(P, D)`` in a box, and the log of the volume ``(P,)`` that each stands for.

    Args:
        count: P.
        low: ``(D,)``.
        high: ``(D,)``.
        normal: ``(D,)`` booleans, coordinates in which the prior is the standard normal, not uniform.
    """
    dim = len(low)
    steps = torch.tensor([RATIO[dim] ** -(d + 1) for d in range(dim)], dtype=torch.float64, device=low.device)
    u = (0.5 + torch.arange(1, count + 1, device=low.device)[:, None] * steps) % 1
    flat, bell = low + (high - low) * u, torch.special.ndtri(u)
    sizes = (high - low).log().expand_as(u), 0.5 * bell.square() + 0.5 * math.log(2 * math.pi)
    normal = torch.zeros(dim, dtype=torch.bool, device=low.device) if normal is None else normal
    return torch.where(normal, bell, flat), torch.where(normal, sizes[1], sizes[0]).sum(1) - math.log(count)


@dataclass
class Scouts:
    """Points ``(P, D)``, the log of the volume of each ``(P,)``, and the log-density of K observations ``(K, P)``."""

    points: Tensor
    volume: Tensor
    heights: Tensor

    def missed_by(self, values: Tensor, rows: Tensor, low: Tensor, width: Tensor, top: Tensor) -> Tensor:
        """Of each tile the log of the mass of the scouts in it whose density its polynomial does not have: ``(T,)``.

        A scout stands for its volume, or for all of a tile that is smaller.
        """
        t = (self.points - low[:, None]) / width[:, None]
        tile, point = ((t >= 0) & (t < 1)).all(2).nonzero(as_tuple=True)
        true = self.heights[rows[tile], point]
        guess = _tiles.at(_tiles.finite(values[tile]), t[tile, point]).minimum(top[tile])
        wrong = (true - guess).abs() > MISSES
        stake = torch.maximum(true, guess) + torch.minimum(self.volume[point], width.log().sum(1)[tile])
        lost = torch.where(wrong, stake, -torch.inf)
        height = torch.full_like(top, -1e300).scatter_reduce_(0, tile, lost, "amax")
        return torch.zeros_like(top).index_add_(0, tile, (lost - height[tile]).exp()).log() + height
