import math
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from flowzoo.metrics._calibration import ecdf_difference
from flowzoo.record import Record
from flowzoo.report import Cell, write_figures
from flowzoo.report._style import Shown, styles, text
from flowzoo.report.figures import _plan
from flowzoo.report.figures_calibration import ARRAYS, PARAMETERS, calibration, parameter_names

N, D = 200, 2
BLUE, ORANGE, BLACK = "#0072B2", "#D55E00", "#000000"
LABELS = {"context_names": ["Omega_m", "sigma_8"], "names": ["a", "b", "c"]}


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cell(
    model: str = "nsf",
    *,
    seed: int = 0,
    dataset: str = "fields",
    dim: int = D,
    power: float = 1.0,
    **tensors: Tensor | None,
) -> Cell:
    """A finished cell whose credibilities are uniform numbers to a power; None takes a tensor away."""
    alpha = uniform(N, seed=1) ** power
    scores: dict[str, Tensor | None] = {
        "sbc.pit": uniform(N, dim),
        "sbc.pit_log_likelihood": uniform(N, seed=5),
        "hpd.alpha": alpha,
        "hpd.level": torch.linspace(0, 1, 101),
        "hpd.lower": torch.linspace(0, 0.9, 101),
        "hpd.upper": torch.linspace(0.1, 1, 101),
        "tarp.fraction": uniform(3, N, seed=2),
        "posterior_error.z": torch.special.ndtri(uniform(N, dim, seed=3)),
        "posterior_error.contraction_by_observation": 0.9 + 0.1 * uniform(N, dim, seed=4),
    }
    scores |= {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    kept = {name: tensor for name, tensor in scores.items() if tensor is not None}
    return Cell(Record(dataset, model, seed, "h", "ok", labels=LABELS), kept)


def drawn(*cells: Cell) -> Figure:
    return _plan(list(cells))["calibration.fields"]()


def line(at: Axes, colour: str) -> tuple[np.ndarray, np.ndarray]:
    found = next(one for one in at.lines if one.get_color() == colour and len(one.get_xdata()) > 2)
    return np.asarray(found.get_xdata()), np.asarray(found.get_ydata())


def said(at: Axes) -> str:
    return "\n".join(one.get_text() for one in at.texts)


def test_each_model_is_a_row_of_four_panels_that_share_their_axes() -> None:
    figure = drawn(cell(), cell("maf", power=3))
    assert len(figure.axes) == 2 * len(ARRAYS)
    for upper, lower in zip(figure.axes[:4], figure.axes[4:], strict=True):
        assert upper.get_xlim() == lower.get_xlim()
        assert upper.get_ylim() == lower.get_ylim()
    assert [said(figure.axes[row]) for row in (0, 4)] == ["nsf", "maf"]
    assert [at.get_title() for at in figure.axes[:2]] == ["ranks (SBC)", "highest-density regions"]
    labels = [entry.get_text() for entry in figure.legends[0].get_texts()]
    assert labels[:3] == [text("Omega_m"), text("sigma_8"), "log-likelihood"]


def test_lines_of_ranks_are_their_distribution_function_less_the_diagonal() -> None:
    one = cell()
    at = drawn(one).axes[0]
    z, difference, low, high = ecdf_difference(one.scores["sbc.pit"].T)
    for i, colour in enumerate((BLUE, ORANGE)):
        x, y = line(at, colour)
        assert x == pytest.approx([0, *z.tolist(), 1])
        assert y == pytest.approx([0, *difference[i].tolist(), 0])
        assert y[50] == pytest.approx(float((one.scores["sbc.pit"][:, i] <= 0.5).double().mean()) - 0.5)
    likelihood = ecdf_difference(one.scores["sbc.pit_log_likelihood"])[1]
    assert line(at, BLACK)[1][1:-1] == pytest.approx(likelihood.tolist())
    band = at.collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == pytest.approx((float(low.min()), float(high.max())))


@pytest.mark.parametrize(
    ("power", "word"), [(0.3, "overconfident"), (3.0, "underconfident"), (1.0, "zero within its error")]
)
def test_area_has_its_sign_and_its_word(power: float, word: str) -> None:
    one = cell(power=power)
    at = drawn(one).axes[1]
    area = 0.5 - float(one.scores["hpd.alpha"].mean())  # of E[u^p] = 1 / (1 + p): negative where p < 1
    assert said(at).replace("\N{MINUS SIGN}", "-").startswith(f"area {area:+.3f} ± ")
    assert said(at).endswith(f"\n{word}")
    assert (area < 0) == (word == "overconfident") or power == 1
    # The area of what is drawn: a step curve less the diagonal.
    x, y = line(at, BLACK)
    assert float((np.diff(x) * y[:-1]).sum()) - 0.5 == pytest.approx(area)


def test_each_kind_of_reference_is_a_line_with_its_name_about_the_diagonal() -> None:
    one = cell(tarp__fraction=torch.cat([uniform(3, N), uniform(1, N) ** 4]))
    at = drawn(one).axes[2]
    assert [entry.get_text() for entry in at.get_legend().get_texts()] == ["uniform", "regression", "side", "kind 4"]
    lines = [curve for curve in at.lines if len(curve.get_xdata()) > 2]
    assert len({curve.get_linestyle() for curve in lines}) == len(lines) == 4
    for curve, fraction in zip(lines, one.scores["tarp.fraction"], strict=True):
        grid, y = np.asarray(curve.get_xdata()), np.asarray(curve.get_ydata())
        shares = (fraction.numpy()[:, None] <= grid[1:-1]).mean(0)
        assert y == pytest.approx([0, *shares, 1])
    assert at.get_ylim() == (0, 1)


def test_every_observation_and_parameter_is_a_point_and_far_ones_are_at_the_edge() -> None:
    z = torch.special.ndtri(uniform(N, D, seed=3)).clamp(-3, 3)
    z[0, 0], z[1, 1], z[2, 0] = 40.0, -1e6, 9.0
    contraction = 0.9 * torch.ones(N, D)
    contraction[5, 1] = -80.0
    one = cell(posterior_error__z=z, posterior_error__contraction_by_observation=contraction)
    figure = drawn(one)
    at = figure.axes[3]
    dots = [len(collection.get_offsets()) for collection in at.collections]
    assert dots == [N * D - 4, 2, 1, 1]  # within, above, below, left
    (low, high), (left, right) = at.get_ylim(), at.get_xlim()
    assert -10 < low < high < 10
    assert -1 < left < right < 1.1
    for collection in at.collections:
        offsets = np.asarray(collection.get_offsets())
        assert (offsets[:, 1] > low).all()
        assert (offsets[:, 1] < high).all()
    assert f"sd {float(z.std(unbiased=False)):.2f}" in said(at)


@pytest.mark.parametrize("name", ARRAYS)
def test_absent_arrays_leave_their_column_out_or_their_panel_empty(name: str) -> None:
    lacking = {name.replace(".", "__"): None}
    assert len(drawn(cell(**lacking)).axes) == 3
    figure = drawn(cell(), cell("maf", **lacking))
    assert len(figure.axes) == 8
    empty = figure.axes[4 + ARRAYS.index(name)]
    assert "not computed" in said(empty)
    FigureCanvasAgg(figure).draw()


def test_arrays_that_say_nothing_make_no_figure() -> None:
    none = {name.replace(".", "__"): None for name in ARRAYS}
    assert _plan([cell(**none)]) == {}
    not_finite = {name.replace(".", "__"): torch.full((N, D), math.nan) for name in ARRAYS}
    assert _plan([cell(**not_finite)]) == {}
    assert _plan([Cell(Record("fields", "nsf", 0, "h", "failed", reason="no memory"), {})]) == {}
    empty = Shown("fields", {}, {"nsf": {}}, styles([cell()]))
    with pytest.raises(ValueError, match=r"expected one of sbc\.pit, hpd\.alpha"):
        calibration(empty)


def test_lowest_seed_of_each_model_and_each_dataset_has_its_page() -> None:
    first, second = cell(seed=0), cell(seed=1, power=3)
    figures = _plan([second, first, cell(dataset="moons")])
    assert list(figures) == ["calibration.fields", "calibration.moons"]
    assert said(drawn(second, first).axes[1]) == said(drawn(first).axes[1]) != said(drawn(second).axes[1])


def test_file_is_written_beside_the_tables(tmp_path: Path) -> None:
    (path,) = write_figures([cell(), cell("maf")], tmp_path)
    assert path == tmp_path / "figures" / "calibration.fields.png"
    assert path.read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("dim", [1, 10, 15])
def test_any_number_of_parameters_has_lines_that_differ(dim: int) -> None:
    figure = drawn(cell(dim=dim))
    coloured = [one for one in figure.axes[0].lines if len(one.get_xdata()) > 2 and one.get_color() != BLACK]
    assert len({(one.get_color(), one.get_linestyle()) for one in coloured}) == len(coloured) == min(dim, PARAMETERS)
    word = figure.legends[0].get_title().get_text()
    assert word == (f"the first {PARAMETERS} of 15 parameters" if dim == 15 else "")


def test_parameters_are_called_as_the_side_is_that_has_so_many() -> None:
    assert parameter_names(LABELS, 2) == ["Omega_m", "sigma_8"]
    assert parameter_names(LABELS, 3) == ["a", "b", "c"]
    assert parameter_names({**LABELS, "theta_names": ["p", "q"]}, 2) == ["p", "q"]
    assert parameter_names({}, 2) == ["theta_1", "theta_2"]
