"""Every method finds the closed form; what does not fit, or was not finite, is named."""

import math
from contextlib import contextmanager

import numpy as np
import pytest
import scipy.stats
import torch

from flowzoo.flow import ConditionalFlow
from flowzoo.inference import (
    Box,
    Gaussian,
    LogNormal,
    NoPosterior,
    Posterior,
    Product,
    Samples,
    _methods,
    check_covers,
    check_truncates,
    from_description,
    summarise,
)
from flowzoo.inference._checks import leaning
from flowzoo.seeding import generator

L = 4000


@pytest.mark.parametrize(("method", "label"), [("grid", "posteriors on grids"), ("mcmc", "posteriors by mcmc")])
def test_what_takes_long_shows_a_bar(known, monkeypatch, method, label):
    shown = []

    @contextmanager
    def bar(what, total):
        shown.append((what, total))
        yield lambda done, text: shown.append(done)

    monkeypatch.setattr(_methods, "bar", bar)
    exact = known(1, 3)
    Posterior(exact.flow, exact.prior).sample(exact.x, 10, method=method, generator=generator(0, "draws"))
    assert shown[0] == (label, 3)
    assert len(shown) > 1
    assert max(shown[1:]) <= 3


@pytest.mark.parametrize(
    ("method", "dim"),
    [
        ("grid", 1),
        ("grid", 2),
        ("grid", 3),
        ("importance", 1),
        ("importance", 2),
        ("mcmc", 1),
        pytest.param("mcmc", 4, marks=pytest.mark.slow),
    ],
)
def test_every_method_finds_the_closed_form(known, method, dim):
    many = 2 if method == "mcmc" else 6
    exact = known(dim, many)
    # Proposals from the prior: an ESS of some thousands needs many of them.
    options = {"proposals": 200_000} if method == "importance" else {}
    found = Posterior(exact.flow, exact.prior).sample(
        exact.x, L, method=method, generator=generator(0, "draws"), **options
    )
    assert found.theta.shape == (L, many, dim)
    assert found.method == method
    sd = exact.covariance.diagonal().sqrt()
    # Draws that count: all of a grid's; of importance and of chains what their diagnostics say. 4.5 standard errors: at
    # most 18 numbers.
    count = torch.full((many,), float(L)).double()
    if method != "grid":
        count = 1 / (1 / count + 1 / found.diagnostics["ess"].double())
        assert bool((count > 700).all())
    error = 4.5 / count.sqrt()[:, None]
    assert bool((((found.mean - exact.mean) / sd).abs() < error).all())
    assert bool(((found.std / sd - 1).abs() < error / math.sqrt(2)).all())
    off = found.log_prob - exact.log_posterior(found.theta)
    if method == "mcmc":
        assert found.log_evidence is None
        assert float(off.std(0).max()) < 1e-9  # up to a constant of the observation
    elif method == "grid":
        torch.testing.assert_close(found.log_evidence, exact.log_evidence, atol=2e-3, rtol=0)
        assert float(off.abs().max()) < 5e-3
    else:
        # The relative error of a mean of weights is sqrt(1 / ESS - 1 / proposals) at most.
        assert bool(((found.log_evidence - exact.log_evidence).abs() < 4.5 / found.diagnostics["ess"].sqrt()).all())
        torch.testing.assert_close(off, (exact.log_evidence - found.log_evidence).expand_as(off))
    assert bool((((found.best - exact.mean) / sd).abs() < 0.05).all())


def test_many_observations_at_once_are_as_many_single_calls(known):
    exact = known(2, 50)
    posterior = Posterior(exact.flow, exact.prior)
    together = posterior.sample(exact.x, 2000, generator=generator(0, "a"))
    for k in (0, 17, 49):
        alone = posterior.sample(exact.x[k : k + 1], 2000, generator=generator(0, "b", k))
        sd = exact.covariance.diagonal().sqrt()
        # Two means of 2000 draws each, 6 numbers.
        assert float(((together.mean[k] - alone.mean[0]) / sd).abs().max()) < 4 * math.sqrt(2 / 2000)
        torch.testing.assert_close(together.log_evidence[k], alone.log_evidence[0])
        assert int(together.diagnostics["evaluations"][k]) == int(alone.diagnostics["evaluations"][0])


