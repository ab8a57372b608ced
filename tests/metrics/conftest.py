"""Random fields with known statistics, and evaluations with ensembles of them."""

from types import SimpleNamespace

import pytest
import torch

from flowzoo.metrics import Ensembles
from flowzoo.seeding import generator
from flowzoo.testing import bare_evaluation


def white(*shape, name="x"):
    return torch.randn(*shape, generator=generator(0, name), dtype=torch.float64)


def modes(height, width):
    """|k| of rfft2 in radians per pixel."""
    rows = torch.fft.fftfreq(height, dtype=torch.float64)[:, None]
    return 2 * torch.pi * torch.hypot(rows, torch.fft.rfftfreq(width, dtype=torch.float64))


def gaussian(*shape, radius=2.0, name="x"):
    """Periodic Gaussian fields of unit variance with P(k) ~ exp(-(k radius)^2), and no mean mode."""
    size = shape[-2:]
    weight = (-(modes(*size) * radius).square() / 2).exp()
    weight[0, 0] = 0
    full = torch.fft.irfft2(weight, s=size)  # white noise filtered by it has the variance of its sum of squares
    return torch.fft.irfft2(torch.fft.rfft2(white(*shape, name=name)) * weight, s=size) / full.square().sum().sqrt()


def lognormal(*shape, radius=1.5, name="x"):
    """Skewed fields with peaks, as maps of gas have."""
    return gaussian(*shape, radius=radius, name=name).exp()


def without_phases(maps, name="phases"):
    """The same power in every mode of every map, and random phases."""
    other = torch.fft.rfft2(white(*maps.shape, name=name))
    mean = maps.mean((-2, -1), keepdim=True)
    size = maps.shape[-2:]
    return torch.fft.irfft2(torch.fft.rfft2(maps - mean).abs() * other / other.abs(), s=size) + mean


def evaluation(real, drawn, seed=0, **changes):
    ensembles = Ensembles(torch.arange(len(real))[:, None].float(), real, drawn)
    return bare_evaluation(seed=seed, **{"x": real.flatten(0, 1)[:2], "ensembles": ensembles} | changes)


@pytest.fixture
def fields():
    """What this file makes, by name."""
    return SimpleNamespace(
        white=white,
        modes=modes,
        gaussian=gaussian,
        lognormal=lognormal,
        without_phases=without_phases,
        evaluation=evaluation,
    )
