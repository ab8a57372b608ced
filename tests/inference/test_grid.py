"""The adaptive grid against dense quadrature: narrow, wide, cut, curved and of several modes, in few evaluations."""

import math

import pytest
import torch
from scipy.stats import kstest, norm, truncnorm
from torch.distributions import MultivariateNormal, Normal

from flowzoo.data.two_moons import TwoMoons
from flowzoo.inference import Posterior, _grid, _tile_draws
from flowzoo.inference._grid import grid
from flowzoo.seeding import generator

L = 20_000


def box(dim):
    return torch.zeros(dim).double(), torch.ones(dim).double()


def at(*values):
    return torch.tensor(values).double()


def ring(v):
    return -0.5 * (((v - 0.5).norm(dim=-1) - 0.3) / 0.02) ** 2


def banana(v):
    x, y = v.unbind(-1)
    return -0.5 * ((x - 0.5) / 0.15) ** 2 - 0.5 * ((y - 0.3 - 4 * (x - 0.5) ** 2) / 0.03) ** 2


def two_modes(v):
    one, other = Normal(at(0.2, 0.3), 0.015).log_prob(v).sum(-1), Normal(at(0.83, 0.71), 0.01).log_prob(v).sum(-1)
    return torch.logaddexp(one, other - 1)


def student(v):
    return -2 * torch.log1p(((v - 0.437) / 0.02).square().sum(-1))


def cut(v):
    return torch.where(v[..., 0] < 0.537, Normal(0.5, 0.05).log_prob(v).sum(-1), -math.inf)


CASES = {
    "wide": (1, lambda v: Normal(0.3, 2.0).log_prob(v).sum(-1)),
    "narrow pair": (
        1,
        lambda v: torch.logaddexp(Normal(0.31, 0.005).log_prob(v), Normal(0.77, 0.003).log_prob(v)).sum(-1),
    ),
    "kink": (1, lambda v: -(v - 0.6123).abs().sum(-1) / 0.003),
    "beyond the edge": (1, lambda v: Normal(-0.02, 0.05).log_prob(v).sum(-1)),
    "cut": (1, cut),
    "flat": (2, lambda v: torch.zeros(v.shape[:-1]).double()),
    "banana": (2, banana),
    "ring": (2, ring),
    "two modes": (2, two_modes),
    "heavy tails": (2, student),
    "three": (3, lambda v: Normal(at(0.3, 0.4, 0.5), at(0.05, 0.04, 0.1)).log_prob(v).sum(-1)),
}


@pytest.mark.parametrize("name", CASES)
def test_grid_agrees_with_dense_quadrature(name):
    dim, density = CASES[name]
    many = {1: 100_001, 2: 1001, 3: 101}[dim]
    # Midpoints, so that an edge counts as it should.
    axis = (torch.arange(many, dtype=torch.float64) + 0.5) / many
    points = torch.cartesian_prod(*[axis] * dim).reshape(-1, dim)
    heights = density(points)
    integral = heights.logsumexp(0) - dim * math.log(many)
    weights = torch.softmax(heights, 0)
    mean = weights @ points
    sd = (weights @ (points - mean).square()).sqrt()
    found = grid(lambda v, rows: density(v), *box(dim), 2, L, generator(0, "g"))
    assert float(found.error.max()) < 0.01
    assert float((found.log_integral - integral).abs().max()) < 0.01
    v, own = found.v, found.log_density - found.log_integral
    # Total variation, by draws of the one: E |1 - p/q| / 2
    true = density(v.transpose(0, 1)).T - integral
    assert float((1 - (true - own).exp()).abs().mean()) / 2 < 0.01
    # 4.5 standard errors of mean and spread, beside the 1 % that is promised; the kurtosis of heavy tails is bounded
    # by the box.
    kurtosis = float((((v - v.mean((0, 1))) / v.std((0, 1))) ** 4).mean((0, 1)).max())
    assert float(((v.mean((0, 1)) - mean) / sd).abs().max()) < 0.01 + 4.5 / math.sqrt(2 * L)
    assert float((v.std((0, 1)) / sd - 1).abs().max()) < 0.01 + 4.5 * math.sqrt((kurtosis - 1) / 4 / (2 * L))
    # Draws do not lie on a lattice.
    assert len(v[:, 0, 0].unique()) > 0.99 * L