@pytest.mark.parametrize("method", ["grid", "importance", "mcmc"])
def test_same_seed_gives_the_same_bits(known, method):
    exact = known(1, 2)
    options = {"max_steps": 80} if method == "mcmc" else {}
    first, second = (
        Posterior(exact.flow, exact.prior).sample(exact.x, 50, method=method, generator=generator(3, "s"), **options)
        for _ in range(2)
    )
    assert torch.equal(first.theta, second.theta)
    assert torch.equal(first.best, second.best)


def test_auto_takes_the_method_that_will_do(known):
    exact = known(2, 1)
    samples = Samples(exact.prior.sample(20_000, generator(0, "prior")))
    found = Posterior(exact.flow, samples).sample(exact.x, 2000, generator=generator(0, "s"))
    assert found.method == "importance"
    sd = exact.covariance.diagonal().sqrt()
    count = 1 / (1 / 2000 + 1 / float(found.diagnostics["ess"]))
    assert float(((found.mean - exact.mean) / sd).abs().max()) < 4 / math.sqrt(count)
    # Without the density of the prior the log-density is that of the likelihood, over the evidence.
    likelihood = exact.flow.log_prob(exact.x, found.theta)
    torch.testing.assert_close(found.log_prob, likelihood - found.log_evidence)
    # Nor is there a MAP: the highest likelihood is another point.
    assert bool(found.best.isnan().all())
    with pytest.raises(ValueError, match="not scored or calibrated"):
        Posterior(exact.flow, samples).log_prob(found.theta, exact.x)
    assert Posterior(exact.flow, exact.prior).method_for("auto") == "grid"
    five = known(5, 1)
    assert Posterior(five.flow, five.prior).method_for("auto") == "mcmc"
    with pytest.raises(ValueError, match="needs a prior with a density"):
        Posterior(exact.flow, samples).sample(exact.x, 10, method="grid", generator=generator(0, "s"))


def test_box_that_cuts_the_posterior_is_leaned_on_and_said(known):
    exact = known(1, 1)
    mean, sd = float(exact.mean), float(exact.covariance.sqrt())
    flat = Posterior(exact.flow, Box([mean - 40 * sd], [mean + 40 * sd]))
    assert flat.sample(exact.x, 500, generator=generator(0, "s")).warnings == ()
    free = flat.sample(exact.x, L, generator=generator(0, "s"))
    centre, width = float(free.mean), float(free.std)
    cut = Posterior(exact.flow, Box([centre - 40 * width], [centre - width]))
    for method in ("grid", "importance", "mcmc"):
        found = cut.sample(exact.x, L, method=method, generator=generator(0, "s"))
        # A normal above which all is cut at -1: mean -1 - 0.5251 (Mills' ratio), best at the cut.
        normal = torch.distributions.Normal(0.0, 1.0)
        expected = -float(normal.log_prob(torch.tensor(-1.0)).exp() / normal.cdf(torch.tensor(-1.0)))
        ess = min(float(found.diagnostics.get("ess", torch.tensor([float(L)]))), L)
        # sd 0.45 of the cut law, and the errors of centre and width, 4 of each
        assert abs((float(found.mean) - centre) / width - expected) < 4 * 0.45 / math.sqrt(ess / 2) + 8 / math.sqrt(L)
        assert abs((float(found.best) - centre) / width + 1) < 1e-3
        assert any("parameter 1: the posterior leans" in text for text in found.warnings)


