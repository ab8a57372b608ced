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
    half = torch.cartesian_prod(*[torch.arange(2, device=tiles.low.device)] * dim).reshape(-1, dim)
    done: list[tuple[Tiles, Tensor]] = []
    for _ in range(ROUNDS):
        height = height.scatter_reduce(0, tiles.rows, tiles.values.flatten(1).amax(1), "amax")
        bend = _tiles.bends(tiles.values).amax(1) * ((NODES - 1) / cells) ** 2
        split = (bend > bent) & (tiles.top > height[tiles.rows] - hidden)
        whole, cut = (part.nonzero()[:, 0] for part in (~split, split))
        done.append((tiles[whole], origin[whole]))
        tiles, origin = tiles[cut], origin[cut].repeat_interleave(2**dim)
        if not len(tiles.rows):
            break
        width = (tiles.width / 2).repeat_interleave(2**dim, 0)
        place = tiles.low.repeat_interleave(2**dim, 0) + half.repeat(len(tiles.rows), 1) * width
        rows, doubt, unseen, top, mass, missed = (
            getattr(tiles, name).repeat_interleave(2**dim, 0)
            for name in ("rows", "doubt", "unseen", "top", "mass", "missed")
        )
        values = _tiles.halved(tiles.values)
        top = torch.minimum(top, _tiles.ceiling(values, doubt))
        tiles = Tiles(values, rows, place, width, doubt, unseen, top, mass, missed)
    done.append((tiles, origin))
    parts, origins = zip(*done, strict=True)
    return joined(*parts), torch.cat(origins)


def log_sums(logs: Tensor, rows: Tensor, count: int) -> Tensor:
    """``logsumexp`` over the tiles of each observation: ``(T,)`` to ``(count,)``."""
    top = torch.full((count,), -torch.inf, dtype=logs.dtype, device=logs.device)
    top = top.scatter_reduce_(0, rows, logs, "amax")
    return torch.zeros_like(top).index_add_(0, rows, (logs - top[rows]).exp()).log() + top


def joined(*parts: Tiles) -> Tiles:
    return Tiles(*(torch.cat(each) for each in zip(*(vars(part).values() for part in parts), strict=True)))
