"""Columns with exact values: noise, floors, and a density of what is left."""

import math

import numpy as np
import pytest

from flowzoo.config import ConfigError
from flowzoo.data._atoms import Atoms

GALAXIES, ENDS = ("a", "b"), (5000, 9000)


def column():
    """A rate that is 0 in two thirds of the rows."""
    rng = np.random.default_rng(0)
    return np.where(np.arange(9000) % 3 > 0, 0, rng.lognormal(0, 1, 9000)).astype(np.float32)


def apply(**options):
    x = np.stack([column(), column()], 1)
    notes = Atoms(**options).apply(x, ("SFR", "other"), GALAXIES, ENDS)
    assert np.array_equal(x[:, 1], column())
    return x[:, 0], notes


def test_noise_is_uniform_and_added_and_noted():
    x, notes = apply(noise={"SFR": 0.5}, seed=3)
    added = (x.astype(float) - column()) / 0.5
    assert added.min() >= 0
    assert added.max() <= 1 + 1e-6
    assert added.mean() == pytest.approx(0.5, abs=4 / math.sqrt(12 * 9000))
    assert len(np.unique(x)) > 8900
    assert notes == ["added 0.5 * U(0, 1) to 'SFR', seed 3"]


def test_floor_and_noise_in_dex_leave_a_lognormal_at_the_floor():
    x, notes = apply(floor={"SFR": 1e-4}, noise_dex={"SFR": 0.1})
    at_floor = column() < 1e-4
    dex = np.log10(x.astype(float) / np.maximum(column(), 1e-4))
    assert dex[at_floor].mean() == pytest.approx(0, abs=4 * 0.1 / math.sqrt(at_floor.sum()))
    assert dex.std() == pytest.approx(0.1, rel=0.05)
    assert notes == [
        "raised the 6000 of 9000 values of 'SFR' below 0.0001 to it",
        "multiplied 'SFR' by 10^(0.1 N(0, 1)), seed 0",
    ]


def test_noise_of_a_galaxy_is_its_own_and_repeats_with_the_seed():
    whole, _ = apply(noise={"SFR": 0.5})
    again, _ = apply(noise={"SFR": 0.5})
    other, _ = apply(noise={"SFR": 0.5}, seed=1)
    alone = column()[5000:, None]
    Atoms(noise={"SFR": 0.5}).apply(alone, ("SFR",), ("b",), (4000,))
    assert np.array_equal(whole, again)
    assert not np.array_equal(whole, other)
    assert np.array_equal(whole[5000:], alone[:, 0])


def test_noise_that_large_values_would_swallow_is_refused():
    # most are 0, where anything can be resolved; a tenth are whole numbers beyond 2^20, where float32 goes in eighths
    x = np.where(np.arange(5000) % 10 > 0, 0, 2**20 + np.arange(5000)).astype(np.float32)[:, None]
    with pytest.raises(ConfigError, match=r"beside its large values, such as 1.05\d*e\+06: give 12 or more"):
        Atoms(noise={"m": 0.1}).apply(x, ("m",), ("a",), (5000,))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"noise": {"Z": 1.0}}, ConfigError, "noise names 'Z', which is not in x; x has SFR, other"),
        ({"floor": {"Z": 1.0}}, ConfigError, "floor names 'Z'"),
        ({"noise": {"SFR": 1.0}, "noise_dex": {"SFR": 0.1}}, ConfigError, "'SFR' has both noise"),
        ({"noise_dex": {"SFR": 0.1}}, ValueError, r"'SFR': 6000 of 9000 values are <= 0.*give a positive `floor`"),
        ({"noise_dex": {"SFR": 1e-7}}, ConfigError, "noise_dex of 'SFR' is 1e-07, .* give 0.0001 or more"),
        ({"noise": {"SFR": -1.0}}, ConfigError, "must be positive"),
    ],
)
def test_what_does_not_go_together_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        apply(**options)
