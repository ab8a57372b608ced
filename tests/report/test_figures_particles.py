import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from flowzoo.record import Record
from flowzoo.report import Cell, figures
from flowzoo.report._catalogue import Axis, Galaxy
from flowzoo.report._projections import LEAST, Window, project
from flowzoo.report._regions import density_at, enclosing, smooth_density
from flowzoo.report.figures import _plan
from flowzoo.report.figures_contours import enclosed

NAMES = ["x", "y", "z", "vx", "[Fe/H]", "age", "mass"]
ROLES = {"position": NAMES[:3], "velocity": ["vx"], "metallicity": ["[Fe/H]"], "age": ["age"], "mass": ["mass"]}
LABELS: dict[str, list[str]] = {
    "names": NAMES,
    "units": ["kpc", "kpc", "kpc", "km/s", "dex", "Gyr", "Msun"],
    "context_names": ["log10 M_star", "log10 M_vir", "t_merger"],
    "context_units": ["Msun", "Msun", "Gyr"],
    "groups": ["g2.79e12", "g8.26e11"],
    **ROLES,
}


def disc(count: int, seed: int, *, scale: float = 3.0, metals: float = 0.0) -> np.ndarray:
    """An exponential disc: surface density exp(-R / scale)."""
    source = np.random.default_rng(seed)
    radius, angle = source.gamma(2, scale, count), source.uniform(0, 2 * np.pi, count)
    x, y, z = radius * np.cos(angle), radius * np.sin(angle), source.laplace(0, 0.3, count)
    iron = metals - 0.05 * radius + source.normal(0, 0.1, count)
    age = np.clip(6 - 0.2 * radius + source.normal(0, 1, count), 0.1, 13.8)
    return np.stack([x, y, z, -200 * np.sin(angle), iron, age, 10 ** source.normal(4, 0.1, count)], axis=1)


def tensor(parts: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(parts)).float()


def cell(
    model: str = "nsf",
    *,
    groups: int = 2,
    count: int = 3000,
    wrong: float = 1.0,
    labels: Mapping[str, list[str]] = LABELS,
    **tensors: Tensor,
) -> Cell:
    """A finished cell of disc galaxies, its draws of a wrong scale."""
    scores = {
        "log_prob": torch.zeros(4),
        "group": torch.arange(4),
        "examples.context": torch.arange(3.0 * groups).view(groups, 3) / 7 + 10,
        "examples.group": torch.arange(groups) + 5,
        "examples.real": tensor([disc(count, g) for g in range(groups)]),
        "examples.drawn": tensor([disc(count, 50 + g, scale=3 * wrong) for g in range(groups)]),
    }
    scores |= {name.replace("__", "."): values for name, values in tensors.items()}
    return Cell(Record("stars", model, 0, "h", "ok", labels=dict(labels)), scores)


def without(*names: str) -> dict[str, list[str]]:
    return {name: values for name, values in LABELS.items() if name not in names}


def drawn(stem: str, cells: list[Cell]) -> Figure:
    return _plan(cells)[stem]()


def pictures(figure: Figure) -> list[Axes]:
    return [at for at in figure.axes if at.images]


def written(figure: Figure) -> str:
    return "\n".join(at.get_text() for at in figure.texts)


def all_texts(figure: Any) -> list[Any]:
    found = [*figure.texts, *([figure._suptitle] if figure._suptitle else [])]
    for at in figure.axes:
        found += [at.title, at.xaxis.label, at.yaxis.label]
        for line in (at.xaxis, at.yaxis):
            low, high = sorted(line.get_view_interval())
            found += [tick.label1 for tick in line.get_major_ticks() if low <= tick.get_loc() <= high]
    for legend in figure.legends:
        found += [*legend.get_texts(), legend.get_title()]
    for part in figure.subfigs:
        found += [part._suptitle] if part._suptitle else []
    return list({id(one): one for one in found if one.get_text() and one.get_visible()}.values())


def assert_no_overlap(figure: Figure, stem: str) -> None:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    page = figure.bbox
    boxes = [(one.get_text(), one.get_window_extent(canvas.get_renderer())) for one in all_texts(figure)]
    for i, (one, box) in enumerate(boxes):
        assert box.x0 >= -1, (stem, one)
        assert box.x1 <= page.x1 + 1, (stem, one)
        assert box.y0 >= -1, (stem, one)
        assert box.y1 <= page.y1 + 1, (stem, one)
        for other, another in boxes[:i]:
            assert not box.overlaps(another), (stem, one, other)


