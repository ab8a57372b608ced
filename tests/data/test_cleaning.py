"""Cleaning: each step leaves out what it says, rotations find the plane, and all of it can be undone."""

import math

import numpy as np
import pytest
import torch

from flowzoo.config import ConfigError
from flowzoo.data._catalogue_files import Galaxy
from flowzoo.data._cleaning import Cleaned, Cleaning, ranges
from flowzoo.data._cleaning_record import record
from flowzoo.data._orientation import by_angular_momentum, by_inertia

POSITION, VELOCITY = ("x", "y", "z"), ("vx", "vy", "vz")
NAMES = (*POSITION, *VELOCITY, "mass", "Z")


def rotation(seed):
    """A random proper rotation."""
    q = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]
    return q * np.sign(np.linalg.det(q))


def disc(count=2000, seed=0, warp=0.3):
    """A thin, lopsided disc in the x-y plane that turns counter-clockwise: positions, velocities, masses."""
    rng = np.random.default_rng(seed)
    r = rng.normal(size=(count, 3)) * [3, 2, 0.1]
    r[:, 0] += warp * (r[:, 0] ** 2 - 9)  # a longer tail on the side of +x
    v = np.stack([-r[:, 1], r[:, 0], np.zeros(count)], 1) + 0.01 * rng.normal(size=(count, 3))
    return r, v, rng.uniform(1, 3, count)


def galaxy(r, v=None, m=None, z=None, name="g"):
    v = np.zeros_like(r) if v is None else v
    m = np.ones(len(r)) if m is None else m
    z = np.linspace(0, 0.1, len(r)) if z is None else z
    columns = dict(zip(NAMES, (*r.T, *v.T, m, z), strict=True))
    return Galaxy(name, f"{name}.npz", np.arange(len(r)), NAMES, columns)


def stack(result, names):
    return np.stack([result.galaxy.columns[name] for name in names], 1)


def clean(*parts, **options):
    options = {"position": POSITION, "velocity": VELOCITY, "metallicity": "Z", **options}
    return Cleaning(**options).clean(galaxy(*parts))


# -- orientation


@pytest.mark.parametrize("seed", range(6))
def test_tilted_rotating_disc_comes_back_with_its_angular_momentum_along_plus_z(seed):
    r, v, m = disc()
    tilt = rotation(seed)
    result = clean(r @ tilt.T, v @ tilt.T, m, mass="mass", rotate="angular_momentum")
    positions, velocities = stack(result, POSITION), stack(result, VELOCITY)
    spin = (m[:, None] * np.cross(positions, velocities)).sum(0)
    assert spin[2] == pytest.approx(np.linalg.norm((m[:, None] * np.cross(r, v)).sum(0)))
    assert np.abs(spin[:2]).max() < 1e-9 * spin[2]
    # the disc is thin along z again, to the tenth of a degree by which L and the plane differ
    assert positions[:, 2].std() < 0.12
    assert np.linalg.det(result.rotation) == pytest.approx(1)


@pytest.mark.parametrize("spin", [(0, 0, 1), (0, 0, -1), (1, 0, 0), (1e-9, 0, -1), (0.3, -0.4, -0.5)])
def test_rotation_by_angular_momentum_is_proper_wherever_it_points(spin):
    spin = np.array(spin, dtype=float)
    # one particle at r with v such that r x v = spin
    r = np.cross(spin, [0.1, 1.0, 0.2])
    v = np.cross(spin, r) / (r @ r)
    turn = by_angular_momentum(r[None], v[None], np.ones(1))
    assert np.allclose(turn @ turn.T, np.eye(3))
    assert np.linalg.det(turn) == pytest.approx(1)
    assert np.allclose(turn @ spin, [0, 0, np.linalg.norm(spin)])


def test_a_galaxy_that_does_not_turn_is_named():
    with pytest.raises(ValueError, match=r"galaxy 'g' \(g.npz\): its angular momentum is 0"):
        clean(disc()[0], rotate="angular_momentum")


def test_rounding_is_no_direction():
    # Each particle has one at the other side that turns against it: L is what rounding leaves.
    rng = np.random.default_rng(0)
    r, v = rng.normal(size=(2, 1000, 3))
    r, v = np.concatenate([r, r]), np.concatenate([v, -v])
    with pytest.raises(ValueError, match="its angular momentum is 0"):
        by_angular_momentum(r, v + 1e-12 * rng.normal(size=v.shape), np.ones(2000))


