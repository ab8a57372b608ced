"""hi_sim: perturbation theory against waves that can be followed by hand, the mass, the growth and the pixels."""

import math
import pickle

import pytest
import torch

from flowzoo.data import Splits, configure
from flowzoo.data.hi_sim import HISim
from flowzoo.seeding import generator

SMALL = {"grid": 16, "num_simulations": 6}
THETA = torch.tensor([[0.3, 0.8]])


def wave(config, axis, cycles=1, amplitude=0.1):
    """delta = amplitude * cos(k q) along one axis, ``(n, n, n)`` in float64, and k."""
    n = config.grid
    k = 2 * math.pi * cycles / config.side
    q = config.side / n * torch.arange(n, dtype=torch.float64)
    shape = [n if i == axis else 1 for i in range(3)]
    return amplitude * (k * q).cos().view(shape).expand(n, n, n), k


def modes(delta):
    return torch.fft.rfftn(delta[None], dim=(1, 2, 3))


def white(config, count):
    return torch.randn(count, *(config.grid,) * 3, generator=generator(0, "white"))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_plane_wave_moves_as_zeldovich_says(axis):
    # div Psi = -delta, so Psi = -amplitude sin(k q) / k along the wave and nothing across it.
    config = HISim(grid=16)
    delta, k = wave(config, axis, cycles=2)
    psi = config.displacement(modes(delta), torch.zeros(1))[0]
    q = config.side / 16 * torch.arange(16, dtype=torch.float64)
    expected = torch.zeros_like(psi)
    shape = [16 if i == axis else 1 for i in range(3)]
    expected[axis] = (-0.1 / k * (k * q).sin()).view(shape)
    assert torch.allclose(psi, expected, atol=1e-7)


def test_plane_wave_has_no_second_order():
    config = HISim(grid=16)
    delta, _ = wave(config, 1)
    first, second = (config.displacement(modes(delta), torch.tensor([ratio])) for ratio in (0.0, -3 / 7))
    assert torch.allclose(first, second, atol=1e-9)


def test_crossed_waves_have_the_second_order_of_the_book():
    # phi_2 = -a b cos(k x) cos(k y) / (2 k^2) solves laplace(phi_2) = a b cos(k x) cos(k y); Psi_2 = ratio grad phi_2.
    config = HISim(grid=16)
    (a, k), (b, _) = wave(config, 0, amplitude=0.1), wave(config, 1, amplitude=0.2)
    first, both = (config.displacement(modes(a + b), torch.tensor([ratio]))[0] for ratio in (0.0, -3 / 7))
    q = k * config.side / 16 * torch.arange(16, dtype=torch.float64)
    x, y = q.view(-1, 1, 1), q.view(1, -1, 1)
    scale = -3 / 7 * 0.1 * 0.2 / (2 * k)
    expected = torch.stack([t.expand(16, 16, 16) for t in (scale * x.sin() * y.cos(), scale * x.cos() * y.sin())])
    assert torch.allclose((both - first)[:2], expected, atol=1e-7)
    assert float((both - first)[2].abs().max()) < 1e-9


def test_plane_wave_gathers_into_the_harmonics_of_kepler():
    # x = q - a sin(k q) / k is Kepler's equation, and 1 + delta = 1 / (1 - a cos(k q)) = 1 + sum 2 J_m(m a) cos(m k x).
    config = HISim(grid=64)
    delta, _ = wave(config, 0, amplitude=0.5)
    density = config.cloud_in_cell(config.displacement(modes(delta), torch.zeros(1)))[0, :, 0, 0]
    harmonics = torch.fft.rfft(density).real[:5] / 64
    bessel = torch.tensor([1.0, 0.242268, 0.114903, 0.060964, 0.033996], dtype=torch.float64)  # J_m(m / 2)
    cloud = torch.sinc(torch.arange(5) / 64).square()
    assert torch.allclose(harmonics, bessel * cloud, atol=1e-3)


def test_cloud_in_cell_shares_a_particle_by_overlap():
    # All stay but one that moves by (0.25, 0.5, 0) cells: it leaves its cell a share of 0.75 * 0.5.
    config = HISim(grid=4)
    displacement = torch.zeros(1, 3, 4, 4, 4)
    displacement[0, :, 3, 1, 2] = torch.tensor([0.25, 0.5, 0.0]) * config.side / 4
    mass = config.cloud_in_cell(displacement)[0]
    expected = torch.ones(4, 4, 4)
    expected[3, 1, 2] = 0.75 * 0.5
    expected[3, 2, 2] = 1 + 0.75 * 0.5
    expected[0, 1, 2] = 1 + 0.25 * 0.5  # round the corner of the box
    expected[0, 2, 2] = 1 + 0.25 * 0.5
    assert torch.allclose(mass, expected, atol=1e-4)


