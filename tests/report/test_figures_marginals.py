import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from torch import Tensor

from flowzoo.record import Record
from flowzoo.report import Cell, figures
from flowzoo.report._catalogue import Axis, Galaxy
from flowzoo.report._style import styles
from flowzoo.report.figures import _plan
from flowzoo.report.figures_corner import FRACTIONS
from flowzoo.report.figures_marginals import BINS, marginal


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def cell(model: str = "maf", columns: int = 2, groups: int = 1, count: int = 1000, **labels: list[str]) -> Cell:
    """A finished cell of correlated normal vectors of no role, its draws a little wide."""
    scores = {
        "examples.context": torch.zeros(groups, 0),
        "examples.real": normal(groups, count, columns).cumsum(-1),
        "examples.drawn": 1.2 * normal(groups, count, columns, seed=1).cumsum(-1),
    }
    return Cell(Record("table", model, 0, "h", "ok", labels=labels), scores)


def galaxy(real: np.ndarray, **drawn: np.ndarray) -> Galaxy:
    return Galaxy(real, drawn, dict.fromkeys(drawn, 0))


def drawn(stem: str, cells: list[Cell]) -> Figure:
    return _plan(cells)[stem]()


# -- the numbers


def test_shares_add_up_to_what_lies_on_the_axis() -> None:
    real, other = normal(4000, 1).numpy(), 3 * normal(1500, 1, seed=1).numpy()
    found = marginal([galaxy(real, maf=other)], 0)
    inside = [np.mean((x >= found.axis.low) & (x <= found.axis.high)) for x in (real, other)]
    assert found.real.sum() == pytest.approx(inside[0]) == pytest.approx(0.99, abs=1e-3)
    assert found.drawn["maf"].sum() == pytest.approx(inside[1])
    assert inside[1] < 0.7  # what a wide model draws beyond the axis is not heaped into it


def test_shares_are_those_of_a_known_density() -> None:
    real = np.random.default_rng(0).uniform(2, 5, (200_000, 1))
    found = marginal([galaxy(real, maf=real)], 0)
    assert found.real == pytest.approx(0.99 / BINS, rel=0.1)
    assert np.array_equal(found.drawn["maf"], found.real)
    assert np.diff(found.edges) == pytest.approx(2.97 / BINS, rel=1e-2)


def test_galaxies_are_counted_together() -> None:
    one, two = normal(500, 1).numpy(), normal(1500, 1, seed=1).numpy() + 1
    both = marginal([galaxy(one, maf=two), galaxy(two, maf=one)], 0)
    assert both.real == pytest.approx(marginal([galaxy(np.concatenate([one, two]), maf=one)], 0).real)
    assert both.drawn["maf"] == pytest.approx(both.real)


def test_outlier_does_not_stretch_an_axis() -> None:
    real = normal(5000, 1).numpy()
    wild = np.concatenate([real, [[1e9], [-1e12]]])
    known, found = (marginal([galaxy(rows, maf=rows)], 0).axis for rows in (real, wild))
    assert found.low == pytest.approx(known.low, rel=0.05)
    assert found.high == pytest.approx(known.high, rel=0.05)


def test_axis_of_decades_has_equal_bins_of_the_logarithm_and_drops_what_has_none() -> None:
    real = 10 ** np.random.default_rng(0).uniform(-6, 0, (50_000, 1))
    found = marginal([galaxy(real, maf=-real)], 0)
    assert found.axis.log
    assert np.diff(np.log10(found.edges)) == pytest.approx(0.1, rel=0.02)
    assert found.real == pytest.approx(0.99 / BINS, rel=0.15)
    assert found.drawn["maf"].sum() == 0
    assert not marginal([galaxy(real - 1e-3, maf=real)], 0).axis.log


def test_shares_are_logarithmic_where_few_bins_hold_most() -> None:
    source = np.random.default_rng(0)
    peak = np.concatenate([source.normal(0, 0.01, 9000), source.uniform(-5, 5, 1000)])[:, None]
    assert marginal([galaxy(peak, maf=peak)], 0).steep
    assert not marginal([galaxy(source.normal(size=(9000, 1)), maf=peak)], 0).steep


