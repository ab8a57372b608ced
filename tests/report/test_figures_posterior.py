import io
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.path import Path as Outline
from torch import Tensor

from flowzoo.data.two_moons import TwoMoons
from flowzoo.report._densities import _kernel, bin_count, fitted_density
from flowzoo.report._numbers import interval_text
from flowzoo.report._parameters import PARAMETERS
from flowzoo.report._regions import enclosing
from flowzoo.report._style import text
from flowzoo.report.figures_posterior import draw_posterior
from flowzoo.report.figures_predictions import POINTS, draw_posterior_predictions, scores

TRUTH_COLOUR = "#D55E00"


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def names(count: int) -> list[str]:
    return [f"theta_{i + 1}" for i in range(count)]


def moons(count: int, seed: int = 0) -> Tensor:
    """Draws from the exact posterior of two moons given x = 0, by rejection from where it is."""
    source = torch.Generator().manual_seed(seed)
    theta = 0.7 * torch.rand(400_000, 2, generator=source, dtype=torch.float64) - 0.35
    weight = TwoMoons().true_log_prob(torch.zeros(1, 2).expand(len(theta), 2), theta).exp()
    kept = theta[torch.rand(len(theta), generator=source, dtype=torch.float64) * weight.max() < weight]
    assert len(kept) >= count
    return kept[:count]


def panels(figure: Figure) -> tuple[list[Axes], list[Axes]]:
    """Those of the diagonal, and those of pairs."""
    diagonal = [at for at in figure.axes if at.get_title()]
    return diagonal, [at for at in figure.axes if not at.get_title()]


def outlines(at: Axes) -> list[Outline]:
    """Of the 95 % region and of the 68 % region: lines of ``contour``, by level."""
    lines = next(c for c in at.collections if len(c.get_paths()) == 2 and c.get_linewidths()[0] == 0.8)
    return list(lines.get_paths())


def written(figure: Figure) -> str:
    return "\n".join(one.get_text() for one in figure.texts)


def saved(figure: Figure) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=40)
    return content.getvalue()


@pytest.mark.parametrize("count", [1, 2, 5, 10])
def test_panels_labels_and_a_file_for_any_number_of_parameters(count: int) -> None:
    figure = draw_posterior(normal(500, count), names(count), ["kpc"] * count, truth=torch.zeros(count))
    diagonal, pairs = panels(figure)
    assert (len(diagonal), len(pairs)) == (count, count * (count - 1) // 2)
    for i in range(count):
        assert written(figure).count(text(f"theta_{i + 1}") + " [kpc]") == (
            1 if i == 0 else 2
        )  # below, and at the left
    assert saved(figure)[:4] == b"\x89PNG"


def test_more_than_twelve_parameters_are_the_first_twelve_with_a_word() -> None:
    figure = draw_posterior(normal(100, 14), names(14))
    assert len(panels(figure)[0]) == PARAMETERS
    assert "the first 12 of 14 parameters" in written(figure)


def test_same_draws_give_the_same_file() -> None:
    assert saved(draw_posterior(normal(300, 2), names(2))) == saved(draw_posterior(normal(300, 2), names(2)))


@pytest.mark.parametrize("kind", ["normal", "correlated", "moons", "cauchy"])
def test_drawn_regions_hold_68_and_95_percent_of_the_draws(kind: str) -> None:
    n = 4000
    theta = {
        "normal": lambda: normal(n, 2),
        "correlated": lambda: normal(n, 2) @ torch.tensor([[1.0, 0.95], [0.0, 0.1]], dtype=torch.float64),
        "moons": lambda: moons(n),
        "cauchy": lambda: torch.stack([normal(n), normal(n, seed=1) / normal(n, seed=2)], 1),
    }[kind]()
    at = panels(draw_posterior(theta, names(2)))[1][0]
    for path, share in zip(outlines(at), (0.95, 0.68), strict=True):
        # The level is a quantile at the draws: what is left is the outline, straight between the centres of 256 bins,
        # and for heavy tails what lies beyond the axes. 3 binomial errors are 0.010 and 0.022.
        error = 3 * math.sqrt(share * (1 - share) / n)
        held = np.zeros(n, dtype=int)
        for polygon in path.to_polygons(closed_only=True):
            held += Outline(polygon).contains_points(theta.numpy())
        assert (held % 2).mean() == pytest.approx(share, abs=error)  # odd: within an outline and not within a hole


def test_region_of_a_normal_density_holds_its_share_of_other_draws_too() -> None:
    theta, other = normal(10_000, 2), normal(100_000, 2, seed=1)
    at = panels(draw_posterior(theta, names(2)))[1][0]
    for path, share in zip(outlines(at), (0.95, 0.68), strict=True):
        inside = np.zeros(len(other), dtype=int)
        for polygon in path.to_polygons(closed_only=True):
            inside += Outline(polygon).contains_points(other.numpy())
        # 4 binomial errors of the 10,000 draws that the level is made of; that each is at its own peak costs less.
        assert (inside % 2).mean() == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 10_000))