@pytest.mark.parametrize("far", [0.0, 1.0, 100.0])
def test_mass_is_conserved_exactly(far):
    config = HISim(grid=16)
    displacement = far * torch.randn(2, 3, 16, 16, 16, generator=generator(0, "psi"))
    mass = config.cloud_in_cell(displacement.double())
    assert mass.sum((1, 2, 3)).tolist() == [16**3, 16**3]
    assert float(mass.min()) >= 0


def test_linear_density_has_the_linear_spectrum():
    from flowzoo.data._cosmology import growth, linear_power

    config = HISim(grid=16)
    theta = torch.tensor([[0.3, 0.8]]).expand(300, 2)
    linear = config.linear_density(theta, white(config, 300))
    box = config.side**3
    found = (linear.abs().double().square() / 16**6 * box).mean(0)  # P = V <|delta_k|^2>
    expected = linear_power(config._modes.shells, theta[0, 0], theta[0, 1]) * growth(theta[0, 0], 5.99)[0] ** 2
    assert float(found[0, 0, 0]) == 0
    ratio = (found / expected[config._modes.shell]).flatten()[1:]
    assert float(ratio.mean()) == pytest.approx(1, abs=5 / (300 * 2000) ** 0.5)
    assert float(ratio.std()) == pytest.approx(300**-0.5, rel=0.15)  # each mode an exponential, the average of 300


@pytest.mark.parametrize(("redshift", "tolerance"), [(30.0, 0.02), (5.99, 0.08)])
def test_large_scales_grow_as_linear_theory_says(redshift, tolerance):
    # The part of the final density that goes with the initial one, over the lowest modes, so that which waves the box
    # happens to have does not matter.
    config = HISim(grid=32, redshift=redshift)
    noise, theta = white(config, 4), torch.tensor([[0.2, 0.9], [0.4, 0.7], [0.3, 0.8], [0.5, 0.6]])
    linear, final = config.linear_density(theta, noise), modes_of(config.density(theta, noise))
    low = (config._modes.shells < 0.5)[config._modes.shell]
    low[0, 0, 0] = False
    response = (final * linear.conj()).real[:, low].sum(1) / linear.abs().square()[:, low].sum(1)
    assert torch.allclose(response, torch.ones(4), atol=tolerance)


def modes_of(density):
    return torch.fft.rfftn(density, dim=(1, 2, 3))


def test_mean_column_is_the_stated_one_in_every_simulation():
    data = HISim(**SMALL).load()
    mean = (10 ** data.x.double()).reshape(6, 3, -1).mean(2)  # of each simulation across each axis
    assert torch.allclose(mean, torch.full_like(mean, HISim(**SMALL).mean_column), rtol=1e-5)
    # Omega_HI rho_c / m_H = 5.06e-9 cm^-3 comoving, times 6.25 Mpc/h = 2.874e25 cm, times 6.99^2.
    assert HISim().mean_column == pytest.approx(5.055e-9 * 2.874e25 * 6.99**2, rel=1e-3)
    data = HISim(**SMALL, slabs=1, maps_per_simulation=3).load()
    assert float((10 ** data.x.double()).mean()) == pytest.approx(4 * HISim(**SMALL).mean_column, rel=1e-5)


def test_maps_are_slabs_across_the_three_axes():
    config = HISim(grid=8, slabs=2, scatter=0.0)
    density = 1 + torch.rand(1, 8, 8, 8, generator=generator(0, "density"))
    maps = 10 ** (config.hydrogen(density, torch.zeros(1, 8, 8, 8))[0] - math.log10(config.mean_column))
    painted = density[0].double().square()
    painted = painted / painted.mean()
    expected = [painted[:4].mean(0), painted[4:].mean(0), painted[:, :4].mean(1), painted[:, 4:].mean(1)]
    expected += [painted[..., :4].mean(2), painted[..., 4:].mean(2)]
    assert torch.allclose(maps, torch.stack(expected))


def test_scatter_keeps_the_mean_and_widens_the_pixels():
    density = torch.ones(1, 32, 32, 32)
    epsilon = torch.randn(1, 32, 32, 32, generator=generator(0, "epsilon"))
    smooth, rough = (HISim(grid=32, slabs=32, scatter=s).hydrogen(density, epsilon) for s in (0.0, 0.5))
    assert float(smooth.std()) < 1e-12
    assert float(rough.std()) == pytest.approx(0.5 / math.log(10), rel=0.02)


def test_pixels_are_skewed_and_not_gaussian():
    # Of the column, and of its logarithm at z = 6 too: sheets and knots stand out of voids.
    x = HISim(grid=32, num_simulations=8, scatter=0.0).load().x.double()
    for values in (x, 10 ** (x - x.mean())):
        z = (values - values.mean()) / values.std()
        assert float(z.pow(3).mean()) > 0.1
    assert float(z.pow(3).mean()) > 2