# -- which figures there are


def test_catalogue_has_maps_by_model_and_contours_marginals_and_corners() -> None:
    found = list(_plan([cell(), cell("maf")]))
    maps, corners = ["particles.stars.nsf", "particles.stars.maf"], ["corner.stars.nsf", "corner.stars.maf"]
    assert found == [*maps, "contours.stars", "marginals.stars", *corners]


@pytest.mark.parametrize("position", [[], ["x"], ["longitude", "latitude"]])
def test_without_two_positions_there_are_no_maps_and_no_noise(position: list[str]) -> None:
    labels = without("position") | ({"position": position} if position else {})
    assert list(_plan([cell(labels=labels)])) == ["marginals.stars", "corner.stars.nsf"]


def test_model_drawn_at_other_contexts_has_no_maps() -> None:
    other = cell("maf", examples__context=torch.ones(2, 3))
    assert "particles.stars.maf" not in _plan([cell(), other])
    contours = drawn("contours.stars", [cell(), other])
    assert contours.legends[0].get_title().get_text() == "left out, because drawn at other contexts: maf"


# -- the numbers of the maps


def test_density_integrates_to_the_share_of_the_particles_within_the_edges() -> None:
    real, other = disc(4000, 0), disc(2500, 1)
    edges = (np.linspace(-8, 8, 5), np.linspace(-6, 6, 4))
    within = [np.mean((np.abs(rows[:, 0]) < 8) & (np.abs(rows[:, 1]) < 6)) for rows in (real, other)]
    (pair,) = project(real, other, (0, 1), edges)
    assert pair.real.sum() * 16 == pytest.approx(within[0])
    assert pair.drawn.sum() * 16 == pytest.approx(within[1])


def test_density_is_of_the_mass_where_there_is_one_and_shows_mass_in_excess() -> None:
    real = disc(4000, 0)
    edges = (np.linspace(-40, 40, 3), np.linspace(-40, 40, 3))
    heavier = real.copy()
    heavier[:, 6] *= 1.5
    (pair,) = project(real, heavier, (0, 1), edges, mass=6)
    assert np.sum(pair.real) * 40**2 == pytest.approx(1)
    assert pair.residual == pytest.approx(np.full((2, 2), 0.5))
    quarter = real[(real[:, 0] > 0) & (real[:, 1] > 0), 6].sum() / real[:, 6].sum()
    assert pair.real[1, 1] * 40**2 == pytest.approx(quarter)


def test_means_are_those_of_the_particles_in_a_bin() -> None:
    real = disc(4000, 0)
    edges = (np.array([0.0, 2.0, 4.0]), np.array([0.0, 3.0]))
    iron = project(real, real, (0, 1), edges, means=[4])[1]
    inside = (real[:, 0] >= 2) & (real[:, 0] < 4) & (real[:, 1] >= 0) & (real[:, 1] < 3)
    assert iron.real[1, 0] == pytest.approx(real[inside, 4].mean())


def test_residual_of_a_sample_and_itself_is_zero() -> None:
    real = disc(4000, 0)
    for up in (1, 2):
        for pair in project(real, real, (0, up), Window.of(real[:, :3]).edges(up), 6, (4, 5)):
            told = pair.residual[np.isfinite(pair.residual)]
            assert len(told) > 20
            assert np.all(told == 0)


def test_residual_is_relative_where_the_column_is_positive_and_else_a_difference() -> None:
    real = disc(4000, 0)
    other = real.copy()
    other[:, 4] += 0.25
    other[:, 5] *= 1.2
    iron, age = project(real, other, (0, 1), Window.of(real[:, :3]).edges(1), None, (4, 5))[1:]
    assert (iron.relative, age.relative) == (False, True)
    assert iron.residual[np.isfinite(iron.residual)] == pytest.approx(0.25)
    assert age.residual[np.isfinite(age.residual)] == pytest.approx(0.2)


