"""A linear Gaussian simulator, and posteriors of it: exact ones, and ones with known faults."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flowzoo.metrics import Posteriors, regressed
from flowzoo.seeding import generator

D, F = 3, 4
# theta ~ N(0, 1), x = A theta + noise: the posterior is N(G x, S), its parameters correlated.
A = torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, 0.5], [0.5, 0.0, 1.0], [0.3, 0.3, 0.3]], dtype=torch.float64)
NOISE = 0.5
S = torch.linalg.inv(torch.eye(D, dtype=torch.float64) + A.T @ A / NOISE**2)
G = S @ A.T / NOISE**2
ROOT = torch.linalg.cholesky(S)


def to_unit(theta: Tensor) -> Tensor:
    """Theta into the unit box, each parameter through the distribution function of its prior."""
    return torch.special.ndtr(theta)


def simulate(count: int, source: torch.Generator) -> tuple[Tensor, Tensor]:
    """Parameters ``(count, D)`` of the prior and an observation ``(count, F)`` of each, in float64."""
    theta = torch.randn(count, D, generator=source, dtype=torch.float64)
    return theta, theta @ A.T + NOISE * torch.randn(count, F, generator=source, dtype=torch.float64)


def log_likelihood(theta: Tensor, x: Tensor) -> Tensor:
    """Of the simulator, up to a constant: ``(..., D)`` and ``(..., F)`` to ``(...)``."""
    return -(x - theta @ A.T).square().sum(-1) / 2 / NOISE**2


def posteriors(
    count: int = 500,
    draws: int = 100,
    *,
    scale: float = 1.0,
    shift: float = 0.0,
    returns_prior: bool = False,
    implied: bool = False,
    trees: bool = False,
    seed: int = 0,
) -> Posteriors:
    """Draws of normal posteriors of ``count`` observations.

    Args:
        count: N observations.
        draws: L of each.
        scale: spreads are those of the exact posterior times this.
        shift: means are off by so many standard deviations of each parameter.
        returns_prior: draws are of the prior instead.
        implied: the log-likelihood is the one that q implies, and not the simulator's.
        trees: predicted from a thousand other pairs, as the harness does it, and not the exact posterior mean.
        seed: of pairs and draws.
    """
    source = generator(seed, "linear Gaussian")
    truth, x = simulate(count, source)
    known_theta, known_x = simulate(1000, source)
    noise = torch.randn(draws, count, D, generator=source, dtype=torch.float64)
    if returns_prior:
        centre, root = torch.zeros_like(truth), torch.eye(D, dtype=torch.float64)
    else:
        centre, root = x @ G.T + shift * S.diagonal().sqrt(), scale * ROOT
    theta = centre + noise @ root.T

    def log_q(t: Tensor) -> Tensor:
        white = torch.linalg.solve_triangular(root, (t - centre).mT, upper=False)
        return -white.square().sum(-2) / 2 - root.diagonal().log().sum() - D / 2 * math.log(2 * math.pi)

    def likelihood(t: Tensor) -> Tensor:
        return log_q(t) + t.square().sum(-1) / 2 if implied else log_likelihood(t, x)

    return Posteriors(
        draws=theta,
        truth=truth,
        log_prob=log_q(theta),
        truth_log_prob=log_q(truth),
        normalised=True,
        log_likelihood=likelihood(theta),
        truth_log_likelihood=likelihood(truth),
        observation=x,
        predicted=regressed(known_x, to_unit(known_theta), x, generator(seed, "trees")) if trees else to_unit(x @ G.T),
        prior_draws=torch.randn(5000, D, generator=source, dtype=torch.float64),
        to_unit=to_unit,
        names=("a", "b", "c"),
    )
