"""Rectified Adam by a fused kernel takes the steps of torch's own."""

import copy

import pytest
import torch
from torch import nn

from flowzoo.radam import RAdam
from flowzoo.seeding import generator


def problem():
    source = generator(0, "x")
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1)).double()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=source, dtype=torch.float64))
    return net, torch.randn(40, 3, generator=source, dtype=torch.float64)


def take(net, optimizer, x, steps):
    for i in range(steps):
        for group in optimizer.param_groups:  # as a schedule does
            group["lr"] = 0.05 / (1 + 0.1 * i)
        optimizer.zero_grad()
        (net(x) - x[:, :1].sin()).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_steps_are_those_of_torch(decay):
    mine, x = problem()
    known = copy.deepcopy(mine)
    made = RAdam(mine.parameters(), 0.05, decay)
    made.param_groups[0]["eps"] = 0.0  # which stands elsewhere in torch's
    take(mine, made, x, 60)
    reference = torch.optim.RAdam(known.parameters(), 0.05, weight_decay=decay, decoupled_weight_decay=True, eps=0.0)
    take(known, reference, x, 60)
    for p, q in zip(mine.parameters(), known.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("at", [3, 20])
def test_state_goes_on_where_it_stopped(at):
    through, x = problem()
    stopped = copy.deepcopy(through)
    one = RAdam(through.parameters(), 0.05)
    take(through, one, x, at)
    first = RAdam(stopped.parameters(), 0.05)
    take(stopped, first, x, at)
    second = RAdam(stopped.parameters(), 0.05)
    second.load_state_dict(first.state_dict())
    take(through, one, x, 10)
    take(stopped, second, x, 10)
    for p, q in zip(through.parameters(), stopped.parameters(), strict=True):
        assert torch.equal(p, q)


def test_options_of_a_group_are_as_they_were():
    net, x = problem()
    optimizer = RAdam(net.parameters(), 0.05, 0.3)
    take(net, optimizer, x, 8)
    (group,) = optimizer.param_groups
    assert group["eps"] == 1e-8
    assert group["weight_decay"] == 0.3
    assert group["lr"] == 0.05 / (1 + 0.1 * 7)
