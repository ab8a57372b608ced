"""galaxies: an exact density, exact draws of it, and stars as a galaxy has them."""

import math
import pickle

import pytest
import torch
from torch.distributions import Normal, StudentT

from flowzoo.config import ConfigError
from flowzoo.data import Splits, configure
from flowzoo.data._galaxy_model import AGE, SOLAR
from flowzoo.data.galaxies import HIGH, LOW, Galaxies
from flowzoo.seeding import generator

MIDDLE = torch.tensor([10.25, 6.5, 2.2, -0.35], dtype=torch.float64)
LARGE = torch.tensor([10.7, 7.4, 1.8, -0.05], dtype=torch.float64)
SMALL = torch.tensor([9.8, 5.6, 2.7, -0.6], dtype=torch.float64)
GALAXIES = [MIDDLE, LARGE, SMALL]


class Proposal:
    """Three broad densities of a star, written down apart from the model, each normalised; they are mixed equally."""

    def __init__(self, theta):
        mass, self.tau50, tau10, self.feh = theta.tolist()
        m = mass - 10.25
        self.length, self.speed = 3.3 * 10 ** (0.3 * m), 180 * 10 ** (0.25 * m)
        self.size = (None, 0.9 * 10 ** (0.25 * m), 7.0 * 10 ** (0.2 * m))
        self.logit = math.log(self.tau50 / (AGE - self.tau50))
        self.width = (self.logit - math.log(tau10 / (AGE - tau10))) / 1.28

    def factors(self, k, x):
        """A density for each group of columns, given the columns before it; the age has its logit's."""
        position, feh, ofe = x[:, :3], x[:, 7], x[:, 8]
        if k == 0:
            scale = self.length * torch.tensor([1.3, 1.3, 0.2], dtype=torch.float64)
            radius = position[:, :2].norm(dim=1)
            mean = self.speed * torch.stack([-position[:, 1], position[:, 0]], 1)
            mean = mean / (radius.square() + (0.6 * self.length) ** 2).sqrt()[:, None]
            mean = torch.cat([mean, torch.zeros(len(x), 1)], 1)
            sigma = 1.1 * self.speed * (0.12 + 0.25 * (-0.5 * radius / self.length).exp())[:, None]
        else:
            scale = 1.3 * self.size[k] * torch.ones(3, dtype=torch.float64)
            mean = torch.zeros(len(x), 3, dtype=torch.float64)
            r = position.norm(dim=1, keepdim=True) / self.size[k]
            sigma = 0.65 * self.speed * (1 + r.square()) ** -0.25
        return [
            (slice(0, 3), StudentT(5.0, torch.zeros(3, dtype=torch.float64), scale)),
            (slice(3, 6), Normal(mean, sigma.expand(-1, 3))),
            (slice(9, 10), Normal(self.logit + (-0.3, 0.35, 0.8)[k] * self.width, self.width)),
            (slice(7, 8), Normal(self.feh + (0.05, 0.1, -0.7)[k], (0.3, 0.3, 0.4)[k])),
            (slice(8, 9), Normal(((0.06, 0.18, 0.25)[k] - 0.12 * feh)[:, None], 0.12)),
            (slice(6, 7), Normal((math.log10(SOLAR) + feh + 0.7 * ofe)[:, None], 0.12)),
        ]

    def draw(self, count):
        """``(3 count, 10)``."""
        parts = []
        for k in range(3):
            x = torch.zeros(count, 10, dtype=torch.float64)
            for i in range(6):
                columns, density = self.factors(k, x)[i]
                missing = (count,) if density.batch_shape[:1] != (count,) else ()
                x[:, columns] = density.sample(missing).reshape(count, -1)
            parts.append(x)
        x = torch.cat(parts)
        x[:, 9] = AGE * torch.sigmoid(x[:, 9])
        x[:, 6] = 10 ** x[:, 6]
        return x

    def log_prob(self, x):
        flat = x.clone()
        flat[:, 6], flat[:, 9] = x[:, 6].log10(), torch.logit(x[:, 9] / AGE)
        jacobian = -(x[:, 6] * math.log(10)).log() - (x[:, 9] * (1 - x[:, 9] / AGE)).log()
        each = [sum(q.log_prob(flat[:, c]).sum(1) for c, q in self.factors(k, flat)) for k in range(3)]
        return torch.stack(each).logsumexp(0) - math.log(3) + jacobian


