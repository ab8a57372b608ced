import math

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from flowzoo.record import Record
from flowzoo.report import Cell
from flowzoo.report._style import styles
from flowzoo.report.figures import _plan
from flowzoo.report.figures_mmd import BINS, trend

K, G = 3, 20


def distances() -> Tensor:
    distance = torch.rand(K, G, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.1
    distance[torch.arange(K), torch.arange(K)] = 0
    return distance


def cell(model: str = "nsf", *, excess: float = 0.0, offset: float = 0.01, **tensors: Tensor) -> Cell:
    """A finished cell: MMD² is the square of the distance, less a noise, and the draws have an excess."""
    real = distances().square() - offset
    scores = {"mmd.context_distance": distances(), "mmd.real_to_population": real, "mmd.to_population": real + excess}
    scores |= {f"mmd.{name}": values for name, values in tensors.items()}
    return Cell(Record("stars", model, 0, "h", "ok"), scores)


def drawn(*cells: Cell) -> Figure:
    return _plan(list(cells))["mmd.stars"]()


def test_trend_of_a_known_curve_lies_on_it() -> None:
    distance = np.linspace(0, 4, 1 + 51 * BINS)  # an odd number in each bin, whose median is a pair of its own
    found = trend(distance, distance**2)
    assert len(found.distance) == 1 + BINS
    assert found.middle == pytest.approx(found.distance**2)
    assert (found.distance[0], found.middle[0]) == (0, 0)
    assert np.all(found.low[1:] < found.middle[1:])
    assert np.all(found.middle[1:] < found.high[1:])


def test_band_of_a_trend_holds_two_thirds_of_the_pairs() -> None:
    source = np.random.default_rng(0)
    distance, noise = source.uniform(1, 2, 80_000), source.normal(size=80_000)
    found = trend(distance, noise)
    assert found.low == pytest.approx(-0.994, abs=0.06)
    assert found.high == pytest.approx(0.994, abs=0.06)
    assert found.middle == pytest.approx(0, abs=0.06)


def test_pairs_that_are_not_finite_are_left_out_and_few_pairs_make_few_bins() -> None:
    distance = np.array([1.0, 2.0, 3.0, 4.0, np.nan, 5.0])
    squares = np.array([1.0, 2.0, 3.0, 4.0, 1e9, np.nan])
    found = trend(distance, squares)
    assert found.distance.tolist() == [2.5]
    assert found.middle.tolist() == [2.5]
    assert len(trend(np.array([]), np.array([])).distance) == 0


def test_model_that_knows_the_galaxies_lies_on_the_real_ones_and_another_above() -> None:
    cells = [cell("exact"), cell("wrong", excess=0.5)]
    left, right = drawn(*cells).axes
    known = styles(cells)

    def line(colour: str) -> list[float]:
        return next(
            list(one.get_ydata()) for one in left.lines if one.get_color() == colour and len(one.get_xdata()) < K * G
        )

    base = line("#000000")
    assert line(known["exact"].colour) == pytest.approx(base)
    assert line(known["wrong"].colour) == pytest.approx([value + 0.5 for value in base])
    dots = next(one for one in right.lines if one.get_color() == known["wrong"].colour)
    assert np.asarray(dots.get_ydata()) - np.asarray(dots.get_xdata()) == pytest.approx(0.5)


def test_negative_estimates_are_shown_and_their_axis_is_linear_about_zero() -> None:
    left, right = drawn(cell()).axes
    assert left.get_yscale() == right.get_xscale() == "symlog"
    assert left.get_ylim()[0] < -0.01
    assert right.get_xlim()[0] < -0.01
    positive = drawn(cell(offset=-0.01)).axes[0]
    assert positive.get_yscale() == "log"


@pytest.mark.parametrize("value", [0.0, -1e-12, 1e30, math.inf])
def test_limits_are_finite_whatever_was_drawn(value: float) -> None:
    figure = drawn(cell("odd", to_population=torch.full((K, G), value, dtype=torch.float64)), cell())
    FigureCanvasAgg(figure).draw()
    for at in figure.axes:
        assert all(math.isfinite(edge) for edge in (*at.get_xlim(), *at.get_ylim()))


def test_without_distances_or_groups_there_is_no_figure() -> None:
    nothing = torch.zeros(K, G)
    assert "mmd.stars" not in _plan([cell(context_distance=nothing)])
    none = torch.zeros(K, 0)
    assert "mmd.stars" not in _plan([cell(context_distance=none, to_population=none, real_to_population=none)])
    assert "mmd.stars" not in _plan([cell(context_distance=torch.full((K, G), math.nan))])
    assert list(_plan([cell()])) == ["mmd.stars"]


def test_model_of_other_groups_is_left_out_by_name() -> None:
    figure = drawn(cell(), cell("maf", context_distance=distances() + 1))
    assert figure.legends[0].get_title().get_text() == "left out, because drawn at other contexts: maf"
    assert [entry.get_text() for entry in figure.legends[0].get_texts()] == ["real to real", "its scatter", "nsf"]