def test_only_finite_ends_are_leaned_on_and_of_many_observations_only_if_a_tenth_do():
    source = generator(0, "lean")
    centred = 0.3 + 0.4 * torch.rand(500, 100, 1, generator=source, dtype=torch.float64)
    edge = 0.005 * torch.rand(500, 100, 1, generator=source, dtype=torch.float64)
    for leant, count, said in ((1, 20, 1), (2, 21, 0), (3, 21, 1), (10, 100, 0), (11, 100, 1)):
        draws = torch.cat([edge[:, :leant], centred[:, leant:count]], 1)
        texts = leaning(Box([0.0], [1.0]), draws)
        assert len(texts) == said
        assert all(
            f"parameter 1: the posterior leans on an end of the prior for {leant} of {count}" in t for t in texts
        )
    # A Gaussian has no end, and a log-normal a lower one alone.
    assert leaning(Gaussian([0.0], [1.0]), 4.0 + edge[:, :1]) == []
    assert leaning(LogNormal([0.0], [1.0]), 100.0 + edge[:, :1]) == []
    assert len(leaning(LogNormal([0.0], [1.0]), edge[:, :1])) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_observations_on_the_cpu_go_to_the_flow():
    posterior, x = Posterior(Onto().cuda(), Box([-5.0], [5.0])), torch.tensor([[0.3], [0.4]])
    found = posterior.sample(x, 1000, generator=generator(0, "s"))
    assert found.theta.device.type == "cuda"
    assert posterior.log_prob(found.theta[:3].cpu(), x).device.type == "cuda"


def test_observations_are_moved_to_the_device_of_the_flow():
    class Elsewhere(Onto):
        def parameters(self, recurse=True):
            return iter([torch.empty(0, device="meta")])

    class Buffered(Shifted):
        """In closed form: nothing to train, and yet on a device."""

        def __init__(self):
            super().__init__()
            self.register_buffer("count", torch.zeros((), dtype=torch.long))
            self.register_buffer("mean", torch.zeros(1, device="meta"))

    assert Posterior(Elsewhere(), Box([0.0], [1.0]))._device(torch.zeros(1)).type == "meta"
    assert Posterior(Buffered(), Box([0.0], [1.0]))._device(torch.zeros(1)).type == "meta"
    assert Posterior(Onto(), Box([0.0], [1.0]))._device(torch.zeros(1)).type == "cpu"


class Broken:
    """A likelihood that is NaN for some theta, or for all."""

    event_shape = context_shape = torch.Size((1,))

    def __init__(self, above: float) -> None:
        self.above = above

    def log_prob(self, x, context):
        good = -0.5 * ((x - context) / 0.1).square().sum(-1)
        return torch.where(context[..., 0] > self.above, math.nan, good)


@pytest.mark.parametrize("method", ["grid", "importance", "mcmc"])
def test_density_that_is_not_finite_is_counted(method):
    prior, x = Box([0.0], [1.0]), torch.tensor([[0.3], [0.4]])
    found = Posterior(Broken(0.8), prior).sample(x, 100, method=method, generator=generator(0, "s"))
    assert any("NaN or +inf at" in text and "2 of 2 observations" in text for text in found.warnings)
    assert bool((found.theta <= 0.8).all())
    with pytest.raises(ValueError, match="NaN or infinite at every theta tried for 2 of 2 observations"):
        Posterior(Broken(-1.0), prior).sample(x, 100, method=method, generator=generator(0, "s"))


class Deaf:
    """q(x | theta) = N(theta, 0.1), but for one x: there it is NaN, or zero, whatever theta."""

    event_shape = context_shape = torch.Size((1,))

    def __init__(self, at: float, value: float) -> None:
        self.at, self.value = at, value

    def log_prob(self, x, context):
        good = -0.5 * ((x - context) / 0.1).square().sum(-1)
        return torch.where(x[..., 0] == self.at, self.value, good)


