"""Posteriors of the tasks: our exact draws, and the reference files of the field under our densities."""

import math
import os
from pathlib import Path

import pytest
import torch

from flowzoo.data import _sbibm_gaussian, _sbibm_glm, _sbibm_references, _sbibm_tasks
from flowzoo.data.sbibm import Sbibm
from flowzoo.seeding import generator

MAKERS = {
    "two_moons": _sbibm_tasks.two_moons,
    "gaussian_linear": _sbibm_gaussian.gaussian_linear,
    "gaussian_linear_uniform": _sbibm_gaussian.gaussian_linear_uniform,
    "gaussian_mixture": _sbibm_gaussian.gaussian_mixture,
    "bernoulli_glm": lambda: _sbibm_glm.bernoulli_glm(_sbibm_glm.own_design()),
}
DRAWS = 20_000


@pytest.mark.parametrize("name", MAKERS)
def test_a_draw_given_a_simulated_x_is_a_draw_of_the_prior(name):
    # Of theta ~ prior, x ~ p(x | theta), theta' ~ p(theta | x), theta' has the law of theta (Geweke 2004).
    from scipy import stats

    task, count = MAKERS[name](), 100 if name == "bernoulli_glm" else 300
    source = generator(0, name)
    theta = task.prior.sample(count, source)
    x = task.simulate(theta, source)
    drawn = torch.cat([task.draw(one, 1, source) for one in x])
    assert not torch.allclose(drawn.float(), theta)
    unit = task.prior.to_unit(drawn)
    # The smallest of up to ten p-values, which is below 1e-4 once in a thousand tests.
    assert min(stats.kstest(column.numpy(), "uniform").pvalue for column in unit.T) > 1e-4


@pytest.mark.parametrize("x", [(0.0, 0.0), (-0.5, 0.6), (-1.05, 0.1)], ids=str)
def test_two_moons_draws_have_the_density_of_quadrature(x):
    task, x = _sbibm_tasks.two_moons(), torch.tensor(x)
    drawn = task.draw(x, DRAWS, generator(0, "moons"))
    assert drawn.shape == (DRAWS, 2)
    fine = 2400  # a step of 0.0008, where the crescent is 0.01 thick
    side = -1 + (torch.arange(fine, dtype=torch.float64) + 0.5) * 2 / fine
    density = torch.zeros(fine, fine, dtype=torch.float64)
    for i, some in enumerate(side.split(240)):
        grid = torch.cartesian_prod(some, side)
        density[240 * i : 240 * i + 240] = task.log_likelihood(x.double().expand_as(grid), grid).exp().view(-1, fine)
    # In 24 x 24 cells, each with a binomial error.
    expected = density.view(24, 100, 24, 100).sum((1, 3)) / density.sum()
    cell = ((drawn + 1) * 12).long().clamp(max=23)
    found = torch.bincount(cell[:, 0] * 24 + cell[:, 1], minlength=576).view(24, 24) / DRAWS
    assert bool(((found - expected).abs() < 5 * (expected / DRAWS).sqrt() + 2e-3).all())
    assert int((expected > 0.01).sum()) >= 4


def test_two_moons_without_a_solution_is_refused():
    with pytest.raises(ValueError, match="no theta of the square"):
        _sbibm_tasks.two_moons().draw(torch.tensor([5.0, 0.0]), 10, generator(0, "moons"))


def test_posterior_of_gaussian_linear_is_half_of_x():
    task = _sbibm_gaussian.gaussian_linear()
    x = torch.linspace(-1, 1, 10)
    drawn = task.draw(x, DRAWS, generator(0, "linear"))
    assert float((drawn.mean(0) - x / 2).abs().max()) < 5 * (0.05 / DRAWS) ** 0.5
    assert float((drawn.var(0) / 0.05 - 1).abs().max()) < 5 * (2 / DRAWS) ** 0.5


