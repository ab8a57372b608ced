"""A linear model with Gaussian noise and a Gaussian prior: its posterior and evidence are known."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from flowzoo.inference import Gaussian, Prior
from flowzoo.seeding import generator

NOISE = 0.3


class Likelihood:
    """N(x; A theta, NOISE^2): what a likelihood flow would be that has learnt it."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix
        self.event_shape, self.context_shape = torch.Size(matrix.shape[:1]), torch.Size(matrix.shape[1:])

    def log_prob(self, x: Tensor, context: Tensor) -> Tensor:
        return torch.distributions.Normal(context.double() @ self.matrix.T, NOISE).log_prob(x.double()).sum(-1)


@dataclass
class Known:
    flow: Likelihood
    prior: Prior
    x: Tensor
    mean: Tensor  # (K, D)
    covariance: Tensor  # (D, D)
    log_evidence: Tensor  # (K,)

    def log_posterior(self, theta: Tensor) -> Tensor:
        return MultivariateNormal(self.mean, self.covariance).log_prob(theta)


@pytest.fixture
def known():
    def make(dim: int, count: int) -> Known:
        source = generator(dim, "known")
        matrix = torch.eye(dim + 1, dim, dtype=torch.float64) + 0.3 * torch.randn(
            dim + 1, dim, generator=source, dtype=torch.float64
        )
        between = 0.7 * torch.eye(dim, dtype=torch.float64) + 0.3
        prior = Gaussian(torch.zeros(dim), between)
        x = prior.sample(count, source).double() @ matrix.T
        x = x + NOISE * torch.randn(x.shape, generator=source, dtype=torch.float64)
        noise = NOISE**2 * torch.eye(dim + 1, dtype=torch.float64)
        covariance = (between.inverse() + matrix.T @ matrix / NOISE**2).inverse()
        evidence = MultivariateNormal(torch.zeros(dim + 1).double(), matrix @ between @ matrix.T + noise).log_prob(x)
        return Known(Likelihood(matrix), prior, x, x @ matrix @ covariance / NOISE**2, covariance, evidence)

    return make
