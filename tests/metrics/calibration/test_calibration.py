"""What calibration tests share, and the family of all of them."""

import math
from dataclasses import replace

import pytest
import torch

from flowzoo.metrics import NotComputed, columns, configure
from flowzoo.metrics._calibration import (
    bootstrap_band,
    chi2_p,
    density_pit,
    ecdf_difference,
    holm,
    ks_p,
    randomised_pit,
    uniform_p,
)
from flowzoo.metrics.calibration import family
from flowzoo.seeding import generator

METRICS = ("sbc", "hpd", "tarp", "calibration", "posterior_error")
TESTS = METRICS[:4]


def uniform(*shape, name="u"):
    return torch.rand(*shape, generator=generator(0, name), dtype=torch.float64)


def test_ranks_of_few_draws_with_ties_are_exactly_uniform():
    # Three draws of three values: of integer ranks every test against the continuous law would fail.
    source = generator(0, "ties")
    values = torch.randint(3, (4, 20_000), generator=source)
    u = randomised_pit(values[1:], values[0], source)
    assert float(ks_p(u)) > 0.001
    assert float(ks_p(((values[1:] < values[0]).sum(0) + 0.5) / 4)) < 1e-9


def test_rank_of_infinite_scores():
    source, draws = generator(0, "x"), torch.zeros(9, 2)
    u = randomised_pit(draws, torch.tensor([math.inf, -math.inf]), source)
    assert 0.9 <= float(u[0]) <= 1
    assert 0 <= float(u[1]) <= 0.1


def test_densities_that_differ_by_rounding_are_ranked_by_chance():
    scores = torch.full((50, 1000), -3.2, dtype=torch.float64)
    truth = scores[0] + 1e-6
    assert float(uniform_p(randomised_pit(scores, truth, generator(0, "pit")))) < 1e-9
    assert float(uniform_p(density_pit(scores, truth, generator(0, "pit")))) > 0.01
    # What differs by more is ranked as it was.
    scores, truth = uniform(50, 1000, name="scores"), torch.full((1000,), 0.3, dtype=torch.float64)
    plain, blurred = (rank(scores, truth, generator(0, "pit")) for rank in (randomised_pit, density_pit))
    assert float((plain.mean() - blurred.mean()).abs()) < 1e-3


def test_kolmogorov_smirnov_is_scipys():
    from scipy.stats import kstest

    u = uniform(3, 57)
    assert ks_p(u).tolist() == pytest.approx([kstest(each.numpy(), "uniform").pvalue for each in u])


def test_chi_square_is_scipys():
    from scipy.stats import chisquare

    u = uniform(300)
    counts = torch.histc(u, 10, 0, 1).numpy()
    assert float(chi2_p(u)) == pytest.approx(chisquare(counts).pvalue)
    assert float(chi2_p(torch.ones(100))) < 1e-30


@pytest.mark.parametrize("count", [20, 200, 1000])
def test_combined_p_has_its_size(count):
    p = uniform_p(uniform(4000, count))
    # Of 4,000 the binomial error is 0.0035; the rest of the allowance is what the combination is off by.
    assert float((p <= 0.05).double().mean()) == pytest.approx(0.05, abs=0.015)
    assert float((p <= 0.01).double().mean()) == pytest.approx(0.01, abs=0.005)


def test_combined_p_keeps_the_digits_of_the_small():
    assert 0 < float(uniform_p(uniform(1000) ** 3)) < 1e-30


def test_holm_by_hand():
    assert holm(torch.tensor([0.03, 0.01, 0.04, 0.5])).tolist() == pytest.approx([0.09, 0.04, 0.09, 0.5])
    assert holm(torch.tensor([[0.6, 0.9]])).tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize(("count", "level"), [(100, 0.95), (1000, 0.95), (1000, 0.5)])
