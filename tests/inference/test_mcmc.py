"""Walkers: modes keep their shares, blocks do not meet, and a run that is too short says so."""

import math

import numpy as np
import pytest
import torch
from emcee.state import State
from torch.distributions import Normal

from flowzoo.inference import _mcmc, _mixture
from flowzoo.inference._mcmc import mcmc
from flowzoo.inference._mixture import Mixture, fit
from flowzoo.inference._moves import Difference, Leap, Stretch, Stroll
from flowzoo.seeding import generator


def test_two_modes_keep_their_shares():
    def density(v, rows):
        left = Normal(-2.0, 0.2).log_prob(v).sum(-1) + math.log(0.3)
        return torch.logaddexp(left, Normal(1.5, 0.2).log_prob(v).sum(-1) + math.log(0.7))

    found = mcmc(density, 2, 3, 2000, generator(0, "m"))
    share = (found.v[..., 0] < 0).double().mean(0)
    # What the chains know of a share is their number of independent draws.
    ess = 1 / (1 / 2000 + 1 / found.diagnostics["ess"])
    assert bool((ess > 200).all())
    assert bool(((share - 0.3).abs() < 4.5 * (0.3 * 0.7 / ess).sqrt()).all())


def test_run_that_is_too_short_says_so():
    def density(v, rows):
        return -0.5 * (v / torch.logspace(-3, 0, 6, dtype=torch.float64)).square().sum(-1)

    told = []
    found = mcmc(density, 6, 2, 50, generator(0, "m"), max_steps=60, tell=lambda *said: told.append(said))
    assert (0, "step 60 of a chain") in told
    assert all(done <= 2 for done, _ in told)
    assert any("mcmc has not converged for 2 of 2 observations" in text for text in found.warnings)
    assert any("raise max_steps" in text for text in found.warnings)


def test_ensembles_that_sit_in_modes_of_their_own_disagree():
    means = np.random.default_rng(0).normal(size=(400, 4, 1)) * 0.1
    assert _mcmc._convergence(means, 1)[1][0] < 1.02
    means[:, 2:] += 1.0
    tau, rhat = _mcmc._convergence(means, 1)
    assert rhat[0] > 2
    numbers = {"tau": tau, "agreement": rhat, "steps": np.array([400.0]), "ess": np.array([1e4])}
    said = _mcmc._remarks(numbers, 400, 1.05, 100)
    assert any("independent ensembles disagree for 1 of 1 observations" in text for text in said)


def test_ensembles_of_another_width_disagree():
    # Alike in their means: the spreads tell.
    walkers = np.random.default_rng(0).normal(size=(400, 4, 16, 2))
    walkers[:, 3, :, 1] *= 1.5
    chain = _mcmc._Chain(room=10)
    for step in walkers:
        chain.add(step.reshape(-1, 2), np.zeros(64), np.zeros(4))
    numbers = np.stack(chain.series)
    assert _mcmc._convergence(numbers[..., :2], 1)[1][0] < 1.05
    # Two of eight half chains are off by log 1.5: a variance of 0.035. The log spread of 16 walkers has 1 / 30: R-hat
    # is 1.4
    assert _mcmc._convergence(numbers, 1)[1][0] > 1.3


def test_observation_that_is_stuck_costs_the_others_nothing():
    asked = torch.zeros(5, dtype=torch.long)

    def density(v, rows):
        rows = torch.arange(5) if rows is None else rows
        asked.index_add_(0, rows, torch.full_like(rows, v.shape[1]))
        # The third has more modes, and narrower ones, than any proposal knows.
        comb = Normal(0.0, 1e-3).log_prob(v % 0.25 - 0.125) + torch.where(v.abs() > 2.5, 0.0, -torch.inf)
        comb = (comb + Normal(0.0, 3.0).log_prob(v)).sum(-1)
        return torch.where((rows == 2)[:, None], comb, Normal(0.0, 1.0).log_prob(v).sum(-1))

    found = mcmc(density, 2, 5, 200, generator(0, "m"), max_steps=2500)
    easy = torch.tensor([0, 1, 3, 4])
    assert int(found.diagnostics["steps"][2]) >= int(found.diagnostics["steps"][easy].max())
    assert int(asked[easy].max()) < 0.7 * int(asked[2])
    # Draws belong to their own observation: 4.5 standard errors of what is normal, nothing between the modes.
    assert float(found.v[:, easy].mean(0).abs().max()) < 4.5 / math.sqrt(100)
    assert bool((found.v[:, 2].abs() > 2.5).all())


