"""Posteriors of a linear Gaussian simulator, exact and with known faults, and p-values of many exact ones."""

from types import SimpleNamespace

import pytest
import torch

from flowzoo.metrics import regressed
from flowzoo.metrics._calibration import holm, uniform_p
from flowzoo.metrics.hpd import credibility
from flowzoo.metrics.sbc import sbc
from flowzoo.metrics.tarp import fraction, sides, tarp
from flowzoo.seeding import generator
from flowzoo.testing import bare_evaluation
from flowzoo.testing._linear_gaussian import ROOT, D, G, S, log_likelihood, posteriors, simulate, to_unit

FAULTS = {"overconfident": {"scale": 0.7}, "underconfident": {"scale": 1.4}, "shifted": {"shift": 0.5}}


def evaluation(found, seed=0, **changes):
    return bare_evaluation(seed=seed, **{"x": torch.zeros(2, 1), "posteriors": found} | changes)


@pytest.fixture(scope="session")
def gaussian():
    """What this file makes, by name."""
    return SimpleNamespace(
        posteriors=posteriors,
        evaluation=evaluation,
        simulate=simulate,
        log_likelihood=log_likelihood,
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


def pytest_collection_modifyitems(items):
    """What takes long to make is made by one worker."""
    for item in items:
        if {"of_exact", "of_faults"} & {*getattr(item, "fixturenames", ())}:
            item.add_marker(pytest.mark.xdist_group("calibration"))