@pytest.mark.parametrize("name", ["gaussian_linear_uniform", "gaussian_mixture"])
def test_truncated_posteriors_have_the_moments_of_quadrature(name):
    # The tasks at x within the box, at its edge and beyond it; in the first the parameters are independent.
    if name == "gaussian_linear_uniform":
        task, side = _sbibm_gaussian.gaussian_linear_uniform(), 1.0
        x = torch.tensor([0.0, 0.5, -0.9, 1.0, -1.0, 1.3, -1.3, 2.0, -2.0, 0.1])
        points = torch.linspace(-side, side, 20_001, dtype=torch.float64)
        density = (-0.5 * (points - x[:, None].double()).square() / 0.1).exp()
        density = density / density.sum(1, keepdim=True)
        mean = density @ points
        variance = density @ points.square() - mean.square()
    else:
        task, side = _sbibm_gaussian.gaussian_mixture(), 10.0
        x = torch.tensor([9.95, -10.4])
        points = torch.linspace(-10, 10, 4001, dtype=torch.float64)
        wide, narrow = (
            [(-0.5 * ((points - one) / spread) ** 2).exp() / spread for one in x.double()] for spread in (1.0, 0.1)
        )
        density = torch.outer(*wide) + torch.outer(*narrow)
        density = density / density.sum()
        mean = torch.stack([density.sum(1) @ points, density.sum(0) @ points])
        variance = torch.stack([density.sum(1) @ points**2, density.sum(0) @ points**2]) - mean.square()
    drawn = task.draw(x, DRAWS, generator(0, name))
    assert bool((drawn.abs() <= side).all())
    assert bool(((drawn.mean(0) - mean).abs() < 5 * (variance / DRAWS).sqrt() + 1e-4 * side).all())
    # The fourth moment gives the error of a variance, as the draws have it.
    deviation = (drawn - mean).square()
    assert bool(((deviation.mean(0) - variance).abs() < 5 * deviation.std(0) / DRAWS**0.5 + 1e-4 * side).all())


@pytest.mark.parametrize("name", ["gaussian_linear", "gaussian_linear_uniform", "gaussian_mixture"])
def test_normalised_posteriors_are_bayes_rule_and_integrate_to_one(name):
    task = MAKERS[name]()
    x = task.simulate(task.prior.sample(3, generator(0, "theta")).double(), generator(0, "x"))
    drawn = torch.stack([task.draw(one, 4000, generator(0, "draw")) for one in x])
    at = x[:, None].expand(-1, 4000, -1)
    log_p = task.log_posterior(drawn, at)
    evidence = task.log_likelihood(at, drawn) + task.prior.log_prob(drawn) - log_p
    assert float(evidence.std(1).max()) < 1e-9
    # E[g / p] over draws of p is the integral of g over the support of p: with g a normal density inside, one.
    centre, scale = drawn.mean(1, keepdim=True), 0.3 * drawn.std(1, keepdim=True)
    g = torch.distributions.Normal(centre, scale).log_prob(drawn).sum(-1)
    if drawn.shape[-1] == 2:
        ratio = (g - log_p).exp()
        inside = (centre.abs() + 6 * scale < 10).all(-1).flatten()
        error = 5 * ratio.std(1) / 4000**0.5
        assert bool(((ratio.mean(1) - 1).abs() < error)[inside].all())
        assert bool(inside.any())
    outside = torch.full((1, drawn.shape[-1]), 11.0).double()
    assert name == "gaussian_linear" or float(task.log_posterior(outside, x[:1])) == -math.inf


def test_uniform_posterior_density_integrates_to_one():
    task = _sbibm_gaussian.gaussian_linear_uniform()
    side = torch.linspace(-1, 1, 4001, dtype=torch.float64)
    theta, x = torch.zeros(4001, 10, dtype=torch.float64), torch.full((1, 10), 0.4, dtype=torch.float64)
    # Along one parameter the density is that of the others at zero times a density of one: so in every one.
    theta[:, 0] = side
    along = task.log_posterior(theta, x.expand(4001, 10))
    total = float(torch.trapezoid(along.exp(), side).log())
    at_zero = float(task.log_posterior(torch.zeros_like(x), x))
    one = torch.trapezoid((-0.5 * (side - 0.4).square() / 0.1).exp(), side).log() + 0.5 * 0.16 / 0.1
    assert total == pytest.approx(9 * (at_zero / 10), abs=1e-6)
    assert at_zero / 10 == pytest.approx(-float(one), abs=1e-6)