@pytest.fixture(scope="module", params=range(3), ids=["middle", "large", "small"])
def weighed(request):
    """A galaxy; stars of the proposal with log p of each component and log q."""
    theta = GALAXIES[request.param]
    proposal = Proposal(theta)
    with torch.random.fork_rng():
        torch.manual_seed(request.param)  # torch's distributions take no generator
        x = proposal.draw(100_000)
    return theta, x, Galaxies().log_components(x, theta), proposal.log_prob(x)


def mean_and_error(values):
    return float(values.mean()), float(values.std()) / len(values) ** 0.5


def features(x):
    """What the columns and their couplings are, in numbers of order one."""
    r, feh = x[:, :3].norm(dim=1).log1p(), x[:, 7]
    spin = ((x[:, 0] * x[:, 4] - x[:, 1] * x[:, 3]) / 500).tanh()
    speed = x[:, 3:6].norm(dim=1) / 100
    outward = ((x[:, :2] * x[:, 3:5]).sum(1) / x[:, :2].norm(dim=1) / 100).square()
    height, rise = x[:, 2].abs().log1p(), (x[:, 5] / 100).square()
    columns = [r, height, spin, speed, outward, rise, x[:, 6].log(), feh, x[:, 8], x[:, 9] / 10]
    couplings = [r * feh, r * speed, r * spin, feh * x[:, 8], feh * x[:, 9], height * rise, feh.square()]
    return torch.stack(columns + couplings, 1)


def test_density_integrates_to_one(weighed):
    _, _, components, log_q = weighed
    total, error = mean_and_error((components.logsumexp(1) - log_q).exp())
    assert error < 0.01
    assert abs(total - 1) < 4 * error


def test_components_integrate_to_their_share_of_the_draws(weighed):
    theta, _, components, log_q = weighed
    x = Galaxies().simulate(theta.expand(100_000, 4), generator(0, "x"))
    share = Galaxies().log_components(x, theta).softmax(1)
    for k in range(3):
        weight, error = mean_and_error((components[:, k] - log_q).exp())
        drawn, drawn_error = mean_and_error(share[:, k])
        assert error < 0.02 * weight
        assert abs(weight - drawn) < 4 * math.hypot(error, drawn_error)
        assert weight > 0.03


def test_draws_have_the_moments_of_the_density(weighed):
    theta, proposed, components, log_q = weighed
    drawn = Galaxies().simulate(theta.expand(200_000, 4), generator(1, "x"))
    weights = (components.logsumexp(1) - log_q).exp()[:, None]
    found, expected = features(drawn), features(proposed)
    # The self-normalised estimate of a mean has the error of the weighted deviations from it.
    mean = (weights * expected).mean(0) / weights.mean()
    error = (weights * (expected - mean)).std(0) / len(proposed) ** 0.5
    error = torch.hypot(error, found.std(0) / len(drawn) ** 0.5)
    assert bool((error < 0.02 * found.std(0)).all())
    assert bool(((found.mean(0) - mean).abs() < 4.5 * error).all())


def test_mean_log_density_of_draws_is_minus_the_entropy(weighed):
    theta, _, components, log_q = weighed
    log_p = components.logsumexp(1)
    weights = (log_p - log_q).exp()
    entropy = -(weights * log_p).mean() / weights.mean()
    error = float((weights * (log_p + entropy)).std()) / len(log_p) ** 0.5
    x = Galaxies().simulate(theta.expand(200_000, 4), generator(2, "x"))
    nll, drawn_error = mean_and_error(-Galaxies().true_log_prob(x, theta))
    assert abs(nll - float(entropy)) < 4 * math.hypot(error, drawn_error) < 0.1


