"""Peaks: counts on white noise have a closed form."""

import math

import pytest
import torch

from flowzoo.metrics import configure
from flowzoo.metrics.peaks import peak_counts


def test_pixel_of_white_noise_is_a_peak_one_time_in_nine_at_any_height_in_closed_form(fields):
    # the highest of nine independent pixels is above nu with probability 1 - Phi(nu)^9, and is any of them
    nu = torch.tensor([-9.0, -1.0, 0.0, 0.5, 1.0, 2.0, 3.0], dtype=torch.float64)
    counts = peak_counts(fields.white(4000, 1, 18, 18), nu)[:, 0].double()
    expected = 16**2 * (1 - torch.special.ndtr(nu) ** 9) / 9
    assert float(expected[0]) == pytest.approx(256 / 9)
    error = counts.std(0) / len(counts) ** 0.5
    assert ((counts.mean(0) - expected).abs() < 4.5 * error).all()


def test_counts_are_those_of_a_loop(fields):
    x = fields.gaussian(2, 2, 20, 17, radius=1.0)
    nu = torch.tensor([-1.0, 0.3, 1.5])
    found = peak_counts(x, nu)
    for n in range(2):
        for c in range(2):
            heights = []
            for i in range(1, 19):
                for j in range(1, 16):
                    block = x[n, c, i - 1 : i + 2, j - 1 : j + 2].flatten()
                    around = torch.cat([block[:4], block[5:]])
                    if block[4] > around.max():
                        heights.append(float(block[4]))
            assert found[n, c].tolist() == [sum(h > float(t) for h in heights) for t in nu]


def test_border_and_plateaus_have_no_peaks():
    x = torch.zeros(1, 1, 16, 16)
    x[..., 0, 5] = x[..., 7, 15] = x[..., 15, 15] = 9.0
    x[..., 5:7, 5] = 3.0
    assert peak_counts(x, torch.tensor([-1.0])).item() == 0
    x[..., 5, 5] = 3.1
    assert peak_counts(x, torch.tensor([-1.0, 3.05, 3.2])).flatten().tolist() == [1, 1, 0]


def peaks(evaluation, **options):
    return configure("peaks", options)(evaluation)


def test_error_is_the_difference_of_log_counts(fields):
    real, drawn = fields.white(3, 300, 1, 16, 16, name="a"), fields.white(3, 300, 1, 16, 16, name="b")
    nu = torch.linspace(-1, 5, 13, dtype=torch.float64)

    def expected(shift, contrast):
        counts = [14**2 * (1 - torch.special.ndtr(t) ** 9) / 9 for t in (nu, (nu - shift) / contrast)]
        return float((counts[0].log1p() - counts[1].log1p()).abs().mean())

    for shift, contrast in ((0.0, 1.2), (0.3, 1.0), (-0.5, 0.8)):
        found = peaks(fields.evaluation(real, contrast * drawn + shift))
        assert found["peaks_error"] == pytest.approx(expected(shift, contrast), rel=0.06)


def test_heights_are_in_spreads_of_the_real_maps_of_that_context(fields):
    real, drawn = fields.lognormal(3, 20, 2, 16, 16, name="a"), fields.lognormal(3, 20, 2, 16, 16, name="b")
    scale = torch.tensor([1.0, 10.0, 1000.0], dtype=torch.float64)[:, None, None, None, None]
    plain, scaled = (peaks(fields.evaluation(real * s + s, drawn * s + s)) for s in (1, scale))
    for name in ("peaks_error", "peaks_error_floor"):
        assert scaled[name] == pytest.approx(plain[name])


def test_curves_are_mean_counts_per_map(fields):
    real, drawn = fields.white(3, 200, 1, 16, 16, name="a"), fields.white(3, 50, 1, 16, 16, name="b")
    found = peaks(fields.evaluation(real, drawn), lowest=0.0, highest=2.0, number=3)
    assert found["nu"].tolist() == [0, 1, 2]
    expected = [14**2 * (1 - (0.5 * (1 + math.erf(t / 2**0.5))) ** 9) / 9 for t in (0, 1, 2)]
    assert found["real_mean"].mean(0).tolist() == pytest.approx(expected, rel=0.05)
    assert found["drawn_mean"].mean(0).tolist() == pytest.approx(expected, rel=0.1)
