"""Squeeze and factor-out."""

import pytest
import torch
from torch import nn

from flowzoo.layers.multiscale import FactorOut, squeeze, unsqueeze
from flowzoo.nets import ContextConv
from flowzoo.seeding import generator, initialisation


@pytest.mark.parametrize("shape", [(1, 2, 2), (3, 4, 6), (2, 8, 2)])
def test_unsqueeze_undoes_squeeze(shape):
    x = torch.randn(2, *shape)
    c, h, w = shape
    assert squeeze(x).shape == (2, 4 * c, h // 2, w // 2)
    assert torch.equal(unsqueeze(squeeze(x)), x)


def test_squeeze_takes_two_by_two_blocks_apart():
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert squeeze(x)[0, :, 0, 0].tolist() == [0, 1, 4, 5]
    assert squeeze(x)[0, :, 1, 1].tolist() == [10, 11, 14, 15]


def test_channels_of_a_block_stay_together():
    x = torch.stack([torch.zeros(4, 4), torch.ones(4, 4)])[None]
    assert squeeze(x)[0, :, 0, 0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]


def test_squeeze_turns_a_shift_by_two_pixels_into_one():
    x = torch.randn(1, 2, 6, 4)
    assert torch.equal(squeeze(x.roll((2, 4), (-2, -1))), squeeze(x).roll((1, 2), (-2, -1)))


@pytest.fixture
def layer():
    with initialisation(generator(0, "init")):
        made = FactorOut(5, ContextConv(2, 3, 6, 8)).double()
        for parameter in made.parameters():
            nn.init.normal_(parameter, 0.0, 0.4)
    return made


def batch():
    source = generator(1, "x")
    x = torch.randn(6, 5, 2, 2, generator=source, dtype=torch.float64)
    return x, torch.randn(6, 3, generator=source, dtype=torch.float64)


def test_parts_round_trip_and_log_dets_cancel(layer):
    x, c = batch()
    kept, z, forward = layer.to_latent(x, c)
    assert kept.shape == (6, 2, 2, 2)
    assert z.shape == (6, 3, 2, 2)
    back, backward = layer.to_data(kept, z, c)
    torch.testing.assert_close(back, x)
    torch.testing.assert_close(backward, -forward)


def test_log_det_is_that_of_the_jacobian(layer):
    x, c = batch()
    _, _, log_det = layer.to_latent(x, c)

    def whole(v):
        kept, z, _ = layer.to_latent(v[None], c[:1])
        return torch.cat([kept, z], 1)

    jacobian = torch.autograd.functional.jacobian(whole, x[0]).reshape(20, 20)
    torch.testing.assert_close(log_det[0], torch.linalg.slogdet(jacobian)[1])


def test_what_goes_on_is_untouched_and_what_is_set_aside_depends_on_it_and_on_the_context(layer):
    x, c = batch()
    kept, z, _ = layer.to_latent(x, c)
    assert torch.equal(kept, x[:, :2])
    other = x.clone()
    other[:, :2] += 1
    assert not torch.allclose(layer.to_latent(other, c)[1], z)
    assert not torch.allclose(layer.to_latent(x, c + 1)[1], z)
