"""Conditioner networks: neutral at the start, the context heard, borders as declared."""

import pytest
import torch
from torch import nn

from flowzoo.nets import ContextConv, ContextMLP, mlp, widths, zero_
from flowzoo.seeding import generator, initialisation


@pytest.fixture(autouse=True)
def seeded():
    with initialisation(generator(0, "init")):
        yield


def stirred(net):
    """The net with a last layer that is no longer zero."""
    nn.init.normal_(net.last.weight)
    return net


def test_zero_initialised_networks_return_exactly_zero():
    x, image, c = torch.randn(5, 3), torch.randn(5, 3, 4, 4), torch.randn(5, 2)
    assert not bool(mlp(3, 4, (8,), zero_init=True)(x).any())
    assert not bool(ContextMLP(3, 2, 4, (8, 8))(x, c).any())
    assert not bool(ContextConv(3, 2, 4, 8)(image, c).any())


def test_zero_of_a_layer_without_bias():
    layer = zero_(nn.Linear(2, 2, bias=False))
    assert not bool(layer.weight.any())


@pytest.mark.parametrize("in_features", [0, 3])
def test_mlp_has_the_widths_that_it_is_told(in_features):
    net = mlp(in_features, 2, (8, 5))
    assert net(torch.randn(7, in_features)).shape == (7, 2)
    assert net[2].weight.shape == (5, 8)


def test_network_of_nothing_is_a_constant_that_learns():
    net = mlp(0, 2, (8,))
    out = net(torch.zeros(3, 0))
    assert torch.equal(out[0], out[2])
    out.sum().backward()
    assert all(bool(p.grad.any()) for p in net.parameters())


def test_context_reaches_every_hidden_layer_of_a_vector_network():
    net = stirred(ContextMLP(3, 2, 4, (8, 8, 8)))
    assert len(net.inject) == 3
    x = torch.randn(5, 3)
    assert not torch.equal(net(x, torch.zeros(5, 2)), net(x, torch.ones(5, 2)))
    # with the first injections silenced the last one alone is still heard
    for layer in net.inject[:2]:
        nn.init.zeros_(layer.weight)
    assert not torch.equal(net(x, torch.zeros(5, 2)), net(x, torch.ones(5, 2)))


def test_context_of_nothing_has_no_weights():
    assert len(ContextMLP(3, 0, 4, (8, 8)).inject) == 0
    assert ContextConv(3, 0, 4, 8).inject is None
    assert ContextMLP(3, 0, 4, (8, 8))(torch.randn(2, 3), torch.zeros(2, 0)).shape == (2, 4)
    assert ContextConv(3, 0, 4, 8)(torch.randn(2, 3, 4, 4), torch.zeros(2, 0)).shape == (2, 4, 4, 4)


def test_context_alone_conditions_where_there_is_no_other_half():
    net = stirred(ContextMLP(0, 2, 1, (8,)))
    out = net(torch.zeros(2, 0), torch.tensor([[0.0, 1.0], [2.0, -1.0]]))
    assert not torch.equal(out[0], out[1])


def test_context_of_an_image_differs_by_sample_and_not_by_pixel():
    net = stirred(ContextConv(2, 3, 4, 8, padding_mode="circular"))
    c = torch.randn(2, 3)
    constant = torch.ones(2, 2, 6, 6)
    out = net(constant, c)
    torch.testing.assert_close(out, out[:, :, :1, :1].expand_as(out))
    assert not torch.allclose(out[0], out[1])


@pytest.mark.parametrize("shift", [(1, 0), (0, 3), (2, 5)])
def test_circular_padding_commutes_with_shifts(shift):
    net = stirred(ContextConv(2, 3, 4, 8, padding_mode="circular"))
    x, c = torch.randn(2, 2, 6, 6), torch.randn(2, 3)
    shifted = net(x.roll(shift, (-2, -1)), c)
    torch.testing.assert_close(shifted, net(x, c).roll(shift, (-2, -1)), atol=1e-5, rtol=1e-4)


def test_zero_padding_knows_where_the_border_is():
    net = stirred(ContextConv(2, 3, 4, 8))
    x, c = torch.randn(2, 2, 6, 6), torch.randn(2, 3)
    assert not torch.allclose(net(x.roll(1, -1), c), net(x, c).roll(1, -1), atol=1e-3)


def test_widths_of_an_int_are_equal_layers():
    assert widths(64) == (64, 64)
    assert widths(64, depth=3) == (64, 64, 64)
    assert widths([32, 16]) == (32, 16)
