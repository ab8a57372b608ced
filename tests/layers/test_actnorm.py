"""Activation normalisation: what it sees first leaves standard; the context starts neutral."""

import pytest
import torch
from torch import nn

from flowzoo.layers.actnorm import ActNorm
from flowzoo.seeding import generator, initialisation


def layer(channels, context=0, stirred=False):
    with initialisation(generator(0, "init")):
        made = ActNorm(channels, context, (8,)).double()
        if stirred:
            for parameter in made.parameters():
                nn.init.normal_(parameter, 0.0, 0.5)
    return made


def batch(shape, context=2, count=200):
    source = generator(1, "x")
    x = 5 + 3 * torch.randn(count, *shape, generator=source, dtype=torch.float64)
    return x, torch.randn(count, context, generator=source, dtype=torch.float64)


@pytest.mark.parametrize("shape", [(3,), (3, 4, 2)])
def test_first_batch_leaves_with_zero_mean_and_unit_variance(shape):
    made = layer(3, 2)
    x, c = batch(shape)
    made.initialize(x, c)
    y, _ = made.to_latent(x, c)
    over = (0, *range(2, x.ndim))
    torch.testing.assert_close(y.mean(over), torch.zeros(3).double(), atol=1e-9, rtol=0)
    torch.testing.assert_close(y.std(over, correction=0), torch.ones(3).double(), atol=1e-9, rtol=0)


def test_nothing_is_initialised_in_the_forward_pass():
    made = layer(3, 2)
    x, c = batch((3,))
    y, log_det = made.to_latent(x, c)
    assert torch.equal(y, x)
    assert not bool(log_det.any())


def test_context_is_neutral_at_the_start_and_heard_afterwards():
    made = layer(3, 2)
    x, c = batch((3,))
    assert torch.equal(made.to_latent(x, c)[0], made.to_latent(x, c + 1)[0])
    stirred = layer(3, 2, stirred=True)
    assert not torch.allclose(stirred.to_latent(x, c)[0], stirred.to_latent(x, c + 1)[0])


@pytest.mark.parametrize("shape", [(3,), (3, 2, 2)])
@pytest.mark.parametrize("context", [0, 2])
def test_log_det_is_that_of_the_jacobian_and_the_inverse_undoes_it(shape, context):
    made = layer(3, context, stirred=True)
    x, c = batch(shape, context, count=4)
    y, log_det = made.to_latent(x, c)
    size = x[0].numel()
    for i in range(4):
        jacobian = torch.autograd.functional.jacobian(
            lambda v, i=i: made.to_latent(v[None], c[i : i + 1])[0][0], x[i]
        ).reshape(size, size)
        torch.testing.assert_close(log_det[i], torch.linalg.slogdet(jacobian)[1])
    back, backward = made.to_data(y, c)
    torch.testing.assert_close(back, x)
    torch.testing.assert_close(backward, -log_det)


def test_constant_channel_is_left_finite():
    made = layer(2)
    x = torch.zeros(50, 2).double()
    x[:, 1] = torch.randn(50, generator=generator(2, "x"))
    made.initialize(x, x[:, :0])
    assert bool(torch.isfinite(made.to_latent(x, x[:, :0])[0]).all())


def test_conditional_scale_is_bounded():
    made = layer(2, 1, stirred=True)
    x = torch.ones(2, 2).double()
    _, log_det = made.to_latent(x, torch.tensor([[1e6], [-1e6]]).double())
    plain = -made.log_scale.sum()
    assert bool(((log_det - plain).abs() <= 2 * made.bound + 1e-9).all())