def test_masses_are_weights_of_the_angular_momentum():
    # two rings with opposite spins, at right angles to z; the heavier decides
    angle = np.linspace(0, 2 * np.pi, 100, endpoint=False)
    ring = np.stack([np.zeros(100), np.cos(angle), np.sin(angle)], 1)
    turning = np.stack([np.zeros(100), -np.sin(angle), np.cos(angle)], 1)
    r, v = np.concatenate([ring, ring]), np.concatenate([turning, -turning])
    for masses, sign in (((2, 1), 1), ((1, 2), -1)):
        m = np.repeat(masses, 100).astype(float)
        result = clean(r, v, m, mass="mass", rotate="angular_momentum")
        assert np.allclose(result.rotation @ [sign, 0, 0], [0, 0, 1])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("moving", [True, False])
def test_inertia_finds_the_same_frame_however_the_galaxy_stands(seed, moving):
    r, v, m = disc()
    r[:, 2] += 0.01 * (r[:, 2] / 0.1) ** 2  # a longer tail above the plane: where z ends, without velocities
    options = {"mass": "mass", "rotate": "inertia", "velocity": VELOCITY if moving else ()}
    tilt = rotation(seed)
    straight = clean(r, v, m, **options)
    tilted = clean(r @ tilt.T, v @ tilt.T, m, **options)
    assert np.allclose(stack(straight, POSITION), stack(tilted, POSITION), atol=1e-9)
    assert np.linalg.det(tilted.rotation) == pytest.approx(1)
    tensor = (m[:, None] * stack(tilted, POSITION)).T @ stack(tilted, POSITION)
    moments = np.diag(tensor)
    assert np.abs(tensor - np.diag(moments)).max() < 1e-9 * moments.max()
    assert moments[0] > moments[1] > moments[2]
    assert stack(tilted, POSITION)[:, 0] ** 3 @ m > 0
    if moving:
        assert (m[:, None] * np.cross(stack(tilted, POSITION), stack(tilted, VELOCITY))).sum(0)[2] > 0


def test_inertia_in_a_plane_turns_the_long_axis_to_x():
    r = disc()[0][:, :2]
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    found = by_inertia(r @ turn.T, None, np.ones(len(r)))
    tensor = (r @ turn.T @ found.T).T @ (r @ turn.T @ found.T)
    assert abs(tensor[0, 1]) < 1e-9 * tensor[0, 0]
    assert tensor[0, 0] > tensor[1, 1]
    assert np.linalg.det(found) == pytest.approx(1)


def test_ends_of_a_symmetric_axis_are_fixed_all_the_same():
    r = np.array([[2.0, 0, 0], [-2, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 0.5], [0, 0, -0.5]])
    assert np.allclose(by_inertia(r, None, np.ones(6)), np.eye(3))


# -- what is left out


@pytest.mark.parametrize(("percentile", "left"), [(95, 950), (100, 1000), (50, 500), (0.05, 1)])
def test_radius_percentile_leaves_exactly_so_many(percentile, left):
    r = np.zeros((1000, 3))
    r[:, 1] = np.random.default_rng(0).permutation(1000) + 1
    result = clean(r, radius_percentile=percentile)
    assert result.galaxy.rows.tolist() == np.flatnonzero(r[:, 1] <= left).tolist()
    assert result.removed == {"radius": 1000 - left, "minimum": 0}


@pytest.mark.parametrize(("radius", "left"), [(30, 30), (2000, 950), (950, 950)])
def test_the_lesser_of_percentile_and_radius_counts_and_its_end_belongs_to_it(radius, left):
    r = np.zeros((1000, 3))
    r[:, 2] = np.arange(1, 1001)
    assert len(clean(r, radius_percentile=95, radius=radius).galaxy.rows) == left


def test_radius_is_from_the_centre_that_was_taken():
    r = np.random.default_rng(0).normal((100, 0, 0), size=(500, 3))
    with pytest.raises(ValueError, match=r"cleaning left none of its 500 particles \(left out: radius 500\)"):
        clean(r, radius=10)
    result = clean(r, radius=10, centre="median")
    assert len(result.galaxy.rows) == 500
    assert np.allclose(np.median(stack(result, POSITION), 0), 0)
    assert np.allclose(result.centre[0], np.median(r, 0))


def test_mean_centre_is_weighted_by_mass_and_velocities_have_their_own():
    r, v, m = disc()
    result = clean(r + 5, v - 3, m, mass="mass", centre="mean")
    assert np.allclose(m @ stack(result, POSITION), 0, atol=1e-8)
    assert np.allclose(m @ stack(result, VELOCITY), 0, atol=1e-8)
    assert np.allclose(result.centre, [np.average(r + 5, 0, m), np.average(v - 3, 0, m)])


