"""Scattering: invariances, the known response to white noise, and shapes that the spectrum does not see."""

import math

import pytest
import torch

from flowzoo.metrics import configure
from flowzoo.metrics.power_spectrum import power_spectrum
from flowzoo.metrics.scattering import morlets, scale_count, scattering


def first(found, scales):
    """S_1 as (N, J, L)."""
    return found[:, : 4 * scales].unflatten(1, (scales, 4))


# -- the wavelets ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(16, 16), (33, 24), (64, 64)])
def test_wavelets_have_no_mean_and_peak_at_their_frequency(size):
    height, width = size
    scales = scale_count(*size)
    found = morlets(height, width, scales)
    assert found[..., 0, 0].abs().max() < 1e-12
    ky, kx = (2 * math.pi * torch.fft.fftfreq(n, dtype=torch.float64) for n in size)
    for j in range(scales):
        for angle in range(4):
            row, column = divmod(int(found[j, angle].argmax()), width)
            turn, xi = math.pi * angle / 4, 0.75 * math.pi / 2**j
            assert float(kx[column]) == pytest.approx(xi * math.cos(turn), abs=0.6 * 2 * math.pi / width + 0.1 * xi)
            assert float(ky[row]) == pytest.approx(xi * math.sin(turn), abs=0.6 * 2 * math.pi / height + 0.1 * xi)


def test_wavelets_are_each_others_dilations_and_turns():
    found = morlets(64, 64, 4)
    low = torch.arange(-8, 9)
    assert torch.allclose(found[2][:, low][..., low], found[1][:, 2 * low][..., 2 * low], atol=1e-3)
    assert torch.allclose(found[:, 2], found[:, 0].transpose(-1, -2), atol=1e-12)


def test_four_scales_from_64_pixels():
    assert [scale_count(n, 256) for n in (16, 32, 63, 64, 128)] == [3, 3, 3, 4, 4]


# -- the coefficients -----------------------------------------------------------------------------------------------


def test_coefficients_are_those_of_the_definition(fields):
    """At full resolution and one by one; evaluation at every 2^(j-1)-th pixel costs less than a per cent."""
    x = fields.lognormal(2, 1, 32, 32)
    wavelets = morlets(32, 32, 3)

    def through(field, j, angle):
        return torch.fft.ifft2(torch.fft.fft2(field) * wavelets[j, angle]).abs()

    found = scattering(x)
    s1 = [through(x[:, 0], j, a).mean((1, 2)) for j in range(3) for a in range(4)]
    assert torch.allclose(found[:, :12], torch.stack(s1, 1), rtol=0.01)
    s2 = []
    for j, other in ((0, 1), (0, 2), (1, 2)):
        for a in range(4):
            once = through(x[:, 0], j, a)
            s2 += [through(once, other, b).mean((1, 2)) / once.mean((1, 2)) for b in range(4)]
    assert torch.allclose(found[:, 12:], torch.stack(s2, 1), rtol=0.01)


@pytest.mark.parametrize("size", [(32, 32), (25, 19), (64, 48)])
def test_periodic_shifts_change_nothing(size, fields):
    x = fields.lognormal(4, 2, *size)
    whole = scattering(x)
    for shift in ((4, 8), (16, 0)):
        if all(s % 4 == 0 for s in size):  # multiples of the widest spacing: the same pixels
            assert torch.allclose(scattering(x.roll(shift, (2, 3))), whole, rtol=1e-9)
    assert torch.allclose(scattering(x.roll((3, -5), (2, 3))), whole, rtol=0.01)


def test_contrast_scales_the_first_order_and_leaves_the_second(fields):
    x = fields.lognormal(3, 1, 32, 32)
    found, scaled = scattering(x), scattering(5 * x - 70)
    assert torch.allclose(scaled[:, :12], 5 * found[:, :12])
    assert torch.allclose(scaled[:, 12:], found[:, 12:])


def test_quarter_turn_turns_the_directions(fields):
    x = fields.lognormal(3, 1, 32, 32)
    found, turned = first(scattering(x), 3), first(scattering(x.transpose(2, 3)), 3)
    assert torch.allclose(turned[..., [0, 2]], found[..., [2, 0]], rtol=1e-6)
    assert torch.allclose(turned[..., 1], found[..., 1], rtol=1e-6)


