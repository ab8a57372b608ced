"""Coverage of HPD regions: its size, its power, its sign."""

import math
from dataclasses import replace

import pytest
import torch

from flowzoo.metrics import configure
from flowzoo.metrics.hpd import coverage_error, credibility
from flowzoo.seeding import generator


def found(gaussian, **options):
    return configure("hpd", {})(gaussian.evaluation(gaussian.posteriors(500, 100, **options)))


@pytest.mark.slow
def test_exact_posterior_is_rejected_as_often_as_the_level_says(of_exact):
    assert float((of_exact["hpd_p"] <= 0.05).double().mean()) == pytest.approx(0.05, abs=0.015)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["overconfident", "underconfident", "shifted"])
def test_faulty_posterior_is_rejected(of_faults, fault):
    assert float((of_faults[fault]["hpd_p"] <= 0.05).double().mean()) > 0.95


def test_credibility_of_a_normal_posterior_is_the_probability_of_its_ball(gaussian):
    some = gaussian.posteriors(50, 20_000)
    distance = torch.linalg.solve_triangular(
        gaussian.root, (some.truth - some.observation @ gaussian.gain.T).T, upper=False
    )
    exact = torch.special.gammainc(torch.tensor(1.5, dtype=torch.float64), distance.square().sum(0) / 2)  # chi^2 of 3
    alpha = credibility(some, generator(0, "hpd"))
    assert float((alpha - exact).abs().max()) < 5 * 0.5 / 20_000**0.5


@pytest.mark.parametrize(("scale", "sign"), [(1.0, 0), (0.7, -1), (1.4, 1)])
def test_error_of_a_wrong_spread_has_the_size_and_sign_of_the_integral(gaussian, scale, sign):
    of = found(gaussian, scale=scale)
    # 1/2 - E P(chi^2_3 < r^2 / scale^2) with r^2 of chi^2_3, by a million draws.
    r2 = torch.randn(3, 10**6, generator=generator(0, "chi2"), dtype=torch.float64).square().sum(0)
    exact = 0.5 - float(torch.special.gammainc(torch.tensor(1.5, dtype=torch.float64), r2 / scale**2 / 2).mean())
    assert of["coverage_error"] == pytest.approx(exact, abs=4 * of["coverage_error_se"])
    assert of["coverage_error_se"] < 0.02
    # Nothing, or clearly over- or underconfident.
    assert of["coverage_error"] * sign > 0.1 if sign else abs(of["coverage_error"]) < 0.05
    assert (of["hpd_p"] > 0.05) == (sign == 0)


def test_area_is_that_under_the_kept_curve(gaussian):
    of = found(gaussian, shift=0.5)
    assert float(torch.trapezoid(of["coverage"] - of["level"], of["level"])) == pytest.approx(
        of["coverage_error"], abs=0.005
    )
    assert (of["lower"] <= of["coverage"]).all()
    assert (of["coverage"] <= of["upper"]).all()


def test_standard_error_is_that_of_a_bootstrap():
    alpha = torch.rand(200, generator=generator(0, "alpha"), dtype=torch.float64)
    chosen = torch.randint(200, (20_000, 200), generator=generator(0, "bootstrap"))
    assert coverage_error(alpha)[1] == pytest.approx(float(alpha[chosen].mean(1).std()), rel=0.03)


def test_truth_that_is_excluded_needs_all_of_the_posterior(gaussian):
    some = gaussian.posteriors(30, 19)
    alpha = credibility(replace(some, truth_log_prob=torch.full((30,), -math.inf)), generator(0, "hpd"))
    assert float(alpha.min()) > 0.95