def test_the_highest_metallicities_and_no_others_are_left_out():
    z = np.random.default_rng(0).permutation(200).astype(np.float32)
    result = clean(np.ones((200, 3)), None, None, z, metallicity_outliers=10)
    assert sorted(result.galaxy.columns["Z"]) == list(range(190))
    assert result.galaxy.rows.tolist() == np.flatnonzero(z < 190).tolist()


def test_ranges_include_their_ends_and_count_apart():
    z = np.arange(100) / 1000
    result = clean(np.ones((100, 3)), None, np.arange(100.0), z, ranges=ranges("Z=0.01..0.05, mass=..30"))
    assert result.galaxy.rows.tolist() == list(range(10, 31))
    assert result.removed == {"range Z": 59, "range mass": 20, "minimum": 0}


def test_values_that_are_not_finite_are_an_error_or_are_left_out():
    r = np.ones((50, 3))
    z = np.zeros(50, dtype=np.float32)
    z[[3, 4]], r[7, 1] = np.nan, np.inf
    with pytest.raises(ValueError, match=r"galaxy 'g' \(g.npz\): column 'y': 1 of 50 rows are not finite; finite=true"):
        clean(r, None, None, z)
    result = clean(r, None, None, z, finite=True)
    assert result.removed["finite"] == 3
    assert set(range(50)) - set(result.galaxy.rows.tolist()) == {3, 4, 7}


def test_a_galaxy_below_the_minimum_is_left_out_with_its_counts():
    assert isinstance(clean(np.ones((50, 3)), minimum=50), Cleaned)
    assert clean(np.ones((50, 3)), minimum=51) == {"minimum": 50}
    assert clean(np.ones((50, 3)), radius=1, minimum=1) == {"radius": 50, "minimum": 0}


def test_negative_masses_are_no_weights():
    with pytest.raises(ValueError, match=r"galaxy 'g' \(g.npz\): the mass 'mass' has negative values"):
        clean(*disc()[:2], -np.ones(2000), mass="mass", centre="mean")


# -- record


def recorded(**options):
    """Three galaxies, cleaned, with what went in and their events."""
    options = {"position": POSITION, "velocity": VELOCITY, "mass": "mass", "metallicity": "Z", **options}
    cleaning = Cleaning(**options)
    inputs = {}
    for g, count in enumerate((300, 40, 200)):
        r, v, m = disc(count, seed=g)
        tilt = rotation(g)
        inputs["abc"[g]] = galaxy(r @ tilt.T + 10 * g, v @ tilt.T - g, m, name="abc"[g])
    results = {name: cleaning.clean(each) for name, each in inputs.items()}
    kept = [each for each in results.values() if isinstance(each, Cleaned)]
    counts = [
        (name, len(inputs[name].rows), each.removed if isinstance(each, Cleaned) else each)
        for name, each in results.items()
    ]
    x = np.concatenate([np.stack([each.galaxy.columns[name] for name in NAMES], 1) for each in kept])
    return record(cleaning, kept, counts), inputs, torch.from_numpy(x)


STEPS = {"centre": "mean", "radius_percentile": 90, "metallicity_outliers": 3, "minimum": 50}


@pytest.mark.parametrize("rotate", ["", "angular_momentum", "inertia"])
@pytest.mark.parametrize("centre", ["", "mean", "median"])
def test_cleaned_events_come_back_to_the_rows_of_their_files(rotate, centre):
    done, inputs, x = recorded(**{**STEPS, "rotate": rotate, "centre": centre})
    back = done.restore(x)
    original = np.concatenate(
        [np.stack([inputs[g].columns[name][done.rows_of(g)] for name in NAMES], 1) for g in done.galaxies]
    )
    assert done.galaxies == ("a", "c")
    assert np.allclose(back.numpy(), original, atol=1e-10)
    if rotate or centre:
        assert not np.allclose(x.numpy(), original)


def test_drawn_events_of_any_order_are_put_into_the_frame_of_their_galaxy():
    done, _, x = recorded(**STEPS, rotate="inertia")
    groups = torch.repeat_interleave(torch.from_numpy(np.diff(done.ends, prepend=0)))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:100]
    assert torch.equal(done.restore(x[order], groups[order]), done.restore(x)[order])
    with pytest.raises(ValueError, match=r"x must be \(n, 8\), with groups"):
        done.restore(x[:5])
    for bad in (groups[:100] - 1, groups[:100] + 2, groups[:99], groups[:100].double(), groups[:100, None]):
        with pytest.raises(ValueError, match=r"groups must be \(100,\) whole numbers from 0 to 1, the galaxy of each"):
            done.restore(x[:100], bad)


