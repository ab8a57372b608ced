"""An adaptive grid for up to three parameters: tiles are halved where the posterior is not yet known well enough."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from flowzoo.inference import _tiles
from flowzoo.inference._faces import missed_behind
from flowzoo.inference._masses import ROUNDS, Tiles, heights, joined, log_sums, weighed
from flowzoo.inference._scoring import NoPosterior, Target
from flowzoo.inference._scouts import Scouts, scouts
from flowzoo.inference._tile_draws import draw
from flowzoo.inference._tiles import NODES
from flowzoo.progress import Update

FIRST = {1: 8, 2: 3, 3: 2}  # tiles along each axis at the start: 33, 13 x 13, 9 x 9 x 9 nodes
TOLERANCE = 0.01  # of the total variation
MOST = {1: 2000, 2: 20_000, 3: 100_000}  # evaluations for one observation
RESOLVED = 2.0  # nats between neighbouring nodes below which a first tile need not be halved unseen
SCOUTS = {1: 64, 2: 128, 3: 512}  # evaluations beside the first grid
GROUP = 2**22  # evaluations, at most, of the observations that are refined together


def check_grid(dim: int) -> None:
    """Refuse a grid of more parameters than it can be refined in.

    Raises:
        ValueError: for more than three.
    """
    if dim not in FIRST:
        raise ValueError(f"a grid is for at most 3 parameters; got {dim}. Take the method mcmc or importance.")


@dataclass
class Gridded:
    """Draws ``v (L, K, D)``, the log of the target there ``(L, K)``, of its integral ``(K,)``; evaluations, error."""

    v: Tensor
    log_density: Tensor
    log_integral: Tensor
    evaluations: Tensor
    error: Tensor


def grid(
    target: Target,
    low: Tensor,
    high: Tensor,
    observations: int,
    count: int,
    generator: torch.Generator,
    *,
    tolerance: float = TOLERANCE,
    evaluations: int | None = None,
    normal: Tensor | None = None,
    tell: Update | None = None,
) -> Gridded:
    r"""Integrate and draw from K densities over one box.

    The log-density is evaluated on a coarse grid of tiles and interpolated in each by a quartic along every axis. A
    tile is halved along every axis, its nodes kept, while the sum of the tiles' errors exceeds ``tolerance``. A tile's
    error is its share of the mass times the nats by which the polynomial of its parent missed its new nodes near their
    highest, over 8 (halving a quartic divides the error by 32); the share of a tile that is itself in doubt is taken
    larger, so that a second mode between nodes is looked for. Besides, the log-density is evaluated at scouts that
    cover the prior: a tile that misses a scout's by far is halved as if it held what that scout stands for, and so is
    a tile that misses what a smaller neighbour shows on the face that they share. Draws choose a fine cell by its mass,
    and a place in it by the exponential of a linear function: they are independent, and do not lie on a lattice.

    Args:
        target: ``(R, M, D)`` points and ``(R,)`` observations to ``(R, M)``; minus infinity is allowed.
        low: ``(D,)``, D at most 3.
        high: ``(D,)``.
        observations: K.
        count: draws L.
        generator: of the draws.
        tolerance: of the total variation between the density and what is drawn from.
        evaluations: at most so many for an observation; by default 2000, 20000 or 100000 for 1, 2, 3 parameters.
        normal: ``(D,)`` booleans, coordinates in which the prior is the standard normal; in the others it is uniform.
        tell: called with the number of observations that are done.

    Raises:
        ValueError: for more than three parameters, or (``NoPosterior``) if densities are zero at every node of the
            first grid.
    """
    dim = len(low)
    check_grid(dim)
    most = MOST[dim] if evaluations is None else evaluations
    spare = most - (FIRST[dim] * (NODES - 1) + 1) ** dim
    spots = scouts(max(1, min(SCOUTS[dim], spare)), low, high, normal)
    parts = []
    # Each group draws its own numbers, one after another, so that a generator gives the same however they are cut.
    for rows in torch.arange(observations, device=low.device).split(max(1, GROUP // most)):
        try:
            tiles, spent, error = _refined(_of_group(target, rows), low, high, len(rows), most, tolerance, spots)
        except NoPosterior as lost:
            of_all = torch.zeros(observations, dtype=torch.bool, device=low.device)
            of_all[rows] = lost.lost
            raise NoPosterior(lost.why, of_all, lost.cure) from None
        parts.append((*draw(tiles, len(rows), count, generator), spent, error))
        if tell is not None:
            tell(int(rows[-1]) + 1, "")
    v, log_density, *rest = zip(*parts, strict=True)
    return Gridded(torch.cat(v).transpose(0, 1), torch.cat(log_density).T, *(torch.cat(part) for part in rest))


def _of_group(target: Target, group: Tensor) -> Target:
    """The densities of some of the observations, by their place among them."""
    return lambda v, rows: target(v, group if rows is None else group[rows])


def _refined(
    target: Target,
    low: Tensor,
    high: Tensor,
    observations: int,
    most: int,
    tolerance: float,
    spots: tuple[Tensor, Tensor],
) -> tuple[Tiles, Tensor, Tensor]:
    """Tiles good enough, or as good as they may be; evaluations and error of each observation."""
    dim = len(low)
    sent = Scouts(*spots, target(spots[0].expand(observations, -1, -1), None))
    tiles, nodes = _first(target, low, high, observations, sent)
    spent = torch.full((observations,), nodes + len(spots[0]), device=low.device)
    for _ in range(ROUNDS):
        halve, error = _judge(tiles, observations, tolerance)
        cost = (2 * NODES - 1) ** dim - NODES**dim
        wanted = torch.zeros_like(spent).index_add_(0, tiles.rows, halve.long()) * cost
        halve &= (spent + wanted <= most)[tiles.rows]
        if not bool(halve.any()):
            break
        spent = spent + torch.zeros_like(spent).index_add_(0, tiles.rows, halve.long()) * cost
        height = heights(tiles, observations)
        tiles = joined(tiles[~halve], _halved(target, tiles[halve], height, sent))
        # Of a tile that is not halved, what stays hidden behind the faces of its new neighbours.
        new = torch.arange(len(tiles.rows), device=low.device) >= int((~halve).sum())
        parts = tiles.values, tiles.rows, tiles.low, tiles.width, tiles.top
        behind = missed_behind(*parts, new, low, (high - low) / FIRST[dim])
        tiles.missed = torch.maximum(tiles.missed, behind)
    else:
        error = _judge(tiles, observations, tolerance)[1]
    return tiles, spent, error


def _first(target: Target, low: Tensor, high: Tensor, observations: int, sent: Scouts) -> tuple[Tiles, int]:
    """The coarse grid, cut into tiles; and how many nodes it has."""
    dim, many = len(low), FIRST[len(low)]
    nodes = many * (NODES - 1) + 1
    axes = [torch.linspace(float(a), float(b), nodes, dtype=torch.float64) for a, b in zip(low, high, strict=True)]
    points = torch.cartesian_prod(*axes).reshape(-1, dim).to(low.device)
    found = target(points.expand(observations, -1, -1), None)
    nothing = ~(found.isfinite().any(1) | sent.heights.isfinite().any(1))
    if bool(nothing.any()):
        why = "the posterior is zero at every node of the first grid"
        raise NoPosterior(why, nothing, "take the method mcmc, or a narrower prior")
    values = _tiles.cut(found.reshape(observations, *[nodes] * dim))
    width = ((high - low) / many).expand(len(values), dim)
    corner = torch.cartesian_prod(*[torch.arange(many, device=low.device)] * dim).reshape(-1, dim)
    place = low + corner.repeat(observations, 1) * width
    rows = torch.arange(observations, device=low.device).repeat_interleave(many**dim)
    # What the parabola through every second node says of the others.
    even = torch.tensor([[1, 0, 0], [3 / 8, 3 / 4, -1 / 8], [0, 1, 0], [-1 / 8, 3 / 4, 3 / 8], [0, 0, 1]]).to(values)
    known = _tiles.finite(values)
    coarse = known[(slice(None), *[slice(None, None, 2)] * dim)]
    doubt = _doubt(_tiles.along(coarse, [even] * dim), values)
    top = _tiles.ceiling(values, doubt)
    unseen = top - known.flatten(1).amax(1) > RESOLVED
    tiles = Tiles(values, rows, place, width, doubt, unseen, top, top, sent.missed_by(values, rows, place, width, top))
    return weighed(tiles, heights(tiles, observations)), len(points)


def _halved(target: Target, tiles: Tiles, height: Tensor, sent: Scouts) -> Tiles:
    """The children of tiles, 2^D of each; ``height`` ``(K,)``: the highest nodes so far."""
    dim, wide = tiles.low.shape[1], 2 * NODES - 1
    t = torch.linspace(0, 1, wide, dtype=torch.float64, device=tiles.low.device)
    predicted = _tiles.along(_tiles.finite(tiles.values), [_tiles.basis(t)] * dim)
    old = _both_even(wide, dim, tiles.low.device)
    new = torch.cartesian_prod(*[t] * dim).reshape(-1, dim)[~old.flatten()]
    values = torch.empty_like(predicted)
    values[:, old] = tiles.values.flatten(1)
    values[:, ~old] = target(tiles.low[:, None] + tiles.width[:, None] * new, tiles.rows)
    children, expected = _tiles.cut(values), _tiles.cut(predicted)
    half = torch.cartesian_prod(*[torch.arange(2, device=tiles.low.device)] * dim).reshape(-1, dim)
    width = (tiles.width / 2).repeat_interleave(2**dim, 0)
    place = tiles.low.repeat_interleave(2**dim, 0) + half.repeat(len(values), 1) * width
    rows = tiles.rows.repeat_interleave(2**dim)
    doubt, seen = _doubt(expected, children), torch.zeros_like(rows, dtype=torch.bool)
    top = _tiles.ceiling(children, doubt)
    missed = sent.missed_by(children, rows, place, width, top)
    return weighed(Tiles(children, rows, place, width, doubt, seen, top, top, missed), height)


def _both_even(nodes: int, dim: int, device: torch.device) -> Tensor:
    """``(n, ..., n)``: whether a node has an even index along every axis."""
    even = torch.arange(nodes, device=device) % 2 == 0
    return torch.cartesian_prod(*[even] * dim).reshape(-1, dim).all(1).reshape([nodes] * dim)


def _doubt(predicted: Tensor, true: Tensor) -> Tensor:
    """The largest miss at the highest new nodes, of each axis the 2^(D-1) + 1 between two old ones: ``(T,)`` nats.

    Of each axis: on a face, where a density is highest that falls steeply beside it, there may be many, and all right.
    """
    true = _tiles.finite(true)
    miss = (predicted - true).abs()
    found = []
    for axis in range(1, true.ndim):
        between = (slice(None),) * axis + (slice(1, None, 2),)
        best = true[between].flatten(1).topk(2 ** (true.ndim - 2) + 1, dim=1).indices
        found.append(miss[between].flatten(1).gather(1, best).amax(1))
    return torch.stack(found).amax(0)


def _judge(tiles: Tiles, observations: int, tolerance: float) -> tuple[Tensor, Tensor]:
    """Which tiles to halve, and the error of each observation."""
    mass = tiles.mass
    total = log_sums(torch.maximum(mass, tiles.missed), tiles.rows, observations)
    share = (mass - total[tiles.rows]).exp()
    feared = (mass + (tiles.doubt / 4).clamp_max(50.0) - total[tiles.rows]).clamp_max(0.0).exp()
    errors = feared * (tiles.doubt / 8).clamp_max(1.0)
    # Where the density jumps to zero no polynomial is right: half of what the tile could hold is error, and on a slope
    # it could hold more than its nodes show.
    jumps = ~tiles.values.flatten(1).isfinite().all(1)
    most = tiles.top + _tiles.steepness(tiles.values) / 2 + tiles.width.log().sum(1)
    most = (most - total[tiles.rows]).clamp_max(0.0).exp()
    errors = torch.where(jumps, most / 2, errors)
    unseen = tiles.unseen & (share > tolerance / 10)
    errors = torch.where(unseen, share.clamp_min(2 * tolerance), errors)
    errors = torch.maximum(errors, (tiles.missed - total[tiles.rows]).exp())
    error = torch.zeros_like(total).index_add_(0, tiles.rows, errors)
    worst = torch.zeros_like(total).scatter_reduce_(0, tiles.rows, errors, "amax")
    # The worst, and those not far from it: a tile at a time would be many rounds, all of them many evaluations.
    return (error > tolerance)[tiles.rows] & (errors >= (0.2 * worst)[tiles.rows]) & (errors > 0), error
