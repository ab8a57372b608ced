"""direction=posterior of the datasets that have a prior: theta becomes the event, and exact answers follow it."""

import math
import pickle

import numpy as np
import pytest
import torch

from flowzoo.config import ConfigError
from flowzoo.data import Splits, configure
from flowzoo.data._direction import prior_texts, support_map, toward_theta
from flowzoo.data.fields import Fields
from flowzoo.data.linear_gaussian import LinearGaussian
from flowzoo.inference import Box, Gaussian, LogNormal, from_description

SMALL = {
    "linear_gaussian": {"num_events": 300},
    "fields": {"size": 8, "num_contexts": 150, "maps_per_context": 2},
    "hi_sim": {"num_simulations": 6, "maps_per_simulation": 2, "grid": 8},
}


def load(name, direction, **options):
    return configure(name, {**SMALL[name], "direction": direction, **options}).load()


@pytest.mark.parametrize("name", SMALL)
def test_posterior_direction_has_the_same_pairs_turned_round(name):
    forward, turned = load(name, "likelihood"), load(name, "posterior")
    assert torch.equal(turned.x, forward.context[forward.context_index])
    assert torch.equal(turned.context[turned.context_index], forward.x)
    assert torch.equal(turned.groups, forward.groups)
    assert turned.names == forward.context_names
    assert turned.context_names == forward.names
    assert (forward.theta, turned.theta) == ("context", "event")
    assert turned.prior.describe() == forward.prior.describe()
    assert not turned.periodic
    assert turned.side is None


@pytest.mark.parametrize("name", SMALL)
def test_default_is_the_likelihood(name):
    data = configure(name, SMALL[name]).load()
    assert data.theta == "context"
    assert Splits.make(data).hash == Splits.make(load(name, "likelihood")).hash


@pytest.mark.parametrize("name", ["linear_gaussian", "fields"])
def test_posterior_direction_is_split_by_group_and_mapped(name):
    splits = Splits.make(load(name, "posterior"))
    parts = [set(s.groups.tolist()) for s in (splits.train, splits.validation, splits.test)]
    assert sum(map(len, parts)) == len(set.union(*parts))
    x_map, context_map = splits.maps()
    u, _ = x_map.to_latent(splits.train.x)
    assert torch.allclose(u.mean(0), torch.zeros(u.shape[1]), atol=1e-4)
    assert bool(context_map.to_latent(splits.test.context)[0].isfinite().all())


@pytest.mark.parametrize("name", SMALL)
def test_turned_data_can_be_sent_to_another_process(name):
    data = pickle.loads(pickle.dumps(load(name, "posterior")))
    assert data.theta == "event"


@pytest.mark.parametrize("name", SMALL)
def test_unknown_direction_is_refused(name):
    with pytest.raises(ConfigError, match="direction"):
        load(name, "backward")


@pytest.mark.parametrize(
    "prior",
    [Box([0.1, -3.0], [0.5, 3.0]), LogNormal([-1.0, 2.0], [0.5, 1.0]), Gaussian([1.0, -1.0], [4.0, 0.1])],
    ids=["box", "lognormal", "gaussian"],
)
def test_support_map_sends_the_line_into_the_support(prior):
    theta = prior.sample(5000, torch.Generator().manual_seed(0))
    bijector = support_map(prior)
    bijector.fit(theta)
    u = 8 * torch.randn(20_000, 2, generator=torch.Generator().manual_seed(1))
    back, _ = bijector.to_data(u.double())
    finite = prior.high < math.inf
    # The logit keeps 1e-6 of the range beyond each bound.
    slack = torch.where(finite, 1.1e-6 * (prior.high - prior.low), torch.zeros(2, dtype=torch.float64))
    assert bool(((back >= prior.low - slack) & (back <= prior.high + slack)).all())
    again, _ = bijector.to_latent(theta.double())
    assert torch.allclose(bijector.to_data(again)[0], theta.double(), rtol=1e-5)


def test_data_without_a_prior_cannot_be_turned():
    with pytest.raises(ValueError, match="prior"):
        toward_theta(configure("digits", {}).load())
    with pytest.raises(ValueError, match="context_dim is 0"):
        load("linear_gaussian", "posterior", context_dim=0)


def test_linear_gaussian_posterior_density_is_bayes_rule_and_reaches_its_entropy():
    config = LinearGaussian(num_events=50_000, direction="posterior")
    data = config.load()
    log_p = data.true_log_prob(data.x.double(), data.context.double())
    assert -float(log_p.mean()) == pytest.approx(data.references["nll"], abs=5 * float(log_p.std()) / 50_000**0.5)
    theta, x = data.x[:1].double().repeat(2, 1), data.context[:1].double().repeat(2, 1)
    theta[1] += 0.7
    joint = config.true_log_prob(x, theta) + data.prior.log_prob(theta)
    found = data.true_log_prob(theta, x)
    assert float(found[1] - found[0]) == pytest.approx(float(joint[1] - joint[0]), abs=1e-9)


