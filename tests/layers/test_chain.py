"""Layers one after another."""

import pytest
import torch

from flowzoo.layers.actnorm import ActNorm
from flowzoo.layers.chain import Chain
from flowzoo.layers.coupling import AffineCoupling
from flowzoo.layers.linear import LULinear
from flowzoo.nets import ContextMLP
from flowzoo.seeding import generator, initialisation


@pytest.fixture
def chain():
    with initialisation(generator(0, "init")):
        layers = []
        for _ in range(2):
            coupling = AffineCoupling(4, ContextMLP(2, 1, 4, (8, 8)))
            torch.nn.init.normal_(coupling.net.last.weight)
            layers += [ActNorm(4, 1), LULinear(4), coupling]
        return Chain(layers).double()


def batch(count=300):
    source = generator(1, "x")
    x = 3 + 2 * torch.randn(count, 4, generator=source, dtype=torch.float64)
    return x, torch.randn(count, 1, generator=source, dtype=torch.float64)


def test_order_is_kept_and_log_dets_add(chain):
    x, c = batch()
    y, log_det = chain.to_latent(x, c)
    step, total = x, 0
    for layer in chain:
        step, each = layer.to_latent(step, c)
        total = total + each
    assert torch.equal(y, step)
    torch.testing.assert_close(log_det, total)


def test_to_data_undoes_it_in_reverse(chain):
    x, c = batch()
    y, forward = chain.to_latent(x, c)
    back, backward = chain.to_data(y, c)
    torch.testing.assert_close(back, x)
    torch.testing.assert_close(backward, -forward)


def test_each_layer_is_initialised_with_what_reaches_it(chain):
    x, c = batch()
    returned = chain.initialize(x, c)
    torch.testing.assert_close(returned, chain.to_latent(x, c)[0])
    step = x
    for layer in chain:
        if isinstance(layer, ActNorm):
            y, _ = layer.to_latent(step, c)
            torch.testing.assert_close(y.mean(0), torch.zeros(4).double(), atol=1e-9, rtol=0)
            torch.testing.assert_close(y.std(0, correction=0), torch.ones(4).double(), atol=1e-9, rtol=0)
        step, _ = layer.to_latent(step, c)


def test_chain_of_nothing_is_the_identity():
    x, c = batch()
    for direction in (Chain([]).to_latent, Chain([]).to_data):
        y, log_det = direction(x, c)
        assert torch.equal(y, x)
        assert not bool(log_det.any())
