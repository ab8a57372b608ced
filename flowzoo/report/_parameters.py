"""Draws of the parameters of one observation as a corner plot shows them: which, on which axes, with what marked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from flowzoo.report._catalogue import Array, Axis
from flowzoo.report._numbers import interval_text, power_of
from flowzoo.report._style import with_unit

PARAMETERS = 12  # that are shown of more
_CORE = (2.5, 97.5)  # percentiles, beyond which an axis goes on by half of what lies between them
_EXTENDED = 1.0  # of an axis, by which it is made longer to show the truth or the best


@dataclass(frozen=True)
class Column:
    """One parameter as it is shown."""

    name: str
    unit: str
    values: Array
    axis: Axis  # where densities are counted
    shown: Axis  # a little more where that ends at the prior's bound
    truth: float
    best: float
    bounds: tuple[float, float]

    @property
    def label(self) -> str:
        """Its name and unit, and the power of ten by which the numbers of its axis are divided."""
        power = power_of(max(abs(self.shown.low), abs(self.shown.high)))
        return with_unit(self.name, " ".join(filter(None, [f"10^{power}" if power else "", self.unit])))

    @property
    def interval(self) -> str:
        """Its median and 68 % interval."""
        low, middle, high = (float(value) for value in np.percentile(self.values, (16, 50, 84)))
        return interval_text(middle, high - middle, middle - low)

    @property
    def constant(self) -> bool:
        """Whether all draws are one value."""
        return float(np.ptp(self.values)) == 0


def columns_of(
    theta: Tensor,
    names: Sequence[str],
    units: Sequence[str],
    truth: Tensor | None,
    best: Tensor | None,
    bounds: tuple[Tensor, Tensor] | None,
) -> tuple[list[Column], str]:
    """The parameters that are shown, and what must be said below the figure."""
    if theta.ndim != 2 or not theta.shape[1]:
        raise ValueError(f"theta must be (L, D), L draws of D parameters; got {tuple(theta.shape)}")
    total, count = theta.shape
    if len(names) != count or len(units) not in (0, count):
        raise ValueError(
            f"theta has {count} parameters; got {len(names)} names and {len(units)} units, one each expected"
        )
    low, high = (None, None) if bounds is None else bounds
    rows = {"truth": truth, "best": best, "bounds[0]": low, "bounds[1]": high}
    default = (math.nan, math.nan, -math.inf, math.inf)
    for name, given in rows.items():
        if given is not None and given.shape != (count,):
            raise ValueError(f"{name} must be ({count},), one value for each parameter; got {tuple(given.shape)}")
    each = [
        [fill] * count if given is None else given.tolist() for given, fill in zip(rows.values(), default, strict=True)
    ]
    values = theta.detach().double().cpu().numpy()
    finite = values[np.isfinite(values).all(1)]
    if len(finite) < 2:
        raise ValueError(f"theta: a corner plot needs two finite draws at least; {len(finite)} of {total} are finite")
    columns = [
        _column(name, unit, finite[:, i], *(row[i] for row in each))
        for i, (name, unit) in enumerate(zip(names, units or [""] * count, strict=True))
    ][:PARAMETERS]
    lost = [] if len(finite) == total else [f"{total - len(finite)} of {total} draws are not finite, left out"]
    rest = [f"the first {PARAMETERS} of {count} parameters"] if count > PARAMETERS else []
    beyond = [
        f"{c.name}: {kind} is beyond the axis, at {value:.4g}"
        for c in columns
        for kind, value in (("truth", c.truth), ("highest density", c.best))
        if math.isfinite(value) and not c.shown.low <= value <= c.shown.high
    ]
    return columns, "; ".join([*rest, *lost, *beyond])


def _column(name: str, unit: str, values: Array, truth: float, best: float, low: float, high: float) -> Column:
    """The axis has the middle 95 % of the draws and half as much at each side, as far as there are draws."""
    core = np.percentile(values, _CORE)
    if float(np.ptp(values)) == 0:
        half = 0.5 * abs(float(values[0])) or 0.5
        start, end = float(values[0]) - half, float(values[0]) + half
    else:
        wide = float(core[1] - core[0]) or float(np.ptp(values))
        start, end = max(core[0] - 0.5 * wide, values.min()), min(core[1] + 0.5 * wide, values.max())
        start, end = start - 0.05 * (end - start), end + 0.05 * (end - start)
    reach = _EXTENDED * (end - start)
    marks = [value for value in (truth, best) if start - reach <= value <= end + reach]
    margin = 0.05 * (end - start)
    start, end = min([start, *(m - margin for m in marks)]), max([end, *(m + margin for m in marks)])
    # A prior's bound within the axis ends it: no density is smeared beyond. Draws beyond it are not hidden, though.
    inside = max(start, min(low, float(values.min()))), min(end, max(high, float(values.max())))
    axis = Axis(*inside)
    margin = 0.03 * (axis.high - axis.low)
    shown = Axis(axis.low - (margin if axis.low > start else 0), axis.high + (margin if axis.high < end else 0))
    return Column(name, unit, values, axis, shown, truth, best, (low, high))