def test_simultaneous_bands_hold_whole_curves_as_often_as_they_say(count, level):
    _, difference, lower, upper = ecdf_difference(uniform(5000, count), level)
    # Rounding, because both are multiples of 1/N less the same z.
    inside = ((difference >= lower - 1e-9) & (difference <= upper + 1e-9)).all(-1).double().mean()
    error = (level * (1 - level) / 5000) ** 0.5
    # Counts are whole, so the level can only be met from above; by little.
    assert level - 3.5 * error < float(inside) < level + 0.02 + 3.5 * error


def test_simultaneous_bands_show_a_wrong_spread():
    z, difference, lower, upper = ecdf_difference(torch.special.ndtr(torch.special.ndtri(uniform(1000)) / 0.7))
    outside = (difference < lower) | (difference > upper)
    assert outside.any()
    assert difference[outside & (z < 0.4)].min() > 0  # too many truths below the draws


def test_bootstrap_band_has_the_binomial_width():
    u, grid = uniform(400), torch.tensor([0.1, 0.5, 1.0])
    lower, upper = bootstrap_band(u, grid, generator(0, "bootstrap"), resamples=4000)
    share = (u[:, None] <= grid).double().mean(0)
    width = 2 * 1.96 * (share * (1 - share) / 400).sqrt()
    assert (upper - lower)[:2].tolist() == pytest.approx(width[:2].tolist(), rel=0.1)
    assert (lower[2], upper[2]) == (1, 1)


@pytest.mark.slow
def test_family_of_exact_posteriors_is_rejected_as_often_as_it_says(of_exact):
    assert float((of_exact["calibration_p"] <= 0.05).double().mean()) == pytest.approx(0.05, abs=0.015)


def test_exact_linear_gaussian_passes_and_sharpened_fails_every_test(gaussian):
    def of(**options):
        return family(
            gaussian.posteriors(1000, 200, **options), *(generator(0, name) for name in ("sbc", "hpd", "tarp"))
        )

    exact, sharp = of(), of(scale=0.7)
    assert exact.names == ("sbc a", "sbc b", "sbc c", "sbc log-likelihood", "hpd", "tarp")
    assert float(exact.adjusted.min()) > 0.05
    assert float(sharp.adjusted.max()) < 0.001


def test_columns_of_the_parts_and_of_the_family_are_of_the_same_ranks(gaussian):
    evaluation = gaussian.evaluation(gaussian.posteriors(200, 50))
    found = {name: configure(name, {})(evaluation) for name in TESTS}
    p = found["calibration"]["p"]
    assert p[:4].tolist() == found["sbc"]["p"].tolist()
    assert float(p[4]) == found["hpd"]["hpd_p"]
    assert float(p[5]) == found["tarp"]["tarp_p"]
    assert found["calibration"]["calibration_p"] == float(holm(p).min())
    assert found["calibration"]["calibration_observations"] == 200
    again = configure("calibration", {})(evaluation)
    assert again["p"].tolist() == p.tolist()


@pytest.mark.parametrize("name", METRICS)
def test_what_cannot_be_tested_is_declined_with_the_count(gaussian, name):
    metric, some = configure(name, {}), gaussian.posteriors(40, 20)
    with pytest.raises(NotComputed, match="no prior"):
        metric(gaussian.evaluation(None))
    with pytest.raises(NotComputed, match="19 observations"):
        metric(gaussian.evaluation(gaussian.posteriors(19, 20)))
    draws = some.draws.clone()
    draws[3, :2, 1] = math.nan
    with pytest.raises(NotComputed, match="of 2 of 40 observations are not finite"):
        metric(gaussian.evaluation(replace(some, draws=draws)))
    with pytest.raises(NotComputed, match="of 40 of 40 observations are not numbers"):
        metric(gaussian.evaluation(replace(some, truth_log_prob=some.truth_log_prob * math.nan)))


def test_every_p_has_the_same_marks():
    named = columns()
    for name in ("sbc_p", "hpd_p", "tarp_p", "calibration_p"):
        assert (named[name].better, named[name].good, named[name].bad) == ("higher", 0.05, 0.001)
