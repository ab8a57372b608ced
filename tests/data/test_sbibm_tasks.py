"""The simulators and densities of the nine tasks against definitions written out again, and against scipy."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Bernoulli, Categorical, MixtureSameFamily, MultivariateNormal

from flowzoo.data import _sbibm_gaussian, _sbibm_glm, _sbibm_ode, _sbibm_tasks
from flowzoo.seeding import generator

DRAWS = 40_000


def thetas(task, count=6, seed=0):
    return task.prior.sample(count, generator(seed, "theta")).double()


def moments_agree(x, mean, covariance):
    """Mean and covariance of ``(n, F)`` draws, each entry within five of its standard errors."""
    n, variance = len(x), covariance.diagonal()
    assert bool(((x.mean(0) - mean).abs() < 5 * (variance / n).sqrt()).all())
    # Var of a product of two normal deviations is s_ii s_jj + s_ij^2.
    error = ((torch.outer(variance, variance) + covariance.square()) / n).sqrt()
    assert bool(((torch.cov(x.T) - covariance).abs() < 5 * error).all())


def slcp_moments(theta):
    mean, s1, s2, rho = theta[:2], theta[2] ** 2, theta[3] ** 2, math.tanh(theta[4])
    one = torch.tensor([[s1**2, rho * s1 * s2], [rho * s1 * s2, s2**2]], dtype=torch.float64)
    one = one + 1e-6 * torch.eye(2, dtype=torch.float64)
    return mean.repeat(4), torch.block_diag(*[one] * 4)


@pytest.mark.parametrize("i", range(3))
def test_slcp_is_four_draws_of_its_normal_distribution(i):
    task = _sbibm_tasks.slcp()
    theta = thetas(task)[i]
    mean, covariance = slcp_moments(theta)
    x = task.simulate(theta.expand(DRAWS, 5), generator(i, "x"))
    moments_agree(x, mean, covariance)
    expected = MultivariateNormal(mean, covariance).log_prob(x[:50])
    assert torch.allclose(task.log_likelihood(x[:50], theta.expand(50, 5)), expected, rtol=1e-8)


def test_slcp_has_a_density_where_a_spread_is_zero():
    task, theta = _sbibm_tasks.slcp(), torch.tensor([0.5, -0.5, 0.0, 1.0, 0.3], dtype=torch.float64)
    x = task.simulate(theta.expand(50, 5), generator(0, "x"))
    expected = MultivariateNormal(*slcp_moments(theta)).log_prob(x)
    assert torch.allclose(task.log_likelihood(x, theta.expand(50, 5)), expected, rtol=1e-8)


@pytest.mark.parametrize("maker", [_sbibm_gaussian.gaussian_linear, _sbibm_gaussian.gaussian_linear_uniform])
def test_linear_tasks_have_noise_of_variance_a_tenth(maker):
    task = maker()
    theta = thetas(task)[0]
    x = task.simulate(theta.expand(DRAWS, 10), generator(0, "x"))
    covariance = 0.1 * torch.eye(10, dtype=torch.float64)
    moments_agree(x, theta, covariance)
    expected = MultivariateNormal(theta, covariance).log_prob(x[:50])
    assert torch.allclose(task.log_likelihood(x[:50], theta.expand(50, 10)), expected, rtol=1e-8)


def test_prior_of_gaussian_linear_has_variance_a_tenth():
    prior = _sbibm_gaussian.gaussian_linear().prior
    assert float(prior.covariance.diagonal().min()) == float(prior.covariance.diagonal().max()) == 0.1


def test_gaussian_mixture_is_a_wide_and_a_narrow_normal():
    task = _sbibm_gaussian.gaussian_mixture()
    theta = thetas(task)[0]
    parts = MultivariateNormal(
        theta.expand(2, 2), torch.tensor([1.0, 0.01], dtype=torch.float64)[:, None, None] * torch.eye(2)
    )
    x = task.simulate(theta.expand(DRAWS, 2), generator(0, "x"))
    expected = MixtureSameFamily(Categorical(torch.ones(2).double()), parts).log_prob(x)
    assert torch.allclose(task.log_likelihood(x, theta.expand(DRAWS, 2)), expected, rtol=1e-8)
    # P(r < 0.3) is 1 - exp(-0.045) of the wide one and 1 - exp(-4.5) of the narrow one.
    near = 0.5 * ((1 - math.exp(-0.045)) + (1 - math.exp(-4.5)))
    found = float(((x - theta).norm(dim=1) < 0.3).double().mean())
    assert found == pytest.approx(near, abs=5 * (near * (1 - near) / DRAWS) ** 0.5)


def exact_sir(theta):
    """I / N by scipy, in the variables of the definition."""
    from scipy.integrate import solve_ivp

    beta, gamma = theta

    def slope(_, y):
        return [-beta * y[0] * y[1] / 1e6, beta * y[0] * y[1] / 1e6 - gamma * y[1], gamma * y[1]]

    times = np.arange(10) * 17.0
    found = solve_ivp(slope, (0, 153), [1e6 - 1, 1, 0], t_eval=times, rtol=1e-10, atol=1e-12, method="DOP853")
    return found.y[1] / 1e6


def exact_lotka_volterra(theta):
    from scipy.integrate import solve_ivp

    alpha, beta, gamma, delta = theta

    def slope(_, y):
        return [alpha * y[0] - beta * y[0] * y[1], -gamma * y[1] + delta * y[0] * y[1]]

    times = np.arange(10) * 2.1
    found = solve_ivp(slope, (0, 19), [30, 1], t_eval=times, rtol=1e-10, atol=1e-16, method="DOP853")
    return found.y.reshape(-1)


def exact_log_lotka_volterra(theta):
    """In logarithms: of populations below 1e-16 the absolute tolerance above would leave nothing."""
    from scipy.integrate import solve_ivp

    alpha, beta, gamma, delta = theta

    def slope(_, y):
        return [alpha - beta * np.exp(y[1]), -gamma + delta * np.exp(y[0])]

    start, times = [math.log(30), 0], np.arange(10) * 2.1
    return solve_ivp(slope, (0, 19), start, t_eval=times, rtol=1e-11, atol=1e-12, method="DOP853").y.reshape(-1)


def hardest(task, rate, easy=15, hard=15):
    """Of the draws of the prior in its central 99.9 %: the first ones, and those with the highest rate."""
    theta = thetas(task, 20_000, seed=3)
    theta = theta[((task.prior.to_unit(theta) - 0.5).abs() < 0.4995).all(-1)]
    return torch.cat([theta[:easy], theta[rate(theta).argsort()[-hard:]]])


def test_epidemic_agrees_with_an_adaptive_integrator():
    theta = hardest(_sbibm_ode.sir(), lambda theta: theta[:, 0])
    found = _sbibm_ode.infected(theta).numpy()
    expected = np.stack([exact_sir(t) for t in theta.tolist()])
    assert np.abs(found / expected - 1).max() < 1e-4


@pytest.mark.slow
def test_predators_agree_with_an_adaptive_integrator():
    def burst(theta):
        found = _sbibm_ode.log_populations(theta).exp()
        return (theta[:, 1, None] * found[:, 10:] + theta[:, 3, None] * found[:, :10]).amax(1)

    theta = hardest(_sbibm_ode.lotka_volterra(), burst)
    found = _sbibm_ode.log_populations(theta).numpy()
    expected = np.stack([exact_log_lotka_volterra(t) for t in theta.tolist()])
    assert np.abs(found - expected.clip(math.log(1e-10))).max() < 1e-4
    plain = np.stack([exact_lotka_volterra(t) for t in theta[:15].tolist()])
    assert np.abs(np.log(plain) - expected[:15]).max() < 1e-5


def test_trajectory_does_not_depend_on_its_batch():
    task = _sbibm_ode.lotka_volterra()
    theta = thetas(task, 40)
    whole = _sbibm_ode.log_populations(theta)
    assert torch.allclose(_sbibm_ode.log_populations(theta[7]), whole[7], rtol=1e-12)
    assert torch.equal(_sbibm_ode.log_populations(theta.reshape(5, 8, 4)), whole.reshape(5, 8, 20))


def test_counts_of_infected_are_binomial():
    from scipy import stats

    task, theta = _sbibm_ode.sir(), torch.tensor([0.45, 0.13], dtype=torch.float64)
    x = task.simulate(theta.expand(DRAWS, 2), generator(0, "x"))
    share = exact_sir(theta.tolist())
    assert bool((x == x.round()).all())
    error = 5 * np.sqrt(1000 * share * (1 - share) / DRAWS)
    assert bool((np.abs(x.double().mean(0).numpy() - 1000 * share) < error).all())
    variance = 1000 * share * (1 - share)
    # The fourth moment of a count of few is nearly its mean, and counts in the error of its variance.
    error = 5 * np.sqrt((2 + 1 / variance) / DRAWS)
    assert bool((np.abs(x.double().var(0).numpy() / variance - 1) < error).all())
    expected = stats.binom.logpmf(x[:50].numpy(), 1000, share).sum(1)
    found = task.log_likelihood(x[:50].double(), theta.expand(50, 2)).numpy()
    # Its relative error of 1e-6 in I moves a thousand counts by 1e-3.
    assert np.abs(found - expected).max() < 2e-3


def test_populations_are_seen_with_lognormal_noise():
    from scipy import stats

    task, theta = _sbibm_ode.lotka_volterra(), torch.tensor([0.8, 0.05, 0.9, 0.04], dtype=torch.float64)
    x = task.simulate(theta.expand(DRAWS // 4, 4), generator(0, "x"))
    exact = exact_lotka_volterra(theta.tolist())
    moments_agree(x.double().log(), torch.from_numpy(np.log(exact)), 0.01 * torch.eye(20, dtype=torch.float64))
    expected = stats.lognorm.logpdf(x[:50].double().numpy(), 0.1, scale=exact).sum(1)
    assert np.abs(task.log_likelihood(x[:50].double(), theta.expand(50, 4)).numpy() - expected).max() < 1e-4
    negative = x[:1].double().clone()
    negative[0, 3] = -1
    assert float(task.log_likelihood(negative, theta[None])) == -math.inf


def test_no_draw_of_the_prior_leaves_the_numbers_of_float32():
    task = _sbibm_ode.lotka_volterra()
    x = task.simulate(task.prior.sample(5000, generator(1, "theta")), generator(1, "x"))
    assert float(x.min()) > 1e-11
    assert bool(x.isfinite().all())


def test_prior_of_the_filter_is_the_one_of_the_definition():
    f = np.zeros((9, 9))
    for k in range(9):  # D D, entry by entry, and the diagonal that is added
        f[k, k] = 1 + math.sqrt(k / 9)
        if k > 0:
            f[k, k - 1] = -2
        if k > 1:
            f[k, k - 2] = 1
    precision = np.zeros((10, 10))
    precision[0, 0] = 0.5
    precision[1:, 1:] = f.T @ f
    assert np.allclose(_sbibm_glm.prior().covariance.numpy() @ precision, np.eye(10), atol=1e-9)


def test_sums_are_spikes_and_their_triggered_stimulus():
    design = _sbibm_glm.own_design()
    theta = thetas(_sbibm_glm.bernoulli_glm(design))
    y = _sbibm_glm.bernoulli_glm_raw(design).simulate(theta, generator(0, "x"))
    x = _sbibm_glm.bernoulli_glm(design).simulate(theta, generator(0, "x"))
    stimulus = design[:, 1]
    for spikes, sums in zip(y, x, strict=True):
        assert float(sums[0]) == float(spikes.sum())
        for lag in range(9):
            expected = sum(float(stimulus[t]) * float(spikes[t + lag]) for t in range(100 - lag))
            assert float(sums[1 + lag]) == pytest.approx(expected, abs=1e-5)


def test_spikes_are_bernoulli_and_their_sums_sufficient():
    design = _sbibm_glm.own_design()
    raw, summed = _sbibm_glm.bernoulli_glm_raw(design), _sbibm_glm.bernoulli_glm(design)
    theta = thetas(raw)
    chance = (theta @ design.double().T).sigmoid()
    y = raw.simulate(theta[0].expand(DRAWS, 10), generator(0, "x"))
    error = 5 * (chance[0] * (1 - chance[0]) / DRAWS).sqrt()
    assert bool(((y.double().mean(0) - chance[0]).abs() < error + 1e-12).all())
    one, x = y[0].double(), y[0].double() @ design.double()
    expected = Bernoulli(probs=chance).log_prob(one).sum(-1)
    assert torch.allclose(raw.log_likelihood(one.expand(6, 100), theta), expected)
    assert torch.allclose(summed.log_likelihood(x.expand(6, 10), theta), expected)
