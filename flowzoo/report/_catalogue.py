"""What the figures of catalogues share: columns by role, axes, and which particles are finite.

Nothing here draws, but for the ticks of a panel.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from flowzoo.report._style import Shown, context_text, entry, frame, text, verbatim, width, with_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

NEEDED = ("examples.context", "examples.real", "examples.drawn")
PERCENTILES = (0.5, 99.5)  # of the real values, between which an axis runs: one outlier decides nothing
RANGE = 300.0  # of positive values between them, above which an axis is logarithmic
_NARROW = 200.0  # of a logarithmic axis: below it there are ticks between decades
_CLEAR = 0.06  # of an axis at its ends, where the numbers of two panels would touch
_FEW = 3  # ticks, which leave no room between decades
_LETTERS = 15  # of a note, in an inch


@dataclass(frozen=True)
class Axis:
    """Where a column is looked at, linearly or by its logarithm."""

    low: float
    high: float
    log: bool = False

    def scaled(self, values: Array) -> Array:
        """Position on the axis, 0 at its lower end and 1 at its upper; -inf where there is no logarithm."""
        low, high = self.low, self.high
        if self.log:
            values = np.log10(values, out=np.full(values.shape, -np.inf), where=values > 0)
            low, high = np.log10(low), np.log10(high)
        return (values - low) / (high - low)

    def at(self, scaled: Array) -> Array:
        """The values at positions on the axis."""
        if self.log:
            return self.low * (self.high / self.low) ** scaled
        return self.low + (self.high - self.low) * scaled

    def padded(self, share: float) -> Axis:
        """The axis and that share of its length more at both ends."""
        ends = self.at(np.array([-share, 1 + share]))
        return Axis(float(ends[0]), float(ends[1]), self.log)

    @classmethod
    def of(cls, real: Array) -> Axis:
        """From the 0.5th to the 99.5th percentile of the real values; by decades where positive ones span many."""
        low, high = (float(value) for value in np.percentile(real, PERCENTILES)) if len(real) else (0.0, 1.0)
        if not high > low:
            half = 0.5 * abs(low) or 0.5
            return cls(low - half, low + half)
        return cls(low, high, log=low > 0 and high > RANGE * low)


@dataclass(frozen=True)
class Galaxy:
    """Particles of one galaxy, real and drawn, rows that are not finite left out.

    Args:
        real: ``(n, D)``.
        drawn: by model, ``(m, D)``.
        lost: by model, how many draws were not finite.
    """

    real: Array
    drawn: Mapping[str, Array]
    lost: Mapping[str, int]


def galaxies(found: Shown, count: int) -> list[Galaxy]:
    """The first example galaxies, at most so many."""
    each = []
    for k in range(min(count, len(found.first["examples.real"]))):
        drawn = {model: _finite(scores["examples.drawn"][k]) for model, scores in found.scores.items()}
        lost = {model: scores["examples.drawn"].shape[1] - len(drawn[model]) for model, scores in found.scores.items()}
        each.append(Galaxy(_finite(found.first["examples.real"][k]), drawn, lost))
    return each


def role(labels: Mapping[str, Sequence[str]], name: str) -> list[int]:
    """The columns of that role, by index; empty if the data name none."""
    names = list(labels.get("names", ()))
    return [names.index(column) for column in labels.get(name, ()) if column in names]


def label(labels: Mapping[str, Sequence[str]], column: int) -> str:
    """The name of a column and its unit."""
    return with_unit(entry(labels, "names", column, f"x_{column + 1}"), entry(labels, "units", column))


def columns(found: Shown, most: int) -> range:
    """The columns of the events that are shown: the first ones."""
    return range(min(found.first["examples.real"].shape[2], most))


def rest(found: Shown, most: int) -> str:
    """Which columns are not shown; empty if all are."""
    count = found.first["examples.real"].shape[2]
    return f"the first {most} of {count} columns" if count > most else ""


def called(found: Shown, k: int) -> str:
    """What example galaxy k is called."""
    name = entry(found.labels, "groups", k)
    if not name and "examples.group" in found.first:
        name = f"group {int(found.first['examples.group'][k])}"
    return verbatim(name or f"example {k + 1}")


def described(found: Shown, k: int, inches: float) -> str:
    """The context of example galaxy k, as many of its values as one line has room for."""
    whole = context_text(found.first["examples.context"][k], found.labels, np.inf)
    parts = whole.split(", ")
    for count in range(len(parts), 0, -1):
        line = ", ".join(parts[:count]) + (", ..." if count < len(parts) else "")
        if width(line) <= inches:
            return line
    return ""


def note(seen: Sequence[Galaxy], models: Iterable[str], *others: str) -> str:
    """What must be said below a figure of these models: what else, and how many draws were not finite."""
    lost = {model: sum(galaxy.lost[model] for galaxy in seen) for model in models}
    drawn = {model: sum(len(galaxy.drawn[model]) for galaxy in seen) for model in lost}
    parts = [f"{m} {lost[m]} of {lost[m] + drawn[m]}" for m in lost if lost[m]]
    not_finite = f"draws that are not finite, left out: {', '.join(parts)}" if parts else ""
    return verbatim("; ".join(filter(None, [*others, not_finite])))


def kind(found: Shown, count: int) -> str:
    """What the groups are: galaxies where something has a position, else groups."""
    one, many = ("galaxy", "galaxies") if role(found.labels, "position") else ("group", "groups")
    return f"one {one}" if count == 1 else f"{count} {many} together"


def legend(figure: Figure, entries: Mapping[str, Any], across: int, below: str) -> None:
    """Below all panels, with at most so many entries in a row, and a note above them."""
    from matplotlib.legend_handler import HandlerTuple

    # A note is the title of the legend, where the layout keeps it apart from all else.
    wrapped = "\n".join(textwrap.wrap(below, round(_LETTERS * figure.get_figwidth())))
    titled = {"title": wrapped, "title_fontsize": 8, "alignment": "left"} if below else {}
    figure.legend(
        list(entries.values()),
        list(entries),
        loc="outside lower center",
        ncols=math.ceil(len(entries) / legend_rows(entries, across)),
        frameon=False,
        fontsize=9,
        handler_map={tuple: HandlerTuple(ndivide=None, pad=0.1)},
        **titled,
    )


def corner_legend(figure: Figure, entries: Mapping[str, Any], right: float, top: float, small: bool) -> None:
    """In the empty corner of a corner plot, so many inches from the edges; larger where panels are small."""
    from matplotlib.legend_handler import HandlerTuple

    page, height = figure.get_size_inches()
    figure.legend(
        list(entries.values()),
        list(entries),
        loc="upper right",
        bbox_to_anchor=(1 - right / page, 1 - top / height),
        borderaxespad=0,
        frameon=False,
        fontsize=9 if small else 8.5,
        handler_map={tuple: HandlerTuple(ndivide=None, pad=0.1)},
    )


def legend_rows(entries: Mapping[str, Any], across: int) -> int:
    """How many rows ``legend`` makes of them."""
    return math.ceil(len(entries) / across)


def unit_of(labels: Mapping[str, Sequence[str]], column: int) -> str:
    """The unit of a column, as ``text``."""
    return text(entry(labels, "units", column))


def tick(at: Axes, axis: Axis, along: str, count: int, clear: float = _CLEAR) -> None:
    """Limits, scale and about so many ticks of a panel, along ``"x"`` or ``"y"``; none so near to an end of it."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

    frame(at, length=2.5)
    at.set(**{f"{along}scale": "log" if axis.log else "linear"})
    at.set(**{f"{along}lim": (axis.low, axis.high)})
    line = at.xaxis if along == "x" else at.yaxis
    line.set_minor_locator(NullLocator())
    narrow = axis.log and axis.high < _NARROW * axis.low and count > _FEW
    if narrow:
        values = np.asarray(LogLocator(subs=(1, 2, 5), numticks=12).tick_values(axis.low, axis.high))
    elif axis.log:
        values = np.asarray(LogLocator(numticks=count).tick_values(axis.low, axis.high))
    else:
        values = np.asarray(MaxNLocator(count, steps=[1, 2, 5, 10]).tick_values(axis.low, axis.high))
    place = axis.scaled(values)
    inside = values[(place >= 0) & (place <= 1)]
    apart = values[(place >= clear) & (place <= 1 - clear)]
    line.set_major_locator(FixedLocator((apart if len(apart) > 1 else inside).tolist()))
    if narrow or not axis.log:
        line.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "\N{MINUS SIGN}")))


def _finite(values: Tensor) -> Array:
    rows: Array = values.double().cpu().numpy()
    return rows[np.isfinite(rows).all(1)]
