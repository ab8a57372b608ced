"""TARP: its size and power, and what each kind of reference is for."""

from dataclasses import replace

import pytest
import torch

from flowzoo.metrics import NotComputed, configure, regressed
from flowzoo.metrics._calibration import holm, uniform_p
from flowzoo.metrics._regression import leading
from flowzoo.metrics.hpd import credibility
from flowzoo.metrics.sbc import sbc
from flowzoo.metrics.tarp import KINDS, fraction, sides, tarp
from flowzoo.seeding import generator


def by_kind(posteriors):
    return dict(zip(KINDS, uniform_p(tarp(posteriors, generator(0, "tarp"))).tolist(), strict=True))


@pytest.mark.slow
def test_exact_posterior_is_rejected_as_often_as_the_level_says(of_exact):
    assert float((of_exact["tarp_p"] <= 0.05).double().mean()) == pytest.approx(0.05, abs=0.015)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["overconfident", "underconfident", "shifted"])
def test_faulty_posterior_is_rejected(of_faults, fault):
    assert float((of_faults[fault]["tarp_p"] <= 0.05).double().mean()) > 0.95


def test_prior_returned_is_seen_by_references_that_know_x_and_by_nothing_else(gaussian):
    prior = gaussian.posteriors(500, 100, returns_prior=True, implied=True, trees=True)
    p = by_kind(prior)
    assert p["regression"] < 1e-6
    assert min(p["uniform"], p["side"]) > 0.05
    assert float(holm(uniform_p(sbc(prior, generator(0, "sbc")).T)).min()) > 0.05
    assert float(uniform_p(credibility(prior, generator(0, "hpd")))) > 0.05
    assert configure("tarp", {})(gaussian.evaluation(prior))["tarp_p"] < 1e-5


def test_shift_of_one_parameter_is_seen_from_the_side(gaussian):
    some = gaussian.posteriors(500, 100)
    shift = torch.zeros(3, dtype=torch.float64)
    shift[1] = -0.4 * gaussian.covariance[1, 1].sqrt()
    p = by_kind(replace(some, draws=some.draws + shift))
    assert p["side"] < 1e-6
    assert p["side"] < p["uniform"]


def test_references_on_the_side_know_the_pairs_before_alone(gaussian):
    some = gaussian.posteriors(20, 50)
    truth = some.truth.clone()
    truth[7:] += 5
    before, after = sides(some.draws, some.truth), sides(some.draws, truth)
    assert torch.equal(before[:8], after[:8])
    assert not torch.equal(before[8:], after[8:])


def test_side_of_pairs_that_cancel_does_not_know_the_truth():
    # These ranks among ten draws cancel: what rounding leaves of their sum must not depend on the one that follows.
    draws = ((torch.arange(10, dtype=torch.float64) + 0.5) / 10)[:, None, None].expand(10, 6, 1)
    before = torch.tensor([0.0, 0.8, 0.4, 0.3, 1.0], dtype=torch.float64)
    own = [sides(draws, torch.cat([before, before.new_tensor([t / 10])])[:, None])[5] for t in range(11)]
    assert all(torch.equal(own[0], each) for each in own)


def test_fraction_is_the_distribution_function_of_the_distance():
    # Draws uniform on [0, 1], reference 0: the distance is the draw.
    draws = torch.rand(20_000, 30, 1, generator=generator(0, "draws"), dtype=torch.float64)
    truth = torch.linspace(0, 1, 30, dtype=torch.float64)[:, None]
    f = fraction(draws, truth, torch.zeros_like(truth), generator(0, "f"))
    assert float((f - truth[:, 0]).abs().max()) < 5 * 0.5 / 20_000**0.5


def test_fractions_reach_from_zero_to_one(gaussian):
    f = tarp(gaussian.posteriors(500, 100), generator(0, "tarp"))
    assert f.shape == (3, 500)
    assert 0 <= float(f.min()) < 0.02
    assert 0.98 < float(f.max()) <= 1


def test_wide_observations_are_projected_on_what_varies():
    source = generator(0, "wide")
    signal = torch.randn(300, 3, generator=source) @ torch.randn(3, 200, generator=source) * 10
    x = signal + 0.01 * torch.randn(300, 200, generator=source)
    known, other = leading(x[:250], x[250:], source)
    assert (known.shape, other.shape) == ((250, 32), (50, 32))
    # Of the squares of the other observations, nearly all is kept.
    assert float(other.square().sum() / (x[250:] - x[:250].mean(0)).square().sum()) > 0.999


@pytest.mark.parametrize("parameters", [1, 3])
def test_trees_tell_parameters_from_observations_of_many_columns(gaussian, parameters):
    theta, x = gaussian.simulate(1100, generator(0, "trees"))
    wide = x.repeat_interleave(10, 1)
    theta = theta[:, :parameters]
    found = regressed(wide[:1000], theta[:1000], wide[1000:], generator(0, "regression"))
    assert found.shape == (100, parameters)
    # The exact mean has S / 1 of the prior's variance left, some tenth; half of it is what poor trees leave.
    assert float((found - theta[1000:]).square().mean()) < 0.5
    again = regressed(wide[:1000], theta[:1000], wide[1000:], generator(0, "regression"))
    assert torch.equal(found, again)


def test_few_training_pairs_are_declined(gaussian):
    some = replace(gaussian.posteriors(60, 20), predicted=None)
    for name in ("tarp", "calibration"):
        with pytest.raises(NotComputed, match="fewer than 50 training pairs"):
            configure(name, {})(gaussian.evaluation(some))
    with pytest.raises(ValueError, match="need predictions of theta; got None"):
        tarp(some, generator(0, "tarp"))