def test_linear_gaussian_references_are_draws_of_the_closed_form():
    config = LinearGaussian(num_events=10)
    found = config.load().reference_posteriors()
    assert found.theta.shape == (10, 2000, 3)
    exact = config.posterior(found.x)
    z = (found.theta.double().mean(1) - exact.mean) / (exact.variance / 2000).sqrt()
    ratio = found.theta.double().var(1) / exact.variance
    # Of 30 numbers each: 4.5 standard errors, which a variance has as sqrt(2 / n).
    assert float(z.abs().max()) < 4.5
    assert float((ratio - 1).abs().max()) < 4.5 * (2 / 2000) ** 0.5
    assert torch.equal(found.theta, config.reference_posteriors().theta)


@pytest.mark.parametrize("kind", ["gaussian", "lognormal"])
def test_fields_posterior_density_integrates_to_one_and_is_bayes_rule(kind):
    config = Fields(kind=kind, size=16, num_contexts=4, maps_per_context=1, direction="posterior")
    data = config.load()
    # A grid that is none of the code's: 36 a side.
    side = (torch.arange(36, dtype=torch.float64) + 0.5) / 36
    grid = torch.cartesian_prod(0.1 + 0.4 * side, 0.6 + 0.4 * side)
    for map_ in data.context[:2]:
        log_p = data.true_log_prob(grid, map_.double().expand(len(grid), 1, 16, 16))
        assert float(log_p.exp().mean() * 0.16) == pytest.approx(1, abs=2e-3)
        joint = config.true_log_prob(map_.double().expand(len(grid), 1, 16, 16), grid)
        assert float((log_p - joint).std()) < 1e-8
    outside = data.true_log_prob(torch.tensor([[0.05, 0.8], [0.01, 0.8]]), data.context[:2])
    assert outside.tolist() == [-math.inf, -math.inf]


def test_fields_references_are_draws_of_the_grid_posterior():
    config = Fields(size=16, num_contexts=4)
    found = config.load().reference_posteriors()
    assert found.theta.shape == (10, 2000, 2)
    assert bool(((found.theta >= torch.tensor([0.1, 0.6])) & (found.theta <= torch.tensor([0.5, 1.0]))).all())
    theta, log_p = config.posterior(found.x, 150)
    weight = log_p.flatten(1).softmax(1)
    points = theta.reshape(-1, 2)
    mean = weight @ points
    variance = weight @ points.square() - mean.square()
    z = (found.theta.double().mean(1) - mean) / (variance / 2000).sqrt()
    assert float(z.abs().max()) < 4.5  # of 20 means
    cross = weight @ points.prod(-1) - mean.prod(-1)
    correlation = cross / variance.prod(-1).sqrt()
    drawn = torch.stack([torch.corrcoef(t.double().T)[0, 1] for t in found.theta])
    assert float((drawn - correlation).abs().max()) < 4.5 / 2000**0.5


def test_prior_texts_come_from_text_and_from_either_yaml():
    wanted = {"Omega_m": "uniform(0.1, 0.5)", "sigma_8": "norm(0.8, 0.1)"}
    in_braces = {"Omega_m": "uniform(0.1", "0.5)": None, "sigma_8": "norm(0.8", "0.1)": None}
    for given in (wanted, in_braces, "Omega_m: uniform(0.1, 0.5), sigma_8=norm(0.8, 0.1)"):
        assert prior_texts(given) == wanted
    assert prior_texts(None) is None
    with pytest.raises(ValueError, match="expected parameter: distribution"):
        prior_texts("uniform(0.1, 0.5)")


@pytest.fixture
def maps_folder(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "Maps_HI_Toy_LH_z=0.00.npy", rng.lognormal(9, 1, (10, 8, 8)).astype(np.float32))
    rows = "".join(f"{0.15 + 0.05 * i:.2f} {0.6 + 0.08 * i:.2f}\n" for i in range(5))
    (tmp_path / "params_LH_Toy.txt").write_text("# Omega_m sigma_8\n" + rows)
    return str(tmp_path)


def test_maps_take_a_prior_and_turn_round(maps_folder):
    prior = "sigma_8: uniform(0.6, 1.0), Omega_m: uniform(0.1, 0.5)"
    forward = configure("maps", {"root": maps_folder, "prior": prior}).load()
    assert forward.theta == "context"
    assert forward.prior.low.tolist() == [0.1, 0.6]  # in the order of the context
    turned = configure("maps", {"root": maps_folder, "prior": prior, "direction": "posterior"}).load()
    assert turned.event_shape == (2,)
    assert turned.context_shape == (1, 8, 8)
    assert turned.groups.tolist() == forward.groups.tolist()
    assert from_description(turned.prior.describe()).dim == 2
    bare = configure("maps", {"root": maps_folder}).load()
    assert bare.prior is None
    assert Splits.make(bare).hash == Splits.make(forward).hash


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"direction": "posterior"}, "needs `prior`"),
        ({"prior": "Omega_m: uniform(0.1, 0.5)"}, "a text for each of the parameters Omega_m, sigma_8"),
        ({"prior": "Omega_m: uniform(0.1, 0.5), sigma_8: uniform(0.6, 0.7)"}, "excludes the parameters of 3 of 5"),
        ({"prior": "Omega_m: uniform(0.1, 0.5), sigma_8: nonsense(1)"}, "no continuous distribution 'nonsense'"),
    ],
)
def test_maps_refuse_a_prior_that_does_not_fit(maps_folder, options, message):
    with pytest.raises(ConfigError, match=message):
        configure("maps", {"root": maps_folder, **options}).load()
