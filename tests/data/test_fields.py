"""fields: the density held to a dense covariance, to Bayes' rule and to the draws."""

import math
import pickle

import pytest
import torch
from torch.distributions import MultivariateNormal

from flowzoo.data import Splits, configure
from flowzoo.data._cosmology import linear_power
from flowzoo.data.fields import Fields
from flowzoo.seeding import generator

KINDS = ["gaussian", "lognormal"]
THETA = torch.tensor([[0.15, 0.9], [0.3, 0.8], [0.45, 0.65]], dtype=torch.float64)


def dense_covariance(config, theta):
    """The covariance of g between all pairs of pixels, summed wave by wave as the docstring writes it."""
    n, side = config.size, config.side
    waves = 2 * math.pi / side * torch.fft.fftfreq(n, 1 / n, dtype=torch.float64)
    k = torch.cartesian_prod(waves, waves)
    length = k.norm(dim=1)
    length[0] = 2 * math.pi / side  # the zero mode has the variance of the lowest other one
    signal = linear_power(length, theta[0], theta[1]) / config.depth / (side / n) ** 2
    variance = signal + config.floor * signal.mean()
    axis = side / n * torch.arange(n, dtype=torch.float64)
    waves_at = torch.exp(1j * (torch.cartesian_prod(axis, axis) @ k.T)) / n
    return ((waves_at * variance) @ waves_at.conj().T).real


