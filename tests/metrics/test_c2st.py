"""C2ST: a half for equal samples, at most what the best classifier reaches for others."""

import math

import pytest
import torch

from flowzoo.metrics import columns
from flowzoo.metrics.c2st import accuracy
from flowzoo.seeding import generator


def normal(*shape, name="x"):
    return torch.randn(*shape, generator=generator(0, name), dtype=torch.float64)


def test_equal_distributions_are_told_apart_half_of_the_time():
    found = torch.stack([accuracy(normal(60, 3, name=f"a{i}"), normal(60, 3, name=f"b{i}")) for i in range(25)])
    assert float(found.mean()) == pytest.approx(0.5, abs=3.5 * float(found.std()) / 5)
    # Its scatter is near that of a coin, 1 / (2 sqrt(2 m)).
    assert float(found.std()) == pytest.approx(0.5 / 120**0.5, rel=0.5)


def test_samples_apart_are_always_told_apart():
    assert float(accuracy(normal(50, 2), normal(50, 2, name="b") + 20)) == 1


@pytest.mark.parametrize("shift", [1.0, 2.0])
def test_shift_is_seen_nearly_as_well_as_the_best_classifier_could(shift):
    a, b = normal(1500, 2, name="a"), normal(1500, 2, name="b") + torch.tensor([shift, 0])
    best = 0.5 * (1 + math.erf(shift / 2 / math.sqrt(2)))  # (1 + TV) / 2
    error = 0.5 / 3000**0.5
    assert best - 0.04 < float(accuracy(a, b)) < best + 3 * error


def test_sharp_edge_and_spike_are_seen():
    a, b = normal(1000, 5, name="a"), normal(1000, 5, name="b")
    cut = b.clone()
    cut[:, 0] = cut[:, 0].clamp(max=1.0)
    assert float(accuracy(a, cut)) > 0.55


def test_units_of_the_columns_do_not_matter():
    a, b = normal(200, 3, name="a"), 1.5 * normal(200, 3, name="b")
    scale = torch.tensor([1e-6, 1.0, 1e6])
    assert float(accuracy(a * scale, b * scale)) == float(accuracy(a, b))


def test_wide_events_are_not_given_away_by_their_projection():
    # Components of one sample of so few points would tell it from the other nearly always.
    found = torch.stack([accuracy(normal(80, 300, name=f"a{i}"), normal(80, 300, name=f"b{i}")) for i in range(8)])
    assert float(found.mean()) == pytest.approx(0.5, abs=3.5 * float(found.std()) / 8**0.5)
    assert float(found.mean()) < 0.6


@pytest.mark.parametrize("count", [60, 200])
def test_fault_of_wide_events_is_seen(count):
    a, b = normal(count, 140, name="a"), normal(count, 140, name="b")
    a[:, 3] = b[:, 3] = 1.0
    assert float(accuracy(a, b + 0.5 * (torch.arange(140) != 3))) > 0.9


def test_classifier_and_marks_are_in_the_table():
    column = columns()["c2st"]
    assert "boosted trees (50 of 8 leaves)" in column.meaning
    assert (column.good, column.bad) == (0.55, 0.7)
