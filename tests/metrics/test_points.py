"""What all point statistics have in common: the floor of an exact flow, faults that are seen, and reasons."""

import math

import pytest
import torch

from flowzoo.metrics import Clouds, NotComputed, columns, configure
from flowzoo.metrics import _points as points
from flowzoo.seeding import generator

COLUMNS = {
    "sw": ["sw"],
    "mmd": ["mmd"],
    "energy": ["energy"],
    "ks": ["ks"],
    "correlation": ["correlation_error"],
    "c2st": ["c2st"],
    "pqmass": ["pqm_chi2"],
    "prdc": ["precision", "recall", "density", "coverage"],
}
METRICS = list(COLUMNS)


def normal(*shape, name="x"):
    return torch.randn(*shape, generator=generator(0, name), dtype=torch.float64)


def clouds(real, drawn, **changes):
    nothing = {
        "groups": torch.arange(len(real)),
        "context": torch.zeros(len(real), 1),
        "population": torch.zeros(0, 0, real.shape[-1]),
        "population_context": torch.zeros(0, 1),
    }
    return Clouds(real, drawn, **nothing | changes)


@pytest.fixture
def take(fields):
    """A metric of clouds."""

    def of(name, found, options=None, **changes):
        return configure(name, options or {})(fields.evaluation(torch.zeros(1, 2, 1), None, clouds=found, **changes))

    return of


def two_modes(*shape, share, name):
    """A share of the points four spreads away, along all columns, from the others."""
    chosen = torch.rand(shape[:-1], generator=generator(0, name, "mode")) < share
    return normal(*shape, name=name) + 4 * chosen[..., None]


def correlated(*shape, r, name):
    x = normal(*shape, name=name)
    return torch.cat([x[..., :1], r * x[..., :1] + math.sqrt(1 - r * r) * x[..., 1:2], x[..., 2:]], -1)


# Real and drawn clouds by name of the fault, the drawn ones made from a name.
FAULTS = {
    "none": (normal, normal),
    "shift": (normal, lambda *s, name: normal(*s, name=name) + 0.6),
    "scale": (normal, lambda *s, name: 2 * normal(*s, name=name)),
    "narrow": (normal, lambda *s, name: 0.5 * normal(*s, name=name)),
    "dropped": (
        lambda *s, name: two_modes(*s, share=0.4, name=name),
        lambda *s, name: two_modes(*s, share=0.0, name=name),
    ),
    "correlation": (
        lambda *s, name: correlated(*s, r=0.95, name=name),
        lambda *s, name: correlated(*s, r=0.0, name=name),
    ),
}


def values(take, metric, fault, repeats, shape=(2, 2, 100, 3)):
    """Value less floor, and floor, of each column over repeats: ``(repeats, columns)`` each."""
    real, drawn = FAULTS[fault]
    found = []
    for seed in range(repeats):
        found.append(take(metric, clouds(real(*shape, name=f"real{seed}"), drawn(*shape, name=f"drawn{seed}"))))
    floor = torch.tensor([[f[f"{c}_floor"] for c in COLUMNS[metric]] for f in found], dtype=torch.float64)
    return torch.tensor([[f[c] for c in COLUMNS[metric]] for f in found], dtype=torch.float64) - floor, floor


# -- the comparison ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
def test_flow_without_fault_is_at_its_floor(take, metric):
    repeats = 12 if metric == "c2st" else 24
    above, _ = values(take, metric, "none", repeats, (1, 2, 60, 3) if metric == "c2st" else (2, 2, 100, 3))
    error = above.std(0) / repeats**0.5
    assert (above.mean(0).abs() < 3.5 * error).all(), (above.mean(0), error)


SEEN = [
    *[(m, "shift", m_columns) for m, m_columns in COLUMNS.items() if m not in ("correlation", "prdc")],
    *[(m, "scale", m_columns) for m, m_columns in COLUMNS.items() if m not in ("correlation", "prdc")],
    *[(m, "dropped", m_columns) for m, m_columns in COLUMNS.items() if m != "prdc"],
    *[(m, "correlation", COLUMNS[m]) for m in ("mmd", "energy", "correlation", "c2st", "pqmass")],
    ("prdc", "scale", ["precision", "density", "coverage"]),  # draws where nothing is
    ("prdc", "narrow", ["recall"]),
    ("prdc", "dropped", ["recall", "coverage"]),
    ("prdc", "correlation", ["precision", "density", "coverage"]),
]


@pytest.fixture(scope="module")
def without_fault():
    """Floors by metric, computed once."""
    return {}