@pytest.mark.parametrize("size", [6, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_density_is_that_of_the_dense_covariance(kind, size):
    config = Fields(kind=kind, size=size, floor=0.01)
    x = config.simulate(THETA.repeat_interleave(4, 0), generator(0, "x")).double()
    found = config.true_log_prob(x, THETA.repeat_interleave(4, 0))
    for i, theta in enumerate(THETA):
        covariance = dense_covariance(config, theta)
        maps = x[4 * i : 4 * i + 4].reshape(4, -1)
        jacobian = torch.zeros(4, dtype=torch.float64)
        if kind == "lognormal":
            jacobian = -maps.log().sum(1)
            maps = maps.log() + 0.5 * covariance[0, 0]
        expected = MultivariateNormal(torch.zeros(size**2).double(), covariance).log_prob(maps) + jacobian
        assert torch.allclose(found[4 * i : 4 * i + 4], expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_density_integrates_to_one(kind):
    # Importance sampling with a wider Gaussian in the logarithm, or in g: the mean weight is the integral.
    config = Fields(kind=kind, size=2)
    wide = MultivariateNormal(torch.zeros(4).double(), 1.5 * dense_covariance(config, THETA[1]))
    g = torch.randn(200_000, 4, generator=generator(0, "g"), dtype=torch.float64) @ wide.scale_tril.T
    log_q, x = wide.log_prob(g), g
    if kind == "lognormal":
        x = g.exp()
        log_q = log_q - g.sum(1)
    weight = (config.true_log_prob(x.reshape(-1, 1, 2, 2), THETA[1]) - log_q).exp()
    assert float(weight.mean()) == pytest.approx(1, abs=5 * float(weight.std()) / len(weight) ** 0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_draws_have_the_covariance_of_the_density(kind):
    config = Fields(kind=kind, size=8)
    x = config.simulate(THETA[1].expand(40_000, 2), generator(2, "x"))
    covariance = dense_covariance(config, THETA[1])
    expected, mean = covariance[0], torch.zeros(64)
    if kind == "lognormal":  # of exp(g - variance / 2): mean 1, covariance exp(c) - 1 (Coles & Jones 1991, equation 9)
        expected, mean = covariance[0].exp() - 1, torch.ones(64)
    flat = x.reshape(len(x), -1)
    assert float((flat.mean(0) - mean).abs().max()) < 5 * float(flat.std()) / 200
    products = flat[:, :1] * flat - mean
    error = products.std(0) / 200
    assert bool(((products.mean(0) - expected).abs() < 5 * error).all())
    assert float(expected[1]) > 10 * float(error[1])  # neighbours are correlated, so the test is not empty


@pytest.mark.parametrize("kind", KINDS)
def test_every_mode_has_a_normalised_chi_square_of_one(kind):
    config = Fields(kind=kind, num_contexts=150, maps_per_context=4)
    data = config.load()
    spectrum, variance = config._spectrum(data.context.double())
    g = data.x.double()
    if kind == "lognormal":
        g = g.log() + 0.5 * variance[data.context_index][:, None, None, None]
    modes = torch.fft.rfft2(g[:, 0], norm="ortho").abs().square()
    ratio = modes / spectrum[data.context_index][:, config._shells.shell]
    mean = ratio.mean(0)
    assert float(mean.mean()) == pytest.approx(1, abs=5 * (2 / 1024 / 600) ** 0.5)
    # Pairs of modes are chi^2 with two degrees of freedom, the four of their own conjugate with one.
    own = torch.zeros_like(mean, dtype=torch.bool)
    own[[0, 0, -16, -16], [0, -1, 0, -1]] = True
    assert float(ratio[:, own].var()) == pytest.approx(2, abs=0.5)
    assert float(ratio[:, 1:16, 1:-1].var()) == pytest.approx(1, abs=0.05)


def test_lognormal_maps_have_mean_one_and_are_skewed():
    x = Fields(kind="lognormal", num_contexts=300).load().x
    assert float(x.min()) > 0
    assert float(x.double().mean()) == pytest.approx(1, abs=0.05)
    assert float(((x - x.mean()) / x.std()).pow(3).mean()) > 2


@pytest.mark.parametrize("kind", KINDS)
def test_nll_reference_is_the_mean_of_minus_the_density(kind):
    data = Fields(kind=kind, size=8, num_contexts=4000, maps_per_context=1).load()
    log_p = data.true_log_prob(data.x, data.context).double()
    assert -float(log_p.mean()) == pytest.approx(data.references["nll"], abs=5 * float(log_p.std()) / 4000**0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_posterior_is_bayes_rule(kind):
    config = Fields(kind=kind, size=8)
    x = config.simulate(THETA, generator(3, "x"))
    theta, log_p = config.posterior(x, points=20)
    assert theta.shape == (20, 20, 2)
    assert log_p.shape == (3, 20, 20)
    assert torch.allclose(log_p.exp().sum((1, 2)) * (0.4 / 20) ** 2, torch.ones(3).double())
    likelihood = config.true_log_prob(x[:, None, None], theta)
    evidence = likelihood - log_p
    assert float((evidence - evidence[:, :1, :1]).abs().max()) < 1e-8
    assert float(log_p.std()) > 0.5  # the maps tell of theta, so the test is not empty


@pytest.mark.parametrize("kind", KINDS)
def test_posterior_has_the_truth_at_uniform_ranks(kind):
    config = Fields(kind=kind, size=16, num_contexts=600, maps_per_context=1)
    data = config.load()
    theta, log_p = config.posterior(data.x, points=40)
    mass = log_p.exp() * (0.4 / 40) ** 2
    for i, axis in ((0, 2), (1, 1)):
        values = theta[:, 0, 0] if i == 0 else theta[0, :, 1]
        marginal = mass.sum(axis)
        below = (marginal * (values < data.context[:, i : i + 1])).sum(1)
        # Mean and variance of U(0, 1), within five standard errors and what the width of a cell may move.
        assert float(below.mean()) == pytest.approx(0.5, abs=5 * (1 / 12 / 600) ** 0.5 + 0.01)
        assert float(below.var()) == pytest.approx(1 / 12, abs=5 * (1 / 180 / 600) ** 0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_density_is_unchanged_by_the_symmetries_that_are_declared(kind):
    config = Fields(kind=kind, size=8, num_contexts=3, maps_per_context=2)
    data = config.load()
    assert data.augment == ("flip", "quarter_turn", "shift")
    context = data.context[data.context_index]
    x = data.x.double()
    log_p = data.true_log_prob(x, context)
    for image in (x.flip(-1), x.flip(-2), x.rot90(1, (-2, -1)), x.roll((3, 5), (-2, -1))):
        assert torch.allclose(data.true_log_prob(image, context), log_p, rtol=1e-10)


def test_projected_spectrum_is_that_of_a_box_divided_by_its_depth():
    # A third dimension summed over, explicitly: modes of a cube with k_z = 0 are those of its mean along z.
    thin, thick = Fields(depth=10.0), Fields(depth=20.0)
    ratio = thin._spectrum(THETA)[0] / thick._spectrum(THETA)[0]
    assert torch.allclose(ratio, torch.full_like(ratio, 2.0))
    spectrum, variance = thick._spectrum(THETA)
    power = linear_power(thick._shells.k[1:], THETA[:, 0], THETA[:, 1])
    area = (25 / 32) ** 2
    white = spectrum[:, 1:] - power / 20 / area
    assert torch.allclose(white, white[:, :1].expand_as(white), rtol=1e-9)  # the floor, the same in every mode
    assert torch.allclose(white[:, 0], variance * 0.01 / 1.01)
    assert torch.equal(spectrum[:, 0], spectrum[:, 1])
    assert int(thick._shells.multiplicity.sum()) == 32 * 32


def test_contexts_are_stored_once_and_never_torn_apart():
    data = configure("fields", {"num_contexts": "20", "maps_per_context": "3", "size": "8"}).load()
    assert data.x.shape == (60, 1, 8, 8)
    assert data.x.dtype == torch.float32
    assert data.context.shape == (20, 2)
    assert data.context_index.tolist() == [i // 3 for i in range(60)]
    assert data.side == (25.0, "Mpc/h")
    assert data.periodic == (1, 2)
    splits = Splits.make(data)
    parts = [set(s.groups.tolist()) for s in (splits.train, splits.validation, splits.test)]
    assert sum(map(len, parts)) == 20


@pytest.mark.parametrize("kind", KINDS)
def test_maps_of_the_data_standardise_it(kind):
    splits = Splits.make(Fields(kind=kind, num_contexts=100, size=16).load())
    x_map, _ = splits.maps()
    u, _ = x_map.to_latent(splits.train.x)
    assert float(u.mean()) == pytest.approx(0, abs=1e-5)
    assert float(u.std()) == pytest.approx(1, abs=1e-4)
    assert float((u**3).mean().abs()) < 0.5  # the logarithm takes the skewness away


def test_log_prob_is_the_same_alone_and_in_a_batch():
    data = Fields(size=8, num_contexts=5, maps_per_context=3).load()
    context = data.context[data.context_index]
    together = data.true_log_prob(data.x.double(), context)
    alone = torch.stack([data.true_log_prob(x, c) for x, c in zip(data.x.double(), context, strict=True)])
    assert together.shape == (15,)
    assert torch.allclose(together, alone, rtol=1e-12)


def test_same_seed_gives_the_same_bits_and_another_seed_others():
    first, again, other = (Fields(size=8, num_contexts=5, seed=s).load() for s in (1, 1, 2))
    assert torch.equal(first.x, again.x)
    assert torch.equal(first.context, again.context)
    assert not torch.equal(first.x, other.x)


def test_simulate_draws_one_map_for_each_theta_of_any_shape():
    config = Fields(size=8)
    x = config.simulate(torch.tensor([0.3, 0.8]).expand(2, 5, 2), generator(0, "x"))
    assert x.shape == (2, 5, 1, 8, 8)
    assert len(torch.unique(x[..., 0, 0, 0])) == 10


def test_data_with_its_functions_can_be_sent_to_another_process():
    data = Fields(size=8, num_contexts=5).load()
    copy = pickle.loads(pickle.dumps(data))
    context = data.context[data.context_index]
    assert torch.equal(copy.true_log_prob(data.x, context), data.true_log_prob(data.x, context))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 1}, "^size must be at least 2; got 1"),
        ({"num_contexts": 0}, "^num_contexts must be at least 1; got 0"),
        ({"depth": 0.0}, "^depth must be a positive length in Mpc/h; got 0.0"),
        ({"floor": -0.1}, "^floor must be a fraction, 0 or more; got -0.1"),
        ({"kind": "poisson"}, "^kind must be 'gaussian' or 'lognormal'; got 'poisson'"),
        ({"kind": "lognormal", "depth": 0.05, "num_contexts": 5}, "^depth must be large enough.*got 0.05"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Fields(**options).load()


def test_maps_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"x must end in \(1, 32, 32\); got \(2, 1, 8, 8\)"):
        Fields().true_log_prob(torch.zeros(2, 1, 8, 8), THETA[:2])


def test_maps_are_transformed_a_number_of_pixels_at_a_time(monkeypatch):
    config = Fields(size=8, num_contexts=5, maps_per_context=3, kind="lognormal")
    data = config.load()
    whole = config.true_log_prob(data.x, data.context[data.context_index])
    monkeypatch.setattr("flowzoo.data.fields._CHUNK", 4 * 64 + 7)  # four maps at a time
    again = config.load()
    assert config._chunk == 4
    torch.testing.assert_close(again.x, data.x)
    torch.testing.assert_close(config.true_log_prob(again.x, again.context[again.context_index]), whole)
    assert Fields(size=512)._chunk == 1