def test_more_matter_power_makes_rougher_maps_and_omega_m_matters_too():
    config = HISim(grid=32)
    theta = torch.tensor([[0.3, 0.6], [0.3, 1.0], [0.1, 0.8], [0.5, 0.8]])
    noise, quiet = white(config, 1).expand(4, -1, -1, -1), torch.zeros(4, 32, 32, 32)
    spread = config.hydrogen(config.density(theta, noise), quiet).flatten(1).std(1)
    assert float(spread[1] / spread[0]) > 1.2
    assert abs(float(spread[3] / spread[2]) - 1) > 0.05


def test_same_seed_gives_the_same_bits_whatever_the_number_of_simulations():
    first, again, more, other = (
        HISim(grid=16, num_simulations=n, seed=s).load() for n, s in ((3, 1), (3, 1), (5, 1), (3, 2))
    )
    assert torch.equal(first.x, again.x)
    assert torch.equal(first.x, more.x[: len(first.x)])
    assert torch.equal(first.context, more.context[:3])
    assert not torch.equal(first.x, other.x)


def test_box_of_a_batch_is_that_of_the_box_alone():
    config = HISim(grid=16)
    theta = torch.tensor([[0.2, 0.9], [0.4, 0.7], [0.3, 0.8]])
    noise = white(config, 3)
    together = config.density(theta, noise)
    alone = torch.cat([config.density(theta[i : i + 1], noise[i : i + 1]) for i in range(3)])
    assert torch.allclose(together, alone, atol=1e-3)  # to the rounding of the FFT, and of positions to 2^-14 cells


def test_simulate_gives_each_theta_a_box_of_its_own():
    config = HISim(grid=16)
    theta = torch.tensor([0.3, 0.8]).expand(2, 2, 2)
    x = config.simulate(theta, generator(5, "x"))
    assert x.shape == (2, 2, 1, 16, 16)
    assert len(torch.unique(x[..., 0, 0, 0])) == 4
    assert torch.equal(x, config.simulate(theta, generator(5, "x")))
    mean, expected = float((10 ** x.double()).mean()), config.mean_column
    assert mean == pytest.approx(expected, rel=0.5)  # single slabs, so not the mean of the box


def test_data_is_grouped_by_simulation():
    data = configure("hi_sim", {"grid": "16", "num_simulations": "5", "maps_per_simulation": "6"}).load()
    assert data.x.shape == (30, 1, 16, 16)
    assert data.x.dtype == torch.float32
    assert data.context_index.tolist() == data.groups.tolist() == [i // 6 for i in range(30)]
    assert data.side == (25.0, "Mpc/h")
    assert data.periodic == (1, 2)
    assert bool(data.prior.log_prob(data.context).isfinite().all())
    splits = Splits.make(data)
    u, _ = splits.maps()[0].to_latent(splits.train.x)
    assert float(u.std()) == pytest.approx(1, abs=1e-3)


def test_data_with_its_functions_can_be_sent_to_another_process():
    data = HISim(grid=8, num_simulations=2).load()
    copy = pickle.loads(pickle.dumps(data))
    assert torch.equal(copy.simulate(THETA, generator(0, "x")), data.simulate(THETA, generator(0, "x")))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_simulations": 0}, "^num_simulations must be at least 1; got 0"),
        ({"slabs": 5}, "^slabs must divide grid = 64; got 5"),
        ({"maps_per_simulation": 13}, "^maps_per_simulation must be from 1 to 12, three times slabs; got 13"),
        ({"redshift": -1.0}, "^redshift must be 0 or more; got -1.0"),
        ({"scatter": math.nan}, "^scatter must be 0 or more; got nan"),
        ({"side": 0.0}, "^side must be a positive number; got 0.0"),
        ({"bias": math.inf}, "^bias must be a number; got inf"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        HISim(**options).load()


def test_equal_parameters_in_a_row_share_boxes_and_others_do_not():
    config = HISim(grid=16, num_simulations=3, maps_per_simulation=4)
    theta = torch.tensor([[0.3, 0.8]]).repeat(6, 1)
    boxes = []
    run = HISim._run

    def counted(self, theta, seeds, *rest):
        boxes.append(len(seeds))
        return run(self, theta, seeds, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HISim, "_run", counted)
        same = config.simulate(theta, generator(0, "x"))
        mixed = config.simulate(torch.rand(3, 2) * 0.2 + torch.tensor([0.2, 0.7]), generator(0, "x"))
    assert boxes == [2, 3]
    assert same.shape == (6, 1, 16, 16)
    assert mixed.shape == (3, 1, 16, 16)
    assert len(torch.unique(same.flatten(1), dim=0)) == 6


def test_no_parameters_give_no_maps():
    config = HISim(grid=8)
    assert config.simulate(torch.zeros(0, 2), generator(0, "x")).shape == (0, 1, 8, 8)
    assert config.simulate(torch.zeros(3, 0, 2), generator(0, "x")).shape == (3, 0, 1, 8, 8)


def test_unit_is_that_of_a_logarithm():
    data = HISim(grid=8, num_simulations=1).load()
    assert (data.names, data.units) == (("log10 N_HI/cm^-2",), ("dex",))
