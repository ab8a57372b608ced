"""The inverse of an increasing function: a bracket that grows, the last bit, the gradient, NaN if there is none."""

import math

import pytest
import torch

from flowzoo.layers import monotone
from flowzoo.layers.monotone import inverse


@pytest.fixture(params=["interpolation", "Newton"])
def solve(request):
    """Both ways to the solution."""
    if request.param == "interpolation":
        return monotone.solve

    def newton(f, y):
        def with_slope(x):
            x = x.detach().requires_grad_()
            with torch.enable_grad():
                value = f(x)
                return value.detach(), torch.autograd.grad(value.sum(), x)[0]

        return monotone.solve(f, y, with_slope=with_slope)

    return newton


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cubes_are_inverted_far_beyond_the_first_bracket(solve, dtype):
    x = torch.tensor([-1e5, -30.0, -1.0, -1e-3, 0.0, 0.5, 12.0, 4e4], dtype=dtype)
    found = solve(lambda t: t**3 + t, x**3 + x)
    torch.testing.assert_close(found, x, rtol=20 * torch.finfo(dtype).eps, atol=20 * torch.finfo(dtype).eps)


def test_each_element_has_a_bracket_of_its_own(solve):
    x = torch.tensor([1e-3, 1e12], dtype=torch.float64)
    found = solve(lambda t: 2 * t, 2 * x)
    assert float(found[0]) == pytest.approx(1e-3, rel=1e-12)


def test_value_that_is_never_reached_is_nan_and_spoils_no_other(solve):
    found = solve(torch.tanh, torch.tensor([0.5, 2.0, -2.0, math.nan]))
    assert found.isnan().tolist() == [False, True, True, True]
    assert float(found[0]) == pytest.approx(math.atanh(0.5), rel=1e-5)


def test_infinite_values_do_not_hang(solve):
    found = solve(lambda t: t, torch.tensor([math.inf, -math.inf, 1.0], dtype=torch.float64))
    assert float(found[2]) == pytest.approx(1.0)


def test_flat_stretch_is_crossed(solve):
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


def counted(f):
    calls = []

    def g(x):
        calls.append(1)
        return f(x)

    return g, calls


def test_smooth_functions_take_few_evaluations():
    x = 3 * torch.randn(1000, generator=torch.Generator().manual_seed(0))

    def f(x):
        return x + 0.5 * torch.tanh(x)

    # Bisection alone takes 27 and more.
    g, calls = counted(f)
    torch.testing.assert_close(monotone.solve(g, f(x)), x, rtol=1e-6, atol=1e-6)
    assert len(calls) <= 16
    g, calls = counted(f)
    found = monotone.solve(g, f(x), with_slope=lambda x: (g(x), 1 + 0.5 * (1 - torch.tanh(x).square())))
    torch.testing.assert_close(found, x, rtol=1e-6, atol=1e-6)
    assert len(calls) <= 10


@pytest.mark.parametrize("steepness", [1e3, 1e-3])
def test_steps_and_flat_stretches_are_solved_to_the_last_bits(solve, steepness):
    x = torch.linspace(-3, 3, 101, dtype=torch.float64)

    def f(x):
        return steepness * x + torch.sigmoid(300 * x)

    torch.testing.assert_close(f(solve(f, f(x))), f(x), rtol=1e-12, atol=1e-12)


# -- from a table


def tabulated(f, slope, nodes, *shape):
    at = nodes.reshape(-1, *[1] * len(shape)).expand(-1, *shape)
    return torch.stack([f(at), slope(at)])


def steep(x, k=3.0):
    return 0.01 * x + torch.sigmoid(k * x), 0.01 + k * torch.sigmoid(k * x) * torch.sigmoid(-k * x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [2, 3, 33])
def test_of_a_few_known_values_the_last_bits_are_found(dtype, count):
    nodes = torch.linspace(-8, 8, count, dtype=dtype)
    x = torch.linspace(-8, 8, 101, dtype=dtype).reshape(-1, 1).repeat(1, 2)
    table = tabulated(lambda t: steep(t)[0], lambda t: steep(t)[1], nodes, 2)
    found = monotone.solve_between(steep, steep(x)[0], nodes, table)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(steep(found)[0], steep(x)[0], rtol=8 * eps, atol=2 * eps)


def test_dense_table_leaves_one_evaluation_and_a_wrong_one_costs_no_digit():
    f, calls = counted(steep)
    nodes = torch.linspace(-8, 8, 257)
    x = torch.linspace(-7, 7, 101)
    table = tabulated(lambda t: steep(t)[0], lambda t: steep(t)[1], nodes, 101)
    found = monotone.solve_between(f, steep(x)[0], nodes, table)
    assert len(calls) <= 2
    # Where the slopes say that it is straight, it is found not to be.
    flat = torch.stack([table[0], torch.full_like(table[1], 0.5)])
    other = monotone.solve_between(f, steep(x)[0], nodes, flat)
    torch.testing.assert_close(steep(other)[0], steep(found)[0], rtol=1e-6, atol=1e-7)


def test_what_is_no_number_is_nan_and_spoils_no_other():
    nodes = torch.linspace(-8, 8, 9)
    table = tabulated(lambda t: steep(t)[0], lambda t: steep(t)[1], nodes, 2)
    f, calls = counted(steep)
    found = monotone.solve_between(f, torch.tensor([math.nan, 0.5]), nodes, table)
    assert found.isnan().tolist() == [True, False]
    assert float(found[1]) == pytest.approx(0, abs=1e-6)
    assert len(calls) < 20
