"""The inverse of an increasing function: a bracket that grows, the last bit, the gradient, NaN if there is none."""

import math

import pytest
import torch

from flowzoo.layers.monotone import inverse, solve


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cubes_are_inverted_far_beyond_the_first_bracket(dtype):
    x = torch.tensor([-1e5, -30.0, -1.0, -1e-3, 0.0, 0.5, 12.0, 4e4], dtype=dtype)
    found = solve(lambda t: t**3 + t, x**3 + x)
    torch.testing.assert_close(found, x, rtol=20 * torch.finfo(dtype).eps, atol=20 * torch.finfo(dtype).eps)


def test_each_element_has_a_bracket_of_its_own():
    x = torch.tensor([1e-3, 1e12], dtype=torch.float64)
    found = solve(lambda t: 2 * t, 2 * x)
    assert float(found[0]) == pytest.approx(1e-3, rel=1e-12)


def test_value_that_is_never_reached_is_nan_and_spoils_no_other():
    found = solve(torch.tanh, torch.tensor([0.5, 2.0, -2.0, math.nan]))
    assert found.isnan().tolist() == [False, True, True, True]
    assert float(found[0]) == pytest.approx(math.atanh(0.5), rel=1e-5)


def test_infinite_values_do_not_hang():
    found = solve(lambda t: t, torch.tensor([math.inf, -math.inf, 1.0], dtype=torch.float64))
    assert float(found[2]) == pytest.approx(1.0)


def test_flat_stretch_is_crossed():
    found = solve(lambda t: torch.where(t < 0, t, (t - 5).clamp_min(0)), torch.tensor([3.0, -3.0]).double())
    assert found.tolist() == pytest.approx([8.0, -3.0])


def test_gradient_is_that_of_the_implicit_function():
    y = torch.tensor([-40.0, 0.3, 7.0], dtype=torch.float64, requires_grad=True)
    a = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64, requires_grad=True)

    def f(y, a):
        return inverse(lambda t: a * t + t**3, y)

    assert torch.autograd.gradcheck(f, (y, a), eps=1e-6, atol=1e-6)


def test_without_gradient_nothing_is_differentiated():
    with torch.no_grad():
        found = inverse(lambda t: t + torch.tanh(t), torch.tensor([1.0]))
    assert not found.requires_grad
