"""The inverse of an autoregressive transform, in any order of the features."""

import pytest
import torch

from flowzoo.layers.autoregressive import invert
from flowzoo.seeding import generator


def system(order):
    """An affine transform whose feature of rank r depends on those of lower rank."""
    size = len(order)
    weight = torch.randn(2, size, size, generator=generator(0, "w"), dtype=torch.float64)
    rank = torch.empty(size, dtype=torch.long)
    rank[order] = torch.arange(size)
    mask = rank[:, None] > rank[None, :]

    def parameters(x):
        return [torch.tanh(x @ (w * mask).T) for w in weight]

    def solve(phi, y, due):
        assert phi[0].shape == y.shape == (len(y), len(due))
        return (y - phi[1]) * torch.exp(-phi[0])

    def forward(x):
        scale, shift = parameters(x)
        return x * torch.exp(scale) + shift

    return parameters, solve, forward


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]])
def test_inverse_undoes_the_transform_in_any_order(order):
    parameters, solve, forward = system(torch.tensor(order))
    x = torch.randn(50, 4, generator=generator(1, "x"), dtype=torch.float64)
    found = invert(parameters, solve, forward(x), [torch.tensor([i]) for i in order])
    torch.testing.assert_close(found, x)


def test_wrong_order_does_not_invert():
    parameters, solve, forward = system(torch.tensor([0, 1, 2, 3]))
    x = torch.randn(50, 4, generator=generator(1, "x"), dtype=torch.float64)
    found = invert(parameters, solve, forward(x), [torch.tensor([i]) for i in (3, 2, 1, 0)])
    assert not torch.allclose(found, x, atol=1e-2)


def test_each_feature_is_solved_once_and_each_step_costs_one_pass():
    parameters, solve, forward = system(torch.tensor([0, 1, 2, 3]))
    passes, solved = [], []

    def counted(x):
        passes.append(1)
        return parameters(x)

    def noted(phi, y, due):
        solved.extend(due.tolist())
        return solve(phi, y, due)

    x = torch.randn(5, 4, dtype=torch.float64)
    invert(counted, noted, forward(x), [torch.tensor([i]) for i in range(4)])
    assert len(passes) == 4
    assert solved == [0, 1, 2, 3]


def test_features_of_one_step_are_solved_together():
    def parameters(x):
        return [torch.stack([0 * x[:, 0], 0 * x[:, 0], x[:, 0] + x[:, 1]], 1)]

    x = torch.randn(7, 3, dtype=torch.float64)
    y = x + parameters(x)[0]
    found = invert(parameters, lambda phi, y, due: y - phi[0], y, [torch.tensor([0, 1]), torch.tensor([2])])
    torch.testing.assert_close(found, x)


def test_gradient_passes_through_every_step():
    parameters, solve, forward = system(torch.tensor([0, 1, 2]))
    steps = [torch.tensor([i]) for i in range(3)]
    y = forward(torch.randn(2, 3, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda y: invert(parameters, solve, y, steps), (y,))
