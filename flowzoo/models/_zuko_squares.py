"""zuko's integrals of sums of squares of polynomials: expanded once, with value, slope and inverse by coefficients."""

from __future__ import annotations

import torch
from torch import Tensor

from flowzoo.layers.bernstein import powers
from flowzoo.layers.monotone import solve_between
from flowzoo.layers.polynomial import antiderivative, horner, mean_square, pairs
from flowzoo.models._zuko_exact import Constants, WithSlope

NODES = 32  # between so many parts an inverse knows the polynomial beforehand


class SumsOfSquares(Constants):
    r"""Makes of the numbers that the network gives an increasing polynomial on [-B, B], and its tangents outside.

    .. math:: f(x) = s + \int_0^x \frac1K \sum_k \Bigl(1 + \sum_j a_{kj}\, (u / B)^j\Bigr)^2 + \epsilon\; du

    zuko integrates by quadrature at every evaluation, and goes on with the polynomial outside: a power of nine there,
    squared in the density, makes of one outlier in a batch a loss of 1e27, from which nothing is learnt any more. zuko
    has a Softclip there between transforms, and nothing before the first.

    Args:
        polynomials: K.
        count: coefficients of each.
        slope: the least one.
        bound: B.
    """

    collect: Tensor
    one: Tensor
    least: Tensor
    nodes: Tensor
    table: Tensor

    def __init__(self, polynomials: int, count: int, slope: float, bound: float = 10.0) -> None:
        self.bound = bound
        degrees = 2 * count - 1
        # Half of the nodes are in the middle fifth of the interval, as most of the events are.
        u = torch.linspace(-1, 1, NODES + 1, dtype=torch.float64)
        t = 0.25 * u + 0.75 * u**3
        slopes = powers(t, degrees - 1).t()
        first = torch.eye(count, dtype=torch.float64)[0]
        super().__init__(
            {
                "collect": pairs(polynomials, count),
                "one": first.repeat(polynomials, 1)[..., None],
                "least": slope * torch.eye(degrees, dtype=torch.float64)[:, :1],
                "nodes": bound * t,
                "table": torch.cat([bound * antiderivative((slopes * t[:, None]).t()).t(), slopes]),
            }
        )

    def forward(self, a: Tensor, shift: Tensor) -> SquaresTransform:
        """The transform of ``(..., K, count)`` numbers and ``(...)`` shifts."""
        return SquaresTransform(a, shift, self)


class SquaresTransform(WithSlope):
    """One polynomial for each of ``(...)`` numbers."""

    def __init__(self, a: Tensor, shift: Tensor, family: SumsOfSquares) -> None:
        super().__init__(None, bound=family.bound)
        self.family, self.shift = family, shift
        polynomials = a.movedim((-2, -1), (0, 1)).flatten(2) + family.one
        density = mean_square(polynomials, family.collect) + family.least
        self.flat, self.density = density, density.unflatten(1, shift.shape)
        self.integral = antiderivative(self.density)

    def f_and_g(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The polynomial and its slope."""
        inside = x.clamp(-self.bound, self.bound)
        t = inside / self.bound
        slope = horner(self.density, t)
        return torch.addcmul(self.shift + inside * horner(self.integral, t), x - inside, slope), slope

    def solve(self, y: Tensor) -> Tensor:
        """Where it is y, without derivatives."""
        table = (self.family.table @ self.flat).view(2, NODES + 1, *self.shift.shape)
        table[0] += self.shift
        inside = torch.minimum(torch.maximum(y, table[0, 0]), table[0, -1])
        beyond = y - inside
        x = solve_between(self.f_and_g, inside, self.family.nodes, table)
        return x + beyond / torch.where(beyond < 0, table[1, 0], table[1, -1])
