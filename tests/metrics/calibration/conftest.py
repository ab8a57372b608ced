"""Posteriors of a linear Gaussian simulator, exact and with known faults, and p-values of many exact ones."""

import math
from types import SimpleNamespace

import pytest
import torch

from flowzoo.metrics import Evaluation, Posteriors, regressed
from flowzoo.metrics._calibration import holm, uniform_p
from flowzoo.metrics.hpd import credibility
from flowzoo.metrics.sbc import sbc
from flowzoo.metrics.tarp import fraction, sides, tarp
from flowzoo.seeding import generator

D, F = 3, 4
# theta ~ N(0, 1), x = A theta + noise: the posterior is N(G x, S), its parameters correlated.
A = torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, 0.5], [0.5, 0.0, 1.0], [0.3, 0.3, 0.3]], dtype=torch.float64)
NOISE = 0.5
S = torch.linalg.inv(torch.eye(D, dtype=torch.float64) + A.T @ A / NOISE**2)
G = S @ A.T / NOISE**2
ROOT = torch.linalg.cholesky(S)

FAULTS = {"overconfident": {"scale": 0.7}, "underconfident": {"scale": 1.4}, "shifted": {"shift": 0.5}}


def to_unit(theta):
    return torch.special.ndtr(theta)


def simulate(count, source):
    theta = torch.randn(count, D, generator=source, dtype=torch.float64)
    return theta, theta @ A.T + NOISE * torch.randn(count, F, generator=source, dtype=torch.float64)


def simulated(theta, x):
    """Log-likelihood of the simulator, up to a constant."""
    return -(x - theta @ A.T).square().sum(-1) / 2 / NOISE**2


def posteriors(count=500, draws=100, *, scale=1.0, shift=0.0, returns_prior=False, implied=False, trees=False, seed=0):
    """Spreads times ``scale`` and means shifted by ``shift`` standard deviations of each parameter.

    The log-likelihood is the simulator's, or the one that q implies if ``implied``. Predicted is the exact posterior
    mean, or by ``trees`` from a thousand other pairs, as the harness does it.
    """
    source = generator(seed, "linear Gaussian")
    truth, x = simulate(count, source)
    known_theta, known_x = simulate(1000, source)
    noise = torch.randn(draws, count, D, generator=source, dtype=torch.float64)
    if returns_prior:
        centre, root = torch.zeros_like(truth), torch.eye(D, dtype=torch.float64)
    else:
        centre, root = x @ G.T + shift * S.diagonal().sqrt(), scale * ROOT
    theta = centre + noise @ root.T

    def log_q(t):
        white = torch.linalg.solve_triangular(root, (t - centre).mT, upper=False)
        return -white.square().sum(-2) / 2 - root.diagonal().log().sum() - D / 2 * math.log(2 * math.pi)

    def log_likelihood(t):
        if implied:
            return log_q(t) + t.square().sum(-1) / 2
        return simulated(t, x)

    return Posteriors(
        draws=theta,
        truth=truth,
        log_prob=log_q(theta),
        truth_log_prob=log_q(truth),
        normalised=True,
        log_likelihood=log_likelihood(theta),
        truth_log_likelihood=log_likelihood(truth),
        observation=x,
        predicted=regressed(known_x, to_unit(known_theta), x, generator(seed, "trees")) if trees else to_unit(x @ G.T),
        prior_draws=torch.randn(5000, D, generator=source, dtype=torch.float64),
        to_unit=to_unit,
        names=("a", "b", "c"),
    )


def evaluation(found, seed=0, **changes):
    values = {
        "x": torch.zeros(2, 1),
        "contexts": torch.zeros(1, 1),
        "context_index": torch.zeros(2, dtype=torch.long),
        "groups": torch.arange(2),
        "scale": torch.ones(1),
        "log_prob": None,
        "scores": torch.zeros(2),
        "samples": None,
        "samples_missing": "",
        "true_scores": None,
        "step": None,
        "generator": generator(seed, "metrics"),
        "posteriors": found,
    }
    return Evaluation(**values | changes)


@pytest.fixture(scope="session")
def gaussian():
    """What this file makes, by name."""
    return SimpleNamespace(
        posteriors=posteriors,
        evaluation=evaluation,
        simulate=simulate,
        log_likelihood=simulated,
        faults=FAULTS,
        covariance=S,
        gain=G,
        root=ROOT,
        dim=D,
    )


@pytest.fixture(scope="session")
def of_exact():
    """p-values of 2,000 repetitions of 150 exact posteriors, by column: ``(2000,)`` each."""
    # Up to 140 scipy takes twenty times as long for a p of Kolmogorov and Smirnov.
    repetitions, count, at_once = 2000, 150, 200
    source = generator(0, "sizes")
    known_theta, known_x = simulate(500, source)
    found = {"sbc_p": [], "hpd_p": [], "tarp_p": [], "calibration_p": []}
    for seed in range(repetitions // at_once):
        many = posteriors(at_once * count, 25, seed=seed)
        ranks = sbc(many, source).reshape(at_once, count, D + 1)
        alpha = credibility(many, source).reshape(at_once, count)
        draws, truth = to_unit(many.draws), to_unit(many.truth)
        uniform = torch.rand(truth.shape, dtype=truth.dtype, generator=source)
        regression = regressed(known_x, to_unit(known_theta), many.observation, source)
        # The pairs before are those of the repetition.
        side = sides(draws.unflatten(1, (at_once, count)), truth.unflatten(0, (at_once, count))).flatten(0, 1)
        f = torch.stack([fraction(draws, truth, at, source) for at in (uniform, regression, side)])
        p_sbc, p_hpd = uniform_p(ranks.mT), uniform_p(alpha)
        p_tarp = holm(uniform_p(f.reshape(3, at_once, count)).T).amin(1)
        found["sbc_p"].append(holm(p_sbc).amin(1))
        found["hpd_p"].append(p_hpd)
        found["tarp_p"].append(p_tarp)
        found["calibration_p"].append(holm(torch.cat([p_sbc, p_hpd[:, None], p_tarp[:, None]], 1)).amin(1))
    return {name: torch.cat(p) for name, p in found.items()}


@pytest.fixture(scope="session")
def of_faults():
    """p-values of 25 repetitions of 500 posteriors with each fault, by fault and column: ``(25,)`` each."""
    found = {}
    for fault, options in FAULTS.items():
        columns = {"sbc_p": [], "hpd_p": [], "tarp_p": []}
        for seed in range(25):
            some, source = posteriors(500, 50, **options, trees=True, seed=seed), generator(seed, "powers")
            columns["sbc_p"].append(holm(uniform_p(sbc(some, source).T)).min())
            columns["hpd_p"].append(uniform_p(credibility(some, source)))
            columns["tarp_p"].append(holm(uniform_p(tarp(some, source))).min())
        found[fault] = {name: torch.stack(p) for name, p in columns.items()}
    return found
