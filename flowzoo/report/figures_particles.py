"""Projected maps of galaxies: surface density, mean metallicity and mean age; real, drawn, and the residual."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from flowzoo.report._catalogue import Array, Galaxy, called, described, galaxies, label, note, role, unit_of
from flowzoo.report._projections import LEAST, Pair, Window, project
from flowzoo.report._style import INK, WIDTH, Shown, bare, entry, text, verbatim, width

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

GALAXIES = 2  # that fit side by side on a page
PERCENTILES = (1.0, 99.0)  # of the real bins, between which the colours run
ENDS = (0.1, 0.2, 0.5, 1.0)  # that the colours of relative residuals may have
_METALLICITIES, _AGES = 2, 1  # columns that are shown
_DENSITY, _METALLICITY, _AGE, _DIVERGING, _BLANK = "viridis", "plasma", "cividis", "RdBu_r", "#D4D4D4"
# In inches.
_LEFT, _GAP, _BLOCK_GAP, _RIGHT, _TOP, _BOTTOM = 0.62, 0.05, 0.26, 0.15, 1.14, 0.3
_BAR, _ABOVE_BAR, _BELOW_BAR = 0.09, 0.05, 0.36
_END = 0.06  # of a bar of colours, where its numbers stand inwards


@dataclass(frozen=True)
class View:
    """A galaxy in one plane: the edges of the bins, and for each quantity its values in them."""

    edges: tuple[Array, Array]
    pairs: Sequence[Pair]


@dataclass(frozen=True)
class Quantities:
    """Which columns are shown: positions first, then what weights the density, then what is averaged."""

    position: Sequence[int]
    mass: int | None
    means: Sequence[int]
    colours: Sequence[str]  # of the density, then of the means

    @classmethod
    def of(cls, found: Shown) -> Quantities:
        """As the roles of the columns say."""
        labels = found.labels
        metallicities, ages = role(labels, "metallicity")[:_METALLICITIES], role(labels, "age")[:_AGES]
        colours = [_DENSITY, *[_METALLICITY] * len(metallicities), *[_AGE] * len(ages)]
        mass = next(iter(role(labels, "mass")), None)
        return cls(role(labels, "position")[:3], mass, [*metallicities, *ages], colours)


def shows(found: Shown) -> bool:
    """Whether the data say which columns are positions, two at least."""
    return len(Quantities.of(found).position) > 1


def views(galaxy: Galaxy, model: str, shown: Quantities, window: Window) -> list[View]:
    """The numbers of a galaxy's maps: x-y, and x-z where there is a third position.

    Args:
        galaxy: its particles.
        model: whose draws are compared.
        shown: the columns.
        window: what of it is seen.
    """
    position, result = list(shown.position), []
    for up in range(1, len(position)):
        edges, plane = window.edges(up), (position[0], position[up])
        pairs = project(galaxy.real, galaxy.drawn[model], plane, edges, shown.mass, shown.means)
        result.append(View(edges, pairs))
    return result


def particles(found: Shown, model: str) -> Figure:
    """A block for each of two galaxies: x-y and below it x-z of every quantity, real, drawn and their residual.

    The real and the drawn maps of a quantity have one scale of colours, from the first to the 99th percentile of the
    real bins of that galaxy; that of the residuals is symmetric. What is beyond a scale has the colour of its end. Grey
    is blank.

    Args:
        found: models with ``examples.real`` and ``.drawn (K, n, D)``, and labels that name the positions.
        model: whose draws are shown.
    """
    from matplotlib.figure import Figure

    shown = Quantities.of(found)
    seen = galaxies(found, GALAXIES)
    windows = [Window.of(galaxy.real[:, list(shown.position)]) for galaxy in seen]
    # All edge-on views have the height that the thickest galaxy needs, so that they stand in line.
    thickest = max(window.height / window.half for window in windows)
    windows = [replace(window, height=thickest * window.half) for window in windows]
    blocks = [views(galaxy, model, shown, window) for galaxy, window in zip(seen, windows, strict=True)]
    page = WIDTH if len(seen) > 1 else 0.62 * WIDTH
    tile = (page - _LEFT - _RIGHT - (len(seen) - 1) * _BLOCK_GAP) / (3 * len(seen)) - 2 * _GAP / 3
    block = 3 * tile + 2 * _GAP
    # Of the planes, one below the other: the same for all galaxies, so that quantities stay in line.
    heights = [max(tile * _aspect(block[i]) for block in blocks) for i in range(len(blocks[0]))]
    step = sum(heights) + (len(heights) - 1) * _GAP + _ABOVE_BAR + _BAR + _BELOW_BAR
    height = _TOP + step * (1 + len(shown.means)) + _BOTTOM
    figure = Figure(figsize=(page, height))

    def axes(x: float, y: float, w: float, h: float) -> Axes:
        """Of a rectangle in inches, y downwards from the top to its upper edge."""
        return figure.add_axes((x / page, 1 - (y + h) / height, w / page, h / height))

    def write(x: float, y: float, content: str, **how: Any) -> None:
        figure.text(x / page, 1 - y / height, content, **{"va": "bottom", **how})

    title = f"{verbatim(found.dataset)}: real particles, and those drawn by {verbatim(model)}"
    write(0.12, 0.14, title, fontsize=12 if len(seen) > 1 else 11, fontweight="bold", va="top")
    turned: dict[str, Any] = {"rotation": 90, "ha": "center", "va": "center"}
    for q, name in enumerate([_density_name(found, shown), *(f"mean {label(found.labels, i)}" for i in shown.means)]):
        y = _TOP + q * step
        write(0.2, y + sum(heights) / 2, name, fontsize=9.5, **turned)
        for up, tall in enumerate(heights, 1):
            plane = ", ".join(verbatim(entry(found.labels, "names", shown.position[i])) for i in (0, up))
            write(0.48, y + tall / 2, plane, fontsize=8, color=INK, **turned)
            y += tall + _GAP
    for g, galaxy in enumerate(blocks):
        left = _LEFT + g * (block + _BLOCK_GAP)
        write(left, _TOP - 0.46, called(found, g), fontsize=10.5, fontweight="bold")
        write(left, _TOP - 0.27, described(found, g, block * 10 / 8.5), fontsize=8.5, color=INK)
        for column, head in enumerate(("real", model, "residual")):
            size = min(9.0, 10 * tile / width(head))
            x = left + column * (tile + _GAP) + tile / 2
            write(x, _TOP - 0.05, verbatim(head), fontsize=size, ha="center")
        for q in range(1 + len(shown.means)):
            y = _TOP + q * step
            pairs = [view.pairs[q] for view in galaxy]
            scale, around = _scale(pairs, logarithmic=q == 0), _symmetric(pairs)
            for view, pair, tall in zip(galaxy, pairs, heights, strict=True):
                own = tile * _aspect(view)
                for column, values in enumerate((pair.real, pair.drawn, pair.residual)):
                    how = (around, _DIVERGING) if column == 2 else (scale, shown.colours[q])
                    at = axes(left + column * (tile + _GAP), y + (tall - own) / 2, tile, own)
                    _show(at, values, view.edges, *how)
                    if view is galaxy[0] and q == column == 0:
                        _ruler(at, view.edges[0], unit_of(found.labels, shown.position[0]))
                y += tall + _GAP
            y += _ABOVE_BAR - _GAP
            _bar(figure, axes(left, y, 2 * tile + _GAP, _BAR), scale, shown.colours[q], "")
            unit = "(drawn \N{MINUS SIGN} real) / real"
            if not pairs[0].relative:
                unit = " ".join(filter(None, ["drawn \N{MINUS SIGN} real", _bracket(found, shown.means[q - 1])]))
            _bar(figure, axes(left + 2 * (tile + _GAP), y, tile, _BAR), around, _DIVERGING, unit)
    below = note(seen, [model], f"grey: fewer than {LEAST} particles")
    write(0.12, height - 0.07, below, fontsize=8, color=INK)
    return figure


def _show(at: Axes, values: Array, edges: tuple[Array, Array], norm: Normalize, colours: str) -> None:
    from matplotlib import colormaps

    bare(at)
    across, up = edges
    at.imshow(
        np.ma.masked_invalid(np.clip(values, norm.vmin, norm.vmax).T),
        origin="lower",
        extent=(across[0], across[-1], up[0], up[-1]),
        aspect="auto",
        interpolation="nearest",
        cmap=colormaps[colours].with_extremes(bad=_BLANK),
        norm=norm,
    )


def _ruler(at: Axes, across: Array, unit: str) -> None:
    """A bar of a round length in the corner, from which all else is measured."""
    from matplotlib.patheffects import withStroke

    whole = across[-1] - across[0]
    power = 10.0 ** np.floor(np.log10(0.4 * whole))
    length = max(n * power for n in (1, 2, 5) if n * power <= 0.4 * whole)
    halo = [withStroke(linewidth=2.2, foreground="white")]
    start, low = 0.07, 0.07
    line: dict[str, Any] = {"transform": at.transAxes, "path_effects": halo}
    at.plot([start, start + length / whole], [low, low], color="black", linewidth=1.4, **line)
    at.text(start, low + 0.03, f"{length:g} {unit}".strip(), fontsize=7.5, color="black", va="bottom", **line)


def _bar(figure: Figure, at: Axes, norm: Normalize, colours: str, unit: str) -> None:
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import MaxNLocator

    if isinstance(norm, LogNorm):
        ticks = _log_ticks(float(norm.vmin or 0.1), float(norm.vmax or 1.0))
    else:
        values = MaxNLocator(2 if unit else 5).tick_values(float(norm.vmin or 0.0), float(norm.vmax or 0.0))
        ticks = {float(value): f"{value:g}" for value in values}
    ticks = {value: name for value, name in ticks.items() if 0 <= norm(value) <= 1}
    bar = figure.colorbar(ScalarMappable(norm, colormaps[colours]), cax=at, orientation="horizontal", ticks=list(ticks))
    bar.outline.set_linewidth(0.4)
    bar.set_ticklabels([name.replace("-", "\N{MINUS SIGN}") for name in ticks.values()])
    at.tick_params(labelsize=7, width=0.4, length=2, pad=1.5, color=INK, labelcolor=INK)
    at.minorticks_off()
    for value, number in zip(ticks, at.get_xticklabels(), strict=True):
        # At the ends inwards: the next bar begins there.
        number.set(ha="left" if norm(value) < _END else "right" if norm(value) > 1 - _END else "center")
    if unit:
        at.set_xlabel(unit, fontsize=7, color=INK, labelpad=1)


def _log_ticks(low: float, high: float) -> dict[float, str]:
    """Decades; where there are few, also what lies between them."""
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    if high > 100 * low:
        return {10.0**e: f"$10^{{{e}}}$" for e in decades}
    steps = (1, 3) if high > 6 * low else (1, 2, 3, 5, 7)
    before = {n: f"{n} \\times " if n > 1 else "" for n in steps}
    return {n * 10.0**e: f"${before[n]}10^{{{e}}}$" for e in decades for n in steps}


def _scale(pairs: Sequence[Pair], *, logarithmic: bool) -> Normalize:
    """The colours of a quantity, of its real bins; those of a density run with the logarithm."""
    from matplotlib.colors import LogNorm, Normalize

    values = np.concatenate([pair.real[np.isfinite(pair.real)] for pair in pairs])
    values = values[values > 0] if logarithmic else values
    low, high = (float(v) for v in np.percentile(values, PERCENTILES)) if len(values) else (0.1, 1.0)
    if not high > low:
        low, high = (low / 2, high * 2) if logarithmic else (low - 0.5, high + 0.5)
    return LogNorm(low, high) if logarithmic else Normalize(low, high)


def _symmetric(pairs: Sequence[Pair]) -> Normalize:
    """The colours of residuals: to the end that 95 % of them are within, or of relative ones to 1."""
    from matplotlib.colors import Normalize

    values = np.concatenate([np.abs(pair.residual[np.isfinite(pair.residual)]) for pair in pairs])
    most = float(np.percentile(values, 95)) if len(values) else 0.0
    if pairs[0].relative:
        most = next((end for end in ENDS if end >= most), ENDS[-1])
    return Normalize(-(most or 1.0), most or 1.0)


def _aspect(view: View) -> float:
    across, up = view.edges
    return float((up[-1] - up[0]) / (across[-1] - across[0]))


def _density_name(found: Shown, shown: Quantities) -> str:
    unit = entry(found.labels, "units", shown.position[0])
    what = "share of number" if shown.mass is None else "share of mass"
    return f"{what} per area" + (
        f" [({text(unit)})$^{{-2}}$]" if "/" in unit else f" [{text(unit)}$^{{-2}}$]" if unit else ""
    )


def _bracket(found: Shown, column: int) -> str:
    unit = unit_of(found.labels, column)
    return f"[{unit}]" if unit else ""
