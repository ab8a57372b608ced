"""The linear spectrum against an independent implementation, and the growth against what it must obey."""

import csv
import math
from pathlib import Path

import pytest
import torch

from flowzoo.data._cosmology import (
    Background,
    growth,
    linear_power,
    omega_m_at,
    prior,
    second_order,
    transfer,
)
from flowzoo.seeding import generator


def reference():
    """k, P and the cosmologies of the file; see its first lines for what made it."""
    lines = (Path(__file__).parent / "eisenstein_hu.csv").read_text().splitlines()
    rows = [
        [float(row[c]) for c in ("omega_m", "sigma_8", "k", "power")]
        for row in csv.DictReader(line for line in lines if not line.startswith("#"))
    ]
    table = torch.tensor(rows, dtype=torch.float64)
    cosmologies = torch.unique(table[:, :2], dim=0)
    table = table.reshape(len(cosmologies), -1, 4)
    return table[0, :, 2], table[:, 0, :2], table[:, :, 3]


def test_linear_power_is_within_five_percent_of_the_reference():
    k, theta, power = reference()
    assert float(k[0]) == pytest.approx(0.01)
    assert float(k[-1]) == pytest.approx(10)
    error = (linear_power(k, theta[:, 0], theta[:, 1]) / power - 1).abs()
    assert {0.1, 0.3, 0.5} <= set(theta[:, 0].tolist())
    assert float(error.max()) < 0.05  # what was asked for
    assert float(error.max()) < 0.006  # what is reached: at Omega_m = 0.1, where half the matter is baryons
    assert float(error[theta[:, 0] > 0.25].max()) < 0.001


def test_linear_power_is_within_five_percent_of_pyccl():
    ccl = pytest.importorskip("pyccl", reason="pyccl is not installed; the same is compared with its stored numbers")
    k = torch.logspace(-2, 1, 40, dtype=torch.float64)
    for omega_m, sigma_8 in ((0.1, 0.6), (0.1, 1.0), (0.3, 0.8), (0.5, 0.9)):
        other = ccl.Cosmology(
            Omega_c=omega_m - 0.049,
            Omega_b=0.049,
            h=0.6711,
            n_s=0.9624,
            sigma8=sigma_8,
            T_CMB=2.7255,
            m_nu=0.0,
            transfer_function="eisenstein_hu",
        )
        power = torch.from_numpy(other.linear_matter_power(k.numpy() * 0.6711, 1.0)) * 0.6711**3
        ours = linear_power(k, torch.tensor(omega_m), torch.tensor(sigma_8))
        assert float((ours / power - 1).abs().max()) < 0.05


def test_sigma_8_of_the_spectrum_is_the_one_asked_for():
    # By another rule on another grid: Simpson's in k, not the trapezium in ln k.
    k = torch.linspace(1e-4, 12, 40_001, dtype=torch.float64)
    power = linear_power(k, torch.tensor([0.1, 0.4]), torch.tensor([0.7, 0.9]))
    y = 8 * k
    window = 3 * (y.sin() - y * y.cos()) / y**3
    values = k.square() * power * window.square() / (2 * math.pi**2)
    weights = torch.full_like(k, 2.0)
    weights[1::2] = 4
    weights[[0, -1]] = 1
    sigma = ((values * weights).sum(-1) * (k[1] - k[0]) / 3).sqrt()
    assert torch.allclose(sigma, torch.tensor([0.7, 0.9]).double(), rtol=1e-5)


def test_spectrum_follows_n_s_on_scales_that_never_felt_radiation():
    k = torch.tensor([1e-6, 2e-6], dtype=torch.float64)
    for n_s in (0.9624, 1.1):
        power = linear_power(k, torch.tensor(0.3), torch.tensor(0.8), Background(n_s=n_s))
        assert float((power[1] / power[0]).log2()) == pytest.approx(n_s, abs=1e-3)
    assert float(transfer(torch.zeros(1), torch.tensor(0.3))) == 1
    assert float(linear_power(torch.zeros(1), torch.tensor(0.3), torch.tensor(0.8))) == 0


