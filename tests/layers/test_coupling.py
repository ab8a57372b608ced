"""Couplings: one part moves given the other, which stays."""

import pytest
import torch
from torch import nn

from flowzoo.layers.coupling import AffineCoupling, SplineCoupling
from flowzoo.layers.spline import num_parameters
from flowzoo.nets import ContextConv, ContextMLP
from flowzoo.seeding import generator, initialisation


def make(kind, stirred=True):
    """A layer, and the shape of its events; the context has two columns."""
    with initialisation(generator(0, "init")):
        if kind == "affine vector":
            layer, shape = AffineCoupling(5, ContextMLP(2, 2, 6, (8, 8))), (5,)
        elif kind == "affine scalar":
            layer, shape = AffineCoupling(1, ContextMLP(0, 2, 2, (8, 8))), (1,)
        elif kind == "affine image":
            layer, shape = AffineCoupling(3, ContextConv(1, 2, 4, 8)), (3, 4, 2)
        else:
            net = ContextMLP(2, 2, 3 * num_parameters(4), (8, 8))
            layer, shape = SplineCoupling(slice(0, 2), slice(2, 5), net, bound=3.0), (5,)
        if stirred:
            for parameter in layer.parameters():
                nn.init.normal_(parameter, 0.0, 0.4)
    return layer.double(), shape


KINDS = ["affine vector", "affine scalar", "affine image", "spline"]


def batch(shape, count=30):
    source = generator(1, "x")
    x = torch.randn(count, *shape, generator=source, dtype=torch.float64)
    return x, torch.randn(count, 2, generator=source, dtype=torch.float64)


@pytest.mark.parametrize("kind", KINDS)
def test_starts_at_the_identity(kind):
    layer, shape = make(kind, stirred=False)
    x, c = batch(shape)
    y, log_det = layer.to_latent(x, c)
    torch.testing.assert_close(y, x, atol=1e-12, rtol=0)
    torch.testing.assert_close(log_det, torch.zeros(30).double(), atol=1e-10, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_log_det_is_that_of_the_jacobian_in_both_directions(kind):
    layer, shape = make(kind)
    x, c = batch(shape, 3)
    for direction in (layer.to_latent, layer.to_data):
        _, log_det = direction(x, c)
        for i in range(3):
            jacobian = torch.autograd.functional.jacobian(lambda v, i=i: direction(v[None], c[i : i + 1])[0][0], x[i])  # noqa: B023
            size = x[i].numel()
            torch.testing.assert_close(log_det[i], torch.linalg.slogdet(jacobian.reshape(size, size))[1])


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip(kind):
    layer, shape = make(kind)
    x, c = batch(shape)
    y, forward = layer.to_latent(x, c)
    back, backward = layer.to_data(y, c)
    torch.testing.assert_close(back, x, atol=1e-9, rtol=0)
    torch.testing.assert_close(backward, -forward, atol=1e-8, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_part_that_conditions_stays(kind):
    layer, shape = make(kind)
    x, c = batch(shape)
    y, _ = layer.to_latent(x, c)
    kept = shape[0] // 2
    assert torch.equal(y[:, :kept], x[:, :kept])
    assert not torch.equal(y, x)


@pytest.mark.parametrize("kind", KINDS)
def test_the_moved_part_depends_on_the_context(kind):
    layer, shape = make(kind)
    x, c = batch(shape)
    assert not torch.allclose(layer.to_latent(x, c)[0], layer.to_latent(x, c + 1)[0])


def test_one_step_cannot_stretch_beyond_its_bound():
    layer, shape = make("affine vector")
    nn.init.constant_(layer.net.last.bias, 1e6)
    x, c = batch(shape)
    _, log_det = layer.to_latent(x, c)
    torch.testing.assert_close(log_det, torch.full((30,), 3 * layer.bound).double())


def test_the_input_is_not_written_to():
    layer, shape = make("spline")
    x, c = batch(shape)
    kept = x.clone()
    layer.to_latent(x, c)
    assert torch.equal(x, kept)


def test_sigmoid_scale_is_the_published_one_and_stays_finite_far_out():
    net = ContextMLP(1, 0, 2, (8, 8))
    layer = AffineCoupling(2, net, scale="sigmoid").double()
    for h in (-60.0, -3.0, 0.0, 2.0, 60.0):
        with torch.no_grad():
            net.last.bias.copy_(torch.tensor([h, 0.5]))
        x = torch.tensor([[0.3, 2.0]], dtype=torch.float64)
        y, log_det = layer.to_latent(x, x.new_zeros(1, 0))
        scale = 0.999 * torch.sigmoid(torch.tensor(h + 2, dtype=torch.float64)) + 0.001
        torch.testing.assert_close(y[0, 1], 2.0 * scale + 0.5)
        torch.testing.assert_close(log_det[0], scale.log())


def test_additive_coupling_keeps_volume_and_inverts():
    layer = AffineCoupling(5, ContextMLP(2, 2, 3, (8, 8)), scale="none").double()
    nn.init.normal_(layer.net.last.weight)
    x, c = batch((5,))
    y, log_det = layer.to_latent(x, c)
    assert not bool(log_det.any())
    assert not torch.allclose(y, x)
    torch.testing.assert_close(layer.to_data(y, c)[0], x)


def test_spline_coupling_of_images_transforms_each_pixel_by_its_own_spline():
    net = ContextConv(2, 2, 2 * num_parameters(4), 8)
    layer = SplineCoupling(slice(0, 2), slice(2, 4), net, bound=3.0).double()
    nn.init.normal_(net.last.weight, 0.0, 0.3)
    x, c = batch((4, 3, 2), 5)
    y, log_det = layer.to_latent(x, c)
    back, backward = layer.to_data(y, c)
    torch.testing.assert_close(back, x)
    torch.testing.assert_close(backward, -log_det)
    jacobian = torch.autograd.functional.jacobian(lambda v: layer.to_latent(v[None], c[:1])[0][0], x[0])
    torch.testing.assert_close(torch.linalg.slogdet(jacobian.reshape(24, 24))[1], log_det[0])