@pytest.mark.parametrize(("metric", "fault", "seen"), SEEN)
def test_fault_is_seen(take, without_fault, metric, fault, seen):
    above, floor = values(take, metric, fault, 3, (2, 2, 300, 3))
    if metric not in without_fault:
        without_fault[metric] = values(take, metric, "none", 3, (2, 2, 300, 3))[1]
    of_none = without_fault[metric]
    scatter = max(float(of_none.std(0).max()), float(floor.std(0).max()))
    worse = -1 if metric == "prdc" else 1
    for i, column in enumerate(COLUMNS[metric]):
        if column in seen:
            assert (worse * above[:, i] > 4 * scatter).all(), (column, above[:, i], scatter)


@pytest.mark.parametrize(
    ("metric", "fault"), [("ks", "correlation"), ("correlation", "shift"), ("correlation", "scale")]
)
def test_what_a_statistic_is_blind_to_leaves_it_at_its_floor(take, metric, fault):
    above, _ = values(take, metric, fault, 24)
    assert (above.mean(0).abs() < 3.5 * above.std(0) / 24**0.5).all()


@pytest.mark.parametrize("metric", ["sw", "energy", "ks", "correlation"])
def test_flow_that_repeats_the_test_events_is_not_below_the_floor(take, metric):
    # draws are compared with the other half, so copies gain nothing
    real = normal(3, 2, 50, 2)
    found = take(metric, clouds(real, real))
    for column in COLUMNS[metric]:
        assert found[column] == pytest.approx(found[f"{column}_floor"])


def test_value_is_the_mean_of_both_comparisons_and_the_floor_one_of_real_halves():
    real, drawn = torch.tensor([[[1.0], [10.0]]])[..., None], torch.tensor([[[100.0], [1000.0]]])[..., None]
    value, floor = points.compare(clouds(real, drawn), lambda a, b: 2 * a.sum() + b.sum())
    assert value.tolist() == [(2 * 1 + 1000 + 2 * 10 + 100) / 2]
    assert floor.tolist() == [2 * 1 + 10]


@pytest.mark.parametrize("metric", METRICS)
def test_columns_are_means_over_clouds_and_each_group_keeps_its_own(take, metric):
    labels = torch.tensor([7, 3, 5])
    drawn = normal(3, 2, 60, 2, name="drawn")
    drawn[1] += 3  # one galaxy is wrong
    found = take(metric, clouds(normal(3, 2, 60, 2), drawn, groups=labels))
    assert torch.equal(found["group"], labels)
    names = COLUMNS[metric]
    for kept, suffix in (("by_group", ""), ("floor_by_group", "_floor")):
        by_group = found[kept].reshape(3, len(names))
        assert by_group.mean(0).tolist() == pytest.approx([found[name + suffix] for name in names])
    # The wrong one is told from the others by its value and not by its floor.
    value, floor = found["by_group"].reshape(3, -1)[:, -1], found["floor_by_group"].reshape(3, -1)[:, -1]
    if metric != "correlation":
        assert (value - floor).abs().argmax() == 1
    # Each group is what it would be alone.
    alone = take(metric, clouds(normal(3, 2, 60, 2)[1:2], drawn[1:2], groups=labels[1:2]))
    assert torch.allclose(alone["by_group"], found["by_group"][1:2])


@pytest.mark.parametrize("metric", METRICS)
def test_one_cloud_of_all_test_events_has_no_groups(take, metric):
    found = take(metric, clouds(normal(1, 2, 40, 2), normal(1, 2, 40, 2, name="d"), groups=torch.zeros(0)))
    assert len(found["group"]) == 0
    assert len(found["by_group"]) == len(found["floor_by_group"]) == 1


@pytest.mark.parametrize("metric", METRICS)
def test_numbers_repeat_whatever_the_seed_of_the_cell_and_use_no_process_wide_randomness(take, metric):
    found = clouds(normal(1, 2, 40, 2), normal(1, 2, 40, 2, name="d"))
    before = torch.get_rng_state()
    first = take(metric, found)
    second = take(metric, found, generator=generator(1, "metrics"))
    assert [first[c] for c in COLUMNS[metric]] == [second[c] for c in COLUMNS[metric]]
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("metric", ["sw", "mmd", "energy", "c2st", "pqmass", "prdc"])
def test_points_beyond_the_limit_are_left_out(take, metric):
    real, drawn = normal(1, 2, 80, 2), normal(1, 2, 80, 2, name="d") + 0.3
    limited = take(metric, clouds(real, drawn), {"max_points": 40})
    first = take(metric, clouds(real[:, :, :40], drawn[:, :, :40]))
    assert [limited[c] for c in COLUMNS[metric]] == pytest.approx([first[c] for c in COLUMNS[metric]])
    assert limited != take(metric, clouds(real, drawn))


