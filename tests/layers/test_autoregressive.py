"""The inverse of a masked autoregressive transform: right in any order, each unit once, and differentiable."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from flowzoo.layers import autoregressive
from flowzoo.layers.autoregressive import Stage, invert, schedule
from flowzoo.layers.implicit import attach
from flowzoo.seeding import generator

WIDTH, CONTEXT = 11, 2


class Masked(nn.Linear):
    """A linear layer some of whose weights do not count."""

    def __init__(self, mask):
        super().__init__(mask.shape[1], mask.shape[0], dtype=torch.float64)
        self.register_buffer("mask", mask)

    def forward(self, x):
        return F.linear(x, self.weight * self.mask, self.bias)


def network(order, context=0, residual=False):
    """Shift and log scale of each feature by two hidden layers, of units that know 0, 1, 2, ... features."""
    torch.manual_seed(0)
    size = len(order)
    knows = torch.arange(WIDTH) % size  # a unit may see the features of lower order than this
    see = knows[:, None] > order[None, :]
    first = Masked(torch.cat([see, torch.ones(WIDTH, context, dtype=torch.bool)], 1))
    middle = Masked(knows[:, None] >= knows[None, :])
    last = Masked((order[:, None] >= knows[None, :]).repeat_interleave(2, 0))
    if residual:
        stages = [Stage(first, 0), Stage(middle, 1, torch.tanh), Stage(Masked(middle.mask), 2, skip=1), Stage(last, 3)]
    else:
        stages = [Stage(first, 0, torch.tanh), Stage(middle, 1, torch.relu), Stage(last, 2)]

    def parameters(x, c=None):
        states = [x if c is None else torch.cat([x, c], 1)]
        for stage in stages:
            h = stage.linear(states[stage.source])
            h = h if stage.after is None else stage.after(h)
            states.append(h if stage.skip is None else h + states[stage.skip])
        return states[-1].unflatten(1, (size, 2))

    return stages, parameters


def solve(phi, y, due, x):
    assert y.shape == x.shape == (len(due), y.shape[1])
    assert phi.shape == (len(due), 2, y.shape[1])
    x.copy_((y - phi[:, 0]) * torch.exp(-phi[:, 1]))


def inverse(stages, plan, y, c=None, solve=solve):
    """x ``(N, D)``, and parameters ``(N, D, 2)``, in the order of the features."""
    x, phi = invert(stages, plan, solve, y, c)
    return x[plan.back].t(), phi[plan.back].permute(2, 0, 1)


def forward(parameters, x, c=None):
    phi = parameters(x, c)
    return x * torch.exp(phi[..., 1]) + phi[..., 0]


def events(count, size, name="x"):
    return torch.randn(count, size, generator=generator(1, name), dtype=torch.float64)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("context", [0, CONTEXT])
@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1], [0, 0, 1, 1, 2], [0]])
def test_inverse_undoes_the_transform_in_any_order(order, context, residual):
    order = torch.tensor(order)
    stages, parameters = network(order, context, residual)
    x, c = events(50, len(order)), events(50, context, "c") if context else None
    with torch.no_grad():
        found, phi = inverse(stages, schedule(stages, order), forward(parameters, x, c), c)
        torch.testing.assert_close(found, x)
        torch.testing.assert_close(phi, parameters(x, c))


@pytest.mark.parametrize(
    "activation", [nn.ReLU(), nn.SiLU(), nn.ELU(), nn.ELU(alpha=0.5), nn.Tanh(), nn.Softplus(), torch.sin]
)
def test_any_activation_is_the_networks_own(activation):
    order = torch.arange(4)
    stages, parameters = network(order)
    stages[:2] = [replace(stage, after=activation) for stage in stages[:2]]
    x = events(20, 4)
    with torch.no_grad():
        torch.testing.assert_close(inverse(stages, schedule(stages, order), forward(parameters, x))[0], x)


@pytest.mark.parametrize("block", [1, 2, 7, 100])
def test_size_of_a_block_changes_nothing(monkeypatch, block):
    monkeypatch.setattr(autoregressive, "BLOCK", block)
    order = torch.arange(9)
    stages, parameters = network(order)
    x = events(20, 9)
    with torch.no_grad():
        torch.testing.assert_close(inverse(stages, schedule(stages, order), forward(parameters, x))[0], x)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("read", [1, 3, 1000])
def test_what_a_step_reads_in_vain_changes_nothing(monkeypatch, read, residual):
    monkeypatch.setattr(autoregressive, "READ", read)
    order = torch.tensor([4, 0, 2, 2, 6, 1, 5, 3, 3, 7])
    stages, parameters = network(order, CONTEXT, residual)
    x, c = events(20, len(order)), events(20, CONTEXT, "c")
    with torch.no_grad():
        torch.testing.assert_close(inverse(stages, schedule(stages, order), forward(parameters, x, c), c)[0], x)


def test_each_feature_is_solved_once_and_those_that_need_the_same_together():
    order = torch.tensor([0, 1, 1, 2])
    stages, _ = network(order)
    solved = []

    def noted(phi, y, due, x):
        solved.append(due.tolist())
        solve(phi, y, due, x)

    invert(stages, schedule(stages, order), noted, events(5, 4))
    assert solved == [[0], [1, 2], [3]]


def test_features_that_no_hidden_unit_tells_apart_are_solved_together():
    order = torch.arange(100)
    stages, parameters = network(order)  # eleven units know at most ten features
    plan = schedule(stages, order)
    assert plan.steps == WIDTH
    x = events(7, 100)
    with torch.no_grad():
        torch.testing.assert_close(inverse(stages, plan, forward(parameters, x))[0], x)


@pytest.mark.parametrize(("read", "share"), [(1000, 0.76), (32, 0.6)])
def test_inverse_costs_the_multiplications_of_one_pass(monkeypatch, read, share):
    size, rows = 64, 3
    order = torch.arange(size)
    monkeypatch.setitem(globals(), "WIDTH", 256)
    monkeypatch.setattr(autoregressive, "READ", read)
    stages, _ = network(order)
    done = []
    real = torch.Tensor.addmm_

    def counted(self, a, b, **kwargs):
        done.append(a.shape[0] * a.shape[1] * b.shape[1])
        return real(self, a, b, **kwargs)

    monkeypatch.setattr(torch.Tensor, "addmm_", counted)
    invert(stages, schedule(stages, order), solve, events(rows, size))
    assert sum(done) <= share * rows * sum(stage.linear.weight.numel() for stage in stages)


def test_network_that_sees_what_is_not_before_a_feature_is_refused():
    order = torch.tensor([0, 1, 2])
    stages, _ = network(order)
    with pytest.raises(ValueError, match="depend on one that is not before it"):
        schedule(stages, order.flip(0))


def test_units_that_nothing_needs_may_stay_unknown():
    order = torch.tensor([0, 1])
    first = Masked(torch.tensor([[True, False], [True, True]]))  # the second knows all: nobody may use it
    last = Masked(torch.tensor([[False, False]] * 2 + [[True, False]] * 2))
    stages = [Stage(first, 0, torch.tanh), Stage(last, 1)]
    plan = schedule(stages, order)
    assert plan.known[0][-1] == 1
    x = events(5, 2)
    with torch.no_grad():
        phi = last(torch.tanh(first(x))).unflatten(1, (2, 2))
        y = x * torch.exp(phi[..., 1]) + phi[..., 0]
        torch.testing.assert_close(inverse(stages, plan, y)[0], x)


# -- blocks as a whole


def weakly_coupled(order, strength, monkeypatch, residual=False):
    """A network over many features, and what became of each block that was tried as a whole."""
    monkeypatch.setitem(globals(), "WIDTH", len(order))
    monkeypatch.setattr(autoregressive, "WORTHWHILE", torch.inf)
    stages, parameters = network(order, residual=residual)
    with torch.no_grad():
        for stage in stages:
            stage.linear.weight.mul_(strength)
    outcomes, real = [], autoregressive._all_at_once

    def noted(*args):
        outcomes.append(real(*args))
        return outcomes[-1]

    monkeypatch.setattr(autoregressive, "_all_at_once", noted)
    return stages, parameters, outcomes


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("flipped", [False, True])
def test_block_solved_as_a_whole_is_that_solved_in_steps(monkeypatch, flipped, residual):
    order = torch.arange(70).flip(0) if flipped else torch.arange(70)
    stages, parameters, outcomes = weakly_coupled(order, 0.5, monkeypatch, residual)
    plan, x = schedule(stages, order), events(20, 70)
    with torch.no_grad():
        y = forward(parameters, x)
        found, phi = invert(stages, plan, solve, y, at_once=True)
        assert outcomes == [True, True]  # and the six features that are left go in steps
        steps, phi_of_steps = invert(stages, plan, solve, y)
    torch.testing.assert_close(found, steps, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(phi, phi_of_steps, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(inverse(stages, plan, y)[0], x)


def test_chain_that_no_few_passes_solve_goes_in_steps(monkeypatch):
    order = torch.arange(64)
    stages, parameters, outcomes = weakly_coupled(order, 4.0, monkeypatch)
    plan, x = schedule(stages, order), events(20, 64)
    with torch.no_grad():
        y = forward(parameters, x)
        found, phi = invert(stages, plan, solve, y, at_once=True)
        steps, phi_of_steps = invert(stages, plan, solve, y)
    assert outcomes == [False]  # who has failed once is not tried again
    assert torch.equal(found, steps)
    assert torch.equal(phi, phi_of_steps)


def test_passes_that_overflow_leave_nothing_behind(monkeypatch):
    order = torch.arange(40)
    stages, _, outcomes = weakly_coupled(order, 0.1, monkeypatch)

    def wild(phi, y, due, x):
        solve(phi, y, due, x)
        if len(due) > 1:
            x.fill_(torch.nan)

    y = events(20, 40)
    with torch.no_grad():
        found, _ = invert(stages, schedule(stages, order), wild, y, at_once=True)
        assert torch.equal(found, invert(stages, schedule(stages, order), solve, y)[0])
    assert outcomes == [False]


# -- derivatives


def test_what_comes_of_a_closed_form_may_enter_a_graph():
    order = torch.arange(4)
    stages, _ = network(order)
    plan, y = schedule(stages, order), events(5, 4).requires_grad_()
    found, phi = invert(stages, plan, solve, y, at_once=True)
    steps, _ = invert(stages, plan, solve, y)
    assert found.is_inference()
    assert phi.is_inference()
    assert torch.equal(found, steps)
    x = found.index_select(0, plan.back).t()
    factor = torch.ones(4, dtype=torch.float64, requires_grad=True)
    (x * factor).sum().backward()
    torch.testing.assert_close(factor.grad, steps[plan.back].sum(1))


def test_solution_that_is_no_closed_form_may_differentiate():
    order = torch.arange(4)
    stages, parameters = network(order)

    def differentiate(phi, y, due, x):
        with torch.enable_grad():
            guess = torch.zeros_like(y).requires_grad_()
            (slope,) = torch.autograd.grad((guess * torch.exp(phi[:, 1]) + phi[:, 0]).sum(), guess)
        x.copy_((y - phi[:, 0]) / slope)

    x = events(5, 4)
    with torch.no_grad():
        y = forward(parameters, x)
    torch.testing.assert_close(inverse(stages, schedule(stages, order), y, solve=differentiate)[0], x)


def attached(parameters, y, c, stages, order):
    plan = schedule(stages, order)
    x, _ = inverse(stages, plan, y, c)

    def f(x):
        phi = parameters(x, c)
        return x * torch.exp(phi[..., 1]) + phi[..., 0], phi[..., 1]

    return attach(f, x, y, plan.steps)


def test_solution_has_its_derivatives_in_what_it_solves_for_and_in_the_context():
    order = torch.tensor([2, 0, 3, 1])
    stages, parameters = network(order, CONTEXT)
    c = events(3, CONTEXT, "c").requires_grad_()
    with torch.no_grad():
        y = forward(parameters, events(3, 4), c)
    y.requires_grad_()
    assert torch.autograd.gradcheck(lambda y, c: attached(parameters, y, c, stages, order), (y, c))


def test_solution_has_its_derivatives_in_the_weights():
    order = torch.arange(3)
    stages, parameters = network(order)
    with torch.no_grad():
        y = forward(parameters, events(4, 3))
    x = y  # the same by autograd, through one step after another
    for _ in range(3):
        phi = parameters(x)
        x = (y - phi[..., 0]) * torch.exp(-phi[..., 1])
    weights = [stage.linear.weight for stage in stages]
    expected = torch.autograd.grad(x.square().sum(), weights)
    found = torch.autograd.grad(attached(parameters, y, None, stages, order).square().sum(), weights)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