@pytest.mark.parametrize("value", [math.nan, -math.inf])
@pytest.mark.parametrize("method", ["grid", "importance", "mcmc"])
def test_observation_without_a_posterior_costs_the_others_nothing(method, value):
    x, prior = torch.tensor([[0.3], [0.5], [0.4]]), Box([0.0], [1.0])
    found = Posterior(Deaf(0.5, value), prior).sample(x, 1000, method=method, generator=generator(0, "s"))
    assert found.theta.shape == (1000, 3, 1)
    assert found.theta.isnan().all(-1).all(0).tolist() == [False, True, False]
    assert bool(found.theta[:, [0, 2]].isfinite().all())
    assert any("1 of 3 observations have no posterior (1, from 0)" in text for text in found.warnings), found.warnings
    # Of 1,000 draws, some of them of a chain: 5 errors of 0.1 / sqrt(200)
    assert float((found.mean[[0, 2]] - x[[0, 2]]).abs().max()) < 5 * 0.1 / math.sqrt(200)
    for part in (found.best, found.log_prob[0], *found.diagnostics.values()):
        assert part.isnan().reshape(3, -1).any(1).tolist() == [False, True, False]
    bad = summarise(found, ["a"], torch.full((3, 1), 0.3))[1]["parameters"]["a"]
    assert bad.pop("truth") == pytest.approx(0.3)
    assert set(map(str, bad.values())) == {"None"}
    with pytest.raises(NoPosterior, match="for 1 of 1 observations"):
        Posterior(Deaf(0.5, value), prior).sample(x[1:2], 100, method=method, generator=generator(0, "s"))


def test_posterior_flow_off_its_prior_for_one_observation():
    x, prior = torch.tensor([[0.0], [6.5], [7.0]]), Box([6.0], [7.0])
    posterior = Posterior(Shifted(), prior, theta="event")
    found = posterior.sample(x, 300, generator=generator(0, "s"))
    assert found.theta.isnan().all(-1).all(0).tolist() == [True, False, False]
    assert any("(0, from 0)" in text and "outside the prior" in text for text in found.warnings)
    # The share of the flow in the prior is known of the other two, and of these alone.
    again = posterior.log_prob(found.theta, x)
    torch.testing.assert_close(again[:, 1:], found.log_prob[:, 1:], atol=1e-5, rtol=0)
    assert not bool(again[:, 0].isfinite().any())


def test_observations_in_groups_are_named_by_their_place_among_all(monkeypatch):
    from flowzoo.inference import _grid

    monkeypatch.setattr(_grid, "GROUP", 2 * _grid.MOST[1])  # two observations at a time
    x = torch.linspace(0.1, 0.9, 5)[:, None]
    found = Posterior(Deaf(float(x[3]), -math.inf), Box([0.0], [1.0])).sample(x, 100, generator=generator(0, "s"))
    assert found.theta.isnan().all(-1).all(0).tolist() == [False, False, False, True, False]
    assert any("(3, from 0)" in text for text in found.warnings)


def test_share_in_the_prior_is_that_of_the_flow_as_it_is():
    class Moving(Onto):
        """q(theta | x) = N(x, 1), less a parameter."""

    flow, x = Moving(), torch.tensor([[0.0]])
    posterior = Posterior(flow, Box([0.0], [10.0]), theta="event")
    posterior.sample(x, 1000, generator=generator(0, "s"))
    with torch.no_grad():
        flow.zero -= 5.0  # N(x + 5, 1), all of which lies inside
    nodes = torch.linspace(0, 10, 2001, dtype=torch.float64)[:, None, None]
    inside = float(torch.trapezoid(posterior.log_prob(nodes, x).exp(), dx=0.005, dim=0))
    assert abs(inside - 1) < 1e-3, "half of the mass was outside before"
    posterior.prior = Box([5.0], [10.0])
    inside = float(torch.trapezoid(posterior.log_prob(nodes, x).exp(), dx=0.005, dim=0))
    assert abs(inside - 1) < 5 * math.sqrt(1 / 2000) + 0.005, "5 relative errors of a half, of 2000 draws, and a node"


def test_share_in_the_prior_is_that_of_the_observations_as_they_are():
    posterior, x, inside = Posterior(Shifted(), Box([0.0], [10.0]), theta="event"), torch.tensor([[0.0]]), []
    nodes = torch.linspace(0, 10, 2001, dtype=torch.float64)[:, None, None]
    posterior.sample(x, 1000, generator=generator(0, "s"))
    for _ in range(2):
        x += 5.0  # in place: from half of the mass to all of it, and back to half
        inside.append(float(torch.trapezoid(posterior.log_prob(nodes, x).exp(), dx=0.005, dim=0)))
    # 5 relative errors of a half, of 2000 draws, and a node
    assert abs(inside[0] - 1) < 1e-3
    assert abs(inside[1] - 1) < 5 * math.sqrt(1 / 2000) + 0.005


