"""Squeeze and factor-out."""

import pytest
import torch
from torch import nn

from flowzoo.layers.multiscale import ContextBase, Diagonal, FactorOut, squeeze, unsqueeze
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


# -- bases that do not look at the kept half


def test_diagonal_base_is_one_mean_and_scale_per_channel():
    layer = FactorOut(4, Diagonal(4), kept=2).double()
    x = torch.randn(6, 4, 2, 2, generator=generator(1, "x"), dtype=torch.float64)
    kept, z, log_det = layer.to_latent(x, x.new_zeros(6, 0))
    assert torch.equal(z, x[:, 2:])
    with torch.no_grad():
        layer.net.value.copy_(torch.tensor([1.0, -1.0, 0.5, 0.25]))
    kept, z, log_det = layer.to_latent(x, x.new_zeros(6, 0))
    log_scale = 3 * torch.tanh(torch.tensor([0.5, 0.25], dtype=torch.float64) / 3)
    torch.testing.assert_close(z[:, 0], (x[:, 2] - 1) * torch.exp(-log_scale[0]))
    torch.testing.assert_close(z[:, 1], (x[:, 3] + 1) * torch.exp(-log_scale[1]))
    torch.testing.assert_close(log_det, (-4 * log_scale.sum()).expand(6))
    torch.testing.assert_close(layer.to_data(kept, z, x.new_zeros(6, 0))[0], x)


def test_class_conditional_base_moves_each_element_by_its_class_alone():
    layer = FactorOut(2, ContextBase(3, (4, 2, 2)), kept=0).double()
    x = torch.randn(3, 2, 2, 2, generator=generator(1, "x"), dtype=torch.float64)
    kept, z, _ = layer.to_latent(x, torch.eye(3).double())
    assert kept.shape == (3, 0, 2, 2)
    assert torch.equal(z, x)
    with torch.no_grad():
        layer.net.linear.weight[:8, 1] = 2.0
    _, z, _ = layer.to_latent(x, torch.eye(3).double())
    torch.testing.assert_close(z, x - 2 * torch.tensor([0.0, 1.0, 0.0]).double()[:, None, None, None])
    assert layer.net.penalty().item() == pytest.approx(4.0 * 8 / 48)


def test_part_without_a_net_is_set_aside_as_it_is():
    layer = FactorOut(3, None)
    x = torch.randn(2, 3, 2, 2)
    kept, z, log_det = layer.to_latent(x, torch.zeros(2, 0))
    assert torch.equal(torch.cat([kept, z], 1), x)
    assert not bool(log_det.any())
    assert torch.equal(layer.to_data(kept, z, torch.zeros(2, 0))[0], x)
