"""Rational-quadratic splines: increasing, onto, smooth, the identity outside, exact inverses."""

import pytest
import torch
import torch.nn.functional as F

from flowzoo.layers.spline import MIN_BIN, MIN_SLOPE, num_parameters, rational_quadratic
from flowzoo.seeding import generator

BOUND = 3.0


def drawn(count, bins=5, scale=1.5, dtype=torch.float64):
    raw = torch.randn(count, num_parameters(bins), generator=generator(0, "parameters"), dtype=dtype)
    return scale * raw


def test_neutral_parameters_are_the_identity():
    x = torch.linspace(-5, 5, 101, dtype=torch.float64)
    y, log_slope = rational_quadratic(x, torch.zeros(101, num_parameters(7)).double(), bound=BOUND)
    torch.testing.assert_close(y, x, atol=1e-12, rtol=0)
    torch.testing.assert_close(log_slope, torch.zeros_like(x), atol=1e-12, rtol=0)


@pytest.mark.parametrize("inverse", [False, True])
def test_log_slope_is_that_of_autograd(inverse):
    x = torch.linspace(-3.5, 3.5, 200, dtype=torch.float64).requires_grad_()
    y, log_slope = rational_quadratic(x, drawn(200), bound=BOUND, inverse=inverse)
    (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(log_slope, slope.log(), atol=1e-9, rtol=1e-9)


def test_round_trip():
    x = (2 * BOUND * torch.rand(2000, generator=generator(1, "x"), dtype=torch.float64) - BOUND) * 1.1
    parameters = drawn(2000, scale=3)
    y, forward = rational_quadratic(x, parameters, bound=BOUND)
    back, backward = rational_quadratic(y, parameters, bound=BOUND, inverse=True)
    torch.testing.assert_close(back, x, atol=1e-9, rtol=0)
    torch.testing.assert_close(backward, -forward, atol=1e-6, rtol=0)


def test_float32_inverse_loses_no_more_than_the_slope_makes_it():
    y = 2 * BOUND * torch.rand(20_000, generator=generator(1, "y")) - BOUND
    parameters = drawn(20_000, scale=1, dtype=torch.float32)
    single, _ = rational_quadratic(y, parameters, bound=BOUND, inverse=True)
    double, log_slope = rational_quadratic(y.double(), parameters.double(), bound=BOUND, inverse=True)
    # a rounding of y moves x by the slope of the inverse times that
    rounding = torch.finfo(torch.float32).eps * BOUND * (1 + log_slope.exp())
    assert float(((single - double).abs() / rounding).max()) < 10


def test_increasing_and_onto_the_interval():
    x = torch.linspace(-BOUND, BOUND, 1001, dtype=torch.float64)
    y, _ = rational_quadratic(x, drawn(1).expand(1001, -1), bound=BOUND)
    assert bool((y.diff() > 0).all())
    assert float(y[0]) == -BOUND
    assert float(y[-1]) == BOUND


def test_outside_is_the_identity_bit_for_bit():
    x = torch.tensor([-1e6, -3.0001, 3.0001, 50.0, float("inf")], dtype=torch.float64)
    for inverse in (False, True):
        y, log_slope = rational_quadratic(x, drawn(5), bound=BOUND, inverse=inverse)
        assert torch.equal(y, x)
        assert not bool(log_slope.any())


def test_slope_is_continuous_across_the_bound():
    x = torch.tensor([BOUND - 1e-9], dtype=torch.float64)
    _, log_slope = rational_quadratic(x, drawn(1), bound=BOUND)
    assert abs(float(log_slope)) < 1e-6


def test_a_nan_stays_a_nan():
    y, _ = rational_quadratic(torch.tensor([float("nan"), 0.5]).double(), drawn(2), bound=BOUND)
    assert y.isnan().tolist() == [True, False]


def test_extreme_parameters_keep_finite_values_and_gradients():
    x = torch.linspace(-3, 3, 400).requires_grad_()
    parameters = drawn(400, scale=60, dtype=torch.float32).requires_grad_()
    for inverse in (False, True):
        y, log_slope = rational_quadratic(x, parameters, bound=BOUND, inverse=inverse)
        grads = torch.autograd.grad((y + log_slope).sum(), (x, parameters))
        assert all(bool(torch.isfinite(t).all()) for t in (y, log_slope, *grads))


def test_no_bin_and_no_slope_vanishes():
    # all the mass in one bin: the others keep a thousandth of the interval, and knots a slope of a thousandth
    parameters = torch.zeros(1, num_parameters(4), dtype=torch.float64)
    parameters[0, 0], parameters[0, 5], parameters[0, 8:] = 500.0, 500.0, -500.0
    x = torch.linspace(-BOUND, BOUND, 100_001, dtype=torch.float64)
    y, log_slope = rational_quadratic(x, parameters.expand(len(x), -1), bound=BOUND)
    assert bool((y.diff() >= 0).all())
    assert float(log_slope.exp().min()) >= 1e-6
    assert MIN_SLOPE == 1e-3


def test_a_knot_belongs_to_one_bin_and_agrees_with_its_neighbours():
    x = torch.tensor([-1.5, 0.0, 1.5], dtype=torch.float64)  # the knots of four equal bins
    parameters = drawn(3, bins=4)
    parameters[:, :4] = 0
    near = [rational_quadratic(x + e, parameters, bound=BOUND)[0] for e in (-1e-9, 0, 1e-9)]
    torch.testing.assert_close(near[0], near[1], atol=1e-7, rtol=0)
    torch.testing.assert_close(near[2], near[1], atol=1e-7, rtol=0)


def test_knots_lie_where_the_parameters_put_them_with_the_slopes_that_they_give():
    bins = 5
    (parameters,) = drawn(1, bins)
    widths, heights, slopes = parameters.split([bins, bins, bins - 1])
    shares = [MIN_BIN + (1 - MIN_BIN * bins) * raw.softmax(0) for raw in (widths, heights)]
    x, y = (2 * BOUND * share.cumsum(0)[:-1] - BOUND for share in shares)
    shift = torch.log(torch.expm1(torch.tensor(1 - MIN_SLOPE, dtype=torch.float64)))
    for start, end, sign, inverse in ((x, y, 1, False), (y, x, -1, True)):
        found, log_slope = rational_quadratic(start, parameters.expand(4, -1), bound=BOUND, inverse=inverse)
        torch.testing.assert_close(found, end, atol=1e-12, rtol=0)
        torch.testing.assert_close(sign * log_slope, (MIN_SLOPE + F.softplus(slopes + shift)).log(), atol=1e-9, rtol=0)


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("dim", [0, 1, 2, 3])
def test_parameters_may_lie_along_any_dimension(dim, inverse):
    x = 4 * torch.randn(3, 2, 7, generator=generator(1, "x"), dtype=torch.float64)
    parameters = drawn(42).reshape(3, 2, 7, -1)
    expected = rational_quadratic(x, parameters, bound=BOUND, inverse=inverse)
    found = rational_quadratic(x, parameters.movedim(-1, dim), bound=BOUND, inverse=inverse, dim=dim)
    for one, other in zip(found, expected, strict=True):
        assert one.shape == x.shape
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("inverse", [False, True])
def test_first_and_second_derivatives(inverse):
    x = torch.linspace(-3.4, 3.4, 6, dtype=torch.float64).requires_grad_()
    given = x, drawn(6, bins=3, scale=1).requires_grad_()

    def both(x, parameters):
        return rational_quadratic(x, parameters, bound=BOUND, inverse=inverse)

    assert torch.autograd.gradcheck(both, given)
    assert torch.autograd.gradgradcheck(both, given)


def test_far_out_no_gradient_reaches_the_parameters():
    x = torch.tensor([-1e30, 3.5, float("inf")], requires_grad=True)
    parameters = drawn(3, dtype=torch.float32).requires_grad_()
    for inverse in (False, True):
        y, log_slope = rational_quadratic(x, parameters, bound=BOUND, inverse=inverse)
        by_x, by_parameters = torch.autograd.grad(y.sum() + log_slope.sum(), (x, parameters))
        assert by_x.tolist() == [1, 1, 1]
        assert not bool(by_parameters.any())


def test_many_at_once_are_as_one_by_one():
    x, parameters = 2 * torch.randn(4, 7, generator=generator(1, "x")).double(), drawn(28).reshape(4, 7, -1)
    for dim in (-1, 0):
        given = parameters.movedim(-1, dim + 1) if dim == 0 else parameters
        found = torch.vmap(lambda x, p, dim=dim: rational_quadratic(x, p, bound=BOUND, dim=dim))(x, given)
        for one, other in zip(found, rational_quadratic(x, parameters, bound=BOUND), strict=True):
            torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-12)