def test_modes_that_no_step_reaches_keep_their_shares():
    def density(v, rows):
        left = Normal(-3.0, 0.01).log_prob(v).sum(-1) + math.log(0.3)
        return torch.logaddexp(left, Normal(3.0, 0.01).log_prob(v).sum(-1) + math.log(0.7))

    found = mcmc(density, 2, 3, 1000, generator(0, "m"))
    assert found.warnings == []
    share = (found.v[..., 0] < 0).double().mean(0)
    ess = 1 / (1 / 1000 + 1 / found.diagnostics["ess"])
    assert bool(((share - 0.3).abs() < 4.5 * (0.3 * 0.7 / ess).sqrt()).all())


@pytest.mark.slow
def test_four_curved_modes_of_five_parameters_converge():
    # Of three coordinates normal, and two of either sign whose size follows the first, so that every mode is curved.
    def density(v, rows):
        size = 1.2 + 0.3 * v[..., :1].square()
        height = Normal(0.0, 0.7).log_prob(v[..., :3]).sum(-1)
        return height + torch.logaddexp(
            Normal(size, 0.1).log_prob(v[..., 3:]), Normal(-size, 0.1).log_prob(v[..., 3:])
        ).sum(-1)

    found = mcmc(density, 5, 2, 1000, generator(0, "m"))
    assert found.warnings == []
    mode = (found.v[..., 3] > 0).long() * 2 + (found.v[..., 4] > 0)
    share = torch.stack([(mode == k).double().mean(0) for k in range(4)])
    ess = 1 / (1 / 1000 + 1 / found.diagnostics["ess"])
    assert bool(((share - 0.25).abs() < 4.5 * (0.25 * 0.75 / ess).sqrt()).all())
    assert bool(((found.v[..., 0].mean(0) / 0.7).abs() < 4.5 / ess.sqrt()).all())


def test_autocorrelation_time_is_that_of_the_process():
    # x' = r x + noise has (1 + r) / (1 - r), here 9. Of 10,000 x 20 steps it is known to sqrt(20 * 9 / 200,000) = 3 %
    # (Sokal 1997, equation 3.19), less the 2 % of what lies beyond a window of five times; 4.5 of the first.
    noise, x = np.random.default_rng(0).normal(size=(10_000, 20, 1)), np.zeros((10_000, 20, 1))
    for i in range(1, len(x)):
        x[i] = 0.8 * x[i - 1] + noise[i]
    assert abs(_mcmc._times(x)[0] / 9 - 1) < 4.5 * 0.03 + 0.02


def test_ensembles_that_disagree_have_a_long_time():
    means = np.random.default_rng(0).normal(size=(400, 4, 1)) * 0.1
    assert _mcmc._convergence(means, 1)[0][0] < 2
    means[:, 2:] += 1.0
    assert 20 * _mcmc._convergence(means, 1)[0][0] > 400