class Triangle(Box):
    """Uniform on theta1 < theta2 in the unit square."""

    def __init__(self):
        super().__init__([0.0, 0.0], [1.0, 1.0])

    def log_prob(self, theta):
        return torch.where(theta[..., 0] < theta[..., 1], super().log_prob(theta) + math.log(2), -math.inf)


def test_support_of_a_prior_may_be_less_than_its_bounds():
    posterior, x = Posterior(Shifted(2), Triangle(), theta="event"), torch.tensor([[0.5]])
    found = posterior.sample(x, L, generator=generator(0, "s"))
    assert bool((found.theta[..., 0] < found.theta[..., 1]).all())
    nodes = (torch.arange(200) + 0.5).double() / 200
    grid = torch.cartesian_prod(nodes, nodes)[:, None]
    mass = float(posterior.log_prob(grid, x).exp().sum() / 200**2)
    # Half of the square has 0.147 / 2 of the flow, known to 1 / sqrt(4000); the nodes of the diagonal are 1 % of it.
    assert abs(mass - 1) < 5 / math.sqrt(L) + 0.02


def test_posterior_of_nothing_observed():
    # A context without columns: q(theta), of which each observation has draws of its own.
    posterior, x = Posterior(Shifted(2, 0)), torch.zeros(3, 0)
    found = posterior.sample(x, L, generator=generator(0, "s"))
    assert float(found.mean.abs().max()) < 4.5 / math.sqrt(L)
    torch.testing.assert_close(posterior.log_prob(found.theta, x), found.log_prob, atol=1e-5, rtol=0)
    cut = Posterior(Shifted(2, 0), Box([0.0, 0.0], [9.0, 9.0]), theta="event")
    quarter = cut.log_prob(torch.ones(2), x) - posterior.log_prob(torch.ones(2), x)
    assert float((quarter - math.log(4)).abs().max()) < 4.5 * math.sqrt(3 / 2000)


def test_prior_of_a_posterior_flow_may_cut_that_of_its_training_and_nothing_else():
    import scipy.stats

    trained = Box([0.1, 0.6], [0.5, 1.0])
    assert check_truncates(trained, trained) == ()
    assert check_truncates(Box([0.2, 0.6], [0.3, 0.7]), trained) == ()
    with pytest.raises(ValueError, match=r"prior of s8 is on \[0.6, 1.2\], and the flow was trained on \[0.6, 1\]"):
        check_truncates(Box([0.1, 0.6], [0.5, 1.2]), trained, ["Om", "s8"])
    with pytest.raises(ValueError, match=r"theta1 is on \[-inf, inf\]"):
        check_truncates(Gaussian([0.3, 0.8], [0.01, 0.01]), trained)
    bent = Product([scipy.stats.truncnorm(-1, 1, 0.3, 0.1), scipy.stats.uniform(0.6, 0.2)])
    (said,) = check_truncates(bent, trained)
    assert "of another shape" in said
    # The same kind, and yet another shape.
    normal = Gaussian([0.0], [1.0])
    assert check_truncates(normal, normal) == ()
    assert len(check_truncates(Gaussian([0.0], [0.25]), normal)) == 1
    # A truncated normal is a piece of a normal.
    assert check_truncates(Product([scipy.stats.truncnorm(-1, 2)]), normal) == ()


def test_warnings_name_the_parameter():
    posterior = Posterior(Onto(), Box([0.0], [1.0]), names=["Omega_m"])
    found = posterior.sample(torch.tensor([[-20.0]]), 300, generator=generator(0, "s"))
    assert any(text.startswith("Omega_m: the posterior leans") for text in found.warnings)
    with pytest.raises(ValueError, match="names must be 1, one for each parameter; got 2: a, b"):
        Posterior(Onto(), Box([0.0], [1.0]), names=["a", "b"])