def test_two_moons_are_two_regions_as_thin_as_they_are() -> None:
    theta = moons(8000)
    at = panels(draw_posterior(theta, names(2)))[1][0]
    outer = outlines(at)[0].to_polygons(closed_only=True)

    def area(polygon: np.ndarray) -> float:
        x, y = polygon.T
        return 0.5 * abs(float(x @ np.roll(y, 1) - y @ np.roll(x, 1)))

    areas = sorted((area(polygon) for polygon in outer), reverse=True)
    # Two of a size, and no islands beside them worth the name.
    assert areas[1] == pytest.approx(areas[0], rel=0.15)
    assert sum(areas[2:]) < 0.02 * sum(areas)
    # A moon is half a ring, r = 0.1 +- 0.01, in x and, as theta to x is a rotation, in theta. So 95 % of it are in
    # 3.92 * 0.01 * pi * 0.1 = 0.0123 at least, and blur adds; that of ``_regions``, 0.026, would more than double it.
    assert 0.0115 < areas[0] < 1.5 * 0.0123


def test_blur_is_wide_for_few_and_narrow_for_what_is_thin() -> None:
    """Heights of the density at its peak: those of thin draws are many times those of wide ones."""
    u = np.random.default_rng(0).normal(0.5, 0.12, (2, 2000))
    thin = np.random.default_rng(0).normal(0.5, 0.006, (2, 2000))
    wide_peak, thin_peak = (fitted_density(*one, 128).max() * 128**2 for one in (u, thin))
    assert wide_peak == pytest.approx(1 / (2 * math.pi * 0.12**2), rel=0.15)
    # sigma is 0.77 bins; a bin and the least blur of 0.6 bins widen it to hypot(0.77, 0.6, 1 / sqrt(12)) = 1.02.
    assert thin_peak > 0.8 * (0.77 / 1.02) ** 2 / (2 * math.pi * 0.006**2)


def test_repeated_draws_do_not_make_the_density_spiky() -> None:
    source = np.random.default_rng(1)
    once = source.normal(0.5, 0.12, (2, 500))
    again = np.repeat(once, 20, axis=1)
    assert np.allclose(fitted_density(*once, 128), fitted_density(*again, 128))


def test_density_keeps_its_sum_at_an_edge_and_counts_what_is_beyond() -> None:
    u = np.abs(np.random.default_rng(0).normal(0, 0.2, (2, 3000)))
    u[:, :300] = 2.0
    density = fitted_density(*u, 64)
    inside = ((u <= 1).all(0)).mean()
    assert density.sum() == pytest.approx(inside)
    levels = enclosing(density, *u, (0.68, 0.95))
    assert levels[0] > 0
    assert levels[1] == 0  # a tenth lies beyond the axes


def test_blur_leaves_what_is_uniform_as_it_is_at_both_edges() -> None:
    kernel = _kernel(6.0, 64)
    assert np.allclose(kernel @ np.ones(64), 1)  # unreflected, 0.69 at an edge
    assert np.allclose(kernel.sum(0), 1)


def test_bins_of_a_marginal_follow_its_structure() -> None:
    from flowzoo.report._catalogue import Axis

    source = np.random.default_rng(0)
    smooth = source.normal(0, 1, 500)
    peaks = np.concatenate([source.normal(c, 0.03, 5000) for c in (-2, 2)])
    assert bin_count(smooth, Axis(-4, 4)) < bin_count(peaks, Axis(-4, 4))


