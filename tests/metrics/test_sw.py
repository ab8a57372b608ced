"""Sliced Wasserstein: the exact distance of two samples, beside what two real samples would show."""

import math

import pytest
import torch
from scipy.stats import wasserstein_distance

from flowzoo.config import ConfigError
from flowzoo.metrics import Clouds, configure
from flowzoo.metrics.sw import sliced_wasserstein
from flowzoo.seeding import generator


def normal(count, columns, name="x"):
    return torch.randn(count, columns, generator=generator(0, name), dtype=torch.float64)


def directions(columns, count=20):
    d = normal(columns, count, "directions")
    return d / d.norm(dim=0)


# -- the distance ---------------------------------------------------------------------------------------------------


def test_a_sample_has_no_distance_to_itself_in_any_order():
    a = normal(200, 3)
    assert float(sliced_wasserstein(a, a.flip(0), directions(3))) < 1e-15  # products of matrices may round by the row


@pytest.mark.parametrize(("n", "m"), [(50, 50), (50, 70), (3, 1000), (1, 7), (64, 96), (5000, 4999)])
def test_sizes_may_differ_and_each_direction_is_scipys_distance(n, m):
    a, b = normal(n, 4, "a"), 1.5 * normal(m, 4, "b") + 0.3
    for d in directions(4, 5).T:
        expected = wasserstein_distance((a @ d).numpy(), (b @ d).numpy())
        assert float(sliced_wasserstein(a, b, d[:, None])) == pytest.approx(expected, rel=1e-9)


def test_directions_are_averaged():
    a, b, d = normal(30, 4, "a"), normal(40, 4, "b"), directions(4)
    each = [float(sliced_wasserstein(a, b, d[:, i : i + 1])) for i in range(20)]
    assert float(sliced_wasserstein(a, b, d)) == pytest.approx(sum(each) / 20)


def test_shift_of_a_sample_is_its_distance():
    a = normal(300, 1)
    assert float(sliced_wasserstein(a, a + 0.7, torch.ones(1, 1).double())) == pytest.approx(0.7)


def test_distance_of_two_normals_is_the_known_one():
    # W1 of N(0, 1) and N(0, s^2) is |s - 1| E|z|; of N(0, 1) and N(m, 1) it is |m|
    one = torch.ones(1, 1).double()
    a, b = normal(40_000, 1, "a"), normal(40_000, 1, "b")
    assert float(sliced_wasserstein(a, 3 * b, one)) == pytest.approx(2 * math.sqrt(2 / math.pi), abs=0.03)
    assert float(sliced_wasserstein(a, b - 2, one)) == pytest.approx(2, abs=0.03)


def test_shift_in_many_dimensions_is_seen_at_the_mean_cosine():
    # along a random direction the shift m e_1 shows as m |cos|, whose mean is Gamma(D/2) / (sqrt(pi) Gamma((D+1)/2))
    a, d = normal(50, 5), directions(5, 20_000)
    shifted = a + torch.tensor([2.0, 0, 0, 0, 0])
    expected = 2 * math.gamma(2.5) / (math.sqrt(math.pi) * math.gamma(3))
    assert float(sliced_wasserstein(a, shifted, d)) == pytest.approx(expected, rel=0.02)


def test_single_precision_does_not_drift():
    a, b, d = normal(3001, 3, "a"), normal(2000, 3, "b"), directions(3)
    exact = float(sliced_wasserstein(a, b, d))
    assert float(sliced_wasserstein(a.float(), b.float(), d.float())) == pytest.approx(exact, rel=1e-5)


# -- the metric -----------------------------------------------------------------------------------------------------


@pytest.fixture
def sw(fields):
    """Of halves of real and drawn points, ``(K, 2, m, D)`` each."""

    def of(real, drawn, seed=0, **options):
        none = torch.zeros(0)
        clouds = Clouds(real, drawn, torch.arange(len(real)), none, none, none)
        evaluation = fields.evaluation(torch.zeros(1, 2, 1), None, seed, clouds=clouds)
        return configure("sw", {"num_projections": 64} | options)(evaluation)

    return of


def halves(count, columns, name):
    return normal(2 * count, columns, name).reshape(1, 2, count, columns)


def test_flow_without_fault_is_near_the_floor_neither_above_nor_below(sw):
    ratios = []
    for seed in range(12):
        found = sw(halves(300, 3, f"real{seed}"), halves(300, 3, f"drawn{seed}"))
        ratios.append(found["sw"] / found["sw_floor"])
    mean = sum(ratios) / len(ratios)
    spread = (sum((r - mean) ** 2 for r in ratios) / (len(ratios) - 1)) ** 0.5
    assert mean == pytest.approx(1, abs=4 * spread / len(ratios) ** 0.5)
    assert mean == pytest.approx(1, abs=0.2)


def test_wrong_flow_is_far_from_the_floor(sw):
    found = sw(halves(300, 3, "a"), 2 * halves(300, 3, "b"))
    assert found["sw"] > 5 * found["sw_floor"]


def test_shift_of_the_draws_is_their_distance_in_training_spreads(sw):
    found = sw(halves(4000, 1, "a"), halves(4000, 1, "b") + 1.5)
    assert found["sw"] == pytest.approx(1.5, abs=0.05)
    assert found["sw_floor"] < 0.05


def test_directions_are_the_same_for_every_model_and_cell(sw):
    real, drawn = halves(50, 2, "a"), halves(50, 2, "b")
    assert sw(real, drawn, seed=1)["sw"] == sw(real, drawn, seed=2)["sw"]
    # The sign of a direction does not matter, nor that of all points.
    assert sw(-real, -drawn)["sw"] == pytest.approx(sw(real, drawn)["sw"])


def test_five_hundred_directions_leave_little_noise():
    few, many = configure("sw", {}), configure("sw", {"num_projections": 20_000})
    assert few.num_projections == 500
    a, b = normal(400, 5, "a"), 1.5 * normal(400, 5, "b")
    values = [float(sliced_wasserstein(a, b, directions(5, c.num_projections))) for c in (few, many)]
    assert values[0] == pytest.approx(values[1], rel=0.01)


def test_unknown_option_is_named():
    with pytest.raises(ConfigError, match="sw has no option 'projections': did you mean 'num_projections'"):
        configure("sw", {"projections": 3})
