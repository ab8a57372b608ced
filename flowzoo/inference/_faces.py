"""Faces of tiles: a density goes on behind them, so what a small tile has seen there its coarse neighbour must have."""

from __future__ import annotations

import torch
from torch import Tensor

from flowzoo.inference import _tiles
from flowzoo.inference._scouts import MISSES
from flowzoo.inference._tiles import NODES

MIX = 6364136223846793005  # odd, of a congruential generator: a key that wraps around is as good a key


def missed_behind(
    values: Tensor, rows: Tensor, low: Tensor, width: Tensor, top: Tensor, new: Tensor, corner: Tensor, first: Tensor
) -> Tensor:
    """What tiles lack of the density that new ones show on a face they share: ``(T,)``, the log of a mass.

    The highest node of each face of a new tile is compared with the polynomial behind the face; where that is wrong
    by far, the node stands for a half of its own tile along every axis.

    Args:
        values: ``(T, 5, ..., 5)`` of all tiles, as in ``_tiles``.
        rows: ``(T,)``.
        low: ``(T, D)``.
        width: ``(T, D)``, ``first`` over a power of two.
        top: ``(T,)``.
        new: ``(T,)`` booleans.
        corner: ``(D,)`` of the box.
        first: ``(D,)``, the width of the first tiles.
    """
    dim, own = low.shape[1], new.nonzero()[:, 0]
    points, heights = [], []
    for axis in range(dim):
        for end in (0, NODES - 1):
            face = values[own].select(axis + 1, end).reshape(len(own), -1)
            height, index = face.max(1)
            place = [index // NODES ** (dim - 2 - k) % NODES for k in range(dim - 1)]
            # Just outside of the tile, on the other side of the face.
            place.insert(axis, torch.full_like(index, end))
            t = torch.stack(place, 1).double() / (NODES - 1)
            t[:, axis] += 1e-6 if end else -1e-6
            points.append(low[own] + width[own] * t)
            heights.append(height)
    point, true, which = torch.cat(points), torch.cat(heights), own.repeat(2 * dim)
    tile, found = _containing(point, rows[which], rows, low, width, corner, first)
    kept = (found & true.isfinite()).nonzero()[:, 0]
    tile, point, true, which = tile[kept], point[kept], true[kept], which[kept]
    t = (point - low[tile]) / width[tile]
    guess = _tiles.at(_tiles.finite(values[tile]), t).minimum(top[tile])
    stake = true + torch.minimum((width[which] / 2).log().sum(1), width[tile].log().sum(1))
    stake = stake.where(true - guess > MISSES, -torch.inf)
    return torch.full_like(top, -torch.inf).scatter_reduce_(0, tile, stake, "amax")


def _containing(
    point: Tensor, row: Tensor, rows: Tensor, low: Tensor, width: Tensor, corner: Tensor, first: Tensor
) -> tuple[Tensor, Tensor]:
    """The tile of its observation that each point ``(P, D)`` lies in, and whether there is one: ``(P,)`` each."""
    level = torch.log2(first / width)[:, 0].round().long()
    keys, order = _key(rows, level, ((low - corner) / width).round().long()).sort()
    tile = torch.zeros_like(row)
    found = torch.zeros_like(row, dtype=torch.bool)
    for at in level.unique().tolist():
        index = ((point - corner) / first * 2**at).floor().long()
        key = _key(row, torch.full_like(row, at), index)
        place = torch.searchsorted(keys, key).clamp_max(len(keys) - 1)
        same = (keys[place] == key) & (rows[order[place]] == row)
        tile = torch.where(same, order[place], tile)
        found |= same
    t = (point - low[tile]) / width[tile]
    return tile, found & ((t >= 0) & (t <= 1)).all(1)


def _key(row: Tensor, level: Tensor, index: Tensor) -> Tensor:
    key = row * MIX + level
    for part in index.unbind(1):
        key = key * MIX + part + 1
    return key
