"""Which observations calibration is measured on, and what the draws of their posteriors hold."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from flowzoo import data as datasets
from flowzoo.data import Data, Levels, References, Splits
from flowzoo.flow import ConditionalFlow
from flowzoo.harness import BenchConfig
from flowzoo.harness.evaluate import evaluate_flow
from flowzoo.harness.posteriors import draw_posteriors, draw_references, observed
from flowzoo.harness.source import Source
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


def test_what_training_pairs_predict_is_learnt_once_and_knows_no_truth():
    splits = Splits.make(pairs(300, 1))
    chosen = observed(splits, 20)
    first, other = (draw_posteriors(Exact((2,), (2,)), chosen, splits.data, BENCH, seed)[0] for seed in (0, 1))
    assert first.predicted is other.predicted
    assert torch.equal(first.predicted, observed(splits, 20).predicted)
    assert torch.equal(first.predicted, replace(chosen, theta=chosen.theta + 1).predicted)
    assert float(((first.predicted - first.to_unit(first.truth)) ** 2).mean()) < 1 / 12, "that of the middle of the box"
    few = replace(chosen, known_theta=chosen.known_theta[:49], known_x=chosen.known_x[:49])
    assert few.predicted is None


def test_one_observation_without_a_posterior_leaves_its_name_in_the_notes():
    class Deaf(Exact):
        def _to_latent(self, u, c):
            return (u - c).where(u[:, :1].abs() < 50, math.nan), u.new_zeros(len(u))

    data, flow = pairs(300, 1), Deaf((2,), (2,))
    splits = Splits.make(data)
    chosen = observed(splits, 30)
    chosen.x[4] = 99.0
    posteriors, found = draw_posteriors(flow, chosen, splits.data, BENCH, 0)
    assert posteriors.draws.isnan().all(-1).all(0).nonzero().tolist() == [[4]]
    assert any("1 of 30 observations have no posterior (4, from 0)" in text for text in found.warnings)
    known = References(x=torch.tensor([[0.0, 0.0], [99.0, 0.0]]), theta=torch.randn(2, 500, 2))
    with pytest.raises(ValueError, match=r"1 of 2 observations have no posterior \(1, from 0\)"):
        draw_references(flow, known, data, BENCH, 0)


def test_warnings_name_the_parameters_of_the_data():
    wide = pairs(300, 1, prior=Box([-9.0, -9.0], [9.0, 9.0]), context_names=("a", "b"))
    splits = Splits.make(wide)
    chosen = observed(splits, 30)
    chosen.x[:, 1] = 30.0
    _, found = draw_posteriors(Exact((2,), (2,)), chosen, splits.data, BENCH, 0)
    assert [text.split(":")[0] for text in found.warnings if "leans" in text] == ["b"]


def test_which_side_is_theta():
    names = {"names": ("u", "g"), "context_names": ("a", "b"), "units": ("mag", "mag"), "context_units": ("", "km")}
    likelihood = pairs(30, 1, **names)
    assert (likelihood.theta_names, likelihood.theta_units) == (("a", "b"), ("", "km"))
    assert likelihood.observation_names == ("u", "g")
    posterior = replace(likelihood, theta="event")
    assert (posterior.theta_names, posterior.theta_units) == (("u", "g"), ("mag", "mag"))
    assert posterior.observation_names == ("a", "b")
    wide = Data(x=torch.zeros(9, 5), context=torch.zeros(9, 1), prior=Box([0.0], [1.0]))
    assert wide.observation_shape == (5,)
    assert wide.half_level == 0
    levels = replace(wide, x=torch.zeros(9, 5, dtype=torch.long), levels=Levels(0.0, 0.5, 10))
    assert levels.half_level == 0.25
    swapped = Data(x=levels.x, context=wide.x, levels=levels.levels, prior=Box([0.0] * 5, [1.0] * 5), theta="event")
    assert swapped.half_level == 0, "there the integers are theta"


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