def test_small_distances_from_a_far_centre_are_not_lost_on_the_way_back():
    r = 1e8 + np.arange(30).reshape(10, 3) / 8
    cleaning = Cleaning(position=POSITION, centre="mean")
    cleaned = cleaning.clean(galaxy(r))
    x = torch.from_numpy(stack(cleaned, NAMES)).float()
    back = record(cleaning, [cleaned], [("g", 10, {})]).restore(x)
    assert np.abs(back[:, :3].numpy() - r).max() < 1e-6


def test_axes_that_are_not_in_x_cannot_be_turned_back():
    cleaning = Cleaning(position=POSITION, velocity=VELOCITY, rotate="inertia")
    cleaned = cleaning.clean(galaxy(*disc(50)))
    flat = cleaned._replace(galaxy=cleaned.galaxy._replace(labels=("x", "y", "Z")))
    with pytest.raises(ConfigError, match="'z' is not in x"):
        record(cleaning, [flat], [("g", 50, {})]).restore(torch.zeros(50, 3))


def test_report_adds_up_and_notes_name_the_worst():
    done, _, x = recorded(**STEPS, rotate="inertia", finite=True, ranges={"mass": (1.5, None)})
    table = done.report()
    assert list(table) == [
        *("galaxy", "particles", "finite", "radius", "metallicity", "range mass", "minimum", "left"),
    ]
    assert table["galaxy"].tolist() == ["a", "b", "c"]
    assert table["particles"].tolist() == [300, 40, 200]
    assert table["radius"].tolist() == [30, 4, 20]
    assert table["metallicity"].tolist() == [3, 3, 3]
    steps = table[["finite", "radius", "metallicity", "range mass", "minimum"]]
    assert (steps.sum(axis=1) + table["left"] == table["particles"]).all()
    assert table["left"].sum() == len(x)
    assert table["left"][1] == 0
    assert done.notes() == [
        "cleaning, finite: left out 0 of 540 particles",
        "cleaning, radius (R <= percentile 90 of each galaxy): left out 54 of 540 particles, most of 'a' (30 of 300), "
        "'b' (4 of 40), 'c' (20 of 200)",
        "cleaning, metallicity (3 highest of each galaxy): left out 9 of 540 particles, most of 'b' (3 of 40), "
        "'c' (3 of 200), 'a' (3 of 300)",
        f"cleaning, range mass (1.5..): left out {table['range mass'].sum()} of 540 particles"
        + done._worst("range mass"),
        f"cleaning, minimum of 50 particles: left out 1 of 3 galaxies: 'b' with {table['minimum'][1]}",
        "cleaning, centre: position and velocity of each galaxy are from their mean, weighted by 'mass'",
        "cleaning, rotate: position and velocity of each galaxy are turned so that its axes of inertia are x, y, z",
    ]


def test_no_steps_leave_no_notes():
    assert recorded()[0].notes() == []
    with pytest.raises(ValueError, match="no galaxy 'q' is left after cleaning; there are a, b, c"):
        recorded()[0].rows_of("q")


# -- options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"position": ("x",)}, "position must name two or three different columns; got x"),
        ({"position": ("x", "y", "y")}, "two or three different columns; got x, y, y"),
        ({"velocity": ("vx", "vy")}, "velocity must have the axes of position; got 2 and 0 columns"),
        ({"centre": "middle"}, "centre must be mean, median or empty; got 'middle'"),
        ({"rotate": "pca"}, "rotate must be angular_momentum, inertia or empty; got 'pca'"),
        ({"radius": -1.0, "position": POSITION}, "radius must be positive; got -1"),
        ({"radius_percentile": 101.0}, "radius_percentile must be above 0 and at most 100; got 101"),
        ({"radius": 5.0}, "radius needs to know which columns are the position; give `position`"),
        ({"rotate": "inertia"}, "rotate needs to know"),
        ({"rotate": "angular_momentum", "position": POSITION}, "three columns of `position` and three of `velocity`"),
        ({"metallicity_outliers": 10}, "metallicity_outliers needs to know which column that is; give `metallicity`"),
        ({"minimum": -1}, "minimum must be 0 or more; got -1"),
    ],
)
def test_steps_without_their_columns_or_of_no_sense_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Cleaning(**options)


@pytest.mark.parametrize("text", ["Z=1..0", "Z=0.1", "Z=..", "Z=a..b", "Z=nan..", {"Z": [1]}, {"Z": 3}])
def test_ranges_that_are_none_are_refused(text):
    with pytest.raises(ValueError, match=r"range|low"):
        ranges(text)


def test_ranges_come_as_text_and_as_lists():
    assert ranges({"Z": [0, None], "feh": "-8 .. 1"}) == {"Z": (0.0, None), "feh": (-8.0, 1.0)}
    assert ranges(None) == {}
    assert math.isclose(ranges("Z: 1e-3..")["Z"][0], 1e-3)
