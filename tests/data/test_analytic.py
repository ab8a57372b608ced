"""two_moons and linear_gaussian: the datasets whose density is known exactly, held to that claim."""

import math
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from flowzoo.data import Splits, configure
from flowzoo.data.linear_gaussian import LinearGaussian
from flowzoo.data.two_moons import TwoMoons
from flowzoo.seeding import generator

THETAS = [(0.3, -0.6), (-0.9, -0.8), (0.0, 0.0)]


@pytest.mark.parametrize("theta", THETAS)
def test_two_moons_density_integrates_to_one(theta):
    context = torch.tensor(theta, dtype=torch.float64)
    # The middle of the crescent's disc; the crescent is 0.01 thick, so a step of 0.00025 resolves it.
    centre = torch.tensor([0.25 - abs(sum(theta)) / math.sqrt(2), (theta[1] - theta[0]) / math.sqrt(2)])
    side = torch.arange(-0.18, 0.18, 0.00025, dtype=torch.float64) + 0.000125
    grid = torch.cartesian_prod(side, side) + centre.double()
    mass = TwoMoons().true_log_prob(grid, context.expand_as(grid)).exp().sum() * 0.00025**2
    assert float(mass) == pytest.approx(1, abs=2e-3)


def test_two_moons_density_is_zero_behind_the_edge_and_positive_before_it():
    theta = torch.zeros(2)
    behind, before = torch.tensor([0.25 - 1e-4, 0.1]), torch.tensor([0.25 + 1e-4, 0.1])
    assert TwoMoons().true_log_prob(behind, theta) == -math.inf
    assert TwoMoons().true_log_prob(before, theta) > 3


def test_two_moons_draws_agree_with_the_density():
    # A histogram in polar coordinates about the centre of the crescent against the density's integral per bin
    # would repeat the formula; boxes in x test the Jacobian instead.
    data = TwoMoons()
    theta = torch.tensor([0.4, 0.1]).expand(200_000, 2)
    x = data.simulate(theta, generator(1, "x")).double()
    low = x.min(0).values
    width = (x.max(0).values - low) / 12
    cell = ((x - low) / width).long().clamp(max=11)
    counts = torch.bincount(cell[:, 0] * 12 + cell[:, 1], minlength=144).double() / len(x)
    fine = (torch.arange(12 * 40, dtype=torch.float64) + 0.5) / 40
    grid = torch.stack(torch.meshgrid(fine, fine, indexing="ij"), -1) * width + low
    density = data.true_log_prob(grid, torch.tensor([0.4, 0.1]).expand_as(grid)).exp()
    expected = density.reshape(12, 40, 12, 40).sum((1, 3)).flatten() * width.prod() / 40**2
    error = (counts - expected).abs()
    assert float(expected.sum()) == pytest.approx(1, abs=5e-3)
    assert bool((error < 5 * (expected / len(x)).sqrt() + 1e-3).all())


def test_two_moons_every_draw_has_a_finite_density():
    theta = 2 * torch.rand(500_000, 2, generator=generator(0, "theta")) - 1
    data = TwoMoons()
    assert bool(data.true_log_prob(data.simulate(theta, generator(0, "x")), theta).isfinite().all())


def test_two_moons_entropy_is_the_mean_of_minus_the_density():
    # E[-log p] = H(r) + log pi + E[log r], by the change of variables.
    data = TwoMoons(num_events=100_000).load()
    nll = -float(data.true_log_prob(data.x, data.context).double().mean())
    r = 0.1 + 0.01 * np.random.default_rng(0).standard_normal(200_000)
    expected = 0.5 * math.log(2 * math.pi * math.e * 0.01**2) + math.log(math.pi) + np.log(r).mean()
    assert nll == pytest.approx(expected, abs=0.01)


def test_two_moons_prior_excludes_theta_outside_the_square():
    prior = TwoMoons(num_events=10).load().prior
    log_p = prior.log_prob(torch.tensor([[0.5, -0.5], [1.5, 0.0]]))
    assert log_p.tolist() == [pytest.approx(-math.log(4)), -math.inf]


@pytest.fixture(scope="module")
def two_moons_reference():
    if "FLOWZOO_DATA" not in os.environ:
        pytest.skip("FLOWZOO_DATA is not set: no sbibm reference posteriors")
    return np.load(Path(os.environ["FLOWZOO_DATA"]) / "sbibm" / "two_moons.npz", allow_pickle=False)


def test_two_moons_density_is_that_of_the_sbibm_reference_posteriors(two_moons_reference):
    # With a flat prior the posterior is proportional to p(x | theta), and theta moves x by an isometry, so
    # the radius of posterior draws has mean 0.1. Without the Jacobian's 1 / r it would be 0.101, ten standard
    # errors away. Where the square cuts the posterior the mean is another one; those are left out.
    data, tested = TwoMoons(), 0
    observations, posteriors = (two_moons_reference[key] for key in ("observation", "reference_posterior"))
    for x, draws in zip(observations, posteriors, strict=True):
        theta = torch.from_numpy(draws)
        observation = torch.from_numpy(x).expand_as(theta)
        assert bool(data.true_log_prob(observation, theta).isfinite().all())
        if float(theta.abs().max()) < 0.99:
            q = observation - data._shift(theta) - torch.tensor([0.25, 0.0])
            assert float(q.norm(dim=1).double().mean()) == pytest.approx(0.1, abs=4e-4)
            tested += 1
    assert tested >= 5