def test_bin_of_few_particles_is_blank() -> None:
    points = np.array([[0.5, 0.5]] * (LEAST - 1) + [[1.5, 0.5]] * LEAST)
    edges = (np.array([0.0, 1.0, 2.0, 3.0]), np.array([0.0, 1.0]))
    (pair,) = project(points, points, (0, 1), edges)
    assert np.isfinite(pair.real[:, 0]).tolist() == [False, True, False]
    assert np.isfinite(pair.residual[:, 0]).tolist() == [False, True, False]
    # Nothing drawn where there is much is no blank but the worst residual.
    (gone,) = project(np.repeat(points, 3, axis=0), points[:1], (0, 1), edges)
    assert gone.residual[1, 0] == -1


def test_window_holds_what_it_says_and_its_bins_are_squares() -> None:
    real = disc(20_000, 0)[:, :3] + np.array([100.0, -50.0, 7.0])
    window = Window.of(real)
    assert window.centre == pytest.approx((100, -50, 7), abs=0.1)
    away = np.hypot(real[:, 0] - window.centre[0], real[:, 1] - window.centre[1])
    assert np.mean(away <= window.half) == pytest.approx(0.95, abs=1e-3)
    for up in (1, 2):
        across, above = window.edges(up)
        assert np.diff(above) == pytest.approx(float(np.diff(across)[0]))


# -- the picture of the maps


def test_maps_have_two_galaxies_two_planes_and_three_columns() -> None:
    figure = drawn("particles.stars.nsf", [cell(groups=3)])
    assert len(pictures(figure)) == 2 * 2 * 3 * 3  # galaxies, planes, quantities, columns
    assert len(pictures(drawn("particles.stars.nsf", [cell(groups=1)]))) == 2 * 3 * 3
    flat = cell(labels={**LABELS, "position": ["x", "y"]})
    assert len(pictures(drawn("particles.stars.nsf", [flat]))) == 2 * 3 * 3
    alone = cell(labels=without("mass", "metallicity", "age"))
    figure = drawn("particles.stars.nsf", [alone])
    assert len(pictures(figure)) == 2 * 2 * 3
    assert "share of number per area [kpc$^{-2}$]" in written(figure)


def test_real_and_drawn_have_one_scale_and_the_residual_a_symmetric_one() -> None:
    figure = drawn("particles.stars.nsf", [cell(wrong=1.5)])
    limits = [at.images[0].get_clim() for at in pictures(figure)[:3]]
    assert limits[0] == limits[1]
    assert limits[2][0] == -limits[2][1]


def test_draws_that_are_not_finite_are_left_out_and_counted() -> None:
    draws = tensor([disc(3000, 60), disc(3000, 61)])
    draws[0, :3, 1], draws[1, 5, 6] = torch.nan, torch.inf
    figure = drawn("particles.stars.nsf", [cell(examples__drawn=draws)])
    assert "draws that are not finite, left out: nsf 4 of 6000" in written(figure)
    figure = drawn("contours.stars", [cell(examples__drawn=draws)])
    assert figure.legends[0].get_title().get_text() == "draws that are not finite, left out: nsf 4 of 6000"


def test_galaxies_are_called_by_name_and_else_by_group() -> None:
    assert "g8.26e11" in written(drawn("particles.stars.nsf", [cell()]))
    assert "group 6" in written(drawn("particles.stars.nsf", [cell(labels=without("groups"))]))


@pytest.mark.parametrize("value", [0.0, 1e30, math.nan])
def test_broken_draws_are_drawn_without_a_warning(value: float) -> None:
    broken = torch.full((2, 500, 7), value)
    cells = [cell("maf", count=500), cell(count=500, examples__drawn=broken)]
    for stem, draw in _plan(cells).items():
        FigureCanvasAgg(figure := draw()).draw()
        for at in figure.axes:
            assert all(math.isfinite(edge) for edge in (*at.get_xlim(), *at.get_ylim())), stem


# -- contours and profiles


@pytest.mark.parametrize("fraction", [0.5, 0.8, 0.95])
def test_region_encloses_its_share_of_all_particles(fraction: float) -> None:
    source = np.random.default_rng(3)
    x, y = source.normal(size=(2, 8000))
    # The axes cut 4 % off, which the regions still count.
    axis = Axis(-2.3, 2.3)
    u, v = axis.scaled(x), axis.scaled(y)
    density = smooth_density(u, v)
    (level,) = enclosing(density, u, v, [fraction])
    assert np.mean(density_at(density, u, v) >= level) == pytest.approx(fraction, abs=2e-4)
    if fraction < 0.9:  # a normal density has circles for regions
        fresh = np.random.default_rng(4).normal(size=(2, 50_000))
        held = density_at(density, axis.scaled(fresh[0]), axis.scaled(fresh[1])) >= level
        assert held.mean() == pytest.approx(fraction, abs=0.02)
        circle = np.hypot(*fresh) < math.sqrt(-2 * math.log(1 - fraction))
        assert np.mean(held == circle) > 0.95