def standard_motion(x, theta):
    """``(N, 3, 3)``: a velocity along R, phi and z over its dispersion there, as if the star were of each component."""
    p, zero = Proposal(theta), torch.zeros(len(x), dtype=torch.float64)
    square = x[:, :2].square().sum(1)
    radius, turn = square.sqrt(), square + (0.6 * p.length) ** 2
    outward = (x[:, :2] * x[:, 3:5]).sum(1) / radius
    around = (x[:, 0] * x[:, 4] - x[:, 1] * x[:, 3]) / radius
    sigma = p.speed * (0.12 + 0.25 * (-0.5 * (square + 0.25 * p.length**2).sqrt() / p.length).exp())
    disc = [
        (zero, sigma),
        (p.speed * radius / turn.sqrt(), sigma * (1 - 0.5 * square / turn).sqrt()),
        (zero, 0.6 * sigma),
    ]
    found = [[(v - mean) / s for v, (mean, s) in zip((outward, around, x[:, 5]), disc, strict=True)]]
    for size, dispersion in ((p.size[1], 0.6), (p.size[2], 0.55)):
        s = dispersion * p.speed * (1 + x[:, :3].square().sum(1) / size**2) ** -0.25
        found.append([v / s for v in (outward, around, x[:, 5])])
    return torch.stack([torch.stack(row, 1) for row in found], 1)


@pytest.mark.parametrize("theta", GALAXIES, ids=["middle", "large", "small"])
def test_velocities_of_a_component_are_normal_about_its_rotation(theta):
    x = Galaxies().simulate(theta.expand(1000, 4), generator(5, "x"))
    other = x.clone()
    other[:, 3:6] = x[:, 3:6].roll(1, 0)  # at the same place with the same metals, so all other factors are equal
    change = Galaxies().log_components(x, theta) - Galaxies().log_components(other, theta)
    expected = 0.5 * (standard_motion(other, theta).square() - standard_motion(x, theta).square()).sum(2)
    assert torch.allclose(change, expected, rtol=1e-9, atol=1e-7)
    # And drawn so: weighed by whose they are, the squares of the stars' motions have the mean one.
    x = Galaxies().simulate(theta.expand(200_000, 4), generator(6, "x"))
    share = Galaxies().log_components(x, theta).softmax(1)[..., None]
    away = share * (standard_motion(x, theta).square() - 1)
    error = away.std(0) / len(x) ** 0.5
    assert bool((away.mean(0).abs() < 4 * error).all())
    assert bool((error < 0.02 * share.mean(0)).all())


def test_rotating_a_galaxy_about_its_axis_leaves_the_density():
    x = Galaxies().simulate(MIDDLE.expand(1000, 4), generator(0, "x"))
    turn = torch.tensor([[0.6, 0.8], [-0.8, 0.6]], dtype=torch.float64)
    turned = x.clone()
    turned[:, :2], turned[:, 3:5] = x[:, :2] @ turn, x[:, 3:5] @ turn
    log_p = Galaxies().true_log_prob(torch.stack([x, turned]), MIDDLE)
    assert torch.allclose(log_p[0], log_p[1], atol=1e-9)
    # Mirrored, the galaxy would turn the other way.
    turned[:, :2], turned[:, 3:5] = x[:, :2].flip(1), x[:, 3:5].flip(1)
    assert float((log_p[0] - Galaxies().true_log_prob(turned, MIDDLE)).mean()) > 1


def test_metals_scatter_by_a_tenth_of_a_dex_about_iron_and_oxygen():
    # Of every component, so the residual of a mixture is that normal too: a Kolmogorov-Smirnov distance of it.
    x = Galaxies().simulate(LARGE.expand(50_000, 4), generator(3, "x"))
    residual = (x[:, 6].log10() - math.log10(SOLAR) - x[:, 7] - 0.7 * x[:, 8]) / 0.1
    u = Normal(0.0, 1.0).cdf(residual).sort().values
    rank = (torch.arange(len(u), dtype=torch.float64) + 0.5) / len(u)
    assert float((u - rank).abs().max()) < 1.95 / len(u) ** 0.5  # exceeded once in a thousand


def test_galaxies_are_what_their_parameters_say():
    x = Galaxies().simulate(torch.stack(GALAXIES).expand(50_000, 3, 4), generator(4, "x"))
    theta = torch.stack(GALAXIES)
    assert bool(((x[..., 9].median(0).values - theta[:, 1]).abs() < 0.3).all())
    assert bool(((x[..., 9].quantile(0.1, 0) - theta[:, 2]).abs() < 0.3).all())
    assert bool(((x[..., 7].mean(0) - theta[:, 3]).abs() < 0.05).all())
    middle, large, small = x[..., 3:6].norm(dim=-1).mean(0)
    assert small < middle < large
    middle, large, small = x[..., :2].norm(dim=-1).mean(0)
    assert small < middle < large


