"""Energy distance: closed forms in one dimension, unbiased, and scipy's V-statistic."""

import math

import pytest
import torch
from scipy.stats import energy_distance as scipy_distance

from flowzoo.metrics.energy import energy_distance
from flowzoo.seeding import generator


def normal(*shape, name="x"):
    return torch.randn(*shape, generator=generator(0, name), dtype=torch.float64)


def mean_modulus(mean, variance):
    """E |z| of a normal variable."""
    s = math.sqrt(variance)
    return s * math.sqrt(2 / math.pi) * math.exp(-(mean**2) / (2 * variance)) + mean * math.erf(mean / s / math.sqrt(2))


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (1.0, 1.0), (0.0, 3.0), (2.0, 0.5)])
def test_mean_over_samples_is_the_closed_form_for_normals(shift, scale):
    found = torch.stack(
        [energy_distance(normal(30, 1, name=f"a{i}"), shift + scale * normal(20, 1, name=f"b{i}")) for i in range(400)]
    )
    expected = 2 * mean_modulus(shift, 1 + scale**2) - mean_modulus(0, 2) - mean_modulus(0, 2 * scale**2)
    error = float(found.std()) / 20
    assert float(found.mean()) == pytest.approx(expected, abs=3.5 * error)
    assert error < 0.03


def test_shifted_uniform_has_the_integral_of_the_squared_difference():
    # F - G rises to d, stays until 1 and falls: the integral of its square is d^3 / 3 + d^2 (1 - d) + d^3 / 3
    d = 0.4
    expected = 2 * (d**2 - d**3 / 3)
    a, b = (torch.rand(4000, 1, generator=generator(0, name), dtype=torch.float64) for name in "ab")
    assert float(energy_distance(a, b + d)) == pytest.approx(expected, rel=0.05)


def test_biased_estimate_of_scipy_differs_by_the_pairs_of_a_point_with_itself():
    a, b = normal(40, 1, name="a"), 0.5 + normal(25, 1, name="b")
    within = [torch.cdist(t, t).sum() for t in (a, b)]
    cross = 2 * torch.cdist(a, b).mean()
    biased = float(cross - within[0] / 40**2 - within[1] / 25**2)
    assert biased == pytest.approx(scipy_distance(a.flatten(), b.flatten()) ** 2)
    assert float(energy_distance(a, b)) == pytest.approx(float(cross - within[0] / 40 / 39 - within[1] / 25 / 24))


def test_equal_distributions_have_zero_on_average_and_so_also_less():
    # A biased estimate would have E|x - x'| (1 / n + 1 / m) = 0.23 more.
    found = torch.stack([energy_distance(normal(20, 3, name=f"a{i}"), normal(20, 3, name=f"b{i}")) for i in range(400)])
    assert abs(float(found.mean())) < 3.5 * float(found.std()) / 20
    assert float(found.std()) / 20 < 0.01
    assert 0.3 < float((found < 0).double().mean()) < 0.8


def test_unit_is_that_of_the_points_and_rotations_do_not_matter():
    a, b = normal(50, 3, name="a"), normal(60, 3, name="b") + 0.5
    value = float(energy_distance(a, b))
    turn = torch.linalg.qr(normal(3, 3, name="turn")).Q
    assert float(energy_distance(7 * a, 7 * b)) == pytest.approx(7 * value)
    assert float(energy_distance(a @ turn, b @ turn)) == pytest.approx(value)


def test_large_shift_counts_in_proportion():
    a, b = normal(50, 2, name="a"), normal(50, 2, name="b")
    far = torch.tensor([1e6, 0])
    assert float(energy_distance(a, b + far)) == pytest.approx(2e6, rel=1e-4)