def test_bad_input_is_named(known):
    exact = known(2, 3)
    posterior, source = Posterior(exact.flow, exact.prior), generator(0, "s")
    with pytest.raises(ValueError, match="likelihood flow needs a prior"):
        Posterior(exact.flow, theta="context")
    with pytest.raises(ValueError, match=r"prior has 1 parameters and the flow's context, which is theta, has 2"):
        Posterior(exact.flow, Box([0.0], [1.0]))
    with pytest.raises(ValueError, match=r"x must be K observations, \(K, 3\).*got \(3, 4\)"):
        posterior.sample(torch.zeros(3, 4), 10, generator=source)
    with pytest.raises(ValueError, match="1 of 2 observations have values that are not finite"):
        posterior.sample(torch.tensor([[0.0, 0.0, 0.0], [0.0, math.nan, 0.0]]), 10, generator=source)
    with pytest.raises(ValueError, match="method must be auto, grid, importance, mcmc; got 'gird'"):
        posterior.sample(exact.x, 10, method="gird", generator=source)
    with pytest.raises(ValueError, match=r"method 'grid'.*'bins'"):
        posterior.sample(exact.x, 10, method="grid", generator=source, bins=3)
    with pytest.raises(ValueError, match=r"theta must end in \(2,\); got \(3, 1\)"):
        posterior.log_prob(torch.zeros(3, 1), exact.x)
    with pytest.raises(ValueError, match="theta must be a tensor; got list"):
        posterior.log_prob([[0.0, 0.0]], exact.x)
    single = posterior.sample(exact.x[0], 10, generator=source)
    assert single.theta.shape == (10, 1, 2)
    assert "taken as a single one" in single.warnings[0]


def test_truth_that_the_prior_excludes_is_named():
    prior = Box([0.1, 0.6], [0.5, 1.0])
    assert check_covers(prior, torch.tensor([[0.2, 0.8]]), ["Om", "s8"]) == ()
    (said,) = check_covers(prior, torch.tensor([[0.2, 0.8], [0.7, 0.8]]), ["Om", "s8"])
    assert "Om = 0.7 lies outside [0.1, 0.5] (1 of 2 observations)" in said


def test_densities_broadcast_and_agree(known):
    exact = known(2, 3)
    posterior = Posterior(exact.flow, exact.prior)
    theta = torch.randn(7, 1, 2, generator=generator(0, "t"), dtype=torch.float64)
    found = posterior.log_prob(theta, exact.x)
    assert found.shape == (7, 3)
    expected = exact.log_posterior(theta) + exact.log_evidence
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(posterior.log_likelihood(theta, exact.x), found - exact.prior.log_prob(theta))


class Onto(ConditionalFlow):
    """q(x | theta) = N(theta, 1), with a parameter that has a device."""

    def __init__(self) -> None:
        super().__init__((1,), (1,))
        self.zero = torch.nn.Parameter(torch.zeros(1))

    def _to_latent(self, u, c):
        return u - c + self.zero, u.new_zeros(len(u))

    def _to_data(self, z, c):
        return z + c - self.zero, z.new_zeros(len(z))


class Shifted(ConditionalFlow):
    """q(theta | x) = N(x, 1), or N(0, 1) of no x."""

    def __init__(self, dim: int = 1, columns: int = 1) -> None:
        super().__init__((dim,), (columns,))

    def _to_latent(self, u, c):
        return u - c.sum(1, keepdim=True), u.new_zeros(len(u))

    def _to_data(self, z, c):
        return z + c.sum(1, keepdim=True), z.new_zeros(len(z))


def test_posterior_flow_is_the_posterior():
    posterior, x = Posterior(Shifted()), torch.tensor([[0.0], [5.0]])
    found = posterior.sample(x, L, generator=generator(0, "s"))
    assert found.method == "direct"
    assert found.warnings == ()
    assert torch.equal(found.log_evidence, torch.zeros(2).double())
    assert bool(((found.mean - x).abs() < 4.5 / math.sqrt(L)).all())
    torch.testing.assert_close(found.log_prob, posterior.log_prob(found.theta, x), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.best, x.double(), atol=0.02, rtol=0)
    assert posterior.log_likelihood(found.theta, x) is None