@pytest.mark.parametrize(("sd", "correlation"), [(0.02, 0.0), (0.02, 0.9), (0.02, 0.99), (0.005, 0.9), (0.05, 0.9)])
def test_two_parameters_to_a_percent_need_far_fewer_evaluations_than_30_by_30(sd, correlation):
    covariance = sd**2 * torch.tensor([[1.0, correlation], [correlation, 1.0]]).double()
    centre = 0.3 + 0.4 * torch.rand(8, 2, generator=generator(0, "c"), dtype=torch.float64)

    def density(v, rows):
        rows = torch.arange(8) if rows is None else rows
        return MultivariateNormal(centre[rows][:, None], covariance).log_prob(v)

    found = grid(density, *box(2), 8, L, generator(0, "g"))
    assert int(found.evaluations.max()) < 450 + 128
    assert float(found.log_integral.abs().max()) < 2e-3
    assert float(((found.v.mean(0) - centre) / sd).abs().max()) < 4.5 / math.sqrt(L)
    assert float((found.v.std(0) / sd - 1).abs().max()) < 4.5 / math.sqrt(2 * L)


def test_observations_are_refined_each_for_itself():
    centre, sd = at(0.2, 0.5, 0.8), at(3.0, 0.05, 0.001)

    def density(v, rows):
        rows = torch.arange(3) if rows is None else rows
        return Normal(centre[rows][:, None], sd[rows][:, None]).log_prob(v[..., 0])

    found = grid(density, *box(1), 3, 1000, generator(0, "g"))
    assert abs(float(found.v[:, 2].std()) / 0.001 - 1) < 4.5 / math.sqrt(2000)
    assert abs(float(found.v[:, 2].mean()) - 0.8) < 4.5 * 0.001 / math.sqrt(1000)
    assert int(found.evaluations[0]) < int(found.evaluations[2])


def test_observations_may_be_cut_into_groups(monkeypatch):
    def density(v, rows):
        rows = torch.arange(7) if rows is None else rows
        centre = 0.2 + 0.08 * rows.double()[:, None]
        return torch.logaddexp(Normal(centre, 0.03).log_prob(v[..., 0]), Normal(0.9, 0.01).log_prob(v[..., 0]))

    whole, told = grid(density, *box(1), 7, 300, generator(0, "g")), []
    monkeypatch.setattr(_grid, "GROUP", 3 * _grid.MOST[1])
    parts = grid(density, *box(1), 7, 300, generator(0, "g"), tell=lambda done, text: told.append(done))
    assert told == [3, 6, 7]
    torch.testing.assert_close(parts.v, whole.v, atol=1e-9, rtol=0)
    torch.testing.assert_close(parts.log_integral, whole.log_integral, atol=1e-9, rtol=0)
    assert torch.equal(parts.evaluations, whole.evaluations)


def test_mode_between_the_nodes_is_found_by_a_scout():
    # A narrow mode with nothing around it, beside a wide one that the first nodes see: no polynomial points to it.
    centre = torch.rand(40, 2, generator=generator(0, "c"), dtype=torch.float64) * 0.9 + 0.05

    def density(v, rows):
        rows = torch.arange(40) if rows is None else rows
        far = ((v - centre[rows][:, None]) / 0.017).square().sum(-1)
        narrow = torch.where(far < 36, -0.5 * far - 2 * math.log(0.017), -math.inf)
        return torch.logaddexp(-0.5 * ((v - 0.4) / 0.1).square().sum(-1) - 2 * math.log(0.1), narrow)

    found = grid(density, *box(2), 40, 2000, generator(0, "g"))
    near = ((found.v - centre) / 0.017).norm(dim=-1) < 6
    # Half of the mass is narrow, and of the wide mode some lies in the disc as well (at most 1 - exp(-1.02^2 / 2),
    # 0.41). The disc, of radius 0.102, holds four of 128 scouts.
    share = near.double().mean(0)
    error = 0.01 + 4.5 * 0.5 / math.sqrt(2000)
    assert float(share.min()) > 0.5 - error
    assert float(share.max()) < 0.5 + 0.41 / 2 + error


