"""Importance weights: the tail's shape is found, a proposal that is too narrow is flagged, a better one helps."""

import math

import pytest
import torch

from flowzoo.inference import Box, Gaussian, LogNormal, Posterior, Samples
from flowzoo.inference._pareto import pareto_k
from flowzoo.seeding import generator


@pytest.mark.parametrize("shape", [0.1, 0.4, 0.7, 1.0])
def test_pareto_k_is_the_shape_of_the_tail(shape):
    size, many = 40_000, 40
    u = torch.rand(size, many, generator=generator(0, "u"), dtype=torch.float64)
    found = pareto_k(-shape * u.log())  # Pareto weights u^-k
    tail = 3 * math.sqrt(size)
    # The error of a maximum-likelihood k is (1 + k) / sqrt(tail); the weak prior draws it to 0.5 by 10 / (tail + 10).
    expected = (shape * tail + 5) / (tail + 10)
    assert abs(float(found.mean()) - expected) < 4.5 * (1 + shape) / math.sqrt(tail * many) + 0.01
    assert float(found.std()) < 1.5 * (1 + shape) / math.sqrt(tail)


def test_pareto_k_does_not_depend_on_the_scale_of_weights():
    weights = torch.randn(5000, 3, generator=generator(0, "w"), dtype=torch.float64)
    torch.testing.assert_close(pareto_k(weights), pareto_k(weights + 300))
    assert torch.equal(pareto_k(torch.zeros(5000, 2)), torch.zeros(2).double())
    assert bool(pareto_k(torch.zeros(10, 1)).isinf().all())


@pytest.mark.parametrize("spread", [0.03, 0.01])
def test_few_weights_that_are_all_of_the_mass_have_no_light_tail(spread):
    # A normal likelihood of five parameters by draws of the prior: of 10,000 one or two explain the data.
    z = torch.randn(10_000, 5, generator=generator(0, "z"), dtype=torch.float64)
    weights = -0.5 * (z / spread).square().sum(1, keepdim=True)
    assert float(1 / torch.softmax(weights, 0).square().sum()) < 3
    assert float(pareto_k(weights)) > 0.7


@pytest.mark.parametrize("nothing", [-math.inf, -50.0])
def test_proposals_without_a_likelihood_are_no_tail(nothing):
    # Draws of a box, of which one in a hundred is as likely as the next: what they say is exact.
    weights = torch.full((10_000, 1), nothing)
    weights[:100] = 0.0
    assert float(pareto_k(weights)) == 0
    # Beside them the tail of the others is as it was.
    u = torch.rand(40_000, 20, generator=generator(0, "u"), dtype=torch.float64)
    heavy = -0.7 * u.log()
    torch.testing.assert_close(pareto_k(torch.cat([heavy, torch.full_like(heavy, nothing)])), pareto_k(heavy))


class OfLogarithm:
    """N(log x; log theta, 1): NaN for theta <= 0, as a flow is that takes the logarithm of its context."""

    event_shape = context_shape = torch.Size((1,))

    def log_prob(self, x, context):
        return torch.distributions.Normal(context.double().log(), 1.0, validate_args=False).log_prob(x.double())[:, 0]


def test_proposals_beyond_the_prior_are_not_asked():
    # x = 0: the posterior of log theta is normal, of mean 0 and variance 1/2, and Z is N(0; 0, 2).
    found = Posterior(OfLogarithm(), LogNormal([0.0], [1.0])).sample(
        torch.zeros(1, 1), 500, method="importance", generator=generator(0, "s"), proposal=Box([-2.0], [12.0])
    )
    assert found.warnings == ()
    error = 4.5 / float(found.diagnostics["ess"]) ** 0.5
    assert abs(float(found.log_evidence) + 0.5 * math.log(4 * math.pi)) < error


def test_too_narrow_a_proposal_is_flagged_and_a_wide_one_is_not(known):
    exact = known(2, 1)
    posterior, mean = Posterior(exact.flow, exact.prior), exact.mean[0]

    def said(scale):
        proposal = Gaussian(mean, scale**2 * exact.covariance)
        return posterior.sample(exact.x, 500, method="importance", generator=generator(0, "s"), proposal=proposal)

    # Weights of a Gaussian by one of scale s have tails of shape 1 - s^2.
    narrow, wide = said(0.4), said(1.5)
    assert float(narrow.diagnostics["pareto_k"]) > 0.7
    assert any("Pareto k" in text and "1 of 1 observations" in text for text in narrow.warnings)
    assert float(wide.diagnostics["pareto_k"]) < 0.5
    assert wide.warnings == ()
    # E w^2 / (E w)^2 in two dimensions is (s^2 / sqrt(2 s^2 - 1))^2.
    expected = 10_000 * (2 * 1.5**2 - 1) / 1.5**4
    assert abs(float(wide.diagnostics["ess"]) / expected - 1) < 0.05


def test_proposal_of_each_observation_is_a_pair_of_functions(known):
    exact = known(2, 4)
    law = torch.distributions.MultivariateNormal(exact.mean, 2 * exact.covariance)

    def sample(count, source):
        noise = torch.randn(count, 4, 2, generator=source, dtype=torch.float64)
        return exact.mean + noise @ law.scale_tril[0].T

    found = Posterior(exact.flow, exact.prior).sample(
        exact.x, 2000, method="importance", generator=generator(0, "s"), proposal=(sample, law.log_prob)
    )
    assert found.warnings == ()
    ess = found.diagnostics["ess"]
    assert bool(((found.log_evidence - exact.log_evidence).abs() < 4.5 / ess.sqrt()).all())
    with pytest.raises(ValueError, match=r"proposal must draw \(10000, 2\) or \(10000, 4, 2\); got \(5, 2\)"):
        Posterior(exact.flow, exact.prior).sample(
            exact.x,
            10,
            method="importance",
            generator=generator(0, "s"),
            proposal=(lambda n, g: torch.zeros(5, 2), law.log_prob),
        )


def test_samples_of_a_prior_know_no_more_than_there_are(known):
    exact = known(2, 1)
    sd = exact.covariance.diagonal().sqrt()
    off, size = [], []
    for seed in range(40):
        prior = Samples(exact.prior.sample(400, generator(seed, "prior")))
        found = Posterior(exact.flow, prior).sample(exact.x, 2000, generator=generator(seed, "s"))
        off.append((found.mean - exact.mean)[0] / sd)
        size.append(1 / (1 / 2000 + 1 / float(found.diagnostics["ess"])))
        # Fewer than a hundred of them count, and neither mcmc nor another proposal is a way out.
        assert any("of 400 proposals count" in text for text in found.warnings)
        assert not any("mcmc" in text for text in found.warnings)
    chi2 = float((torch.stack(off).square().sum(1) * torch.tensor(size)).sum())
    assert 46 < chi2 < 124, "80 squares: the central 99.8 %"


def test_few_effective_draws_are_said(known):
    exact = known(3, 2)
    found = Posterior(exact.flow, exact.prior).sample(
        exact.x, 100, method="importance", generator=generator(0, "s"), proposals=200
    )
    assert float(found.diagnostics["ess"].max()) < 100
    assert any("proposals count for 2 of 2 observations" in text for text in found.warnings)
