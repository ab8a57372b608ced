"""Which observations calibration is measured on, and what the draws of their posteriors hold."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from flowzoo import data as datasets
from flowzoo.data import Data, References, Splits
from flowzoo.flow import ConditionalFlow
from flowzoo.harness import BenchConfig
from flowzoo.harness.evaluate import evaluate_flow
from flowzoo.harness.plan import Source
from flowzoo.harness.posteriors import draw_posteriors, draw_references, observed
from flowzoo.inference import Box, Gaussian
from flowzoo.seeding import generator

BENCH = BenchConfig(posteriors=60, posterior_draws=400)


class Exact(ConditionalFlow):
    """N(theta; 1 in each of two columns), as a flow without parameters."""

    def _to_latent(self, u, c):
        return u - c, u.new_zeros(len(u))

    def _to_data(self, z, c):
        return z + c, z.new_zeros(len(z))


def pairs(count: int, each: int, **declared) -> Data:
    """theta ~ N(0, 1) in two columns, x = theta + noise, several x of each theta: theta | x is N(x / 2, 1 / 2)."""
    theta = torch.randn(count, 2, generator=generator(0, "theta"))
    index = torch.arange(count).repeat_interleave(each)
    x = theta[index] + torch.randn(count * each, 2, generator=generator(0, "x"))
    prior = Gaussian([0.0, 0.0], [1.0, 1.0])
    return replace(Data(x=x, context=theta, context_index=index, groups=index, prior=prior), **declared)


def test_one_observation_of_each_test_group():
    splits = Splits.make(pairs(300, 3))
    chosen = observed(splits, 1000)
    groups = splits.test.groups[chosen.rows]
    assert len(groups) == len(torch.unique(splits.test.groups)) == len(torch.unique(groups)) == 60
    assert torch.equal(chosen.x, splits.test.x[chosen.rows])
    assert torch.equal(chosen.theta, splits.test.context[chosen.rows])
    assert not torch.equal(groups, groups.sort().values), "a seeded order, not that of the file"
    assert torch.equal(observed(splits, 10).rows, chosen.rows[:10])


def test_columns_are_in_units_of_the_training_pairs():
    splits = Splits.make(pairs(300, 3))
    chosen = observed(splits, 1000)
    columns = chosen.columns(chosen.known_x)
    assert torch.allclose(columns.mean(0), torch.zeros(2), atol=1e-5)
    assert torch.allclose(columns.std(0), torch.ones(2), atol=1e-5)
    known = set(map(tuple, chosen.known_theta.tolist()))
    assert not known & set(map(tuple, chosen.theta.tolist())), "known pairs are of training groups"


@pytest.mark.parametrize("theta", ["context", "event"])
def test_draws_and_densities_are_those_of_the_exact_posterior(theta):
    data = pairs(300, 1)
    flow: ConditionalFlow = Exact((2,), (2,))
    if theta == "event":

        class Half(Exact):
            def _to_latent(self, u, c):
                return (u - c / 2) * math.sqrt(2), u.new_full((len(u),), math.log(2))

            def _to_data(self, z, c):
                return z / math.sqrt(2) + c / 2, z.new_full((len(z),), -math.log(2))

        flow, data = Half((2,), (2,)), replace(data, x=data.context, context=data.x, theta="event")
    splits = Splits.make(data)
    chosen = observed(splits, 60)
    posteriors, found = draw_posteriors(flow, chosen, splits.data, BENCH, 0)
    assert posteriors.draws.shape == (400, 60, 2)
    assert posteriors.normalised
    exact = torch.distributions.Independent(torch.distributions.Normal(chosen.x.double() / 2, math.sqrt(0.5)), 1)
    assert torch.allclose(posteriors.log_prob, exact.log_prob(posteriors.draws), atol=0.02), found.method
    assert torch.allclose(posteriors.truth_log_prob, exact.log_prob(chosen.theta.double()), atol=0.02)
    # The mean of 400 draws: 5 standard errors of 0.035.
    assert float((posteriors.draws.mean(0) - chosen.x / 2).abs().max()) < 0.18
    # The likelihood, up to a constant for each observation.
    likelihood = -0.5 * (chosen.x.double() - posteriors.draws).square().sum(-1)
    difference = posteriors.log_likelihood - likelihood
    assert float((difference - difference[:1]).abs().max()) < 0.04


def test_same_seed_same_draws():
    splits = Splits.make(pairs(300, 1))
    chosen = observed(splits, 20)
    first, second, other = (
        draw_posteriors(Exact((2,), (2,)), chosen, splits.data, BENCH, seed)[0].draws for seed in (0, 0, 1)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_why_there_are_no_posteriors():
    assert "no prior" in str(observed(Splits.make(pairs(300, 1, prior=None)), 10))
    assert "posteriors = 0" in str(observed(Splits.make(pairs(300, 1)), 0))
    narrow = observed(Splits.make(pairs(300, 1, prior=Box([-0.5, -0.5], [0.5, 0.5]))), 60)
    assert "of 60 test parameters lie outside the prior" in str(narrow)


def test_references_are_drawn_in_equal_numbers():
    data = pairs(300, 1)
    x = torch.randn(3, 2, generator=generator(1, "x"))
    known = References(x=x, theta=torch.randn(3, 500, 2), published={"NPE": 0.6})
    found, _ = draw_references(Exact((2,), (2,)), known, data, BENCH, 0)
    assert found.drawn.shape == found.reference.shape == (3, 500, 2)
    assert found.published == {"NPE": 0.6}
    assert float((found.drawn.mean(1) - x / 2).abs().max()) < 5 * math.sqrt(0.5 / 500)
    fewer = draw_references(Exact((2,), (2,)), known, data, replace(BENCH, reference_draws=100), 0)[0]
    assert fewer.drawn.shape == fewer.reference.shape == (3, 100, 2)


def test_calibration_columns_of_a_cell():
    splits = Splits.make(pairs(2000, 1))
    found = evaluate_flow(Exact((2,), (2,)), Source("pairs", {}, splits, ""), 0, BENCH)
    assert found.metrics["calibration_p"] > 0.001, "the flow is exact"
    # 1 - Var(posterior) / Var(prior), of 60 observations
    assert found.metrics["contraction"] == pytest.approx(0.5, abs=0.05)
    assert any("posteriors: 60 of 400 test groups" in note for note in found.notes)
    assert found.missing["c2st_published"]
    only = evaluate_flow(Exact((2,), (2,)), Source("pairs", {}, splits, ""), 0, BENCH, draws=("posteriors",))
    assert only.metrics["calibration_p"] == found.metrics["calibration_p"]
    assert "sw" not in only.metrics


def test_calibration_of_a_dataset_with_a_prior(plan: Callable):
    config = datasets.configure("two_moons", {"num_events": 300})
    assert observed(Splits.make(config.load()), 10).prior.dim == 2
