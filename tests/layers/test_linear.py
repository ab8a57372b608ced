"""The LU mixing of channels."""

import pytest
import torch
from torch import nn

from flowzoo.layers.linear import LULinear, MatrixLinear, Permutation
from flowzoo.seeding import generator, initialisation


def layer(channels, stir=0.0, seed=0):
    with initialisation(generator(seed, "init")):
        made = LULinear(channels).double()
        for parameter in made.parameters():
            nn.init.normal_(parameter, 0.0, stir) if stir else None
    return made


def nothing(x):
    return x.new_zeros(len(x), 0)


@pytest.mark.parametrize("channels", [1, 2, 7, 48])
def test_starts_at_a_rotation(channels):
    made = layer(channels)
    matrix = made.to_latent(torch.eye(channels).double(), None)[0].T
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(channels).double(), atol=1e-4, rtol=0)
    x = torch.randn(3, channels).double()
    torch.testing.assert_close(made.to_latent(x, None)[1], torch.zeros(3).double(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", [(5,), (5, 3, 2)])
def test_log_det_is_that_of_the_jacobian(shape):
    made = layer(5, stir=0.4)
    x = torch.randn(2, *shape, generator=generator(1, "x")).double()
    y, log_det = made.to_latent(x, nothing(x))
    jacobian = torch.autograd.functional.jacobian(lambda v: made.to_latent(v[None], nothing(x[:1]))[0][0], x[0])
    size = x[0].numel()
    true = torch.linalg.slogdet(jacobian.reshape(size, size))[1]
    torch.testing.assert_close(log_det, true.expand(2), atol=1e-9, rtol=0)
    assert y.shape == x.shape


@pytest.mark.parametrize("shape", [(5,), (5, 3, 2)])
def test_round_trip(shape):
    made = layer(5, stir=0.4)
    x = torch.randn(20, *shape, generator=generator(2, "x")).double()
    y, forward = made.to_latent(x, nothing(x))
    back, backward = made.to_data(y, nothing(x))
    torch.testing.assert_close(back, x, atol=1e-9, rtol=0)
    torch.testing.assert_close(backward, -forward)


def test_pixels_are_mixed_by_the_same_matrix_as_vectors():
    made = layer(4, stir=0.3)
    x = torch.randn(2, 4, 3, 3, generator=generator(3, "x")).double()
    image, _ = made.to_latent(x, None)
    pixels, _ = made.to_latent(x.permute(0, 2, 3, 1).reshape(-1, 4), None)
    torch.testing.assert_close(image.permute(0, 2, 3, 1).reshape(-1, 4), pixels)


def test_factors_cannot_leave_their_triangles():
    made = layer(4)
    with torch.no_grad():
        made.lower.fill_(1.0)
        made.upper.fill_(1.0)
    made.to_latent(torch.randn(2, 4).double(), None)[0].sum().backward()
    assert not bool(made.lower.grad.triu().any())
    assert not bool(made.upper.grad.tril().any())


def test_no_training_can_make_it_singular():
    made = layer(3)
    with torch.no_grad():
        made.raw_log_scale.fill_(-1e4)
    x = torch.randn(10, 3, generator=generator(4, "x")).double()
    with torch.no_grad():
        y, log_det = made.to_latent(x, None)
        torch.testing.assert_close(made.to_data(y, None)[0], x)
    assert float(log_det[0]) == pytest.approx(-15)  # three times the floor


@pytest.mark.parametrize("kind", [MatrixLinear, Permutation])
@pytest.mark.parametrize("shape", [(5,), (5, 3, 2)])
def test_plainer_mixings_invert_and_count_their_volume(kind, shape):
    with initialisation(generator(0, "init")):
        made = kind(5).double()
        for parameter in made.parameters():
            nn.init.normal_(parameter)
    x = torch.randn(3, *shape, generator=generator(1, "x")).double()
    y, log_det = made.to_latent(x, nothing(x))
    back, backward = made.to_data(y, nothing(x))
    torch.testing.assert_close(back, x)
    torch.testing.assert_close(backward, -log_det)
    jacobian = torch.autograd.functional.jacobian(lambda v: made.to_latent(v[None], nothing(x[:1]))[0][0], x[0])
    torch.testing.assert_close(torch.linalg.slogdet(jacobian.reshape(x[0].numel(), -1))[1], log_det[0])


def test_plain_matrix_starts_at_a_rotation():
    made = MatrixLinear(7)
    torch.testing.assert_close(made.weight @ made.weight.T, torch.eye(7), atol=1e-5, rtol=0)


def test_order_of_a_permutation_is_saved_with_the_weights():
    assert Permutation(9).state_dict()["order"].sort().values.tolist() == list(range(9))
