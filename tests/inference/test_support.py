"""On the ends of a prior, beyond them, and far out in its tails."""

import math

import pytest
import torch

from flowzoo.inference import Box, Gaussian, LogNormal, Posterior, Product, check_covers
from flowzoo.seeding import generator


class Near:
    """N(x; theta, 0.1^2) of one parameter."""

    event_shape = context_shape = torch.Size((1,))

    def log_prob(self, x, context):
        return torch.distributions.Normal(context.double(), 0.1).log_prob(x.double())[:, 0]


class OfLogarithm(Near):
    """N(x; log theta, 1): NaN for theta <= 0, as a flow is that takes the logarithm of its context."""

    def log_prob(self, x, context):
        log = context.double().log()
        return torch.where(log.isfinite(), -0.5 * (x.double() - log).square(), math.nan)[:, 0]


def mixed():
    import scipy.stats

    return Product([scipy.stats.uniform(0.1, 0.2), scipy.stats.uniform(-0.7, 1.4)])


@pytest.mark.parametrize("prior", [Box([0.1, -0.7], [0.3, 0.7]), mixed()], ids=["box", "product"])
def test_parameters_that_float32_rounds_to_beyond_an_end_are_on_it(prior):
    ends = torch.stack([prior.low, prior.high])
    rounded = ends.float().double()
    assert bool((rounded != ends).all())
    assert float(rounded[1, 0]) > 0.3
    assert bool(prior.covers(rounded).all())
    torch.testing.assert_close(prior.log_prob(rounded), torch.full((2,), -math.log(0.2 * 1.4)).double())
    assert check_covers(prior, rounded) == ()
    beyond = ends + torch.tensor([[-1e-5], [1e-5]])
    assert not bool(prior.covers(beyond).any())
    assert bool(prior.log_prob(beyond).isneginf().all())
    assert len(check_covers(prior, beyond)) == 2


def test_truth_on_the_end_of_a_box_has_a_density():
    truth, x = torch.tensor([[0.3]]), torch.tensor([[0.3]])
    assert bool(Posterior(Near(), Box([0.1], [0.3])).log_prob(truth.double(), x).isfinite())


def test_density_is_zero_where_the_prior_is_and_the_flow_is_not_a_number():
    posterior = Posterior(OfLogarithm(), LogNormal([0.0], [1.0]))
    found = posterior.log_prob(torch.tensor([[-1.0], [0.0], [1.0]]), torch.zeros(1, 1))
    assert found.isneginf().tolist() == [True, True, False]


@pytest.mark.parametrize("method", ["grid", "mcmc"])
def test_search_for_the_best_asks_for_no_impossible_parameters(method):
    # The posterior is lognormal, of log-variance 1/2, so that proposals a standard deviation below its peak are < 0.
    posterior, x = Posterior(OfLogarithm(), LogNormal([0.0], [1.0])), torch.zeros(5, 1)
    found = posterior.sample(x, 256, method=method, generator=generator(0, "s"))
    assert found.warnings == ()
    assert float((found.best.log() + 0.5).abs().max()) < 0.02


@pytest.mark.parametrize("method", ["grid", "mcmc"])
def test_data_that_a_prior_without_ends_all_but_excludes_are_said(method):
    posterior, x = Posterior(Near(), Gaussian([0.0], [1.0])), torch.tensor([[0.0], [20.0]])
    options = {"max_steps": 400} if method == "mcmc" else {}
    found = posterior.sample(x, 256, method=method, generator=generator(0, "s"), **options)
    assert any("prior all but excludes the posterior of 1 of 2 observations" in text for text in found.warnings)


def test_proposal_whose_density_is_not_its_own_is_refused():
    proposal = (lambda n, source: torch.rand(n, 1, generator=source), Box([0.5], [1.0]).log_prob)
    with pytest.raises(ValueError, match=r"proposal's log_prob is not finite at \d+ of 10000 of its own draws"):
        Posterior(Near(), Box([0.0], [1.0])).sample(
            torch.tensor([[0.3]]), 100, method="importance", generator=generator(0, "s"), proposal=proposal
        )