def test_leakage_of_a_posterior_flow_is_measured_and_taken_out():
    prior, x = Box([0.0], [10.0]), torch.tensor([[0.0], [5.0], [-1.0]])
    posterior = Posterior(Shifted(), prior, theta="event")
    found = posterior.sample(x, L, generator=generator(0, "s"))
    assert bool(prior.covers(found.theta).all())
    normal = torch.distributions.Normal(0.0, 1.0)
    inside = normal.cdf(10 - x[:, 0]) - normal.cdf(-x[:, 0])
    # L draws were kept, so 1 / inside as many were made: a binomial error, 4.5 of it.
    error = 4.5 * (inside * (1 - inside) * inside / L).sqrt() + 1e-6
    assert bool(((found.diagnostics["leakage"] - (1 - inside)).abs() < error).all())
    assert any("2 of 3 observations" in text and "outside the prior" in text for text in found.warnings)
    # Normalised on the support: the same draws scored again, with the share that was measured.
    torch.testing.assert_close(found.log_prob, posterior.log_prob(found.theta, x), atol=1e-5, rtol=0)
    nodes = torch.linspace(0, 10, 2001, dtype=torch.float64)[:, None, None]
    fresh = Posterior(Shifted(), prior, theta="event").log_prob(nodes, x).exp()
    # Measured with 2000 draws: 4.5 relative errors of the share
    relative = 4.5 * ((1 - inside) / 2000).sqrt() + 1e-3
    assert bool(((torch.trapezoid(fresh, dx=0.005, dim=0) - 1).abs() < relative).all())
    assert float(posterior.log_prob(torch.tensor([-0.1]), x[:1])) == -math.inf


def test_posterior_flow_far_off_its_prior_is_refused():
    posterior = Posterior(Shifted(), Box([6.0], [7.0]), theta="event")
    with pytest.raises(ValueError, match=r"100.00% of the flow's mass lies outside the prior and .* observation 0"):
        posterior.sample(torch.tensor([[0.0]]), 10, generator=generator(0, "s"))


@pytest.mark.parametrize("heavy", ["t(3)", "cauchy()"])
def test_grid_of_three_parameters_under_a_heavy_tail(heavy):
    # In the tails the likelihood falls by 1e3, 1e7, 1e21 nats from node to node, and hardly within their planes.
    prior = from_description({"a": "norm()", "b": "norm()", "c": heavy})
    u = (np.arange(1_000_000) + 0.5) / 1_000_000
    evidence, mean, sd = 0.0, [], []
    for law in (scipy.stats.norm(), scipy.stats.norm(), prior.marginals[2]):
        theta = law.ppf(u)
        weights = scipy.stats.norm(1.0, 0.5).pdf(theta)
        evidence += math.log(weights.mean())
        mean.append(np.average(theta, weights=weights))
        sd.append(math.sqrt(np.average((theta - mean[-1]) ** 2, weights=weights)))

    class Flow:
        event_shape = context_shape = torch.Size([3])

        def log_prob(self, x, context):
            return torch.distributions.Normal(context.double(), 0.5).log_prob(x.double()).sum(-1)

    found = Posterior(Flow(), prior).sample(torch.ones(1, 3), 4000, method="grid", generator=generator(0, "s"))
    assert float(found.diagnostics["error"]) < 0.01
    assert float(found.log_evidence) == pytest.approx(evidence, abs=0.01)
    assert np.abs((found.mean[0].numpy() - mean) / sd).max() < 0.01 + 4.5 / math.sqrt(4000)


def test_correlated_prior_counts_in_every_coordinate(known):
    # Data that say nothing: the posterior is the prior, correlation and all.
    class Nothing:
        event_shape, context_shape = torch.Size((1,)), torch.Size((2,))

        def log_prob(self, x, context):
            return torch.zeros(len(context))

    prior = Gaussian([1.0, 2.0], [[1.0, 0.8], [0.8, 1.0]])
    for method in ("grid", "mcmc"):
        found = Posterior(Nothing(), prior).sample(torch.zeros(1, 1), L, method=method, generator=generator(0, "s"))
        correlation = float(found.covariance[0, 0, 1] / found.std[0].prod())
        assert abs(correlation - 0.8) < 4.5 * (1 - 0.8**2) / math.sqrt(L / 2)
        if method == "grid":
            assert abs(float(found.log_evidence)) < 1e-3
