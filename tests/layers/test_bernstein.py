"""Bernstein polynomials: numpy's values, positive slopes that keep their digits, derivatives."""

from math import comb

import numpy as np
import pytest
import torch

from flowzoo.layers.bernstein import basis, binomials, powers, value_and_slope
from flowzoo.seeding import generator


@pytest.mark.parametrize("n", [1, 2, 3, 7, 21])
def test_powers_are_powers(n):
    t = torch.linspace(-1, 1, 9, dtype=torch.float64)
    torch.testing.assert_close(powers(t, n), torch.stack([t**k for k in range(n + 1)]))


@pytest.mark.parametrize("n", [1, 5, 36])
def test_binomials_are_exact(n):
    assert binomials(n).tolist() == [comb(n, k) for k in range(n + 1)]


def test_every_basis_function_keeps_its_digits_in_float32_however_small():
    n = 20
    t = torch.linspace(0, 1, 65)
    found = basis(t, 1 - t, binomials(n).float()).double()
    exact = basis(t.double(), 1 - t.double(), binomials(n))
    normal = exact > 1e-37
    assert float((found / exact - 1)[normal].abs().max()) < 3e-6
    torch.testing.assert_close(exact.sum(0), torch.ones(65, dtype=torch.float64))
    assert torch.equal(basis(torch.zeros(1), torch.ones(1), binomials(3).float()).flatten(), torch.eye(4)[0])


def polynomial(theta, t):
    steps = theta.diff(dim=0)
    return value_and_slope(theta[:-1], steps, basis(t, 1 - t, binomials(len(steps) - 1).to(t.dtype)), t)


def test_value_is_the_sum_over_the_basis_and_the_slope_its_derivative():
    theta = torch.randn(8, 5, generator=generator(0, "theta"), dtype=torch.float64)
    t = torch.linspace(0.01, 0.99, 5, dtype=torch.float64).requires_grad_()
    value, slope = polynomial(theta, t)
    at = t.detach().numpy()
    expected = sum(comb(7, k) * at**k * (1 - at) ** (7 - k) * theta[k].numpy() for k in range(8))
    np.testing.assert_allclose(value.detach().numpy(), expected, rtol=1e-12)
    torch.testing.assert_close(torch.autograd.grad(value.sum(), t)[0], slope.detach())
    assert torch.autograd.gradcheck(polynomial, (theta.requires_grad_(), t))


def test_slope_of_increasing_coefficients_keeps_its_digits_where_it_is_small():
    steps = torch.tensor([1.0, 1.0, *[1e-9] * 17, 1.0, 1.0], dtype=torch.float64)[:, None]
    theta, t = steps.cumsum(0) - steps, torch.tensor([0.5])
    choose = binomials(20)
    exact = value_and_slope(theta, steps, basis(t.double(), 1 - t.double(), choose), t.double())[1]
    found = value_and_slope(theta.float(), steps.float(), basis(t, 1 - t, choose.float()), t)[1]
    assert float(exact) < 1e-3
    assert float(found) == pytest.approx(float(exact), rel=1e-6)