def test_truth_best_and_bounds_are_where_they_belong() -> None:
    theta = torch.stack([normal(2000).abs(), normal(2000, seed=1)], 1)
    low, high = torch.tensor([0.0, -math.inf]), torch.tensor([math.inf, math.inf])
    truth, best = torch.tensor([0.4, math.nan]), torch.tensor([0.1, 0.2])
    figure = draw_posterior(theta, names(2), truth=truth, best=best, bounds=(low, high))
    first, pair = figure.axes[0], figure.axes[1]
    assert [line.get_xdata()[0] for line in first.lines if line.get_color() == TRUTH_COLOUR] == pytest.approx([0.4])
    assert [line for line in figure.axes[2].lines if line.get_color() == TRUTH_COLOUR] == []  # not known
    cross = next(line for line in pair.lines if line.get_marker() == "+")
    assert (cross.get_xdata()[0], cross.get_ydata()[0]) == pytest.approx((0.1, 0.2))
    assert [line.get_xdata()[0] for line in first.lines if line.get_linestyle() == "-."] == [0.0]
    # No density beyond the bound.
    assert min(path.vertices[:, 0].min() for path in outlines(pair)) >= 0
    labels = [entry.get_text() for entry in figure.legends[0].get_texts()]
    assert {"truth", "maximum a posteriori", "bound of the prior"} <= set(labels)


def test_truth_near_the_axis_is_shown_and_one_far_away_is_told() -> None:
    near = draw_posterior(normal(1000, 1), names(1), truth=torch.tensor([7.0]))
    assert near.axes[0].get_xlim()[1] > 7
    far = draw_posterior(normal(1000, 1), names(1), truth=torch.tensor([1000.0]))
    assert far.axes[0].get_xlim()[1] < 10
    assert "theta_1: truth is beyond the axis, at 1000" in written(far)


def test_draws_that_are_not_finite_are_left_out_with_a_word() -> None:
    theta = normal(200, 2)
    theta[:3, 0], theta[3, 1] = math.nan, math.inf
    assert "4 of 200 draws are not finite, left out" in written(draw_posterior(theta, names(2)))


def test_constant_parameter_has_panels_and_says_so() -> None:
    theta = torch.stack([normal(500), torch.full((500,), 0.3, dtype=torch.float64), torch.zeros(500)], 1)
    figure = draw_posterior(theta, names(3))
    assert [("(constant)" in at.get_title()) for at in panels(figure)[0]] == [False, True, True]
    FigureCanvasAgg(figure).draw()
    for at in figure.axes:
        assert all(math.isfinite(edge) for edge in (*at.get_xlim(), *at.get_ylim()))


def test_heavy_tail_does_not_squeeze_the_core() -> None:
    heavy = normal(5000, 1) / normal(5000, 1, seed=1)
    low, high = draw_posterior(heavy, names(1)).axes[0].get_xlim()
    # Of a Cauchy density the middle 95 % are within 12.7; some draws are at thousands.
    assert -40 < low < -12.7
    assert 12.7 < high < 40
    assert float(heavy.abs().max()) > 1000


@pytest.mark.parametrize(("offset", "scale"), [(1e7, 1.0), (3e-4, 1e-5), (2450000.5, 0.01), (-5e-9, 1e-10)])
def test_numbers_at_the_axes_differ_whatever_the_offset(offset: float, scale: float) -> None:
    figure = draw_posterior(offset + scale * normal(500, 2), names(2))
    FigureCanvasAgg(figure).draw()
    shown = [tick.get_text() for tick in figure.axes[1].get_xticklabels() if tick.get_text()]
    assert len(shown) > 1
    assert all(one != other for one, other in pairwise(shown))


@pytest.mark.parametrize(
    ("median", "up", "down", "expected"),
    [
        (0.31, 0.02, 0.03, "$0.310^{+0.020}_{-0.030}$"),
        (0.8123, 0.0449, 0.0561, "$0.81^{+0.04}_{-0.06}$"),  # 449 is one digit
        (0.8123, 0.0354, 0.0561, "$0.812^{+0.035}_{-0.056}$"),
        (0.8123, 0.0097, 0.0561, "$0.812^{+0.010}_{-0.056}$"),  # 970 is 1000
        (67.31, 1.62, 1.58, "$67.3^{+1.6}_{-1.6}$"),
        (1234.0, 56.0, 61.0, "$1234^{+56}_{-61}$"),
        (-0.001, 1.0, 1.0, "$0.0^{+1.0}_{-1.0}$"),
        (0.0, 0.0, 0.2, "$0.00^{+0.00}_{-0.20}$"),
        (2.912e-4, 3.1e-5, 1.3e-5, r"$(2.91^{+0.31}_{-0.13})\times 10^{-4}$"),
        (9999999.99, 1000.0, 1000.0, r"$(1.00000^{+0.00010}_{-0.00010})\times 10^{7}$"),
    ],
)
def test_interval_has_the_digits_that_its_smaller_error_is_worth(
    median: float, up: float, down: float, expected: str
) -> None:
    assert interval_text(median, up, down) == expected


