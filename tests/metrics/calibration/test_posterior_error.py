"""z-scores, contraction, RMSE and log q of the truth against their values for a linear Gaussian model."""

import math
from dataclasses import replace

import pytest

from flowzoo.metrics import NotComputed, configure


def found(gaussian, posteriors):
    return configure("posterior_error", {})(gaussian.evaluation(posteriors))


def test_exact_posterior(gaussian):
    of = found(gaussian, gaussian.posteriors(2000, 200))
    variance = gaussian.covariance.diagonal()
    assert of["z_mean_by_parameter"].abs().max() < 4 / 2000**0.5
    assert abs(of["z_std_error"]) < 4 / (2 * 2000 * 2) ** 0.5  # 6,000 z-scores, correlated in threes
    # The prior's variance, 1, is estimated from 5,000 draws.
    assert of["contraction"] == pytest.approx(float(1 - variance.mean()), abs=0.02)
    assert of["posterior_rmse"] == pytest.approx(float(variance.sqrt().mean()), rel=0.05)
    # Minus the entropy of the posterior; (theta - m)' S^-1 (theta - m) is chi^2 of 3, of variance 6.
    entropy = 1.5 * (1 + math.log(2 * math.pi)) + float(gaussian.covariance.logdet()) / 2
    assert of["log_posterior_truth"] == pytest.approx(-entropy, abs=4 * (6 / 4 / 2000) ** 0.5)


@pytest.mark.parametrize(("scale", "error"), [(0.7, 1 / 0.7 - 1), (1.4, 1 / 1.4 - 1)])
def test_wrong_spread(gaussian, scale, error):
    of = found(gaussian, gaussian.posteriors(2000, 200, scale=scale))
    assert of["z_std_error"] == pytest.approx(error, abs=0.05)
    assert of["z_mean"] < 0.15


def test_shifted_mean_is_bad_and_keeps_its_sign(gaussian):
    of = found(gaussian, gaussian.posteriors(500, 200, shift=-0.5))
    assert of["z_mean"] == pytest.approx(0.5, abs=4 / 500**0.5)
    assert of["z_mean_by_parameter"].max() < 0
    assert abs(of["z_std_error"]) < 0.1


def test_exact_posterior_has_the_best_score_of_the_truth(gaussian):
    scores = [
        found(gaussian, gaussian.posteriors(500, 20, **options))["log_posterior_truth"]
        for options in ({}, *gaussian.faults.values(), {"returns_prior": True})
    ]
    assert scores[0] == max(scores)


def test_prior_returned_contracts_nothing(gaussian):
    of = found(gaussian, gaussian.posteriors(500, 200, returns_prior=True))
    assert of["contraction"] == pytest.approx(0, abs=0.03)
    assert of["posterior_rmse"] == pytest.approx(1, abs=0.1)


def test_what_is_missing_says_why(gaussian):
    some = gaussian.posteriors(40, 20)
    assert "constant" in found(gaussian, replace(some, normalised=False))["log_posterior_truth"]
    scores = some.truth_log_prob.clone()
    scores[:3] = -math.inf
    assert found(gaussian, replace(some, truth_log_prob=scores))["log_posterior_truth"] == (
        "q excludes the truth at 3 of 40 observations"
    )
    draws = some.draws.clone()
    draws[:, 5, 1] = 0.25
    with pytest.raises(NotComputed, match="of 1 observations all draws"):
        found(gaussian, replace(some, draws=draws))
