"""zuko's bounded Bernstein polynomials, with value, slope and inverse in closed form of their coefficients."""

from __future__ import annotations

import torch
from torch import Tensor

from flowzoo.layers.bernstein import basis, binomials, value_and_slope
from flowzoo.layers.monotone import solve_between
from flowzoo.models._zuko_exact import Constants, WithSlope

NODES = 32  # where an inverse knows the polynomial beforehand


class Bernstein(Constants):
    r"""Makes of the numbers that the network gives an increasing polynomial on [-B, B], and the identity outside.

    The coefficients are zuko's (``BoundedBernsteinTransform``): P numbers share out by a softmax what the four
    differences at the ends leave, which are such that the slope there is 1. What differs:

    - zuko evaluates densities of Beta distributions, and takes the slope by autograd, which vmap cannot.
    - Outside zuko goes on from a millionth of the interval inside, so that it jumps there by a millionth of the
      interval; this is continuous.

    Args:
        free: P.
        bound: B.
    """

    choose: Tensor
    spread: Tensor
    fixed: Tensor
    sums: Tensor
    start: Tensor
    nodes: Tensor
    table: Tensor
    table_start: Tensor

    def __init__(self, free: int, bound: float = 5.0) -> None:
        self.bound = bound
        n = free + 4
        # Of a softmax p the differences are ``fixed + spread p``, and the coefficients are sums of them.
        width = 2 * bound / n
        spread = torch.zeros(n, free, dtype=torch.float64)
        spread[2:-2] = (2 * bound - 4 * width) * torch.eye(free, dtype=torch.float64)
        fixed = torch.zeros(n, 1, dtype=torch.float64)
        fixed[:2] = fixed[-2:] = width
        sums = torch.ones(n + 1, n, dtype=torch.float64).tril(-1)
        t = torch.linspace(0, 1, NODES + 1, dtype=torch.float64)
        at = basis(t, t.flip(0), binomials(n)).t() @ sums
        slopes = n / (2 * bound) * basis(t, t.flip(0), binomials(n - 1)).t()
        super().__init__(
            {
                "choose": binomials(n - 1),
                "spread": spread,
                "fixed": fixed,
                "sums": sums[:-1] @ spread,
                "start": sums[:-1] @ fixed - bound,
                "nodes": (2 * t - 1) * bound,
                "table": torch.cat([at, slopes]) @ spread,
                "table_start": torch.cat([at @ fixed - bound, slopes @ fixed]),
            }
        )

    def forward(self, theta: Tensor) -> BernsteinTransform:
        """The transform of ``(..., P)`` numbers."""
        return BernsteinTransform(theta, self)


class BernsteinTransform(WithSlope):
    """One polynomial for each of ``(...)`` numbers."""

    def __init__(self, theta: Tensor, family: Bernstein) -> None:
        super().__init__(None, bound=family.bound)
        self.family = family
        share = theta.movedim(-1, 0).contiguous().softmax(0)
        self.shape, self.share = share.shape[1:], share.flatten(1)
        self.steps = torch.addmm(family.fixed, family.spread, self.share).unflatten(1, self.shape)
        self.theta = torch.addmm(family.start, family.sums, self.share).unflatten(1, self.shape)

    def f_and_g(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The polynomial and its slope."""
        family, width = self.family, 2 * self.bound
        inside = x.clamp(-self.bound, self.bound)
        t = (inside + self.bound) / width
        value, slope = value_and_slope(
            self.theta, self.steps, basis(t, (self.bound - inside) / width, family.choose), t
        )
        return value + (x - inside), slope / width

    def solve(self, y: Tensor) -> Tensor:
        """Where it is y, without derivatives."""
        family = self.family
        table = torch.addmm(family.table_start, family.table, self.share).view(2, NODES + 1, *self.shape)
        inside = y.clamp(-self.bound, self.bound)
        return solve_between(self.f_and_g, inside, family.nodes, table) + (y - inside)