@pytest.mark.parametrize("metric", METRICS)
def test_one_column_and_single_precision_are_enough(take, metric):
    real, drawn = normal(1, 2, 60, 1), normal(1, 2, 60, 1, name="d") + 0.5
    if metric == "correlation":
        with pytest.raises(NotComputed, match="one column has no correlations"):
            take(metric, clouds(real, drawn))
        real, drawn = (normal(1, 2, 60, 2, name=name) for name in "rd")
    exact = take(metric, clouds(real, drawn))
    found = take(metric, clouds(real.float(), drawn.float()))
    for column in COLUMNS[metric]:
        assert found[column] == pytest.approx(exact[column], rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("metric", METRICS)
def test_constant_columns_and_far_outliers_leave_numbers(take, metric):
    real, drawn = normal(1, 2, 60, 3), normal(1, 2, 60, 3, name="d")
    real[..., 1] = drawn[..., 1] = 0.3
    drawn[0, 0, 0, 0] = 1e12
    found = take(metric, clouds(real, drawn))
    assert all(math.isfinite(found[c]) and math.isfinite(found[f"{c}_floor"]) for c in COLUMNS[metric])


# -- reasons ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
def test_what_cannot_be_computed_has_its_reason(take, metric):
    with pytest.raises(NotComputed, match=r"^it takes 784 passes$"):
        take(metric, None, clouds_missing="it takes 784 passes")
    real = normal(2, 2, 50, 3)
    drawn = real.clone()
    drawn[0, 1, 3, 0], drawn[1, 0, 4, 1], drawn[1, 0, 4, 2] = math.nan, math.inf, math.nan
    with pytest.raises(NotComputed, match=r"^2 of 200 draws are not finite$"):
        take(metric, clouds(real, drawn))


@pytest.mark.parametrize(
    ("metric", "least"), [("mmd", 2), ("energy", 2), ("correlation", 3), ("c2st", 20), ("prdc", 6)]
)
def test_too_few_points_are_counted(take, metric, least):
    real, drawn = normal(1, 2, least, 2), normal(1, 2, least, 2, name="d")
    assert take(metric, clouds(real, drawn))
    with pytest.raises(NotComputed, match=f"^{least - 1} points in half a cloud; {least} are needed for "):
        take(metric, clouds(real[:, :, 1:], drawn[:, :, 1:]))


def test_every_column_is_declared_with_its_floor(take):
    declared = columns()
    for metric, names in COLUMNS.items():
        found = take(metric, clouds(normal(1, 2, 40, 2), normal(1, 2, 40, 2, name="d")))
        numbers = {key for key, value in found.items() if isinstance(value, float)}
        # c2st has columns of reference posteriors too, and says why they are empty.
        numbers |= {key for key, value in found.items() if isinstance(value, str)}
        assert numbers == {column.name for column in configure(metric, {}).columns}
        for name in names:
            assert declared[name].floor == f"{name}_floor"
            assert declared[f"{name}_floor"].better == "none"


# -- pairs ------------------------------------------------------------------------------------------------------------


def test_means_over_pairs_are_those_of_loops_in_any_chunks(monkeypatch):
    a, b = normal(7, 3, name="a") + 100, normal(5, 3, name="b") + 100

    def f(distance):
        return 1 + distance.square()

    cross = sum(float(f((x - y).norm())) for x in a for y in b) / 35
    within = sum(float(f((a[i] - a[j]).norm())) for i in range(7) for j in range(7) if i != j) / 42
    for size in (1, 12, 10**6):
        monkeypatch.setattr(points, "PAIRS", size)
        assert float(points.mean_over_pairs(f, a, b)) == pytest.approx(cross)
        assert float(points.mean_within(f, a)) == pytest.approx(within)
        assert sum(len(part) for _, part in points.distances(a, b)) == 7


@pytest.mark.parametrize("metric", METRICS)
def test_images_of_thousands_of_pixels_have_a_sliced_distance_alone(take, metric):
    wide = normal(1, 2, 50, points.WIDEST + 1)
    if metric == "sw":
        assert take(metric, clouds(wide, wide.flip(2)))["sw"] > 0
        return
    with pytest.raises(NotComputed, match=r"^1025 columns; .* looks at 1024 at most$"):
        take(metric, clouds(wide, wide))


@pytest.mark.parametrize("metric", METRICS)
def test_test_events_that_are_not_finite_are_counted(take, metric):
    real = normal(1, 2, 50, 2)
    real[0, 1, 3, 0] = math.nan
    with pytest.raises(NotComputed, match=r"^1 of 100 test events are not finite$"):
        take(metric, clouds(real, normal(1, 2, 50, 2, name="d")))


@pytest.mark.parametrize("far", [1e9, 1e30])
def test_one_wild_draw_costs_other_distances_no_digits(far):
    """About their mean all others were one point: of such draws MMD said that they are nearer than real ones."""
    real, drawn = torch.randn(2, 100, 3, generator=generator(0, "wild"), dtype=torch.float64)
    drawn[7] = far
    for a, b in ((real, drawn), (drawn, real), (drawn, drawn)):
        exact = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
        ((_, found),) = points.distances(a, b)
        other = exact > 0  # than a point and itself
        torch.testing.assert_close(found[other], exact[other], rtol=1e-9, atol=1e-6)
