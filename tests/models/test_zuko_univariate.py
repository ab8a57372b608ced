"""Univariate transforms in closed form: zuko's values, slopes and gradients, and inverses to the last bits."""

import numpy as np
import pytest
import torch
from zuko.flows.neural import MNN
from zuko.transforms import BoundedBernsteinTransform, SOSPolynomialTransform

from flowzoo.models._zuko_bernstein import Bernstein
from flowzoo.models._zuko_neural import MonotoneNetworks
from flowzoo.models._zuko_squares import SumsOfSquares
from flowzoo.seeding import generator, initialisation

N, D = 200, 3


def randn(*shape, name="a", dtype=torch.float64):
    return torch.randn(*shape, generator=generator(0, name), dtype=torch.float64).to(dtype)


def networks(cls=MonotoneNetworks):
    with initialisation(generator(0, "init")):
        univariate = MNN(signal=4, stack=D, hidden_features=(9, 8)).double()
    univariate.__class__ = cls
    return univariate


def assert_same(ours, zukos, x, *parameters, atol=1e-9):
    """Value, log-slope, and the gradients of both, of two functions of ``(x, *parameters)``."""
    found, expected = [], []
    for f, into in ((ours, found), (zukos, expected)):
        given = [each.detach().clone().requires_grad_() for each in (x, *parameters)]
        value, log_slope = f(*given[1:]).call_and_ladj(given[0])
        into += [value, log_slope]
        into += torch.autograd.grad((value.sin() + log_slope.cos()).sum(), given)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=atol)


# -- bernstein


def test_bernstein_is_zukos_inside_its_bounds():
    family = Bernstein(17).double()
    assert_same(family, BoundedBernsteinTransform, randn(N, D, name="x").clamp(-4.99, 4.99), randn(N, D, 17))


def test_bernstein_is_zukos_in_the_tails_and_does_not_jump():
    theta = randn(N, D, 17)
    x = torch.linspace(5.001, 50, N, dtype=torch.float64)[:, None] * torch.tensor([1.0, -1.0, 1.0])
    ours = Bernstein(17).double()(theta)
    value, log_slope = ours.call_and_ladj(x)
    torch.testing.assert_close(value, x)
    torch.testing.assert_close(log_slope, torch.zeros_like(x))
    # zuko's is moved by what it leaves out of the interval: 2 B times 1e-6
    zukos = BoundedBernsteinTransform(theta).call_and_ladj(x)
    torch.testing.assert_close(value, zukos[0], rtol=0, atol=1.1e-5)
    torch.testing.assert_close(log_slope, zukos[1])
    for step in (1e-9, -1e-9):
        ends = torch.tensor([-5.0, 5.0, 5.0], dtype=torch.float64).expand(N, D)
        torch.testing.assert_close(ours(ends + step), ours(ends) + step, rtol=0, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [0.1, 3.0])
def test_bernstein_is_inverted_to_the_last_bits_inside_and_out(dtype, scale):
    transform = Bernstein(17).to(dtype)((scale * randn(N, D, 17)).to(dtype))
    x = (3 * randn(N, D, name="x")).clamp(-40, 40).to(dtype)
    y, log_slope = transform.call_and_ladj(x)
    found = transform.solve(y)
    eps = torch.finfo(dtype).eps
    assert float((transform(found) - y).abs().max()) < 200 * eps  # of coefficients up to 5
    assert float(((found - x).abs() * log_slope.exp().clamp(max=1)).max()) < 400 * eps


def test_constants_are_exact_in_float64_after_a_flow_was_float32():
    exact, once = Bernstein(17).double(), Bernstein(17).double().float().double()
    for one, other in zip(exact.buffers(), once.buffers(), strict=True):
        assert torch.equal(one, other)
    assert exact.nodes.dtype == torch.float64
    assert not once.state_dict()


# -- sums of squares


def test_squares_are_zukos_inside_their_bounds():
    family = SumsOfSquares(3, 5, 1e-3).double()
    a, shift = randn(N, D, 3, 5), torch.zeros(N, D, dtype=torch.float64)

    def zukos(a):
        return SOSPolynomialTransform(a, slope=1e-3)

    assert_same(lambda a: family(a, shift), zukos, 3 * randn(N, D, name="x"), a, atol=1e-7)