def test_baryons_ring_at_the_sound_horizon():
    # The wiggles of T over that of nearly no baryons, as a function of k: their strongest period is 2 pi / s, and s is
    # 147 Mpc or so for Omega_m h^2 = 0.135 (Eisenstein & Hu 1998, equation 26, gives 150.6 Mpc for 0.022 and 0.135).
    k = torch.linspace(0.05, 0.35, 1024, dtype=torch.float64)
    m, b, h = 0.3, Background(), 0.6711
    ratio = transfer(k, torch.tensor(m)) / transfer(k, torch.tensor(m), Background(omega_b=1e-4))
    smooth = torch.stack([k**i for i in range(6)], 1)
    wiggles = ratio - smooth @ torch.linalg.lstsq(smooth, ratio[:, None]).solution[:, 0]
    lengths = torch.linspace(60, 250, 400, dtype=torch.float64)  # Mpc
    phase = lengths[:, None] * h * k
    strength = (wiggles * phase.sin()).sum(1).square() + (wiggles * phase.cos()).sum(1).square()
    expected = 44.5 * math.log(9.83 / (m * h**2)) / math.sqrt(1 + 10 * (b.omega_b * h**2) ** 0.75)
    assert float(lengths[strength.argmax()]) == pytest.approx(expected, rel=0.05)


def test_batch_of_cosmologies_is_each_on_its_own():
    k = torch.logspace(-2, 1, 5)
    theta = torch.tensor([[[0.1, 0.6], [0.3, 0.8]], [[0.2, 1.0], [0.5, 0.7]]])
    together = linear_power(k, theta[..., 0], theta[..., 1])
    assert together.shape == (2, 2, 5)
    assert together.dtype == torch.float64
    alone = torch.stack([linear_power(k, row[0], row[1]) for row in theta.reshape(-1, 2)]).reshape(2, 2, 5)
    assert torch.allclose(together, alone, rtol=1e-12)


def test_growth_of_matter_alone_is_the_scale_factor():
    d, f = growth(torch.tensor(1.0), 5.99)
    assert float(d) == pytest.approx(1 / 6.99, rel=1e-12)
    assert float(f) == pytest.approx(1, rel=1e-12)
    assert float(second_order(torch.tensor(1.0), 5.99)) == pytest.approx(-3 / 7)


@pytest.mark.parametrize("redshift", [0.0, 0.7, 5.99])
def test_growth_obeys_its_differential_equation(redshift):
    # D'' + (2 + dlnH/dlna) D' = 3/2 Omega_m D in ln a; with f = D'/D, f' + f^2 + (2 - 3/2 Omega_m) f = 3/2 Omega_m.
    omega_m = torch.tensor([0.1, 0.3, 0.5], dtype=torch.float64)
    step = 1e-4
    redshifts = [(1 + redshift) * math.exp(-s) - 1 for s in (-step, 0, step)]
    (before, f0), (_, f), (after, f1) = (growth(omega_m, z) for z in redshifts)
    assert torch.allclose((after / before).log() / (2 * step), f, rtol=1e-7)
    matter = omega_m_at(omega_m, redshift)
    residual = (f1 - f0) / (2 * step) + f.square() + (2 - 1.5 * matter) * f - 1.5 * matter
    assert bool((residual.abs() < 1e-7).all())
    assert torch.allclose(f, matter**0.55, rtol=0.04)  # Linder 2005, PRD 72, 043529: a fit


def test_prior_covers_its_box_and_nothing_else():
    theta = prior().sample(20_000, generator(0, "theta"))
    assert bool(prior().log_prob(theta).isfinite().all())
    assert torch.allclose(theta.amin(0), torch.tensor([0.1, 0.6]), atol=1e-4)
    assert torch.allclose(theta.amax(0), torch.tensor([0.5, 1.0]), atol=1e-4)
    inside, outside = prior().log_prob(torch.tensor([[0.3, 0.8], [0.3, 1.1]])).tolist()
    assert inside == pytest.approx(-math.log(0.16), rel=1e-6)
    assert outside == -math.inf


def test_universe_that_cannot_be_is_refused():
    k = torch.ones(1)
    with pytest.raises(ValueError, match=r"Omega_m must exceed Omega_b = 0.049.*got 0.04"):
        linear_power(k, torch.tensor([0.3, 0.04]), torch.tensor([0.8, 0.8]))
    with pytest.raises(ValueError, match="sigma_8 must be positive; got -1"):
        linear_power(k, torch.tensor(0.3), torch.tensor(-1.0))
    with pytest.raises(ValueError, match="h must be a positive number; got 0"):
        Background(h=0)