def test_region_by_weight_encloses_its_share_of_the_weight() -> None:
    source = np.random.default_rng(3)
    u, v = 0.5 + 0.1 * source.normal(size=(2, 5000))
    weights = source.gamma(1, size=5000) * (1 + 4 * (u > 0.5))
    density = smooth_density(u, v, weights)
    (level,) = enclosing(density, u, v, [0.8], weights)
    held = weights[density_at(density, u, v) >= level].sum() / weights.sum()
    assert held == pytest.approx(0.8, abs=2e-3)


def test_region_of_more_than_lies_inside_has_no_level() -> None:
    u = np.concatenate([np.full(70, 0.5), np.full(30, 7.0)])
    density = smooth_density(u, u)
    assert density.sum() == pytest.approx(0.7)
    inside, beyond = enclosing(density, u, u, [0.6, 0.95])
    assert inside > 0
    assert beyond == 0


def test_profile_is_that_of_an_exponential_disc() -> None:
    rows = disc(40_000, 0)
    flat = enclosed(Galaxy(rows, {"nsf": disc(40_000, 1)}, {"nsf": 0}), (0, 1))
    known = 1 - (1 + flat.radii / 3) * np.exp(-flat.radii / 3)
    assert flat.real == pytest.approx(known, abs=0.01)
    # Another sample of the same disc differs by the error that is told, and not by less.
    told = flat.real > 0.02
    pull = (flat.drawn["nsf"] / flat.real - 1)[told] / flat.error[told]
    assert 0.1 < np.sqrt(np.mean(pull**2)) < 2.5


def test_profile_by_mass_ends_at_the_ratio_of_the_mean_masses() -> None:
    rows = disc(5000, 0)
    heavier = rows.copy()
    heavier[:, 6] *= 2
    found = enclosed(Galaxy(rows, {"nsf": heavier, "same": rows}, {"nsf": 0, "same": 0}), (0, 1, 2), mass=6)
    assert found.drawn["nsf"] == pytest.approx(2 * found.real)
    assert np.array_equal(found.drawn["same"], found.real)
    assert np.all(np.diff(found.real) >= 0)
    inside = np.linalg.norm(rows[:, :3] - np.median(rows[:, :3], axis=0), axis=1) < found.radii[30]
    assert found.real[30] == pytest.approx(rows[inside, 6].sum() / rows[:, 6].sum())


def test_contours_have_a_panel_for_each_model_and_a_profile_for_each_galaxy() -> None:
    figure = drawn("contours.stars", [cell(groups=3, count=500), cell("maf", groups=3, count=500)])
    titles = [at.get_title() for at in figure.axes if at.get_title()]
    panels = [f"{name}, {model}" for name in LABELS["groups"] for model in ("nsf", "maf")]
    assert titles == [*panels, *LABELS["groups"], "group 7"]


# -- all of them


def test_no_text_of_a_catalogue_overlaps_another_or_leaves_the_page() -> None:
    names = ["a", "normflows-spline", "a-model-of-a-very-long-name", *"bcdef"]
    many = [cell(model, count=400) for model in names]
    many[0].scores["examples.drawn"][0, 0, 0] = torch.nan
    plan = _plan([*many, cell("other", examples__context=torch.zeros(2, 3))])
    for stem in (
        "contours.stars",
        "marginals.stars",
        *(f"{kind}.stars.{names[2]}" for kind in ("particles", "corner")),
    ):
        assert_no_overlap(plan[stem](), stem)
    for one in (cell(count=400, groups=1), cell(count=400, labels={})):
        for stem, draw in _plan([one]).items():
            assert_no_overlap(draw(), stem)


def test_figures_are_the_same_again() -> None:
    first, second = (figures([cell(count=500)]) for _ in range(2))
    assert list(first) == list(second)
    for stem in first:
        one, two = FigureCanvasAgg(first[stem]), FigureCanvasAgg(second[stem])
        one.draw()
        two.draw()
        assert one.tostring_argb() == two.tostring_argb()
