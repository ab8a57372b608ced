"""The power spectrum: its normalisation, its annuli, and what R^2 across contexts says."""

import math

import numpy as np
import pytest
import torch

from flowzoo.metrics import configure
from flowzoo.metrics._fourier import multiplicity
from flowzoo.metrics.power_spectrum import power_spectrum, r_squared

# -- the spectrum ---------------------------------------------------------------------------------------------------


def by_hand(x, side):
    """All modes of the full transform, one by one."""
    height, width = x.shape
    power = np.abs(np.fft.fft2(x)) ** 2 * (side / width) ** 2 / (height * width)
    ky, kx = np.meshgrid(np.fft.fftfreq(height) * width, np.fft.fftfreq(width) * width, indexing="ij")
    sums = {}
    for k, p in zip(np.hypot(kx, ky).flat, power.flat, strict=True):
        annulus = math.floor(k + 0.5 + 1e-9)  # a tie, such as (10, 7.5) of 16 x 24, goes up
        if 1 <= annulus <= width // 2:
            sums.setdefault(annulus, []).append((k, p))
    return [[np.mean([pair[i] for pair in sums[b]]) for b in sorted(sums)] for i in (0, 1)]


@pytest.mark.parametrize("size", [(16, 16), (15, 15), (16, 17), (24, 16), (16, 24), (64, 16), (16, 64)])
def test_spectrum_is_the_mean_over_all_modes_of_an_annulus(size, fields):
    x = fields.white(3, 2, *size) + 4
    k, p = power_spectrum(x, 25.0)
    for i, channel in ((0, 0), (2, 1)):
        expected_k, expected_p = by_hand(x[i, channel].numpy(), 25.0)
        assert (k * 25 / (2 * math.pi)).tolist() == pytest.approx(expected_k)
        assert p[i, channel].tolist() == pytest.approx(expected_p)


@pytest.mark.parametrize(("size", "side"), [((32, 32), 1.0), ((32, 24), 25.0), ((17, 33), 33.0)])
def test_white_noise_has_its_variance_times_the_area_of_a_pixel_at_every_k(size, side, fields):
    p = power_spectrum(3 * fields.white(2000, 1, *size), side)[1][:, 0]
    error = p.std(0) / len(p) ** 0.5
    assert ((p.mean(0) - 9 * (side / size[1]) ** 2).abs() < 4.5 * error).all()


def test_wave_is_in_its_annulus_with_all_its_variance(fields):
    # by Parseval the sum of P over modes, over the area of the map, is the variance: half of the amplitude squared
    turns = torch.arange(32, dtype=torch.float64) / 32
    x = (3 * torch.cos(2 * math.pi * (4 * turns[:, None] + 3 * turns) + 0.4))[None, None]
    k, p = power_spectrum(x, 10.0)
    modes = (fields.modes(32, 32) * 32 / (2 * math.pi) + 0.5).floor()
    in_annulus = ((modes == 5) * multiplicity(32)).sum()
    assert float(p[0, 0, 4] * in_annulus / 100) == pytest.approx(4.5)
    assert p[0, 0, torch.arange(16) != 4].abs().max() < 1e-20
    assert float(k[4]) == pytest.approx(5 * 2 * math.pi / 10, rel=0.05)


def test_all_modes_up_to_the_nyquist_are_counted_once(fields):
    # of a field without corner modes the spectrum has the whole variance
    x = fields.gaussian(50, 1, 32, 32, radius=2.0)
    modes = (fields.modes(32, 32) * 32 / (2 * math.pi) + 0.5).floor()
    counts = torch.stack([((modes == b) * multiplicity(32)).sum() for b in range(1, 17)])
    p = power_spectrum(x, 32.0)[1][:, 0]
    variance = (p * counts).sum(1) / 32**2
    assert variance.tolist() == pytest.approx(x.var((1, 2, 3), correction=0).tolist(), rel=1e-6)


def test_length_of_the_side_scales_k_and_power(fields):
    x = fields.white(4, 1, 16, 16)
    (k, p), (k_25, p_25) = power_spectrum(x), power_spectrum(x, 25.0)
    assert k_25.tolist() == pytest.approx((k / 25).tolist())
    assert p_25.flatten().tolist() == pytest.approx((p * 625).flatten().tolist())


def test_offset_of_many_spreads_costs_no_digits(fields):
    x = fields.gaussian(4, 1, 32, 32, radius=1.5).float()
    shifted = (x + 1024) - 1024  # what an offset costs before the spectrum sees it
    assert power_spectrum(x + 1024)[1].flatten().tolist() == pytest.approx(
        power_spectrum(shifted)[1].flatten().tolist(), rel=1e-3, abs=1e-9
    )


# -- R^2 ------------------------------------------------------------------------------------------------------------


def test_r_squared_has_the_variance_of_the_truth_below():
    truth = torch.tensor([[0.0, 1.0], [1.0, 2.0], [2.0, 6.0]])
    found = torch.tensor([[0.0, 3.0], [3.0, 3.0], [6.0, 3.0]])
    # first column: residuals 0, 2, 4 on a variance of 2; divided by the variance of `found`, 18, it would pass for good
    assert r_squared(truth, found).tolist() == [pytest.approx(1 - 20 / 2), pytest.approx(0)]
    assert r_squared(truth, truth).tolist() == [1, 1]


