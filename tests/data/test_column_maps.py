"""Maps of columns written as text: what they do, what they refuse over all rows."""

import math

import pytest
import torch

from flowzoo.bijectors import Standardize
from flowzoo.config import ConfigError
from flowzoo.data._column_maps import column_maps, map_pairs, parse

NAMES = ("Z", "f", "v", "r")
MAPS = {"Z": "log10", "f": "logit(0 1 0.01)", "v": "signed_log(100)", "r": "tanh(5)"}


def events():
    source = torch.Generator().manual_seed(0)
    x = torch.randn(200, 4, generator=source, dtype=torch.float64)
    return torch.stack([x[:, 0].exp(), torch.sigmoid(x[:, 1]), 300 * x[:, 2], x[:, 3]], 1)


def test_each_column_goes_through_its_own_map():
    x = events()
    u = column_maps("maps", MAPS, x, NAMES, Standardize((4,))).maps
    value = x
    for bijector in list(u)[:-1]:
        value = bijector.to_latent(value)[0]
    p = 0.01 + 0.98 * x[:, 1]
    tail = torch.log1p((x[:, 2].abs() - 100).clamp_min(0))
    expected = [
        x[:, 0].log10(),
        (p / (1 - p)).log(),
        x[:, 2].clamp(-100, 100) + x[:, 2].sign() * tail,
        5 * torch.tanh(x[:, 3] / 5),
    ]
    torch.testing.assert_close(value, torch.stack(expected, 1))


def test_log_slopes_are_those_of_numerical_differentiation_after_fitting():
    x = events()
    bijector = column_maps("maps", MAPS, x, NAMES, Standardize((4,))).double()
    bijector.fit(x, NAMES)
    u, log_slope = bijector.to_latent(x)
    step = 1e-6 * x.abs().clamp_min(1e-3)
    numeric = (bijector.to_latent(x + step)[0] - bijector.to_latent(x - step)[0]) / (2 * step)
    torch.testing.assert_close(log_slope.exp(), numeric, rtol=1e-5, atol=0)
    torch.testing.assert_close(bijector.to_data(u)[0], x)
    torch.testing.assert_close(u.mean(0), torch.zeros(4, dtype=torch.float64), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Z=log10, f=logit(0,1)", {"Z": "log10", "f": "logit(0,1)"}),
        ("f: logit(0, 1, 1e-5), r: tanh(5),", {"f": "logit(0, 1, 1e-5)", "r": "tanh(5)"}),
        ({"Z": "log"}, {"Z": "log"}),
        (None, {}),
    ],
)
def test_pairs_are_read_from_text_and_commas_in_brackets_belong_to_the_map(text, expected):
    assert map_pairs(text) == expected


@pytest.mark.parametrize("text", ["logit(0, 1, 1e-5)", "logit(0 1 1e-5)", " logit( 0,1 1e-5 ) "])
def test_numbers_are_separated_by_commas_or_spaces(text):
    assert parse(text).describe() == {"kind": "logit", "low": 0.0, "high": 1.0, "alpha": 1e-5}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("log11", r"unknown map 'log11': known are log, log10, logit\(low high\)"),
        ("logit", r"map 'logit' must be logit\(low high\) or logit\(low high alpha\): it has 0 numbers"),
        ("tanh(a)", r"map 'tanh\(a\)' must be tanh\(bound\): could not convert"),
        ("logit(1 0)", r"needs low < high"),
        ("log10(3)", "it has 1 numbers"),
        ("logit(0", "unknown map"),
    ],
)
def test_other_texts_are_refused_in_one_line(text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        parse(text)
    assert "\n" not in str(caught.value)


def test_what_yaml_makes_of_commas_in_braces_is_refused_with_the_cure():
    with pytest.raises(ValueError, match="write spaces between numbers, or quotes"):
        map_pairs({"f": "logit(0", "1)": None})


def test_one_row_outside_the_bounds_is_refused_whichever_split_it_would_be_in():
    x = events()
    x[-1, 0], x[-1, 1] = 0, 1.5
    with pytest.raises(ValueError, match=r"maps: column 'Z': 1 of 200 rows are <= 0"):
        column_maps("maps", {"Z": "log10"}, x, NAMES, Standardize((4,)))
    with pytest.raises(ValueError, match=r"context_maps: column 'f': 1 of 200 rows lie outside \[0, 1\]"):
        column_maps("context_maps", {"f": "logit(0 1)"}, x, NAMES, Standardize((4,)))


def test_column_that_is_not_there_is_refused_and_no_maps_are_none():
    with pytest.raises(ConfigError, match="maps names 'q', which is no column here; the columns are Z, f, v, r"):
        column_maps("maps", {"q": "log"}, events(), NAMES, Standardize((4,)))
    assert column_maps("maps", {}, events(), NAMES, Standardize((4,))) is None


def test_log_and_log10_differ_by_their_unit():
    x = torch.tensor([[1000.0]], dtype=torch.float64)
    assert float(parse("log10").to_latent(x)[0]) == pytest.approx(3)
    assert float(parse("log").to_latent(x)[0]) == pytest.approx(3 * math.log(10))