def test_squares_go_on_along_their_tangents_beyond_the_bound():
    a = randn(3, 5)
    transform = SumsOfSquares(3, 5, 1e-3).double()(a[None], torch.tensor([0.5], dtype=torch.float64))
    ends = torch.tensor([[-10.0], [10.0]], dtype=torch.float64)
    slope = transform.f_and_g(ends)[1]
    for far in (1e-9, 0.5, 7.0, 1e3):
        out = ends * (1 + far / 10)
        torch.testing.assert_close(transform.f(out), transform.f(ends) + slope * (out - ends))
        torch.testing.assert_close(transform.f_and_g(out)[1], slope)
    x = torch.linspace(-15, 15, 301, dtype=torch.float64)[:, None].requires_grad_()
    (numeric,) = torch.autograd.grad(transform.f(x).sum(), x)
    torch.testing.assert_close(numeric, transform.f_and_g(x)[1])
    # inside it is the integral of the mean square, by quadrature
    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(20))
    at = 3.0 * (nodes + 1)  # 0 to 6
    powers = (at[:, None] / 10) ** torch.arange(5)
    squares = (((a + torch.eye(5, dtype=torch.float64)[0]) @ powers.T) ** 2).mean(0) + 1e-3
    expected = 3.0 * (weights * squares).sum() + 0.5
    assert float(transform.f(torch.tensor([6.0], dtype=torch.float64))) == pytest.approx(float(expected))


@pytest.mark.parametrize(("dtype", "reach"), [(torch.float32, 40), (torch.float64, 1000)])
def test_squares_are_inverted_far_beyond_the_bound(dtype, reach):
    transform = SumsOfSquares(3, 5, 1e-3).to(dtype)((0.3 * randn(N, D, 3, 5)).to(dtype), randn(N, D, dtype=dtype))
    for width in (1, 10, reach):
        x = torch.linspace(-width, width, N * D, dtype=torch.float64).reshape(N, D).to(dtype)
        torch.testing.assert_close(transform.solve(transform(x)), x, rtol=1e-5, atol=1e-5)
    far = torch.tensor([[torch.nan, torch.inf, 0.0]], dtype=dtype).expand(N, D)
    assert transform.solve(far).isfinite().any(0).tolist() == [False, False, True]


# -- monotone networks


def test_networks_are_zukos():
    ours, zukos = networks(), networks(MNN)
    signal = randn(N, D, 4)
    assert_same(ours, zukos, 5 * randn(N, D, name="x"), signal, atol=1e-12)
    totals = []
    for univariate in (ours, zukos):
        value, log_slope = univariate(signal).call_and_ladj(5 * randn(N, D, name="x"))
        (value.sin() + log_slope.cos()).sum().backward()
        totals.append([p.grad for p in univariate.parameters()])
    for one, other in zip(*totals, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("due", [[0], [2], [2, 0], [0, 1, 2]])
def test_networks_of_some_features_are_those_of_the_full_stack(due):
    univariate, signal, x = networks(), randn(N, D, 4), randn(N, D, name="x")
    index = torch.tensor(due)
    some = univariate(signal[:, index], index)
    for one, other in zip(some.f_and_g(x[:, index]), univariate(signal).f_and_g(x), strict=True):
        torch.testing.assert_close(one, other[:, index])


# -- all


@pytest.mark.parametrize("make", [
    lambda: (Bernstein(17).double(), (17,)),
    lambda: (SumsOfSquares(3, 5, 1e-3).double(), (3, 5), ()),
    lambda: (networks(), (4,)),
], ids=["bernstein", "squares", "networks"])  # fmt: skip
def test_numbers_that_are_the_same_for_all_events_need_no_batch(make):
    family, *shapes = make()
    given = [0.3 * randn(D, *shape) for shape in shapes]
    x = randn(N, D, name="x")
    one, other = family(*given), family(*(each.expand(N, *each.shape) for each in given))
    for a, b in zip(one.call_and_ladj(x), other.call_and_ladj(x), strict=True):
        torch.testing.assert_close(a, b)
    if hasattr(one, "solve"):
        torch.testing.assert_close(one.solve(one(x)), x, rtol=1e-8, atol=1e-8)