def test_title_of_a_marginal_is_the_median_and_the_central_68_percent() -> None:
    figure = draw_posterior(torch.linspace(0, 1, 10_001, dtype=torch.float64)[:, None], ["Omega_m"])
    # Between the 16th and the 84th percentile: 0.34 on either side.
    assert figure.axes[0].get_title() == r"$\Omega_{\mathrm{m}}$ = $0.50^{+0.34}_{-0.34}$"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"theta": normal(10)}, r"theta must be \(L, D\)"),
        ({"theta": torch.full((10, 2), math.nan)}, "0 of 10 are finite"),
        ({"names": ["a"]}, "theta has 2 parameters; got 1 names"),
        ({"units": ["a"]}, "and 1 units"),
        ({"truth": torch.zeros(3)}, r"truth must be \(2,\)"),
        ({"best": torch.zeros(1, 2)}, r"best must be \(2,\).*\(1, 2\)"),
        ({"bounds": (torch.zeros(2), torch.zeros(3))}, r"bounds\[1\] must be \(2,\)"),
    ],
)
def test_bad_input_is_one_line_that_says_what_was_expected(change: dict[str, object], message: str) -> None:
    given: dict[str, object] = {"theta": normal(10, 2), "names": names(2), **change}
    with pytest.raises(ValueError, match=message):
        draw_posterior(**given)  # type: ignore[arg-type]


# -- many observations


def test_predictions_have_a_panel_each_with_scores_of_all_and_at_most_300_points() -> None:
    truth = normal(1000, 3)
    mean = truth + 0.5 * normal(1000, 3, seed=1)
    figure = draw_posterior_predictions(mean, torch.full_like(mean, 0.5), truth, names(3), ["kpc"] * 3, title="fields")
    assert len(figure.axes) == 3
    for i, at in enumerate(figure.axes):
        r2, rmse = scores(mean[:, i].numpy(), truth[:, i].numpy())
        # N(0, 1) and an error of 0.5: 1 - 0.25, and 4 errors of a variance of 1000.
        assert r2 == pytest.approx(0.75, abs=4 * 0.25 * math.sqrt(4 / 1000))
        assert at.texts[0].get_text() == f"$R^2$ = {r2:.3f}\nRMSE = {rmse:.3g}"
        assert len(at.lines[0].get_xdata()) == POINTS
        assert at.get_xlim() == at.get_ylim()
        assert at.get_xlabel() == "true " + text(f"theta_{i + 1} [kpc]")
    assert "300 of 1000 observations are drawn" in written(figure)
    assert saved(figure)[:4] == b"\x89PNG"


def test_predictions_without_a_number_are_left_out_and_a_constant_truth_has_no_r2() -> None:
    truth = torch.ones(50, 1)
    mean = truth + normal(50, 1)
    mean[:2] = math.nan
    figure = draw_posterior_predictions(mean, torch.ones(50, 1), truth, names(1))
    assert "2 of 50 observations are not finite, left out" in written(figure)
    assert "the truth is one value" in figure.axes[0].texts[0].get_text()


def test_predictions_of_other_shapes_are_refused() -> None:
    one, two = torch.ones(5, 1), torch.ones(5, 2)
    with pytest.raises(ValueError, match=r"of one shape; got \(5, 1\), \(5, 2\), \(5, 1\)"):
        draw_posterior_predictions(one, two, one, names(1))
    with pytest.raises(ValueError, match="there are 1 parameters; got 2 names"):
        draw_posterior_predictions(one, one, one, names(2))
    with pytest.raises(ValueError, match="none of 5 observations"):
        draw_posterior_predictions(one * math.nan, one, one, names(1))
