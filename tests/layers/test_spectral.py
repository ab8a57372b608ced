"""SpectralNorm: whitens a stationary field, counts every mode once, commutes with shifts."""

import math

import pytest
import torch

from flowzoo.layers.spectral import SpectralNorm
from flowzoo.seeding import generator


def stirred(shape, context=0, scale=0.3):
    layer = SpectralNorm(shape, context, num_knots=5, hidden_features=8).double()
    source = generator(1, "stir")
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=source, dtype=torch.float64))
    return layer


def field(shape, count, seed=0):
    """A Gaussian field with an isotropic red spectrum."""
    return blurred(torch.randn(count, *shape, generator=generator(seed, "x"), dtype=torch.float64))


def blurred(x):
    ky, kx = (torch.fft.fftfreq(n, dtype=torch.float64) for n in x.shape[-2:])
    k = (ky[:, None].square() + kx.square()).sqrt()
    return torch.fft.ifft2(torch.fft.fft2(x) / (0.1 + k)).real


@pytest.mark.parametrize("shape", [(1, 8, 8), (2, 6, 4), (1, 5, 7), (1, 2, 8), (1, 1, 4)])
def test_log_det_and_inverse_for_even_odd_and_oblong_sizes(shape):
    layer = stirred(shape, context=3)
    x = field(shape, 4)
    c = torch.randn(4, 3, dtype=torch.float64, generator=generator(2, "c"))
    y, log_det = layer.to_latent(x, c)
    back, backward = layer.to_data(y, c)
    torch.testing.assert_close(back, x)
    torch.testing.assert_close(backward, -log_det)
    size = x[0].numel()
    jacobian = torch.autograd.functional.jacobian(lambda v: layer.to_latent(v[None], c[:1])[0][0], x[0])
    torch.testing.assert_close(torch.linalg.slogdet(jacobian.reshape(size, size))[1], log_det[0])
    assert float(layer.counts.sum()) == shape[1] * shape[2]


def test_initialise_leaves_a_flat_spectrum_of_unit_power():
    layer = SpectralNorm((1, 16, 16)).double()
    x = 7 + 3 * field((1, 16, 16), 2000)
    c = torch.zeros(2000, 0, dtype=torch.float64)
    layer.initialize(x, c)
    y, _ = layer.to_latent(x, c)
    power = torch.fft.fft2(y, norm="ortho").abs().square().mean((0, 1))
    assert abs(y.mean().item()) < 1e-9
    # 2000 maps: the mean power of a mode that is its own conjugate scatters by sqrt(2 / 2000)
    torch.testing.assert_close(power, torch.ones_like(power), atol=6 * math.sqrt(2 / 2000), rtol=0)


def test_gaussian_field_is_scored_exactly_once_its_spectrum_is_known():
    layer = SpectralNorm((1, 8, 8)).double()
    x = field((1, 8, 8), 20_000)
    c = torch.zeros(len(x), 0, dtype=torch.float64)
    layer.initialize(x, c)
    z, log_det = layer.to_latent(x, c)
    found = (-0.5 * z.square() - 0.5 * math.log(2 * math.pi)).flatten(1).sum(1) + log_det
    root = blurred(torch.eye(64, dtype=torch.float64).reshape(64, 1, 8, 8)).reshape(64, 64)
    exact = torch.distributions.MultivariateNormal(torch.zeros(64, dtype=torch.float64), root @ root.T)
    excess = (exact.log_prob(x.flatten(1)) - found).mean().item()
    # Fitted to the events that it scores: below the truth by half a unit for each of 15 scales and a mean, over N.
    assert abs(excess) < 20 / len(x)


@pytest.mark.parametrize("shift", [(1, 0), (0, 3), (5, 2)])
def test_commutes_with_shifts_flips_and_turns(shift):
    layer = stirred((1, 8, 8), context=2)
    x, c = field((1, 8, 8), 3), torch.randn(3, 2, dtype=torch.float64, generator=generator(3, "c"))
    y, log_det = layer.to_latent(x, c)
    moved, same = layer.to_latent(x.roll(shift, (-2, -1)), c)
    torch.testing.assert_close(moved, y.roll(shift, (-2, -1)))
    torch.testing.assert_close(same, log_det)
    torch.testing.assert_close(layer.to_latent(x.transpose(-1, -2).flip(-1), c)[0], y.transpose(-1, -2).flip(-1))


def test_context_changes_amplitude_with_scale_and_starts_at_nothing():
    fresh = SpectralNorm((1, 8, 8), 2).double()
    x, c = field((1, 8, 8), 3), torch.randn(3, 2, dtype=torch.float64, generator=generator(3, "c"))
    assert torch.equal(fresh.to_latent(x, c)[0], fresh.to_latent(x, c + 1)[0])
    layer = stirred((1, 8, 8), context=2)
    ratio = (layer._affine(c)[0] - layer._affine(c + 1)[0]).detach()
    assert float(ratio.std(-1).min()) > 1e-3


def test_mode_without_power_is_floored_not_divided_by():
    layer = SpectralNorm((1, 8, 8)).double()
    x = torch.cos(2 * math.pi * torch.arange(8) / 8).expand(10, 1, 8, 8).double()
    x = x * torch.linspace(1, 2, 10, dtype=torch.float64)[:, None, None, None]
    layer.initialize(x, torch.zeros(10, 0))
    y, log_det = layer.to_latent(x, torch.zeros(10, 0))
    assert bool(torch.isfinite(y).all())
    assert bool(torch.isfinite(log_det).all())
