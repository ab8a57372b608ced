"""Masses of tiles: how much of the density each holds, by its polynomial."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from flowzoo.inference import _tiles
from flowzoo.inference._tiles import NODES

COARSE = {1: 16, 2: 8, 3: 4}  # cells along each axis of a tile, to weigh it
BENT = 3.0  # second difference of the log-density across a cell: 1.7 sigma
HIDDEN = 15.0  # nats below the highest node where a tile has no mass to speak of
ROUNDS = 20  # a side is then a millionth of the box
ROOM = 2**17  # cells at once: a megabyte an array, which stays in the cache


@dataclass
class Tiles:
    """Tiles of K observations together, ``T`` of them, in any order."""

    values: Tensor  # (T, 5, ..., 5), -inf allowed
    rows: Tensor  # (T,), the observation
    low: Tensor  # (T, D)
    width: Tensor  # (T, D)
    doubt: Tensor  # (T,), nats by which the polynomial of the coarser nodes was wrong
    unseen: Tensor  # (T,), whether too coarse to be believed
    top: Tensor  # (T,), what its polynomial may reach
    mass: Tensor  # (T,), the log of the integral of its polynomial density
    missed: Tensor  # (T,), the log of the mass that scouts in it stand for whose density it does not have

    def __getitem__(self, which: Tensor | slice) -> Tiles:
        # Of a mask each part would ask a GPU for the number of tiles.
        mask = isinstance(which, Tensor) and which.dtype == torch.bool
        rows = which.nonzero()[:, 0] if mask else which  # type: ignore[union-attr]
        return Tiles(*(part[rows] for part in vars(self).values()))


def heights(tiles: Tiles, observations: int) -> Tensor:
    """The highest node of each observation: ``(K,)``."""
    height = torch.full((observations,), -torch.inf, dtype=torch.float64, device=tiles.low.device)
    return height.scatter_reduce_(0, tiles.rows, tiles.values.flatten(1).amax(1), "amax")


def weighed(tiles: Tiles, height: Tensor) -> Tiles:
    """The same tiles with their masses, which are looked at closely where they are near the highest nodes ``(K,)``."""
    many = COARSE[tiles.low.shape[1]]
    parts, origin = smooth(tiles, height, many, BENT, HIDDEN)
    size = max(1, ROOM // many ** tiles.low.shape[1])
    pieces = zip(*(part.split(size) for part in (parts.values, parts.width, parts.top)), strict=True)
    mass = torch.cat([_tiles.cells(values, width, top, many)[0].logsumexp(1) for values, width, top in pieces])
    return Tiles(**{**vars(tiles), "mass": log_sums(mass, origin, len(tiles.rows))})


def smooth(tiles: Tiles, height: Tensor, cells: int, bent: float, hidden: float) -> tuple[Tiles, Tensor]:
    """The same polynomials on tiles so small that a cell of the mass hardly bends; and the tile that each was part of.

    Nothing is evaluated: a polynomial that is good on a wide tile still has its mass in a small part of it.
    """
    dim, origin = tiles.low.shape[1], torch.arange(len(tiles.rows), device=tiles.low.device)
    tiles = Tiles(**{**vars(tiles), "values": _tiles.finite(tiles.values)})
    done: list[tuple[Tiles, Tensor]] = []
    for step in range(ROUNDS * dim):
        # An axis at a time: of a thin sheet, parts that are small along every axis would fill the memory.
        axis = step % dim
        height = height.scatter_reduce(0, tiles.rows, tiles.values.flatten(1).amax(1), "amax")
        over = _tiles.bends(tiles.values) * ((NODES - 1) / cells) ** 2 > bent
        over &= (tiles.top > height[tiles.rows] - hidden)[:, None]
        kind = over.any(1).long() + over[:, axis]  # 0: small enough, 1: not along another axis, 2: not along this one
        whole, later, cut = kind.argsort(stable=True).split(torch.bincount(kind, minlength=3).tolist())
        done.append((tiles[whole], origin[whole]))
        halves = _halves(tiles[cut], axis)
        tiles, origin = joined(tiles[later], halves), torch.cat([origin[later], origin[cut].repeat_interleave(2)])
        if not len(tiles.rows):
            break
    done.append((tiles, origin))
    parts, origins = zip(*done, strict=True)
    return joined(*parts), torch.cat(origins)


def _halves(tiles: Tiles, axis: int) -> Tiles:
    """Two of each along an axis, with the polynomial of the whole."""
    twice = Tiles(
        **{name: part.repeat_interleave(2, 0) for name, part in vars(tiles).items() if name != "values"},
        values=_tiles.halved(tiles.values, axis),
    )
    twice.width[:, axis] /= 2
    twice.low[1::2, axis] += twice.width[1::2, axis]
    twice.top = torch.minimum(twice.top, _tiles.ceiling(twice.values, twice.doubt))
    return twice


def log_sums(logs: Tensor, rows: Tensor, count: int) -> Tensor:
    """``logsumexp`` over the tiles of each observation: ``(T,)`` to ``(count,)``."""
    top = torch.full((count,), -torch.inf, dtype=logs.dtype, device=logs.device)
    top = top.scatter_reduce_(0, rows, logs, "amax")
    return torch.zeros_like(top).index_add_(0, rows, (logs - top[rows]).exp()).log() + top


def joined(*parts: Tiles) -> Tiles:
    return Tiles(*(torch.cat(each) for each in zip(*(vars(part).values() for part in parts), strict=True)))