def contexts(fields, count, maps, name, scales=None):
    """Fields whose power rises with the context, and whose slope changes."""
    radii = torch.linspace(0.6, 1.4, count)
    scales = torch.linspace(0.5, 2, count) if scales is None else scales
    return torch.stack(
        [
            s * fields.gaussian(maps, 1, 16, 16, radius=float(r), name=f"{name}{i}")
            for i, (r, s) in enumerate(zip(radii, scales, strict=True))
        ]
    )


def spectrum(evaluation, **options):
    return configure("power_spectrum", options)(evaluation)


def test_sampler_that_follows_the_context_has_r2_near_one_and_near_the_floor(fields):
    real, drawn = contexts(fields, 6, 60, "real"), contexts(fields, 6, 60, "drawn")
    found = spectrum(fields.evaluation(real, drawn), std_maps=60)
    for name in ("pk_mean_r2", "pk_std_r2"):
        assert found[name] > 0.9
        assert 1 - found[name] < 2.5 * (1 - found[f"{name}_floor"])


def test_sampler_that_ignores_the_context_has_no_r2(fields):
    real = contexts(fields, 6, 60, "real")
    drawn = fields.gaussian(6, 60, 1, 16, 16, radius=1.0)
    found = spectrum(fields.evaluation(real, drawn), std_maps=60)
    assert found["pk_mean_r2"] < 0.2
    assert found["pk_std_r2"] < 0.2
    assert found["pk_mean_r2_floor"] > 0.9


def test_scatter_of_the_models_own_is_no_gain(fields):
    # power that follows the context three times too strongly has a variance of its own to hide behind
    real = contexts(fields, 6, 60, "real")
    drawn = contexts(fields, 6, 60, "drawn", torch.linspace(0.5, 2, 6) ** 3)
    assert spectrum(fields.evaluation(real, drawn))["pk_mean_r2"] < 0


def test_draws_with_right_mean_and_without_scatter_fail_the_std_alone(fields):
    real = contexts(fields, 6, 60, "real")
    drawn = contexts(fields, 6, 60, "drawn").unflatten(1, (2, 30))
    # of two maps the spectrum of the first is made twice the mean, that of the second nothing: mean right, std not
    drawn = torch.cat([drawn[:, :1] * 2**0.5, drawn[:, 1:] * 1e-3], 1).transpose(1, 2).flatten(1, 2)
    found = spectrum(fields.evaluation(real, drawn), std_maps=60)
    assert found["pk_mean_r2"] > 0.8
    assert found["pk_std_r2"] < found["pk_std_r2_floor"] - 0.3


def test_error_of_contrast_is_its_square(fields):
    real, drawn = (fields.gaussian(20, 100, 1, 16, 16, radius=0.7, name=n) for n in ("a", "b"))
    found = spectrum(fields.evaluation(real, 1.2 * drawn))
    assert found["pk_error"] == pytest.approx(0.44, abs=0.02)
    # a mean over n maps with m independent modes scatters by 1 / sqrt(n m), and so do both halves
    annulus = (fields.modes(16, 16) * 16 / (2 * math.pi) + 0.5).floor()
    independent = torch.stack([((annulus == b) * multiplicity(16)).sum() / 2 for b in range(1, 9)])
    expected = (fields.white(10_000, 8) * (2 / (50 * independent)).sqrt()).abs().median()
    assert found["pk_error_floor"] == pytest.approx(float(expected), rel=0.3)


def test_curves_for_a_figure_are_those_of_all_maps_with_k_in_units_of_the_data(fields):
    real, drawn = fields.white(3, 12, 2, 16, 16, name="a"), fields.white(3, 9, 2, 16, 16, name="b")
    found = spectrum(fields.evaluation(real, drawn, side=25.0))
    k, p = power_spectrum(real[1], 25.0)
    assert found["k"].tolist() == k.tolist()
    assert found["real_mean"].shape == found["drawn_std"].shape == (3, 2, 8)
    assert found["real_mean"][1].flatten().tolist() == pytest.approx(p.mean(0).flatten().tolist())
    assert found["real_std"][1].flatten().tolist() == pytest.approx(p.std(0).flatten().tolist())
    single = spectrum(fields.evaluation(real[:, :, :1], drawn[:, :, :1]))
    assert single["real_mean"].shape == (3, 8)


def test_columns_that_stay_empty_have_their_reasons(fields):
    def reasons(k, m, s, **options):
        maps = fields.white(k, max(m, s), 1, 16, 16)
        found = spectrum(fields.evaluation(maps[:, :m], maps[:, :s]), **options)
        return {name: value for name, value in found.items() if isinstance(value, str)}

    few = "2 contexts; 3 are needed for a variance across contexts"
    columns = ("pk_mean_r2", "pk_mean_r2_floor", "pk_std_r2", "pk_std_r2_floor")
    assert reasons(2, 10, 10) == dict.fromkeys(columns, few)
    draws = "24 draws at a context; 500 are needed for a standard deviation"
    assert reasons(3, 500, 24) == dict.fromkeys(columns[2:], draws)
    maps = "15 real maps at a context; 500 are needed for a standard deviation"
    assert reasons(3, 15, 500) == dict.fromkeys(columns[2:], maps)
    assert reasons(3, 500, 500) == {}
    assert reasons(3, 20, 10, std_maps=10) == {}
