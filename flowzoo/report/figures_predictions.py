"""Posterior means of many observations against the parameters that made them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from flowzoo.report._catalogue import Array, Axis, tick
from flowzoo.report._style import INK, PALETTE, REAL, WIDTH, verbatim, width, with_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POINTS = 300  # that are shown of more
PARAMETERS = 12


def draw_posterior_predictions(
    mean: Tensor,
    sd: Tensor,
    truth: Tensor,
    names: Sequence[str],
    units: Sequence[str] = (),
    *,
    title: str = "",
) -> Figure:
    r"""A panel for each parameter: posterior mean and standard deviation against the truth, about the diagonal.

    In the corner, of **all** observations,

    .. math:: R^2 = 1 - \frac{\sum_i (m_i - \theta_i)^2}{\sum_i (\theta_i - \bar\theta)^2}, \qquad
              \mathrm{RMSE}^2 = \frac1N \sum_i (m_i - \theta_i)^2 .

    Observations with a value that is not finite are left out, and the figure says how many.

    Args:
        mean: ``(N, D)`` posterior means in the units of the parameters; of more than 300, 300 at equal steps are shown.
        sd: ``(N, D)`` standard deviations.
        truth: ``(N, D)``.
        names: ``(D,)``.
        units: ``(D,)``, or none.
        title: in bold, if any.

    Raises:
        ValueError: if the shapes do not agree, or no observation is finite.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    if mean.ndim != 2 or not mean.shape[1] or mean.shape != sd.shape or mean.shape != truth.shape:
        shapes = ", ".join(str(tuple(part.shape)) for part in (mean, sd, truth))
        raise ValueError(f"mean, sd and truth must be (N, D) each, of one shape; got {shapes}")
    count = mean.shape[1]
    if len(names) != count or len(units) not in (0, count):
        raise ValueError(
            f"there are {count} parameters; got {len(names)} names and {len(units)} units, expected one each"
        )
    values = np.stack([part.detach().double().cpu().numpy() for part in (mean, sd, truth)])
    finite = values[:, np.isfinite(values).all((0, 2))]
    if not finite.shape[1]:
        raise ValueError(f"none of {len(mean)} observations has a finite mean, sd and truth")
    shown = min(count, PARAMETERS)
    across = next((n for n in (4, 3) if shown % n == 0), min(shown, 3))
    down = math.ceil(shown / across)
    note = "; ".join(
        filter(
            None,
            [
                f"the first {PARAMETERS} of {count} parameters" if count > PARAMETERS else "",
                f"{len(mean) - finite.shape[1]} of {len(mean)} observations are not finite, left out"
                if finite.shape[1] < len(mean)
                else "",
                f"{POINTS} of {finite.shape[1]} observations are drawn, scores are of all"
                if finite.shape[1] > POINTS
                else "",
            ],
        )
    )
    tile = min(3.2, WIDTH / across)
    page = max(tile * across, 1.5 * width(title) + 0.3, 0.075 * len(note) + 0.3)
    size = (page, tile * down + (0.35 if title else 0) + (0.25 if note else 0))
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(h_pad=0.06, w_pad=0.06))
    for i, at in enumerate(figure.subplots(down, across, squeeze=False).flat):
        if i >= shown:
            at.set_axis_off()
            continue
        _panel(at, *finite[:, :, i])
        label = with_unit(names[i], units[i] if units else "")
        at.set_xlabel(f"true {label}", fontsize=9.5)
        at.set_ylabel(f"inferred {label}", fontsize=9.5)
    if title:
        figure.suptitle(verbatim(title), fontsize=12, fontweight="bold", x=0.02, ha="left")
    if note:
        figure.supxlabel(verbatim(note), fontsize=8, color=INK, x=0.02, ha="left")
    return figure


def scores(mean: Array, truth: Array) -> tuple[float, float]:
    """R² and RMSE of estimates ``(N,)``; R² is NaN where the truth is one value.

    >>> scores(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 4.0]))[0].__round__(3)
    0.786
    """
    square = float(((mean - truth) ** 2).mean())
    spread = float(truth.var())
    return (1 - square / spread if spread > 0 else math.nan), math.sqrt(square)


def _panel(at: Axes, mean: Array, sd: Array, truth: Array) -> None:
    """One parameter."""
    r2, rmse = scores(mean, truth)
    some = np.unique(np.linspace(0, len(mean) - 1, min(len(mean), POINTS)).round().astype(int))
    mean, sd, truth = mean[some], sd[some], truth[some]
    low, high = float(min(mean.min(), truth.min())), float(max(mean.max(), truth.max()))
    margin = 0.06 * (high - low) or 0.5 * abs(low) or 0.5
    axis = Axis(low - margin, high + margin)
    at.errorbar(
        truth,
        mean,
        sd,
        fmt="o",
        color=PALETTE[0],
        markersize=2.6,
        markeredgewidth=0,
        elinewidth=0.6,
        ecolor=(*_rgb(PALETTE[0]), 0.35),
        rasterized=True,
    )
    at.plot((axis.low, axis.high), (axis.low, axis.high), color=REAL, linewidth=0.9, zorder=3)
    tick(at, axis, "x", 4)
    tick(at, axis, "y", 4)
    at.tick_params(labelsize=8)
    at.set_box_aspect(1)
    said = f"$R^2$ = {r2:.3f}".replace("-", "\N{MINUS SIGN}") if math.isfinite(r2) else "$R^2$: the truth is one value"
    at.text(0.04, 0.96, f"{said}\nRMSE = {rmse:.3g}", transform=at.transAxes, fontsize=8.5, va="top")


def _rgb(colour: str) -> tuple[float, float, float]:
    from matplotlib.colors import to_rgb

    return to_rgb(colour)