@pytest.mark.parametrize(("dim", "context_dim"), [(4, 3), (1, 1), (1, 0), (3, 0), (2, 5)])
def test_linear_gaussian_true_log_prob_reaches_its_entropy(dim, context_dim):
    data = LinearGaussian(num_events=50_000, dim=dim, context_dim=context_dim).load()
    assert data.event_shape == (dim,)
    assert data.context_shape == (context_dim,)
    log_p = data.true_log_prob(data.x, data.context[data.context_index]).double()
    assert -float(log_p.mean()) == pytest.approx(data.references["nll"], abs=5 * float(log_p.std()) / 50_000**0.5)


def test_linear_gaussian_density_in_one_dimension_integrates_to_one():
    config = LinearGaussian(dim=1, context_dim=2)
    x = torch.linspace(-12, 12, 20_001, dtype=torch.float64)[:, None]
    log_p = config.true_log_prob(x, torch.tensor([0.3, -1.0]).expand(len(x), 2))
    assert float(torch.trapezoid(log_p.exp(), x[:, 0])) == pytest.approx(1, abs=1e-6)


def test_linear_gaussian_draws_have_the_moments_of_the_density():
    config = LinearGaussian()
    theta = torch.tensor([1.0, -2.0, 0.5])
    x = config.simulate(theta.expand(200_000, 3), generator(3, "x")).double()
    a, b, tril = config._system
    covariance = tril @ tril.T
    sd = covariance.diagonal().sqrt()
    assert bool(((x.mean(0) - a @ theta.double() - b).abs() < 5 * sd / 200_000**0.5).all())
    assert bool(((torch.cov(x.T) - covariance).abs() < 0.02 * torch.outer(sd, sd)).all())
    assert float(covariance[0, 1].abs()) > 1e-3  # not diagonal
    assert float(torch.linalg.cond(covariance)) < 20


def test_linear_gaussian_posterior_is_bayes_rule():
    # log p(theta) + log p(x | theta) - log p(theta | x) is log p(x), whatever theta.
    data = LinearGaussian(num_events=5).load()
    theta = torch.randn(200, 1, 3, generator=generator(0, "probe")).expand(200, 5, 3)
    likelihood = data.true_log_prob(data.x.expand(200, 5, 4), theta)
    evidence = data.prior.log_prob(theta) + likelihood - data.references["posterior"](data.x).log_prob(theta.double())
    assert bool((evidence - evidence[0]).abs().max() < 1e-3)
    assert float(evidence[0].std()) > 0.01  # p(x) is not the same for each x, so the test is not empty


def test_linear_gaussian_posterior_covers_theta_at_the_stated_rate():
    data = LinearGaussian(num_events=20_000).load()
    posterior = data.references["posterior"](data.x)
    z = (data.context - posterior.mean) / posterior.covariance_matrix.diagonal(dim1=-2, dim2=-1).sqrt()
    assert float((z.abs() < 1).double().mean()) == pytest.approx(0.6827, abs=0.006)


def test_linear_gaussian_without_context_has_no_posterior():
    data = LinearGaussian(num_events=10, context_dim=0).load()
    assert data.prior is None
    assert "posterior" not in data.references


@pytest.mark.parametrize("name", ["two_moons", "linear_gaussian"])
def test_same_seed_gives_the_same_bits_and_another_seed_others(name):
    first, again, other = (configure(name, {"num_events": 50, "seed": s}).load() for s in (1, 1, 2))
    assert torch.equal(first.x, again.x)
    assert torch.equal(first.context, again.context)
    assert not torch.equal(first.x, other.x)


@pytest.mark.parametrize("name", ["two_moons", "linear_gaussian"])
def test_drawing_leaves_the_global_generator_alone(name):
    before = torch.random.get_rng_state()
    configure(name, {"num_events": 50}).load()
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("name", ["two_moons", "linear_gaussian"])
def test_data_with_its_functions_can_be_sent_to_another_process(name):
    data = configure(name, {"num_events": 20}).load()
    copy = pickle.loads(pickle.dumps(data))
    assert torch.equal(copy.true_log_prob(data.x, data.context), data.true_log_prob(data.x, data.context))


@pytest.mark.parametrize("name", ["two_moons", "linear_gaussian"])
def test_analytic_data_can_be_split_and_mapped(name):
    splits = Splits.make(configure(name, {"num_events": "300"}).load())
    x_map, _ = splits.maps()
    u, _ = x_map.to_latent(splits.train.x)
    assert torch.allclose(u.mean(0), torch.zeros(u.shape[1]), atol=1e-5)


def test_sizes_out_of_range_are_refused():
    with pytest.raises(ValueError, match="dim >= 1"):
        LinearGaussian(dim=0).load()
    with pytest.raises(ValueError, match="num_events >= 1; got 0"):
        TwoMoons(num_events=0).load()
