"""The bispectrum: its normalisation by brute force, nothing for a Gaussian field, the tree level of a quadratic one."""

import itertools
import math

import numpy as np
import pytest
import torch

from flowzoo.metrics import configure
from flowzoo.metrics.bispectrum import bispectrum


def shells(height, width):
    """Signed modes in units of k_f, by shell."""
    number = max(1, min(8, width // 6))
    edges = np.linspace(0.5, width / 3, number + 1)
    found = [[] for _ in range(number)]
    for i, j in itertools.product(range(height), range(width)):
        ky, kx = (i + height // 2) % height - height // 2, (j + width // 2) % width - width // 2
        k = math.hypot(ky * width / height, kx)
        for b in range(number):
            if edges[b] <= k < edges[b + 1]:
                found[b].append((ky, kx))
    return found


@pytest.mark.parametrize("size", [(16, 16), (15, 18), (18, 15), (24, 12)])
def test_bispectrum_is_the_mean_over_all_triangles(size, fields):
    height, width = size
    x = fields.white(1, 2, *size).exp()
    k, b = bispectrum(x, 25.0)
    modes = shells(height, width)
    triples = [(s, s, s) for s in range(len(modes))] + [(0, s, s) for s in range(1, len(modes))]
    assert k.shape == (len(triples), 3)
    fourier = torch.fft.fft2(x[0, 1]).numpy()
    for index, triple in enumerate(triples):
        products = []
        third = set(modes[triple[2]])
        for (ay, ax), (by, bx) in itertools.product(modes[triple[0]], modes[triple[1]]):
            cy, cx = -ay - by, -ax - bx  # no sum is taken modulo the size: shells end where that would matter
            if (cy, cx) in third:
                products.append(fourier[ay, ax] * fourier[by, bx] * fourier[cy, cx])
        area = (25 / width) ** 2
        expected = area**2 / (height * width) * np.mean(products).real
        assert float(b[0, 1, index]) == pytest.approx(expected)
        for side, shell in zip(k[index].tolist(), triple, strict=True):
            mean = np.mean([math.hypot(ky * width / height, kx) for ky, kx in modes[shell]])
            assert side == pytest.approx(2 * math.pi / 25 * mean)


def test_gaussian_field_has_none(fields):
    b = bispectrum(fields.gaussian(1500, 1, 32, 32, radius=0.5))[1][:, 0]
    error = b.std(0) / len(b) ** 0.5
    assert (b.mean(0).abs() < 4.5 * error).all()


@pytest.mark.parametrize("size", [(32, 32), (24, 36)])
def test_skewed_white_noise_has_its_third_cumulant_times_the_area_of_a_pixel_squared(size, fields):
    x = -torch.special.ndtr(fields.white(1500, 1, *size)).log()  # exponential: third cumulant 2
    b = bispectrum(x, 5.0)[1][:, 0]
    error = b.std(0) / len(b) ** 0.5
    assert ((b.mean(0) - 2 * (5 / size[1]) ** 4).abs() < 4.5 * error).all()
    assert (error < 0.2 * b.mean(0)).all()


def test_quadratic_field_has_its_tree_level(fields):
    """x = g + f (g^2 - 1) has B = 2 f (P1 P2 + P2 P3 + P3 P1) and terms of order f^3, in each triangle."""
    size, f = 32, 0.05
    g = fields.gaussian(2000, 1, size, size, radius=1.0)
    # Averaging over the sign of g takes the noise of <g g g> out: it is odd in g, what is looked for is even.
    b = ((bispectrum(g + f * (g**2 - 1))[1] + bispectrum(-g + f * (g**2 - 1))[1]) / 2)[:, 0]
    mean, error = b.mean(0), b.std(0) / len(b) ** 0.5
    k = fields.modes(size, size)
    power = (-k.square()).exp()
    power[0, 0] = 0
    power = power / torch.fft.irfft2(power, s=(size, size))[0, 0]  # <|FFT|^2> / N of a field of unit variance
    modes = k * size / (2 * math.pi)
    edges = torch.linspace(0.5, size / 3, 6).double()
    masks = [((modes >= a) & (modes < c)).double() for a, c in itertools.pairwise(edges.tolist())]
    flat, weighted = ([torch.fft.irfft2(m * w, s=(size, size)) for m in masks] for w in (torch.ones_like(power), power))
    triples = [(s, s, s) for s in range(5)] + [(0, s, s) for s in range(1, 5)]
    for index, triple in enumerate(triples):
        terms = [
            math.prod(flat[s] if leg == plain else weighted[s] for leg, s in enumerate(triple)).sum()
            for plain in range(3)
        ]
        count = math.prod(flat[s] for s in triple).sum()
        expected = 2 * f * float(sum(terms) / count) / size**4  # the side is 1, so a pixel has the area 1 / size^2
        assert float(mean[index]) == pytest.approx(expected, abs=4.5 * float(error[index]) + 0.05 * expected)
        assert error[index] < 0.1 * expected


def test_length_of_the_side_and_contrast_scale_it(fields):
    x = fields.lognormal(3, 1, 16, 16)
    (k, b), (k_25, b_25) = bispectrum(x), bispectrum(-2 * x + 100, 25.0)
    assert k_25.flatten().tolist() == pytest.approx((k / 25).flatten().tolist())
    assert b_25.flatten().tolist() == pytest.approx((-8 * 25**4 * b).flatten().tolist())


# -- the metric -----------------------------------------------------------------------------------------------------


def error(evaluation):
    return configure("bispectrum", {})(evaluation)


def test_error_of_gaussian_data_is_finite_with_the_floor_of_a_normal_mean(fields):
    real, drawn = fields.gaussian(8, 60, 1, 16, 16, name="a"), fields.gaussian(8, 60, 1, 16, 16, name="b")
    found = error(fields.evaluation(real, drawn))
    # |difference of two means of 30| in units of one: sqrt(2 / 30) E|z|
    expected = math.sqrt(2 / 30) * math.sqrt(2 / math.pi)
    assert found["bispectrum_error"] == pytest.approx(expected, rel=0.4)
    assert found["bispectrum_error_floor"] == pytest.approx(expected, rel=0.4)


def test_unit_is_the_scatter_of_real_maps(fields):
    real, drawn = fields.lognormal(3, 50, 1, 16, 16, name="a"), fields.lognormal(3, 50, 1, 16, 16, name="b")
    plain = error(fields.evaluation(real, drawn))
    scaled = error(fields.evaluation(1000 * real + 7, 1000 * drawn + 7, side=25.0))
    assert scaled["bispectrum_error"] == pytest.approx(plain["bispectrum_error"])
    assert scaled["bispectrum_error_floor"] == pytest.approx(plain["bispectrum_error_floor"])


def test_mirrored_draws_have_the_spectrum_and_the_opposite_bispectrum(fields):
    real, drawn = fields.lognormal(4, 120, 1, 32, 32, name="a"), fields.lognormal(4, 120, 1, 32, 32, name="b")
    found = error(fields.evaluation(real, 2 * drawn.mean() - drawn))
    assert found["bispectrum_error"] > 3 * found["bispectrum_error_floor"]
    assert (found["drawn_mean"] < 0).float().mean() > 0.9
    assert (found["real_mean"] > 0).float().mean() > 0.9
    assert found["k"].shape == (9, 3)