def test_white_noise_responds_with_the_norm_of_each_wavelet(fields):
    # x * psi is Gaussian with the variance s^2 sum |psi|^2 / N; were its parts of equal variance and uncorrelated,
    # the mean of its modulus would be sqrt(pi) / 2 of its standard deviation. The exact mean has their two variances.
    x = 3 * fields.white(150, 1, 64, 64)
    found = first(scattering(x), 4)
    wavelets = morlets(64, 64, 4)
    mirrored = wavelets.flip(-2, -1).roll((1, 1), (-2, -1))
    variance = 9 * wavelets.square().mean((-2, -1))
    pseudo = 9 * (wavelets * mirrored).mean((-2, -1))
    mean, error = found.mean(0), found.std(0) / len(found) ** 0.5
    circular = math.sqrt(math.pi) / 2 * variance.sqrt()
    assert ((mean - circular)[1:].abs() < (4.5 * error + 0.005 * circular)[1:]).all()
    angle = 2 * math.pi * (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    radius = (variance + pseudo)[..., None] / 2 * angle.cos() ** 2 + (variance - pseudo)[
        ..., None
    ] / 2 * angle.sin() ** 2
    # E|z| of two independent normals: sqrt(pi / 2) times the mean over directions of the spread along them
    exact = math.sqrt(math.pi / 2) * radius.sqrt().mean(-1)
    assert ((mean - exact).abs() < 4.5 * error + 2e-3 * exact).all()


def test_isotropic_coefficients_are_averages(fields):
    x = fields.lognormal(3, 2, 32, 32)
    found = scattering(x).unflatten(1, (2, -1))
    averaged = scattering(x, isotropic=True).unflatten(1, (2, -1))
    assert torch.allclose(averaged[..., :3], found[..., :12].unflatten(-1, (3, 4)).mean(-1))
    pairs = found[..., 12:].unflatten(-1, (3, 4, 4))  # pair of scales, l_1, l_2
    for difference in range(4):
        same = torch.stack([pairs[..., a, (a + difference) % 4] for a in range(4)]).mean(0)
        assert torch.allclose(averaged[..., 3:].unflatten(-1, (3, 4))[..., difference], same)


def test_phases_are_seen_where_the_spectrum_sees_nothing(fields):
    x = fields.lognormal(100, 1, 32, 32)
    other = fields.without_phases(x)
    assert torch.allclose(power_spectrum(x)[1], power_spectrum(other)[1])
    a, b = scattering(x).log(), scattering(other).log()
    error = ((a.var(0) + b.var(0)) / 100).sqrt()
    assert ((a.mean(0) - b.mean(0)).abs() / error).median() > 5


# -- the metric -----------------------------------------------------------------------------------------------------


def distance(evaluation, **options):
    return configure("scattering", options)(evaluation)


@pytest.mark.parametrize("isotropic", [False, True])
def test_floor_is_that_of_means_of_normals(isotropic, fields):
    real, drawn = fields.lognormal(6, 80, 1, 16, 16, name="a"), fields.lognormal(6, 80, 1, 16, 16, name="b")
    found = distance(fields.evaluation(real, drawn), isotropic=isotropic)
    for value in (found["scattering_distance"], found["scattering_distance_floor"]):
        assert value == pytest.approx(math.sqrt(2 / 40), rel=0.3)


def test_average_over_directions_is_blind_to_direction(fields):
    real, drawn = fields.lognormal(4, 100, 1, 16, 16, name="a"), fields.lognormal(4, 100, 1, 16, 16, name="b")
    along = real + fields.white(4, 100, 1, 1, 16, name="lines")
    across = drawn + fields.white(4, 100, 1, 16, 1, name="others")
    lines = fields.evaluation(along, across)
    assert distance(lines)["scattering_distance"] > 1
    found = distance(lines, isotropic=True)
    assert found["scattering_distance"] < 2 * found["scattering_distance_floor"]


def test_no_more_maps_are_looked_at_than_allowed(fields):
    real, drawn = fields.lognormal(2, 60, 1, 16, 16, name="a"), fields.lognormal(2, 60, 1, 16, 16, name="b")
    few = distance(fields.evaluation(real, drawn), max_maps=5)
    broken = drawn.clone()
    broken[:, 10:] = 0
    name = "scattering_distance"
    assert distance(fields.evaluation(real, broken), max_maps=5)[name] == few[name]
    assert few["scattering_distance_floor"] > distance(fields.evaluation(real, drawn))["scattering_distance_floor"]