@pytest.mark.parametrize("axis", [Axis(-3.0, 5.0), Axis(1e-6, 2.0, log=True)])
def test_axis_and_its_inverse_undo_each_other(axis: Axis) -> None:
    places = np.linspace(-0.4, 1.3, 9)
    assert axis.scaled(axis.at(places)) == pytest.approx(places)
    assert axis.padded(0.25).scaled(axis.at(np.array([-0.25, 0.5, 1.25]))) == pytest.approx([0, 0.5, 1])


def test_constant_column_has_an_axis() -> None:
    for value in (0.0, -4.0, 1e-9):
        axis = Axis.of(np.full(10, value))
        assert axis.low < value < axis.high


# -- the pictures


def test_marginals_have_a_panel_for_every_column_and_say_which_are_not_shown() -> None:
    figure = drawn("marginals.table", [cell(columns=7, names=list("abcdefg"), units=["kpc"])])
    assert [at.get_xlabel() for at in figure.axes if at.get_xlabel()] == ["a [kpc]", *"bcdefg"]
    many = drawn("marginals.table", [cell(columns=15)])
    assert sum(bool(at.get_xlabel()) for at in many.axes) == 12
    assert many.legends[0].get_title().get_text() == "the first 12 of 15 columns"


def test_marginals_are_of_all_groups_and_every_model_has_its_line() -> None:
    cells = [cell("maf", groups=3), cell("nsf", groups=3)]
    figure = drawn("marginals.table", cells)
    assert figure._suptitle.get_text() == "table: marginals of 3 groups together"
    colours = {patch.get_edgecolor() for patch in figure.axes[0].patches}
    assert {to_rgba(styles(cells)[model].colour) for model in ("maf", "nsf")} <= colours
    assert to_rgba("#000000") in colours


def test_corner_has_the_lower_triangle_and_axes_of_the_marginals() -> None:
    figure = drawn("corner.table.maf", [cell(columns=4)])
    assert len(figure.axes) == 10
    places = [at.get_position() for at in figure.axes]
    assert all(place.x0 <= 1 - place.y0 for place in places)
    real = cell(columns=4).scores["examples.real"][0].double().numpy()
    below = figure.axes[1]
    assert below.get_xlim() == pytest.approx(np.percentile(real[:, 0], (0.5, 99.5)))
    assert below.get_ylim() == pytest.approx(np.percentile(real[:, 1], (0.5, 99.5)))
    assert len(drawn("corner.table.maf", [cell(columns=12)]).axes) == 55


def test_outlines_of_a_corner_enclose_their_shares() -> None:
    one = cell(columns=2, count=20_000)
    outlines = drawn("corner.table.maf", [one]).axes[1].collections
    # In order: filled regions and outlines of the real ones, outlines of the draws.
    for rows, drawn_set in (("examples.real", outlines[1]), ("examples.drawn", outlines[2])):
        points = one.scores[rows][0].double().numpy()
        paths = drawn_set.get_paths()
        assert len(paths) == len(FRACTIONS)
        for path, fraction in zip(paths, FRACTIONS, strict=True):
            assert path.contains_points(points).mean() == pytest.approx(fraction, abs=0.01)


def test_single_column_has_a_marginal_and_no_corner() -> None:
    assert list(figures([cell(columns=1)])) == ["marginals.table"]


@pytest.mark.parametrize("columns", [2, 3, 5, 10])
def test_words_of_a_corner_do_not_overlap(columns: int) -> None:
    names = [f"a_long_name_{i}" for i in range(columns)]
    one = cell("a-model-of-a-long-name", columns, count=300, names=names, units=["Msun kpc^-2"] * columns)
    figure = drawn("corner.table.a-model-of-a-long-name", [one])
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    words = [*figure.texts, *figure.legends[0].get_texts()]
    boxes = [(w.get_text(), w.get_window_extent(canvas.get_renderer())) for w in words if w.get_text()]
    for i, (content, box) in enumerate(boxes):
        assert box.x0 >= 0, content
        assert box.x1 <= figure.bbox.x1, content
        assert not [other for other, another in boxes[:i] if box.overlaps(another)], content