def test_density_and_its_gradients_are_finite_on_the_axis_and_far_away():
    x = Galaxies().simulate(MIDDLE.expand(3, 4), generator(0, "x"))
    x[0, :2], x[1, :3], x[2, :3] = 0, 0, torch.tensor([2000.0, -3000.0, 1000.0])
    theta = MIDDLE.clone()
    x.requires_grad_()
    theta.requires_grad_()
    log_p = Galaxies().true_log_prob(x, theta)
    log_p.sum().backward()
    assert bool(log_p.isfinite().all())
    assert bool(x.grad.isfinite().all())
    assert bool(theta.grad.isfinite().all())
    assert bool((theta.grad != 0).all())


def test_no_star_is_older_than_the_universe_or_free_of_metals():
    x = Galaxies().simulate(MIDDLE.expand(4, 4), generator(0, "x"))
    x[0, 9], x[1, 9], x[2, 6] = -0.1, AGE, 0
    x.requires_grad_()
    log_p = Galaxies().true_log_prob(x, MIDDLE)
    assert log_p[:3].tolist() == [-math.inf] * 3
    log_p[3].backward()
    assert bool(x.grad.isfinite().all())


def test_density_of_a_star_does_not_depend_on_the_batch(monkeypatch):
    data = Galaxies(num_galaxies=5, stars_per_galaxy=20).load()
    context = data.context[data.context_index]
    together = data.true_log_prob(data.x, context)
    assert torch.equal(data.true_log_prob(data.x[7:8], context[7:8]), together[7:8])
    assert torch.equal(data.true_log_prob(data.x[7], context[7]), together[7])
    monkeypatch.setattr("flowzoo.data.galaxies._CHUNK", 3)
    assert torch.equal(data.true_log_prob(data.x, context), together)
    assert torch.equal(data.true_log_prob(data.x.reshape(4, 25, 10), context.reshape(4, 25, 4)).flatten(), together)


def test_every_star_has_a_density_and_no_column_an_atom():
    data = Galaxies(num_galaxies=40, count_scatter=0.3, seed=5).load()
    assert bool(data.true_log_prob(data.x, data.context[data.context_index]).isfinite().all())
    for column in data.x.T:
        _, counts = torch.unique(column, return_counts=True)
        assert int(counts.max()) < 1e-3 * len(data)


def test_loading_is_simulating_at_the_parameters():
    config = Galaxies(num_galaxies=6, stars_per_galaxy=30, seed=2)
    data = config.load()
    assert torch.equal(data.x, config.simulate(data.context[data.context_index], generator(2, "x")))
    x = config.simulate(data.context.expand(2, 5, 6, 4), generator(2, "x"))
    assert x.shape == (2, 5, 6, 10)
    assert config.simulate(data.context[:0], generator(2, "x")).shape == (0, 10)


def test_counts_scatter_by_what_is_asked_and_a_group_is_a_galaxy():
    data = Galaxies(num_galaxies=400, stars_per_galaxy=100, count_scatter=0.3).load()
    counts = torch.bincount(data.groups)
    assert len(counts) == len(data.group_names) == len(data.context) == 400
    assert float(counts.double().log10().std()) == pytest.approx(0.3, abs=0.04)
    assert torch.equal(data.groups, data.context_index)
    assert torch.bincount(Galaxies(num_galaxies=3, stars_per_galaxy=7).load().groups).tolist() == [7, 7, 7]


