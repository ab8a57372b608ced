"""Conditioner networks: neutral at the start, the context heard, borders as declared."""

import pytest
import torch
from torch import nn

from flowzoo.nets import Context, ContextConv, ContextMLP, ContextPyramid, Saturate, Tuned, mlp, widths, zero_
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


# -- images as context, places, and how a network is run


def test_network_that_is_told_the_size_knows_where_a_pixel_is():
    blind, told = (
        stirred(ContextConv(1, 0, 1, 8, padding_mode="circular")),
        stirred(ContextConv(1, 0, 1, 8, padding_mode="circular", size=(6, 4))),
    )
    x, c = torch.ones(2, 1, 6, 4), torch.zeros(2, 0)
    assert float(blind(x, c).detach().std(dim=(-2, -1)).max()) < 1e-6
    found = told(x, c).detach()
    assert float(found.flatten(1).std(1).min()) > 1e-3
    assert torch.equal(found[0], found[1])
    assert "place" not in told.state_dict()


@pytest.mark.parametrize("size", [(8, 8), (4, 4), (2, 6), (16, 16)])
def test_pyramid_gives_every_level_its_resolution_from_any_image(size):
    sizes = [(8, 4), (4, 2), (1, 1)]
    features = ContextPyramid(2, 5, sizes)(torch.randn(3, 2, *size))
    assert [tuple(f.shape) for f in features] == [(3, 5, *s) for s in sizes]


def test_features_of_an_image_reach_each_pixel_by_its_own():
    net = stirred(ContextConv(1, 0, 1, 8, image_features=2))
    x, image = torch.zeros(1, 1, 8, 8), torch.zeros(1, 2, 8, 8)
    plain = net(x, Context(torch.zeros(1, 0), image)).detach()
    image[0, 0, 2, 5] = 1.0
    changed = (net(x, Context(torch.zeros(1, 0), image)).detach() - plain).abs()[0, 0] > 1e-6
    rows, columns = changed.nonzero().unbind(1)
    assert (int(rows.min()), int(rows.max())) == (1, 3)
    assert (int(columns.min()), int(columns.max())) == (4, 6)


@pytest.mark.parametrize("options", [{"low_precision": True}, {"channels_last": True}])
def test_tuned_network_returns_what_the_plain_one_does_up_to_its_precision(options):
    net = stirred(ContextConv(2, 3, 4, 16))
    x, c = torch.randn(5, 2, 8, 8), torch.randn(5, 3)
    expected = net(x, c)
    options = {"low_precision": False, "channels_last": False, **options}
    found = Tuned(net, **options)(x, c)
    assert found.dtype == torch.float32
    assert found.is_contiguous()
    scale = float(expected.detach().abs().max())
    assert float((found - expected).detach().abs().max()) < (0.03 if options["low_precision"] else 1e-5) * scale


def test_float64_is_not_run_in_bfloat16():
    net = stirred(ContextConv(2, 3, 4, 16)).double()
    x, c = torch.randn(5, 2, 8, 8).double(), torch.randn(5, 3).double()
    assert torch.equal(Tuned(net, low_precision=True, channels_last=False)(x, c), net(x, c))


def test_saturation_keeps_what_was_seen_and_bounds_what_was_not():
    layer = Saturate(2, margin=0.5)
    x = torch.tensor([[0.0, -40.0], [50.0, 1e6], [-3.0, 0.1]])
    assert torch.equal(layer(x), x)  # nothing was seen: nothing is bounded
    layer.initialize(torch.tensor([[-3.0, 0.0], [60.0, 2.0]]))
    y = layer(x)
    assert torch.equal(y[:, 0], x[:, 0])
    torch.testing.assert_close(y[:, 1], torch.tensor([-0.5, 2.5, 0.1]))
    assert set(layer.state_dict()) == {"low", "high"}
