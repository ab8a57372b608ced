"""Draws from the polynomial densities of tiles."""

from __future__ import annotations

from itertools import accumulate, pairwise

import torch
from torch import Tensor

from flowzoo.inference import _tiles
from flowzoo.inference._masses import ROOM, Tiles, heights, log_sums, smooth, weighed

FINE = {1: 64, 2: 24, 3: 8}  # cells along each axis of a tile
BENT = 0.3  # second difference of the log-density across a cell: 0.55 sigma
HIDDEN = 30.0  # nats below the highest node where a tile is not cut further
FAINT = 1e-8  # share of the mass below which a tile is not drawn from


def draw(tiles: Tiles, observations: int, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Independent draws ``(K, L, D)``, the log-density there and the log of its integral."""
    dim, device = tiles.low.shape[1], tiles.low.device
    fine = FINE[dim]
    # The numbers of all draws at once, so that they do not depend on how the work is cut.
    r = torch.rand(observations, count, dim + 1, generator=generator, device=generator.device, dtype=torch.float64)
    r = r.to(device)
    v = torch.empty(observations, count, dim, dtype=torch.float64, device=device)
    density, integral = torch.empty_like(v[..., 0]), torch.empty_like(v[:, 0, 0])
    tiles = _heavy(tiles, observations)
    height = heights(tiles, observations)
    tiles = _heavy(weighed(smooth(tiles, height, fine, BENT, HIDDEN)[0], height), observations)
    tiles = tiles[tiles.rows.argsort(stable=True)]
    counts = torch.bincount(tiles.rows, minlength=observations)
    each = counts.tolist()
    firsts = [0, *accumulate(each)]
    cuts, load = [0], 0
    for k, tiled in enumerate(each):
        if load and (load + tiled) * fine**dim > ROOM:
            cuts.append(k)
            load = 0
        load += tiled
    for a, b in pairwise([*cuts, observations]):
        some = tiles[firsts[a] : firsts[b]]
        values, rows = some.values, some.rows - a
        mass, across = _tiles.cells(values, some.width, some.top, fine)
        integral[a:b] = log_sums(mass.logsumexp(1), rows, b - a)
        ladder = (mass - integral[a:b][rows][:, None]).exp().flatten().cumsum(0)
        # Observation k of the group has the rungs from k to k + 1, to rounding.
        ends = counts[a:b].cumsum(0) * fine**dim - 1
        starts = torch.cat([ladder.new_zeros(1), ladder[ends][:-1]])
        level = starts[:, None] + r[a:b, :, 0] * (ladder[ends] - starts)[:, None]
        cell = torch.searchsorted(ladder, level.flatten(), right=True).clamp_max(len(ladder) - 1)
        which, inner = cell // fine**dim, cell % fine**dim
        place = torch.stack([inner // fine ** (dim - 1 - d) % fine for d in range(dim)], 1)
        change = torch.stack([each.flatten()[cell] for each in across], 1)
        t = (place + _tiles.within(change, r[a:b, :, 1:].reshape(-1, dim))) / fine
        v[a:b] = (some.low[which] + some.width[which] * t).reshape(b - a, count, dim)
        there = [
            _tiles.at(values[w], p).minimum(some.top[w])
            for w, p in zip(which.split(2**16), t.split(2**16), strict=True)
        ]
        density[a:b] = torch.cat(there).reshape(b - a, count)
    return v, density, integral


def _heavy(tiles: Tiles, observations: int) -> Tiles:
    """Those that have any mass to speak of."""
    return tiles[(tiles.mass - log_sums(tiles.mass, tiles.rows, observations)[tiles.rows]).exp() > FAINT]
