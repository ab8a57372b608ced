"""Priors: densities integrate to one, draws follow them, unit coordinates invert, descriptions travel."""

import json
import math

import pytest
import scipy.stats
import torch

from flowzoo.inference import Box, Gaussian, LogNormal, Product, Samples, from_description
from flowzoo.seeding import generator

PRIORS = {
    "box": Box([-1.0, 2.0], [1.0, 5.0]),
    "gaussian": Gaussian([0.5, -1.0], [[1.0, 0.6], [0.6, 2.0]]),
    "lognormal": LogNormal([0.0, 0.3], [0.5, 0.2]),
    "product": Product([scipy.stats.norm(0.7, 0.05), scipy.stats.beta(2, 5)]),
}
COUNT = 20_000


@pytest.fixture(params=PRIORS)
def prior(request):
    return PRIORS[request.param]


def test_density_is_that_of_the_draws_and_integrates_to_one(prior):
    u = (torch.arange(400, dtype=torch.float64) + 0.5) / 400
    grid = torch.cartesian_prod(u, u)
    theta = prior.from_unit(grid)
    # In unit coordinates the density is exp(log_copula), and p(theta) is that times the marginals.
    assert abs(float(prior.log_copula(theta).exp().mean()) - 1) < 5e-3
    drawn = prior.sample(COUNT, generator(0, "draws"))
    assert drawn.dtype == torch.float32
    assert bool(prior.log_prob(drawn).isfinite().all())
    for d in range(2):
        assert scipy.stats.kstest(prior.to_unit(drawn.double())[:, d].numpy(), "uniform").pvalue > 1e-4
    # The entropy, by draws and by quadrature: the density is that of the draws.
    scores = prior.log_prob(drawn.double())
    weights = prior.log_copula(theta).exp()
    expected = float((weights * prior.log_prob(theta)).mean() / weights.mean())
    assert abs(float(scores.mean()) - expected) < 4.5 * float(scores.std()) / math.sqrt(COUNT) + 0.02


def test_unit_coordinates_invert(prior):
    u = torch.rand(100, 2, generator=generator(0, "u"), dtype=torch.float64)
    torch.testing.assert_close(prior.to_unit(prior.from_unit(u)), u)


def test_description_is_json_and_makes_the_same_prior(prior):
    theta = prior.sample(50, generator(0, "t")).double()
    again = from_description(json.loads(json.dumps(prior.describe())))
    torch.testing.assert_close(again.log_prob(theta), prior.log_prob(theta))


def test_outside_the_support_the_density_is_zero():
    assert float(PRIORS["box"].log_prob(torch.tensor([0.0, 5.1]))) == -math.inf
    assert float(PRIORS["lognormal"].log_prob(torch.tensor([-0.1, 1.0]))) == -math.inf
    assert float(PRIORS["product"].log_prob(torch.tensor([0.7, 1.1]))) == -math.inf
    # float32(0.7) lies below 0.7: the bound itself is inside all the same.
    assert math.isfinite(float(Box([0.7], [0.8]).log_prob(torch.tensor([0.7]))))


def test_box_keeps_the_precision_of_its_parameters():
    found = Box([0.0, 0.0], [0.1, 0.3]).log_prob(torch.tensor([[0.05, 0.1]], dtype=torch.float64))
    torch.testing.assert_close(found, torch.tensor([-math.log(0.03)], dtype=torch.float64), rtol=1e-14, atol=0)


def test_samples_have_no_density_and_know_their_quantiles():
    theta = torch.linspace(0, 1, 101)[:, None] * torch.tensor([1.0, 10.0])
    prior = Samples(theta)
    assert not prior.has_density
    torch.testing.assert_close(prior.from_unit(torch.tensor([[0.25, 0.5]])), torch.tensor([[0.25, 5.0]]))
    rows = prior.sample(1000, generator(0, "s"))
    torch.testing.assert_close(rows[:, 1], 10 * rows[:, 0])  # rows of the draws, not columns mixed
    once = prior.sample_once(1000, generator(0, "s"))
    torch.testing.assert_close(once[:, 0].sort().values, theta[:, 0].double())
    assert len(prior.sample_once(7, generator(0, "s")).unique(dim=0)) == 7
    with pytest.raises(ValueError, match="no density"):
        prior.log_prob(theta)


def test_text_is_read_and_never_executed():
    prior = from_description({"Om": "uniform(0.1, 0.5)", "s8": "norm(0.8, scale=0.1)"})
    assert (float(prior.low[0]), float(prior.high[0])) == (0.1, 0.5)
    assert isinstance(from_description({"Om": "uniform(0.1, 0.5)"}), Box)
    for text, why in {
        "norm(0.8": "is text such as",
        "__import__('os')": "is text such as",
        "nrom(0, 1)": "no continuous distribution 'nrom'",
        "poisson(3)": "no continuous distribution 'poisson'",
        "norm(0, -1)": "out of range",
        "uniform(0.1)": "a lower and an upper bound",
    }.items():
        with pytest.raises(ValueError, match=why):
            from_description({"a": text, "b": "norm(0, 1)"})


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: Box([0.0], [0.0]), "needs low < high"),
        (lambda: Box([0.0, 1.0], [2.0]), r"high must be \(2,\); got \(1,\)"),
        (lambda: Box([0.0], [math.inf]), "high must be finite"),
        (lambda: Gaussian([0.0, 0.0], [[1.0, 2.0], [2.0, 1.0]]), "positive definite"),
        (lambda: Gaussian([0.0], [math.nan]), "positive definite"),
        (lambda: LogNormal([0.0], [0.0]), "sigma must be positive"),
        (lambda: Product([scipy.stats.norm]), "frozen continuous distributions"),
        (lambda: Product([]), "a distribution for each parameter; got none"),
        (lambda: Samples([[1.0]]), r"\(M, D\), finite, M >= 2"),
        (lambda: from_description({"kind": "bx"}), "unknown prior 'bx'"),
        (lambda: from_description({"kind": "box", "lo": [0.0]}), "prior 'box'.*'lo'"),
        (lambda: PRIORS["box"].log_prob(torch.zeros(3)), r"theta must be \(..., 2\)"),
    ],
)
def test_what_is_no_prior_is_refused(make, why):
    with pytest.raises(ValueError, match=why):
        make()
