"""The highest point: found in many parameters, in one of several modes, along a curve, from few distinct draws."""

import math

import pytest
import torch
from torch.distributions import Normal

from flowzoo.inference._best import climb
from flowzoo.seeding import generator


def off(density, draw, truth, sd, count=2000, many=5):
    """By how many standard deviations what is found is off at worst, of as many clouds of draws."""
    theta = torch.stack([draw(count, generator(k, "draws")) for k in range(many)], 1)
    line = torch.full((theta.shape[2],), math.inf)
    found = climb(density, theta, density(theta.transpose(0, 1)).T, -line, line, generator(0, "climb"))
    return float(((found - truth) / sd).abs().max())


def normal(count, dim, source):
    return torch.randn(count, dim, generator=source, dtype=torch.float64)


@pytest.mark.parametrize("dim", [1, 5, 10, 20])
def test_mode_of_a_normal_of_many_parameters(dim):
    mix = torch.eye(dim, dtype=torch.float64) + 0.5 * normal(dim, dim, generator(dim, "mix"))
    exact = torch.distributions.MultivariateNormal(torch.ones(dim).double(), mix @ mix.T)
    sd = exact.variance.sqrt()
    assert off(exact.log_prob, lambda n, source: 1 + normal(n, dim, source) @ mix.T, 1.0, sd) < 0.02


@pytest.mark.parametrize("dim", [2, 5, 10])
def test_mode_that_is_much_narrower_than_the_distance_to_the_next(dim):
    def density(theta):
        left, right = Normal(-0.5, 0.01).log_prob(theta).sum(-1), Normal(0.4, 0.01).log_prob(theta).sum(-1)
        return torch.logaddexp(left + math.log(0.3), right + math.log(0.7))

    def draw(count, source):
        middle = torch.where(torch.rand(count, 1, generator=source) < 0.3, -0.5, 0.4)
        return middle + 0.01 * normal(count, dim, source)

    assert off(density, draw, 0.4, 0.01) < 0.05


def test_draws_that_repeat_one_another_are_left_behind():
    # As importance sampling makes them of few proposals that count: half of all are the best.
    def draw(count, source):
        few = normal(20, 2, source)
        which = torch.randint(20, (count,), generator=source)
        which[::2] = few.square().sum(1).argmin()
        return few[which]

    assert off(lambda theta: -0.5 * theta.square().sum(-1), draw, 0.0, 1.0) < 0.02