@pytest.mark.parametrize("i", range(2))
def test_spikes_posterior_has_the_moments_of_importance_sampling(i):
    # Weights of draws from a normal distribution twice as wide as the posterior, in a code path of its own.
    task = MAKERS["bernoulli_glm"]()
    theta = task.prior.sample(3, generator(0, "theta")).double()
    x = task.simulate(theta, generator(0, "x"))[i]
    drawn = task.draw(x, 10_000, generator(0, "draw"))
    wide = torch.distributions.MultivariateNormal(drawn.mean(0), 2 * torch.cov(drawn.T))
    noise = torch.randn(100_000, 10, generator=generator(0, "proposal"), dtype=torch.float64)
    proposed = wide.mean + noise @ wide.scale_tril.T
    log_w = task.log_likelihood(x.expand_as(proposed), proposed) + task.prior.log_prob(proposed)
    weight = (log_w - wide.log_prob(proposed)).softmax(0)
    for moment in (1, 2):
        values, found = proposed**moment, drawn**moment
        mean = weight @ values
        error = (weight.square() @ (values - mean).square() + found.var(0) / len(drawn)).sqrt()
        assert float(((found.mean(0) - mean) / error).abs().max()) < 4.5  # of 40 numbers over the parameters


def test_chains_of_the_spikes_posterior_have_a_proposal_near_to_it():
    # The largest ratio of posterior and proposal, on which their convergence depends, among 20,000 draws each.
    model = _sbibm_glm._Spikes(_sbibm_glm.own_design().double())
    source = generator(0, "proposal")
    for x in model.simulate_sums(_sbibm_glm.prior().sample(30, source).double(), source):
        centre, scale = model._moments(x, source)
        _, weight = model._propose(x, centre, scale, 20_000, source)
        assert float(20_000 * weight.softmax(0).max()) < 5


def test_made_references_are_the_same_each_time_and_follow_their_truth():
    task = MAKERS["gaussian_linear"]()
    found, again = (_sbibm_references.make("gaussian_linear", task) for _ in range(2))
    assert torch.equal(found.x, again.x)
    assert torch.equal(found.theta, again.theta)
    assert found.theta.shape == (10, 10_000, 10)
    z = (found.truth - found.theta.mean(1)) / found.theta.std(1)
    assert float(z.square().mean()) == pytest.approx(1, abs=5 * (2 / 100) ** 0.5)
    assert found.published == {}


STEPS = {"two_moons": (10, 5000, 60), "slcp": (10, 5000, 60), "sir": (2, 3000, 20), "lotka_volterra": (2, 1500, 15)}


def drift(task, references, k, count, steps, power=1.0):
    """Largest z by which moments of reference draws move in Metropolis steps under our density, to a power."""
    start, source = references.theta[k, :count].double(), generator(0, "walk", k)
    x = references.x[k].double().expand(count, -1)
    covariance = torch.cov(references.theta[k].double().T)
    tril = torch.linalg.cholesky(covariance)

    def log_p(theta):
        return power * task.log_likelihood(x, theta) + task.prior.log_prob(theta)

    theta, value = start, log_p(start)
    assert bool(value.isfinite().all())
    for step in range(steps):
        noise = torch.randn(start.shape, generator=source, dtype=torch.float64) @ tril.T
        # Some steps of the size of the posterior, some of that of the parts it may be made of.
        proposed = theta + (0.2, 0.7, 1.5)[step % 3] / start.shape[1] ** 0.5 * noise
        new = log_p(proposed)
        accepted = torch.rand(count, generator=source, dtype=torch.float64).log() < new - value
        theta, value = torch.where(accepted[:, None], proposed, theta), torch.where(accepted, new, value)

    def moments(theta, value):
        centred = theta - start.mean(0)
        return torch.cat([centred, (centred[:, :, None] * centred[:, None]).flatten(1), value[:, None]], 1)

    moved = moments(theta, value) - moments(start, log_p(start))
    return float((moved.mean(0) / (moved.std(0) / count**0.5)).abs().max())


@pytest.mark.slow
@pytest.mark.parametrize("name", STEPS)
def test_reference_posteriors_of_the_field_are_stationary_under_our_densities(name):
    # Draws of p stay draws of p in steps that leave p invariant, so no moment moves: this holds prior, simulator and
    # their conventions (order, times, variances) to the references. With up to 31 moments of ten observations, a
    # z of 5 is one test in 10^4.
    folder = Path(os.environ.get("FLOWZOO_DATA", "nowhere")) / "sbibm"
    if not (folder / f"{name}.npz").is_file():
        pytest.skip("no reference posteriors under FLOWZOO_DATA")
    config = Sbibm(task=name, references=str(folder))
    found, (observations, count, steps) = config.reference_posteriors(), STEPS[name]
    assert max(drift(config._task, found, k, count, steps) for k in range(observations)) < 5
    # And the test sees a likelihood whose logarithm is a third too flat.
    assert max(drift(config._task, found, k, count, steps, power=0.67) for k in range(observations // 2)) > 6