class Moons:
    """The simulator's own density, zero but around two crescents."""

    event_shape = context_shape = torch.Size((2,))

    def log_prob(self, x, context):
        return TwoMoons().true_log_prob(x.double(), context.double())


@pytest.mark.slow
def test_both_moons_have_their_masses():
    data = TwoMoons(num_events=40, seed=1).load()
    x, many = data.x.double()[30:], 1000
    found = Posterior(Moons(), data.prior).sample(x, 2000, generator=generator(0, "moons"))
    axis = (torch.arange(many, dtype=torch.float64) + 0.5) / many * 2 - 1
    points = torch.cartesian_prod(axis, axis)
    upper = points.sum(1) > 0
    for k in range(10):
        heights = TwoMoons().true_log_prob(x[k].expand(len(points), 2), points).exp()
        share, mean = float(heights[upper].sum() / heights.sum()), float(heights.mean())
        drawn = float((found.theta[:, k].sum(1) > 0).double().mean())
        # A binomial error, and what the grid says of its own, which is of the total variation.
        error = float(found.diagnostics["error"][k])
        assert error < 0.05
        assert abs(drawn - share) < error + 4.5 * math.sqrt(share * (1 - share) / 2000) + 1e-3
        # The quadrature's own error: cells of 0.002 at the edge of crescents of width 0.01.
        assert abs(float(found.log_evidence[k]) - math.log(mean)) < 0.02


@pytest.mark.parametrize("sd", [0.01, 1e-4])  # in this order: of what fills the memory with 1e-4 the first has too much
def test_thin_sheet_is_cut_along_its_thin_side_alone(monkeypatch, sd):
    cut = []

    def counted(*arguments):
        tiles, origin = smooth(*arguments)
        cut.append(len(origin))
        return tiles, origin

    smooth = _tile_draws.smooth
    monkeypatch.setattr(_tile_draws, "smooth", counted)

    def density(v, rows):
        return Normal(0.37, sd).log_prob(v[..., 1]) + Normal(0.6, 0.3).log_prob(v[..., 2])

    found = grid(density, *box(3), 1, L, generator(0, "g"))
    assert max(cut) < 1000
    inside = Normal(0.6, 0.3).cdf(torch.tensor(1.0)) - Normal(0.6, 0.3).cdf(torch.tensor(0.0))
    assert float(found.log_integral) == pytest.approx(float(inside.log()), abs=2e-3)
    v = found.v[:, 0]
    assert kstest(v[:, 0].numpy(), "uniform").pvalue > 1e-4
    assert kstest(v[:, 1].numpy(), norm(0.37, sd).cdf).pvalue > 1e-4
    assert kstest(v[:, 2].numpy(), truncnorm(-2, 4 / 3, 0.6, 0.3).cdf).pvalue > 1e-4


def test_grid_that_runs_out_says_its_error():
    found = grid(lambda v, rows: ring(v), *box(2), 1, 100, generator(0, "g"), evaluations=200)
    assert int(found.evaluations) <= 200
    assert float(found.error) > 0.01


def test_grid_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="at most 3 parameters; got 4"):
        grid(lambda v, rows: v.sum(-1), *box(4), 1, 10, generator(0, "g"))
    with pytest.raises(ValueError, match="zero at every node of the first grid for 1 of 1"):
        grid(lambda v, rows: torch.full(v.shape[:-1], -math.inf).double(), *box(1), 1, 10, generator(0, "g"))
