"""Sliced Wasserstein: the exact distance of two samples, beside what two real samples would show."""

import math

import pytest
import torch
from scipy.stats import wasserstein_distance

from flowzoo.config import ConfigError
from flowzoo.metrics import Evaluation, NotComputed, configure
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
    assert float(sliced_wasserstein(a, a.flip(0), directions(3))) == 0


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


def evaluation(x, samples, seed=0, **changes):
    values = {
        "x": x,
        "context": torch.zeros(len(x), 1),
        "groups": torch.arange(len(x)),
        "scale": torch.ones(1),
        "log_prob": None,
        "scores": torch.zeros(len(x)),
        "samples": samples,
        "samples_missing": "",
        "true_scores": None,
        "step": None,
        "generator": generator(seed, "metrics"),
    }
    return Evaluation(**values | changes)


def sw(*args, options=None, **changes):
    return configure("sw", options or {"num_projections": 64})(evaluation(*args, **changes))


def test_flow_without_fault_is_near_the_floor_neither_above_nor_below():
    ratios = []
    for seed in range(12):
        real, drawn = normal(600, 3, f"real{seed}"), normal(600, 3, f"drawn{seed}")
        found = sw(real, drawn, seed)
        ratios.append(found["sw"] / found["sw_floor"])
    mean = sum(ratios) / len(ratios)
    spread = (sum((r - mean) ** 2 for r in ratios) / (len(ratios) - 1)) ** 0.5
    assert mean == pytest.approx(1, abs=4 * spread / len(ratios) ** 0.5)
    assert mean == pytest.approx(1, abs=0.2)


def test_wrong_flow_is_far_from_the_floor():
    found = sw(normal(600, 3, "a"), 2 * normal(600, 3, "b"))
    assert found["sw"] > 5 * found["sw_floor"]


def test_flow_that_repeats_the_test_events_is_not_below_the_floor():
    # draws are compared with the other half, so copies gain nothing
    x = normal(600, 3)
    found = sw(x, x)
    assert found["sw"] == pytest.approx(found["sw_floor"])


def test_unit_is_the_training_spread():
    x, drawn = normal(400, 2, "a"), normal(400, 2, "b")
    scale = torch.tensor([3.0, 100.0]).double()
    plain, scaled = sw(x, drawn), sw(x * scale, drawn * scale, scale=scale)
    assert scaled == pytest.approx(plain)


def test_groups_are_not_torn_apart():
    # each group is one point: were its events in both halves, the floor would be near zero
    groups = torch.arange(400) // 40
    x = normal(10, 2)[groups]
    assert sw(x, x, groups=groups)["sw_floor"] > 0.1


def test_images_are_flattened_and_scaled_per_channel():
    x, drawn = normal(200, 8, "a"), normal(200, 8, "b")
    scale = torch.tensor([2.0, 50.0]).double()[:, None, None]
    shaped = [t.reshape(200, 2, 2, 2) * scale for t in (x, drawn)]
    assert sw(*shaped, scale=scale) == pytest.approx(sw(x, drawn))


def test_fewer_draws_are_compared_with_as_many_events():
    x, drawn = normal(500, 2, "a"), normal(200, 2, "b")
    assert sw(x, drawn) == sw(x[:200], drawn)


def test_events_beyond_the_limit_are_left_out():
    x, drawn = normal(400, 2, "a"), normal(400, 2, "b")
    limited = sw(x, drawn, options={"num_projections": 64, "max_events": 20})
    assert limited["sw_floor"] > sw(x, drawn)["sw_floor"]


def test_generator_repeats():
    x, drawn = normal(100, 2, "a"), normal(100, 2, "b")
    assert sw(x, drawn, seed=1) == sw(x, drawn, seed=1)
    assert sw(x, drawn, seed=1) != sw(x, drawn, seed=2)


def test_what_cannot_be_computed_has_its_reason():
    x = normal(10, 2)
    with pytest.raises(NotComputed, match=r"^it takes 784 passes$"):
        sw(x, None, samples_missing="it takes 784 passes")
    drawn = x.clone()
    drawn[3, 0], drawn[4, 1] = math.nan, math.inf
    with pytest.raises(NotComputed, match=r"^2 of 10 draws are not finite$"):
        sw(x, drawn)
    with pytest.raises(NotComputed, match=r"^one test group: no second half to compare with$"):
        sw(x, x, groups=torch.zeros(10))


def test_unknown_option_is_named():
    with pytest.raises(ConfigError, match="sw has no option 'projections': did you mean 'num_projections'"):
        configure("sw", {"projections": 3})