@pytest.mark.slow
@pytest.mark.parametrize("dim", [5, 10])
def test_ten_thousand_draws_are_worth_half_as_many(dim):
    # Correlated and of several scales, as posteriors are.
    source = generator(dim, "a")
    a = torch.eye(dim, dtype=torch.float64) + 0.5 * torch.randn(dim, dim, generator=source, dtype=torch.float64)
    a = 0.3 * a * torch.logspace(-1, 0, dim, dtype=torch.float64)[:, None]
    exact = torch.distributions.MultivariateNormal(torch.zeros(dim).double(), a @ a.T)
    found = mcmc(lambda v, rows: exact.log_prob(v), dim, 40 // dim, 10_000, generator(0, "m"))
    z = torch.linalg.solve(a, found.v.movedim(0, -1))  # (K, D, L), independent standard normals
    worth = 1 / z.mean(-1).square().mean()
    # 40 squares of means: a relative error of sqrt(2 / 40), 4.5 of it
    assert float(worth) * (1 + 4.5 * math.sqrt(2 / 40)) > 5000
    assert found.warnings == []


@pytest.mark.parametrize("move", [Stretch(3), Difference(3, 1.0)])
def test_walkers_meet_their_own_ensemble_alone(move):
    # Three ensembles on lines of their own: a difference or a stretch within one leaves it on its line.
    random = np.random.RandomState(0)
    line = np.arange(3.0)[:, None, None]
    along = random.standard_normal((3, 8, 1))
    walkers = np.concatenate([along, np.broadcast_to(line, along.shape)], axis=2)
    moved, factors = move.get_proposal(walkers[:, :4], walkers[:, 4:], random)
    np.testing.assert_allclose(moved[..., 1], np.broadcast_to(line[..., 0], (3, 4)), atol=1e-12)
    assert factors.shape == (3, 4)
    assert not np.allclose(moved[..., 0], walkers[:, :4, 0])


def test_mixture_has_the_density_of_its_draws():
    random = np.random.RandomState(0)
    cloud = random.standard_normal((2, 500, 2)) * [1.0, 0.1] + random.choice([-2.0, 2.0], (2, 500, 1))
    mixture = fit(cloud, random)
    # The mean of normal / mixture over draws of the mixture is 1; its standard error is measured.
    draws = mixture.draw(20_000, random)
    normal = Normal(torch.tensor([2.0, 2.0]), torch.tensor([0.5, 0.1])).log_prob(torch.from_numpy(draws)).sum(-1)
    ratio = np.exp(normal.numpy() - mixture.log_prob(draws))
    assert (np.abs(ratio.mean(1) - 1) < 4.5 * ratio.std(1) / math.sqrt(20_000)).all()
    # It is of its cloud: a tenth of the mass at most has been lost between the modes.
    assert (np.abs(np.abs(draws[..., 0]) - 2) < 3).mean() > 0.9
    assert (mixture.of(np.array([False, True])).log_prob(draws[1:]) == mixture.log_prob(draws)[1:]).all()


def test_clouds_in_parts_are_as_in_one(monkeypatch):
    cloud = np.random.RandomState(0).standard_normal((6, 50, 2))
    cloud[3] = 0.5  # walkers that all stand at one place have a mixture too
    whole = fit(cloud[:1], np.random.RandomState(1))
    monkeypatch.setattr(_mixture, "ROOM", 1)
    found = fit(cloud, np.random.RandomState(1))
    np.testing.assert_allclose(found.mean[0], whole.mean[0])
    assert np.isfinite(found.log_prob(cloud)).all()


@pytest.mark.parametrize("move", [Leap, Stroll])
def test_moves_of_a_mixture_leave_a_target_as_it_is(move):
    # Walkers that are draws of a normal are so after 20 steps by a mixture that is not alike: a wrong factor would pull
    # them to it. Three ensembles of two observations each.
    class Model:
        random = np.random.RandomState(0)

        @staticmethod
        def log_prob_fn(v):
            return -0.5 * np.square(v).sum(1)

    mean, root = np.array([[[1.0, 0.0], [-1.0, 1.0]]] * 2), np.array([[np.eye(2) * 0.5, np.eye(2) * 1.5]] * 2)
    v = Model.random.standard_normal((6 * 4000, 2))
    step = move(6, Mixture(np.log([[0.7, 0.3]] * 2), mean, root))
    state = State(v, log_prob=Model.log_prob_fn(v))
    for _ in range(20):
        state, accepted = step.propose(Model, state)
    assert 0.2 < accepted.mean() < 0.95
    assert not np.isclose(state.coords, v).any(1).mean() > 0.2
    # 24,000 walkers: 4.5 standard errors of means, and of squares, whose variance is 2
    assert np.abs(state.coords.mean(0)).max() < 4.5 / math.sqrt(len(v))
    assert np.abs(np.square(state.coords).mean(0) - 1).max() < 4.5 * math.sqrt(2 / len(v))


def test_too_few_walkers_are_refused():
    with pytest.raises(ValueError, match=r"even number of walkers, at least 12.*got 8 walkers"):
        mcmc(lambda v, rows: v.sum(-1), 5, 1, 10, generator(0, "m"), walkers=8)
