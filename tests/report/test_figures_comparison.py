"""The figures of any run: how far models are behind the best, and how they were trained."""

import pytest
import torch

from flowzoo.record import Record
from flowzoo.report import figures, make_table
from flowzoo.report.figures_training import HISTORY
from flowzoo.report.table import Cell

SHARED = 20 * torch.randn(300, generator=torch.Generator().manual_seed(0))
NOISE = 0.1 * torch.randn(300, generator=torch.Generator().manual_seed(1))
LEARNT = [(0, 90.0, 95.0), (50, 60.0, 40.0), (100, 30.0, 31.0), (150, 25.0, 30.0), (200, 10.0, 500.0)]


def cell(model, log_prob, history=None, groups=100):
    record = Record("maps", model, 0, "h", "ok", metrics={"nll_nats": -float(log_prob.double().mean())})
    scores = {"log_prob": log_prob, "group": torch.arange(300) % groups}
    if history is not None:
        scores[HISTORY] = torch.tensor(history, dtype=torch.float64)
    return Cell(record, scores)


def drawn(*cells):
    return figures(cells, make_table(cells))


def test_models_stand_where_they_are_behind_the_best_and_ties_are_filled():
    tie = SHARED + NOISE - NOISE.mean() - 1e-4
    figure = drawn(cell("far", SHARED - 3 + NOISE), cell("tie", tie), cell("best", SHARED))["nll.maps"]
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["best", "tie", "far"]
    points = [container.lines[0] for container in axes.containers]
    assert [float(p.get_xdata()[0]) for p in points] == pytest.approx([0.0, 1e-4, 3 - float(NOISE.mean())], abs=1e-5)
    assert [p.get_markerfacecolor() == "white" for p in points] == [False, False, True]


def test_one_test_group_has_no_bar():
    (axes,) = drawn(cell("a", SHARED, groups=1), cell("b", SHARED - 1, groups=1))["nll.maps"].axes
    (bar,) = axes.containers[1].lines[2]
    assert bar.get_segments()[0][:, 0].tolist() == pytest.approx([1.0, 1.0], abs=1e-5)


def test_model_that_failed_by_far_does_not_hide_what_tells_the_others_apart():
    (axes,) = drawn(cell("a", SHARED), cell("b", SHARED - 0.5), cell("c", SHARED - 1e4))["nll.maps"].axes
    assert axes.get_xscale() == "symlog"


@pytest.mark.parametrize("behind", [(334, 457), (0.5, 1e4), (0.5, 2), (0.3,)])
def test_axis_is_no_wider_than_what_it_shows(behind):
    cells = [cell(name, SHARED - by + NOISE) for name, by in zip("bc", behind, strict=False)]
    (axes,) = drawn(cell("a", SHARED), *cells)["nll.maps"].axes
    assert axes.get_xscale() == ("symlog" if max(behind) == 1e4 else "linear")
    low, high = axes.get_xlim()
    assert -max(0.5, 0.2 * max(behind)) <= low < 0
    assert 1.02 * max(behind) < high


def test_training_shows_the_descent_and_not_what_a_flow_unlearnt():
    found = drawn(cell("maf", SHARED, LEARNT), cell("gaussian", SHARED - 1, LEARNT[:1]))
    (axes,) = found["training.maps"].axes
    low, high = axes.get_ylim()
    assert low < 30 < 40 < high < 100
    kept = [line for line in axes.lines if line.get_marker() == "o"]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in kept] == [(150, 30)]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["maf"]


def test_one_model_and_no_history_have_no_figures():
    assert drawn(cell("maf", SHARED)) == {}
