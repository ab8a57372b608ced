"""Tiles: a box with a few nodes along each axis, and the polynomial through the log-densities at them.

A quartic along each axis holds a Gaussian exactly, however wide the box. Values are ``(T, 5, ..., 5)``, one axis for
each parameter; positions t are in [0, 1], of the tile's own width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from flowzoo.held import held_on

NODES = 5
# The derivative at the nodes of the polynomial through them, for a tile of width 1; in thirds.
_SLOPES = [[-25, 48, -36, 16, -3], [-3, -10, 18, -6, 1], [1, -8, 0, 8, -1], [-1, 6, -18, 10, 3], [3, -16, 36, -48, 25]]
SLOPES = torch.tensor(_SLOPES, dtype=torch.float64) / 3
DOUBT = 3.0  # nats by which a polynomial missed, over which it is not believed between nodes
DROP = 50.0  # nats below the lowest of a tile, in place of minus infinity, which no polynomial goes through


def basis(t: Tensor) -> Tensor:
    """Lagrange's polynomials of the nodes at positions t: ``(...)`` to ``(..., 5)``."""
    nodes = torch.linspace(0, 1, NODES, dtype=t.dtype, device=t.device)
    parts = []
    for i in range(NODES):
        others = torch.cat([nodes[:i], nodes[i + 1 :]])
        parts.append(((t[..., None] - others) / (nodes[i] - others)).prod(-1))
    return torch.stack(parts, -1)


def along(values: Tensor, matrices: list[Tensor]) -> Tensor:
    """One ``(S, 5)`` matrix for each axis: ``(T, 5, ..., 5)`` to ``(T, S, ..., S)``."""
    for axis, matrix in enumerate(matrices):
        values = torch.tensordot(values, matrix, dims=([axis + 1], [1])).movedim(-1, axis + 1)
    return values


def at(values: Tensor, t: Tensor) -> Tensor:
    """The polynomial of each tile ``(P, 5, ..., 5)`` at a point of its own ``(P, D)``: ``(P,)``."""
    for d in range(t.shape[1]):
        values = torch.einsum("pn...,pn->p...", values, basis(t[:, d]))
    return values


def finite(values: Tensor) -> Tensor:
    """Values that a polynomial can go through."""
    flat = values.flatten(1)
    lost = ~flat.isfinite()
    lowest = flat.masked_fill(lost, torch.inf).amin(1, keepdim=True)
    lowest = lowest.where(lowest.isfinite(), -1e6)
    return torch.where(lost, lowest - DROP, flat).reshape(values.shape)


def halved(values: Tensor, axis: int) -> Tensor:
    """The same polynomials on both halves of their tiles along an axis: ``(T, 5, ..., 5)`` to ``(2 T, 5, ..., 5)``."""
    t = torch.linspace(0, 1, 2 * NODES - 1, dtype=values.dtype, device=values.device)
    found = torch.tensordot(values, basis(t), dims=([axis + 1], [1])).unfold(-1, NODES, NODES - 1)
    return found.movedim(-2, 1).movedim(-1, axis + 2).flatten(0, 1)


def cut(values: Tensor) -> Tensor:
    """``(T, n, ..., n)`` nodes, n - 1 a multiple of 4, as tiles that share their faces, ``(T', 5, ..., 5)``."""
    dim = values.ndim - 1
    for axis in range(1, dim + 1):
        values = values.unfold(axis, NODES, NODES - 1)
    return values.reshape(-1, *[NODES] * dim)


def bends(values: Tensor) -> Tensor:
    """The second difference along each axis, at the highest node or the one beside it inside: ``(T, D)``, absolute."""
    flat, axes = values.flatten(1), values.ndim - 1
    index = flat.argmax(1)
    found = []
    for axis in range(axes):
        stride = NODES ** (axes - 1 - axis)
        place = index // stride % NODES
        middle = index + (place.clamp(1, NODES - 2) - place) * stride
        below, at, above = (flat.gather(1, (middle + step * stride)[:, None])[:, 0] for step in (-1, 0, 1))
        found.append((below - 2 * at + above).abs())
    return torch.stack(found, 1)


