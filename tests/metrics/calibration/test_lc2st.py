"""L-C2ST: right in size, sees faults, and where they are."""

from dataclasses import replace

import pytest
import torch

from flowzoo.metrics._lc2st import lc2st
from flowzoo.seeding import generator

AT = torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.5, 0.0, 0.0, 0.0], [-1.5, 0.0, 0.0, 0.0]], dtype=torch.float64)


def local(gaussian, seed, *, count=500, draws=60, trials=100, scale=1.0, shift=0.0, slope=0.0):
    """With means off by ``shift + slope x_1`` standard deviations."""
    source = generator(seed, "lc2st")
    some = gaussian.posteriors(count, draws, scale=scale, shift=shift, seed=seed)
    unit = gaussian.covariance.diagonal().sqrt()
    some = replace(some, draws=some.draws + slope * some.observation[:, :1] * unit)
    noise = torch.randn(200, len(AT), 3, generator=source, dtype=torch.float64)
    at = AT @ gaussian.gain.T + (shift + slope * AT[:, :1]) * unit + noise @ (scale * gaussian.root).T
    return lc2st(some, AT, at, source, trials)


@pytest.mark.slow
def test_exact_posterior_is_rejected_as_often_as_the_level_says(gaussian):
    # Of 19 exchanges p is 0.05 at least, and exactly as often as it should be.
    p = torch.stack([local(gaussian, seed, count=40, draws=20, trials=19).p for seed in range(2000)])
    for share in (p <= 0.05).double().mean(0).tolist():
        assert share == pytest.approx(0.05, abs=0.015)


@pytest.mark.parametrize("fault", ["overconfident", "underconfident", "shifted"])
def test_faulty_posterior_is_rejected(gaussian, fault):
    p = torch.stack([local(gaussian, seed, **gaussian.faults[fault]).p[0] for seed in range(25)])
    assert float((p <= 0.05).double().mean()) > 0.95


def test_fault_is_found_where_it_is(gaussian):
    found = local(gaussian, 0, count=1000, slope=0.5)
    assert found.p[1:].max() <= 0.05
    assert found.statistic[0] < 0.1 * found.statistic[1:].min()


def test_same_seed_gives_the_same_bits(gaussian):
    first, again = (local(gaussian, 0, count=50, draws=10, trials=9) for _ in range(2))
    assert torch.equal(first.null, again.null)
    assert first.null.shape == (9, 3)


def test_what_does_not_fit_is_refused(gaussian):
    some, source = gaussian.posteriors(30, 5), generator(0, "x")
    with pytest.raises(ValueError, match=r"theta_at must be \(n, 3, 3\); got \(7, 2, 3\)"):
        lc2st(some, AT, torch.zeros(7, 2, 3), source)
    with pytest.raises(ValueError, match="4 columns of the pairs"):
        lc2st(some, AT[:, :2], torch.zeros(7, 3, 3), source)
    with pytest.raises(ValueError, match="got 2 of 30"):
        lc2st(replace(some, draws=some.draws[:2]), AT, torch.zeros(7, 3, 3), source)
