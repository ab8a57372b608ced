"""A corner plot: all pairs of columns of one galaxy, real and drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowzoo.report._catalogue import called, columns, corner_legend, described, galaxies, label, note, rest, tick
from flowzoo.report._regions import draw_regions
from flowzoo.report._style import INK, REAL, WIDTH, Shown, verbatim, width
from flowzoo.report.figures_marginals import histograms, marginal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 10
FRACTIONS = (0.95, 0.68)
BINS = 40  # of the marginals
_GREYS = ("#E2E2E2", "#B8B8B8")  # within 95 %, within 68 %
# In inches.
_LEFT, _BOTTOM, _RIGHT, _TOP, _GAP, _TILE = 0.9, 0.85, 0.15, 0.75, 0.05, 2.3
_SMALL = 1.3  # tile, below which letters are small and numbers are turned


def shows(found: Shown) -> bool:
    """Whether there is a pair of columns."""
    return len(columns(found, COLUMNS)) > 1


def corner(found: Shown, model: str, k: int = 0) -> Figure:
    """All pairs of columns of one galaxy: regions of highest density that enclose 68 and 95 % of its particles.

    Filled greys are the real particles, lines those that the model draws at the same context; the diagonal has the
    marginals. Both sides are blurred alike (``smooth_density``), and a region encloses its share of all particles of
    its side, those beyond the axes too.

    Args:
        found: models with ``examples.real`` and ``.drawn (K, n, D)``.
        model: whose draws are shown.
        k: which of the example galaxies.
    """
    from matplotlib.figure import Figure

    galaxy = galaxies(found, k + 1)[k]
    shown = columns(found, COLUMNS)
    ones = [marginal([galaxy], column, BINS) for column in shown]
    count = len(shown)
    tile = min(_TILE, (WIDTH - _LEFT - _RIGHT - (count - 1) * _GAP) / count)
    step = tile + _GAP
    page, height = _LEFT + count * step - _GAP + _RIGHT, _TOP + count * step - _GAP + _BOTTOM
    figure = Figure(figsize=(page, height))

    def write(y: float, content: str, **how: Any) -> None:
        figure.text(0.12 / page, 1 - y / height, content, va="top", **how)

    colour, small = found.styles[model].colour, tile < _SMALL
    for row in range(count):
        for column in range(row + 1):
            x, y = _LEFT + column * step, height - _TOP - row * step - tile
            at = figure.add_axes((x / page, y / height, tile / page, tile / height))
            if row == column:
                histograms(at, ones[row], found, [model])
                at.tick_params(axis="y", which="both", left=False, right=False, labelleft=False)
            else:
                axes, pair = (ones[column].axis, ones[row].axis), [shown[column], shown[row]]
                for rows, how in ((galaxy.real, {"greys": _GREYS}), (galaxy.drawn[model], {"colour": colour})):
                    draw_regions(at, (rows[:, pair[0]], rows[:, pair[1]]), axes, FRACTIONS, **how)
                tick(at, axes[0], "x", 3 if small else 5)
                tick(at, axes[1], "y", 3 if small else 5)
            _outer(at, left=0 == column < row, below=row == count - 1, small=small)
    for i, column in enumerate(shown):
        name: dict[str, Any] = {"fontsize": 8 if small else 10, "ha": "center", "va": "center"}
        at_x, at_y = _LEFT + i * step + tile / 2, height - _TOP - i * step - tile / 2
        figure.text(at_x / page, (0.32 if small else 0.42) / height, _folded(found, column, tile), **name)
        if i:
            figure.text(0.2 / page, at_y / height, _folded(found, column, tile), rotation=90, **name)
    write(0.14, f"{verbatim(found.dataset)}: {called(found, k)}", fontsize=12, fontweight="bold")
    write(0.4, described(found, k, (page - 0.3) * 10 / 9), fontsize=9, color=INK)
    _legend(figure, found, model, small)
    figure.text(0.12 / page, 0.05 / height, note([galaxy], [model], rest(found, COLUMNS)), fontsize=8, color=INK)
    return figure


def _outer(at: Axes, *, left: bool, below: bool, small: bool) -> None:
    """Numbers at the outer edges alone."""
    at.tick_params(labelsize=6.5 if small else 8, labelbottom=below, labelleft=left, pad=2)
    for number in at.get_xticklabels() if small else ():
        number.set(rotation=45, ha="right", rotation_mode="anchor")


def _folded(found: Shown, column: int, tile: float) -> str:
    """A column's name, its unit in a line below it where both are too long."""
    whole = label(found.labels, column)
    return whole if width(whole) <= 1.1 * tile else whole.replace(" [", "\n[", 1)


def _legend(figure: Figure, found: Shown, model: str, small: bool) -> None:
    """In the empty corner."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    entries = {
        "real: 95, 68 %": tuple(Patch(facecolor=grey, edgecolor=REAL, linewidth=0.5) for grey in _GREYS),
        f"drawn by {verbatim(model)}": Line2D([], [], color=found.styles[model].colour, linewidth=1.6),
    }
    corner_legend(figure, entries, _RIGHT, _TOP, small)
