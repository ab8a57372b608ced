"""Pixel distributions: the exact Wasserstein distance, in training spreads, context by context."""

import math

import pytest
import torch
from scipy.stats import wasserstein_distance

from flowzoo.metrics import configure
from flowzoo.metrics._fields import quarters, shuffled


def pixels(evaluation, **options):
    return configure("pixel_pdf", options)(evaluation)


def test_distance_is_scipys_between_the_halves_and_as_many_draws(fields):
    real, drawn = fields.lognormal(2, 9, 1, 16, 16, name="a"), fields.lognormal(2, 5, 1, 16, 16, name="b") + 0.2
    evaluation = fields.evaluation(real, drawn)
    found = pixels(evaluation)
    parts = quarters(real, drawn, shuffled(9, evaluation))
    for context in range(2):
        a, b, first, second = (part[context].flatten().numpy() for part in parts)
        assert len(a) == len(first) == 4 * 256
        expected = (wasserstein_distance(a, first) + wasserstein_distance(b, second)) / 2
        assert float(found["by_context"][context]) == pytest.approx(expected)
        assert float(found["floor_by_context"][context]) == pytest.approx(wasserstein_distance(a, b))


def test_shift_of_all_pixels_is_its_distance_in_training_spreads(fields):
    real = fields.white(3, 400, 1, 16, 16)
    found = pixels(fields.evaluation(real, real + 3, scale=torch.tensor(2.0)))
    assert found["pixel_w1"] == pytest.approx(1.5, rel=1e-3)
    assert found["pixel_w1_floor"] < 0.01


def test_distance_of_two_normals_is_the_known_one(fields):
    # W1 of N(0, 1) and N(0, s^2) is |s - 1| E|z|
    real, drawn = fields.white(3, 400, 1, 16, 16, name="a"), fields.white(3, 400, 1, 16, 16, name="b")
    assert pixels(fields.evaluation(real, 1.2 * drawn))["pixel_w1"] == pytest.approx(
        0.2 * math.sqrt(2 / math.pi), rel=0.02
    )


def test_each_channel_has_its_own_unit(fields):
    real = fields.white(3, 100, 2, 16, 16)
    scale = torch.tensor([10.0, 1000.0], dtype=torch.float64)[:, None, None]
    found = pixels(fields.evaluation(real * scale, (real + 1) * scale, scale=scale))
    assert found["pixel_w1"] == pytest.approx(1, rel=0.01)


def test_order_of_the_pixels_does_not_matter(fields):
    real, drawn = fields.lognormal(3, 20, 1, 16, 16, name="a"), fields.lognormal(3, 20, 1, 16, 16, name="b")
    order = torch.randperm(256, generator=torch.Generator().manual_seed(0))
    mixed = drawn.flatten(3)[..., order].unflatten(3, (16, 16))
    value = pixels(fields.evaluation(real, drawn))["pixel_w1"]
    assert pixels(fields.evaluation(real, mixed))["pixel_w1"] == pytest.approx(value)


def test_histograms_are_densities_on_the_bins_of_the_real_pixels(fields):
    real = fields.lognormal(3, 20, 1, 16, 16, name="a")
    found = pixels(fields.evaluation(real, real.clone()), bins=40)
    edges = found["edges"]
    assert edges.shape == (41,)
    assert float(edges[0]) == float(real.min())
    assert float(edges[-1]) == pytest.approx(float(real.max()))
    widths = torch.diff(edges)
    assert (found["real"] * widths).sum(1).tolist() == pytest.approx([1, 1, 1], rel=1e-3)
    assert torch.equal(found["real"], found["drawn"])
    middle = (edges[1:] + edges[:-1]) / 2
    means = (found["real"] * widths * middle).sum(1)
    assert means.tolist() == pytest.approx(real.mean((1, 2, 3, 4)).tolist(), rel=0.05)


def test_pixels_beyond_the_bins_are_missed_in_the_histogram(fields):
    real = fields.lognormal(3, 20, 1, 16, 16, name="a")
    drawn = real.clone()
    drawn[:, :10] += 1000
    found = pixels(fields.evaluation(real, drawn), bins=40)
    assert (found["drawn"] * torch.diff(found["edges"])).sum(1).tolist() == pytest.approx([0.5] * 3, rel=1e-3)


def test_histograms_of_channels_are_apart(fields):
    real = fields.white(3, 20, 2, 16, 16)
    real[:, :, 1] += 100
    found = pixels(fields.evaluation(real, real), bins=40)
    assert found["edges"].shape == (2, 41)
    assert found["real"].shape == (3, 2, 40)
    assert float(found["edges"][1, 0]) > 90
