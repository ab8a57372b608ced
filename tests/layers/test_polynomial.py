"""Polynomials by their coefficients."""

import pytest
import torch
from numpy.polynomial import Polynomial

from flowzoo.layers.polynomial import antiderivative, horner, mean_square, pairs
from flowzoo.seeding import generator


def coefficients(*shape):
    return torch.randn(*shape, generator=generator(0, "a"), dtype=torch.float64)


@pytest.mark.parametrize(("k", "n"), [(1, 1), (3, 2), (2, 5)])
def test_mean_of_squares_is_numpys(k, n):
    a = coefficients(k, n, 4)
    found = mean_square(a, pairs(k, n))
    assert found.shape == (2 * n - 1, 4)
    for row, polynomials in zip(found.T, a.movedim(-1, 0), strict=True):
        expected = sum(Polynomial(p.numpy()) ** 2 for p in polynomials) / k
        assert row.tolist() == pytest.approx(expected.coef.tolist())


def test_value_and_integral_are_numpys():
    a, t = coefficients(6), torch.linspace(-3, 3, 11, dtype=torch.float64)
    p = Polynomial(a.numpy())
    assert horner(a[:, None].expand(6, 11), t).tolist() == pytest.approx(p(t.numpy()).tolist())
    assert [0.0, *antiderivative(a).tolist()] == pytest.approx(p.integ().coef.tolist())


def test_gradient_reaches_every_coefficient():
    a = coefficients(3, 4, 2).requires_grad_()
    t = torch.tensor([0.5, -2.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda a: horner(antiderivative(mean_square(a, pairs(3, 4))), t), (a,))