def test_prior_is_uniform_about_the_mass_metallicity_relation():
    data = Galaxies(num_galaxies=512, stars_per_galaxy=1).load()
    volume = math.prod(high - low for low, high in zip(LOW, HIGH, strict=True))
    assert torch.allclose(
        data.references["prior"].log_prob(data.context), torch.full((512,), -math.log(volume)), atol=1e-5
    )
    outside = torch.tensor([[11.2, 6.0, 2.0, 0.0], [9.8, 6.0, 2.0, 0.0], [10.0, 4.0, 2.0, -0.4]])
    assert data.references["prior"].log_prob(outside).tolist() == [-math.inf] * 3
    # A scrambled Sobol sequence fills the box more evenly than independent draws would.
    unit = (data.context[:, :3] - torch.tensor(LOW[:3])) / (torch.tensor(HIGH[:3]) - torch.tensor(LOW[:3]))
    assert bool(((unit.mean(0) - 0.5).abs() < 0.005).all())
    # Of [Fe/H], 0.35 times the mass and the distance from the relation: variances 0.35^2 / 12 and 0.5^2 / 12.
    assert float(torch.corrcoef(data.context.T)[0, 3]) == pytest.approx(0.35 / math.hypot(0.35, 0.5), abs=0.01)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert bool(data.references["prior"].log_prob(data.references["prior"].sample((1000,))).isfinite().all())


def test_same_seed_gives_the_same_bits_and_another_seed_others():
    first, again, other = (Galaxies(num_galaxies=4, stars_per_galaxy=50, seed=s).load() for s in (1, 1, 2))
    assert torch.equal(first.x, again.x)
    assert torch.equal(first.context, again.context)
    assert not torch.equal(first.x, other.x)
    assert not torch.equal(first.context, other.context)


def test_drawing_leaves_the_global_generator_alone():
    before = torch.random.get_rng_state()
    Galaxies(num_galaxies=4, stars_per_galaxy=50, count_scatter=0.1).load()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_data_with_its_functions_can_be_sent_to_another_process():
    data = Galaxies(num_galaxies=4, stars_per_galaxy=5).load()
    copy, context = pickle.loads(pickle.dumps(data)), data.context[data.context_index]
    assert torch.equal(copy.true_log_prob(data.x, context), data.true_log_prob(data.x, context))
    assert torch.equal(copy.references["prior"].log_prob(context), data.references["prior"].log_prob(context))
    components = copy.references["components"](data.x, context)
    assert torch.allclose(components.logsumexp(-1), data.true_log_prob(data.x, context))


def test_galaxies_can_be_split_and_mapped_and_the_map_keeps_the_density():
    splits = Splits.make(configure("galaxies", {"num_galaxies": "20", "stars_per_galaxy": "200"}).load())
    x_map, _ = splits.maps()
    x = splits.train.x.double()
    u, log_det = x_map.double().to_latent(x)
    assert torch.allclose(u.mean(0), torch.zeros(10, dtype=torch.float64), atol=1e-4)
    assert float(u.abs().max()) < 12
    assert torch.allclose(x_map.to_data(u)[0], x, rtol=1e-6, atol=1e-6)
    step = 1e-6 * x.std(0)
    slopes = (x_map.to_latent(x + step)[0] - x_map.to_latent(x - step)[0]) / (2 * step)  # each column on its own
    assert torch.allclose(slopes.log(), log_det, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_galaxies": 0}, "num_galaxies must be at least 1; got 0"),
        ({"stars_per_galaxy": 0}, "stars_per_galaxy must be at least 1; got 0"),
        ({"count_scatter": -0.1}, "count_scatter must be a number of dex, 0 or more; got -0.1"),
        ({"count_scatter": math.nan}, "count_scatter must be"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Galaxies(**options).load()


def test_a_misspelt_option_is_refused_with_the_right_ones():
    with pytest.raises(ConfigError, match="num_galaxies"):
        configure("galaxies", {"galaxies": "3"})


def test_shapes_and_parameters_of_no_galaxy_are_refused():
    x = Galaxies().simulate(MIDDLE, generator(0, "x"))
    with pytest.raises(ValueError, match=r"x must end in \(10,\).*got \(9,\)"):
        Galaxies().true_log_prob(x[:9], MIDDLE)
    with pytest.raises(ValueError, match=r"theta must end in \(4,\).*got \(3,\)"):
        Galaxies().simulate(MIDDLE[:3], generator(0, "x"))
    for tau50, tau10 in ((2.0, 3.0), (14.0, 2.0), (6.0, 0.0), (math.nan, 2.0)):
        theta = torch.tensor([[10.0, tau50, tau10, 0.0], [10.0, 6.0, 2.0, 0.0]])
        with pytest.raises(ValueError, match=r"0 < tau10 < tau50 < 13\.8 Gyr; 1 of 2 rows"):
            Galaxies().simulate(theta, generator(0, "x"))