def steepness(values: Tensor) -> Tensor:
    """How far the highest node stands over the lowest of its neighbours that is finite: ``(T,)`` nats."""
    flat, axes = finite(values).flatten(1), values.ndim - 1
    zero = ~values.flatten(1).isfinite()
    top, index = flat.max(1)
    lowest = top
    for axis in range(axes):
        stride = NODES ** (axes - 1 - axis)
        place = index // stride % NODES
        for step in (-1, 1):
            there = (index + ((place + step >= 0) & (place + step < NODES)) * step * stride)[:, None]
            beside = flat.gather(1, there).where(~zero.gather(1, there), torch.inf)[:, 0]
            lowest = torch.minimum(lowest, beside)
    return top - lowest


def ceiling(values: Tensor, doubt: Tensor) -> Tensor:
    """What the log-density of a tile may reach between its nodes, ``(T,)``: a polynomial through a jump overshoots.

    A paraboloid with the second differences s_d at the highest node stands over it by D / 8 times their sum at most;
    twice that is allowed, and a nat. Where the polynomial is in doubt (``(T,)``, nats) a nat is allowed, and where the
    density is zero at a node nothing is.
    """
    known = finite(values)
    room = (values.ndim - 1) / 4 * bends(known).sum(1) + 1.0
    room = room.where(doubt < DOUBT, 1.0)
    return known.flatten(1).amax(1) + room.where(values.flatten(1).isfinite().all(1), 0.0)


def cells(values: Tensor, width: Tensor, top: Tensor, count: int) -> tuple[Tensor, list[Tensor]]:
    r"""The tile cut into cells, in each of which the density is an exponential of a linear function.

    Its mass is :math:`e^c \prod_d h_d\, e^{s_d h_d^2/24} \sinh(g_d h_d/2)/(g_d h_d/2)` with c, g and s the polynomial
    and its first and second derivatives at the centre. The next order is the same factor for every cell of a Gaussian,
    so its draws do not see it.

    Args:
        values: ``(T, 5, ..., 5)`` finite.
        width: ``(T, D)``.
        top: ``(T,)``, what the log-density does not exceed.
        count: cells along each axis.

    Returns:
        Log mass ``(T, count**D)``, and for each axis the change of the log-density across a cell, of that shape.
    """
    t = (torch.arange(count, dtype=values.dtype, device=values.device) + 0.5) / count
    plain, once = basis(t), held_on(SLOPES, t.device).to(t.dtype) / count
    parts = {"": values}
    for axis in range(values.ndim - 1):
        # Of each part its value along this axis; of the one that is no derivative yet, its first and second as well.
        parts = {
            name + letter: _turned(part, matrix)
            for name, part in parts.items()
            for letter, matrix in (("p", plain), ("s", plain @ once), ("b", plain @ once @ once))
            if letter == "p" or name == "p" * axis
        }
    flat = {name: part.flatten(1) for name, part in parts.items()}
    axes = values.ndim - 1
    across, bends = ([flat["p" * a + letter + "p" * (axes - 1 - a)] for a in range(axes)] for letter in "sb")
    centre = flat["p" * axes].minimum(top[:, None])
    # log(sinh(h) / h) = h + log((1 - exp(-2 h)) / 2 h): one logarithm for all axes
    rise, share = torch.zeros_like(centre), torch.ones_like(centre)
    for each in across:
        twice = each.abs().clamp_min_(1e-9)
        rise.add_(twice, alpha=0.5)
        share.mul_(torch.expm1(-twice).neg_().div_(twice))
    mass = rise.add_(share.log_()).clamp_min_(0.0).minimum(top[:, None] - centre + 1).add_(centre)
    for bend in bends:
        mass.add_((bend / 24).clamp_(-0.5, 0.5))
    return mass.add_((width / count).log().sum(1, keepdim=True)), across


def _turned(values: Tensor, matrix: Tensor) -> Tensor:
    """The first axis through ``(S, 5)`` and to the end, so that D times bring it back: no copies."""
    found = values.flatten(2) if values.ndim > 2 else values[..., None]
    return (found.transpose(1, 2) @ matrix.T).reshape(len(values), *values.shape[2:], len(matrix))


def within(across: Tensor, r: Tensor) -> Tensor:
    """Where in a cell, in [0, 1], an exponential that changes by ``across`` has the share r below it."""
    a = across.clamp(-700, 700)
    flat = a.abs() < 1e-6
    safe = a.where(~flat, 1.0)
    # For a > 0 the same law is read from the other side: nothing overflows.
    r, s = torch.where(safe > 0, 1 - r, r), -safe.abs()
    t = torch.log1p(r * torch.expm1(s)) / s
    t = torch.where(safe > 0, 1 - t, t)
    return torch.where(flat, torch.where(safe > 0, 1 - r, r), t).clamp(0, 1)
