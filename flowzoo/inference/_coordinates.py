r"""Coordinates in which a prior is easy: a box for grids, the whole line for walkers.

Each parameter goes through the distribution function of its marginal, :math:`u_d = F_d(\theta_d)`, or further to the
normal of the same probability, :math:`v_d = \Phi^{-1}(u_d)`. In u an independent prior is one, in v it is the standard
normal; what the prior says of parameters together is ``Prior.log_copula``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flowzoo.held import held_on
from flowzoo.inference.priors import Prior

TAIL = 7.0  # standard deviations of the prior; 1 - Phi(7) = 1.3e-12 has four digits left in float64
FAR = 6.0  # beyond which 1e-9 of a prior lies
WALKS = 8.0  # where the walkers' line ends: 1 - Phi(8) = 6.7e-16 is the last that is not 1


class Coordinates:
    """Parameters as coordinates v, ``(..., D)`` each, and the density of the prior in them.

    Args:
        prior: with a density.
        line: take every parameter to the whole line; by default those alone that have an infinite support.
    """

    def __init__(self, prior: Prior, *, line: bool = False) -> None:
        self.prior = prior
        infinite = ~(prior.low.isfinite() & prior.high.isfinite())
        self.normal = torch.ones_like(infinite) if line else infinite
        edge = WALKS if line else TAIL
        self.low = torch.where(self.normal, -edge, 0.0).double()
        self.high = torch.where(self.normal, edge, 1.0).double()

    def theta(self, v: Tensor) -> Tensor:
        """The parameters; beyond the bounds, those at the bounds."""
        low, high = self._ends(v)
        v = torch.minimum(torch.maximum(v, low), high)
        return self.prior.from_unit(torch.where(held_on(self.normal, v.device), torch.special.ndtr(v), v))

    def conflicts(self, v: Tensor) -> Tensor:
        """Of draws ``(L, K, D)``, whether over 1 % lie where an unbounded prior has next to no mass: ``(K,)``."""
        # An end that is finite is no tail: a posterior may well stand there.
        up, down = (~end.isfinite().to(v.device) for end in (self.prior.high, self.prior.low))
        far = ((v > FAR) & up) | ((v < -FAR) & down)
        return far.any(-1).double().mean(0) > 0.01

    def log_prior(self, v: Tensor, theta: Tensor) -> Tensor:
        """The log-density of the prior in v, ``(...)``; minus infinity outside the bounds."""
        each = torch.where(held_on(self.normal, v.device), -0.5 * v.square() - 0.5 * math.log(2 * math.pi), 0.0).sum(-1)
        # A node on a bound may be rounded to beyond it.
        low, high = self._ends(v)
        inside = ((v >= low - 1e-9) & (v <= high + 1e-9)).all(-1)
        return torch.where(inside, each + self.prior.log_copula(theta), -torch.inf)

    def _ends(self, v: Tensor) -> tuple[Tensor, Tensor]:
        return held_on(self.low, v.device).to(v.dtype), held_on(self.high, v.device).to(v.dtype)
