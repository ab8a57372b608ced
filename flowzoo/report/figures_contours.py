"""How the mass of galaxies is spread: contours that enclose shares of it in x-y, and the mass within a radius."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median_low
from typing import TYPE_CHECKING, Any

import numpy as np

from flowzoo.report._catalogue import (
    Array,
    Axis,
    Galaxy,
    called,
    galaxies,
    label,
    legend,
    legend_rows,
    note,
    role,
    tick,
)
from flowzoo.report._projections import Window
from flowzoo.report._regions import draw_regions
from flowzoo.report._style import CONTEXTS, REAL, WIDTH, Shown, model_lines, text, verbatim, width

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FRACTIONS = (0.95, 0.8, 0.5)
RADII = 60
LEAST, MOST = 0.05, 1.0  # how far the ratio's axis may go from 1
_PANELS = 4  # of contours in a row
_WIDER = 1.2  # than the window of the maps, so that what holds 95 % is inside
_BELOW, _IN_ROW = 3.9, 5  # inches of the profiles, entries of the legend in a row
_TOLD = 0.05  # share of the mass, within which a ratio is mostly noise
_GREYS = ("#EBEBEB", "#D2D2D2", "#B0B0B0")  # within 95, 80, 50 %
_BAND = "#C4C4C4"


@dataclass(frozen=True)
class Enclosed:
    """Shares of the real mass within radii.

    Args:
        radii: ``(R,)``.
        real: ``(R,)``.
        drawn: by model, ``(R,)``; the total differs from 1 as far as the mean mass of a particle does.
        error: ``(R,)``, relative: what two real samples of that many particles differ by, one standard deviation.
    """

    radii: Array
    real: Array
    drawn: dict[str, Array]
    error: Array


def enclosed(galaxy: Galaxy, position: Sequence[int], mass: int | None = None, count: int = RADII) -> Enclosed:
    r"""The mass within a radius about the median of the real positions.

    .. math:: F(r) = \frac{\frac{1}{n} \sum_i m_i [r_i < r]}{\frac{1}{n^\mathrm{real}} \sum_i m_i^\mathrm{real}}

    Args:
        galaxy: its particles.
        position: two or three columns.
        mass: the column that is the mass; by default every particle counts the same.
        count: of radii, equal in log r from the 0.5th percentile of the real ones to the largest but 0.5 %.
    """
    columns = list(position)
    centre = np.median(galaxy.real[:, columns], axis=0) if len(galaxy.real) else np.zeros(len(columns))

    def sides(rows: Array) -> tuple[Array, Array]:
        return np.linalg.norm(rows[:, columns] - centre, axis=1), np.ones(len(rows)) if mass is None else rows[:, mass]

    radius, weight = sides(galaxy.real)
    low, high = np.percentile(radius, (0.5, 99.5)) if len(radius) else (0.1, 1.0)
    high = high if high > 0 else 1.0
    radii = np.geomspace(max(low, 1e-3 * high), high, count)
    mean = float(weight.mean()) if len(weight) else 1.0
    real, square = _within(radius, weight, radii), _within(radius, weight**2, radii)
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.sqrt(2 * (square - real**2) / max(len(weight), 1)) / real
    drawn = {model: _within(*sides(rows), radii) / mean for model, rows in galaxy.drawn.items()}
    return Enclosed(radii, real / mean, drawn, error)


def shows(found: Shown) -> bool:
    """Whether the data say which columns are positions, two at least."""
    return len(role(found.labels, "position")) > 1


def contours(found: Shown) -> Figure:
    """Above, panels of a galaxy and a model; below, the mass within a radius, and its ratio to the real one.

    Filled greys enclose 50, 80 and 95 % of the real mass in x-y, coloured lines of a model the same of what it draws.
    The band of the ratio is what two real samples of that size differ by. Where no column is a mass, particles are
    counted.

    Args:
        found: models with ``examples.real`` and ``.drawn (K, n, D)``, and labels that name the positions.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    position = role(found.labels, "position")[:3]
    mass = next(iter(role(found.labels, "mass")), None)
    seen = galaxies(found, CONTEXTS)
    models = list(found.scores)
    panels = [(g, model) for g in range(min(len(seen), max(1, _PANELS // len(models)))) for model in models]
    across = min(_PANELS, len(panels))
    down = math.ceil(len(panels) / across)
    side = min(2.9, WIDTH / across - 0.42)
    entries = _legend(found, mass is not None)
    high = down * (side + 0.5) + 0.5
    figure = Figure(
        figsize=(WIDTH, high + _BELOW + 0.25 + 0.2 * legend_rows(entries, _IN_ROW)),
        layout=ConstrainedLayoutEngine(h_pad=0.05, w_pad=0.05),
    )
    parts: Any = figure.subfigures(2, 1, height_ratios=(high, _BELOW))
    above, below = parts
    grid = above.subplots(down, across, squeeze=False)
    for i, at in enumerate(grid.flat):
        if i >= len(panels):
            at.set_axis_off()
            continue
        g, model = panels[i]
        _outlines(at, seen[g], model, position, mass, found.styles[model].colour)
        at.set_title(_fitted(f"{called(found, g)}, {verbatim(model)}", side), fontsize=9.5)
        if i + across >= len(panels):
            at.set_xlabel(label(found.labels, position[0]), fontsize=9.5)
        if i % across == 0:
            at.set_ylabel(label(found.labels, position[1]), fontsize=9.5)
    profiles = [enclosed(galaxy, position, mass) for galaxy in seen]
    lower = below.subplots(2, len(seen), squeeze=False, sharex="col", sharey="row", height_ratios=(2, 1))
    half = _half_width(profiles)
    for (top, ratio), profile, g in zip(lower.T, profiles, range(len(seen)), strict=True):
        _profile(top, ratio, profile, found, half)
        top.set_title(called(found, g), fontsize=9.5)
        ratio.set_xlabel(_radius(found, position), fontsize=9.5)
    letter = "M" if mass is not None else "N"
    lower[0, 0].set_ylabel(f"${letter}(<r)\\;/\\;{letter}_\\mathrm{{real}}$", fontsize=10)
    lower[1, 0].set_ylabel("model / real", fontsize=9.5)
    what = "mass" if mass is not None else "number of particles"
    title = f"{verbatim(found.dataset)}: where the {what} is"
    above.suptitle(title, fontsize=12, fontweight="bold", x=0.02, ha="left")
    legend(figure, entries, _IN_ROW, note(seen, models, found.note))
    return figure


def _outlines(at: Axes, galaxy: Galaxy, model: str, position: Sequence[int], mass: int | None, colour: str) -> None:
    window = Window.of(galaxy.real[:, list(position)])
    half = _WIDER * window.half
    x, y = (Axis(centre - half, centre + half) for centre in window.centre[:2])
    for rows, how in ((galaxy.real, {"greys": _GREYS}), (galaxy.drawn[model], {"colour": colour})):
        points = rows[:, position[0]], rows[:, position[1]]
        # A drawn mass may be negative: it has no place in a share.
        weights = None if mass is None else np.maximum(rows[:, mass], 0.0)
        draw_regions(at, points, (x, y), FRACTIONS, weights=weights, **how)
    at.set_aspect("equal")
    tick(at, x, "x", 5)
    tick(at, y, "y", 5)
    at.tick_params(labelsize=8)


def _profile(top: Axes, ratio: Axes, profile: Enclosed, found: Shown, half: float) -> None:
    axis = Axis(float(profile.radii[0]), float(profile.radii[-1]), log=True)
    top.plot(profile.radii, profile.real, color=REAL, linewidth=2.2)
    ratio.fill_between(profile.radii, 1 - profile.error, 1 + profile.error, color=_BAND, linewidth=0)
    ratio.axhline(1, color=REAL, linewidth=1)
    for model, values in profile.drawn.items():
        style: dict[str, Any] = {"color": found.styles[model].colour, "linestyle": found.styles[model].dash}
        top.plot(profile.radii, values, linewidth=1.4, **style)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio.plot(profile.radii, values / profile.real, linewidth=1.4, **style)
    for at, low, high in ((top, 0.0, 1.05), (ratio, 1 - half, 1 + half)):
        tick(at, Axis(low, high), "y", 6 if at is top else 5, 0.0 if at is top else 0.06)
        tick(at, axis, "x", 5)
        at.tick_params(labelsize=8)


def _half_width(profiles: Sequence[Enclosed]) -> float:
    """How far the ratio's axis goes from 1: all of the better half of the models, where the ratio is not noise."""
    away: dict[str, float] = {}
    for profile in profiles:
        told = profile.real > _TOLD
        for model, values in profile.drawn.items():
            most = float(np.abs(values[told] / profile.real[told] - 1).max()) if told.any() else 0.0
            away[model] = max(away.get(model, 0.0), most)
    return min(MOST, max(LEAST, 1.2 * median_low(away.values())))


def _within(radius: Array, weight: Array, radii: Array) -> Array:
    """Of the weight within each radius, the sum per particle."""
    order = np.argsort(radius)
    sums = np.concatenate([[0.0], np.cumsum(weight[order])])
    inside: Array = sums[np.searchsorted(radius[order], radii)] / max(len(radius), 1)
    return inside


def _legend(found: Shown, massive: bool) -> Mapping[str, Any]:
    """By label, what stands before it."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    what = "mass" if massive else "particles"
    greys = tuple(Patch(facecolor=grey, edgecolor=REAL, linewidth=0.5) for grey in _GREYS)
    real = Line2D([], [], color=REAL, linewidth=2.2)
    entries = {f"real: 95, 80, 50 % of the {what}": greys, "real": real, "real against real": Patch(color=_BAND)}
    return entries | model_lines(found)


def _radius(found: Shown, position: Sequence[int]) -> str:
    units = {text(found.labels["units"][i]) for i in position if i < len(found.labels.get("units", ()))} - {""}
    return "$r$" + (f"  [{units.pop()}]" if len(units) == 1 else "")


def _fitted(title: str, inches: float) -> str:
    """In two lines where one is too long."""
    return title if width(title) <= inches else title.replace(", ", ",\n", 1)
