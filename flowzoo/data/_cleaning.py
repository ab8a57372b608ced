"""Cleaning of galaxies: which particles are left out and how the rest is turned, in named steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import BeforeValidator

from flowzoo.config import ConfigError
from flowzoo.data._catalogue_files import Galaxy
from flowzoo.data._options import pairs
from flowzoo.data._orientation import by_angular_momentum, by_inertia

Range = tuple[float | None, float | None]


def ranges(value: Any) -> dict[str, Range]:
    """Column to lowest and highest value, None where there is no end; from a mapping or from text.

    >>> ranges("feh=-8.., Z=0..0.1")
    {'feh': (-8.0, None), 'Z': (0.0, 0.1)}
    """
    found: dict[str, Range] = {}
    for name, text in dict(pairs(value)).items():
        words = text.split("..") if isinstance(text, str) else list(text) if isinstance(text, list | tuple) else []
        try:
            low, high = (None if word in ("", None) else float(word) for word in words)
        except (TypeError, ValueError):
            raise ValueError(f"a range must be low..high, low.. or ..high; got {text!r} for '{name}'") from None
        ends = -math.inf if low is None else low, math.inf if high is None else high
        if ends == (-math.inf, math.inf) or not ends[0] < ends[1]:
            raise ValueError(f"a range needs low < high; got {text!r} for '{name}'")
        found[str(name)] = (low, high)
    return found


Ranges = Annotated[dict[str, Range], BeforeValidator(ranges)]


class Cleaned(NamedTuple):
    """A galaxy after cleaning, and what was done to it."""

    galaxy: Galaxy  # of the particles that are left
    removed: dict[str, int]  # step to particles, in the order of the steps
    centre: np.ndarray  # (2, d): position and velocity that are now 0
    rotation: np.ndarray  # (d, d)


@dataclass(frozen=True)
class Cleaning:
    """The steps, in the order in which they are taken; those that are not asked for are not taken.

    1. ``finite``: particles with a value that is not finite are left out, in any column that is read.
    2. ``centre``: position and velocity are taken from their mean or median.
    3. radius: R > min(percentile of R, absolute radius) is left out, galaxy by galaxy.
    4. metallicity: the so many particles of highest metallicity are left out.
    5. ``ranges``: what lies outside the range of a column is left out; the ends belong to it.
    6. ``minimum``: galaxies with fewer particles than that are left out.
    7. ``rotate``: position and velocity are turned to the principal plane.

    Args:
        position: two or three columns, where a step needs them.
        velocity: as many columns.
        mass: column of the weights in centre, angular momentum and inertia; all are 1 without it.
        metallicity: column of the fourth step.
        finite: whether the first step is taken; if not, such values are an error.
        centre: ``"mean"`` (weighted by mass), ``"median"``, or ``""``.
        radius: absolute, in the units of the position.
        radius_percentile: from 0 to 100.
        metallicity_outliers: how many.
        ranges: column to lowest and highest value.
        minimum: number of particles.
        rotate: ``"angular_momentum"`` (to +z), ``"inertia"`` (largest axis to x, smallest to z), or ``""``.

    Raises:
        ConfigError: for a step whose columns are not named, or a value that makes no sense.
    """

    position: Sequence[str] = ()
    velocity: Sequence[str] = ()
    mass: str = ""
    metallicity: str = ""
    finite: bool = False
    centre: str = ""
    radius: float | None = None
    radius_percentile: float | None = None
    metallicity_outliers: int = 0
    ranges: Mapping[str, Range] = field(default_factory=dict)
    minimum: int = 0
    rotate: str = ""

    def __post_init__(self) -> None:
        for role, columns in (("position", self.position), ("velocity", self.velocity)):
            if columns and (len(columns) not in (2, 3) or len(set(columns)) < len(columns)):
                raise ConfigError(f"{role} must name two or three different columns; got {', '.join(columns)}")
        if self.velocity and len(self.velocity) != len(self.position):
            raise ConfigError(
                f"velocity must have the axes of position; got {len(self.velocity)} and {len(self.position)} columns"
            )
        if self.centre not in ("", "mean", "median"):
            raise ConfigError(f"centre must be mean, median or empty; got '{self.centre}'")
        if self.rotate not in ("", "angular_momentum", "inertia"):
            raise ConfigError(f"rotate must be angular_momentum, inertia or empty; got '{self.rotate}'")
        if self.radius is not None and not self.radius > 0:
            raise ConfigError(f"radius must be positive; got {self.radius:g}")
        if self.radius_percentile is not None and not 0 < self.radius_percentile <= 100:
            raise ConfigError(f"radius_percentile must be above 0 and at most 100; got {self.radius_percentile:g}")
        for option in ("metallicity_outliers", "minimum"):
            if getattr(self, option) < 0:
                raise ConfigError(f"{option} must be 0 or more; got {getattr(self, option)}")
        asked = {"centre": self.centre, "rotate": self.rotate, "radius": self._radial}
        for option, value in asked.items():
            if value and not self.position:
                raise ConfigError(f"{option} needs to know which columns are the position; give `position`")
        if self.rotate == "angular_momentum" and (len(self.velocity) != 3 or len(self.position) != 3):
            raise ConfigError("rotate=angular_momentum needs three columns of `position` and three of `velocity`")
        if self.metallicity_outliers and not self.metallicity:
            raise ConfigError("metallicity_outliers needs to know which column that is; give `metallicity`")

    @property
    def _radial(self) -> bool:
        return self.radius is not None or self.radius_percentile is not None

    @property
    def moves(self) -> bool:
        """Whether coordinates are other than in the files."""
        return bool(self.centre or self.rotate)

    @property
    def needs(self) -> list[str]:
        """The columns that the steps look at."""
        spatial = [*self.position, *self.velocity, *([self.mass] if self.mass else [])] if self.moves else []
        radial = self.position if self._radial else ()
        metallicity = [self.metallicity] if self.metallicity_outliers else []
        return list(dict.fromkeys([*spatial, *radial, *metallicity, *self.ranges]))

    @property
    def steps(self) -> list[str]:
        """The names of the steps that leave particles out, as they appear in the report."""
        metallicity = ["metallicity"] if self.metallicity_outliers else []
        every = (["finite"] if self.finite else [], ["radius"] if self._radial else [], metallicity)
        return [step for steps in every for step in steps] + [f"range {name}" for name in self.ranges] + ["minimum"]

    def clean(self, galaxy: Galaxy) -> Cleaned | dict[str, int]:
        """Take the steps on one galaxy; only what was removed by each, where the galaxy is left out.

        Raises:
            ValueError: naming the galaxy and its file, for values that are not finite, if no particle is left and no
                ``minimum`` says that this may be, or if it cannot be turned.
        """
        work = _Work(galaxy)
        finite = np.ones(work.count, dtype=bool)
        for label, column in galaxy.columns.items():
            good = np.isfinite(column) if column.dtype.kind == "f" else np.ones(work.count, dtype=bool)
            if not (self.finite or good.all()):
                raise ValueError(
                    f"{galaxy.called}: column '{label}': {(~good).sum()} of {work.count} rows are not finite; "
                    "finite=true leaves such particles out"
                )
            finite &= good
        if self.finite:
            work.keep("finite", finite)
        centre = self._centred(work)
        if self._radial:
            work.keep("radius", self._within(work))
        if self.metallicity_outliers:
            order = np.argsort(-work.columns[self.metallicity].astype(np.float64), kind="stable")
            work.keep("metallicity", np.isin(np.arange(work.count), order[self.metallicity_outliers :]))
        for name, (low, high) in self.ranges.items():
            column = work.columns[name]
            outside = np.zeros(work.count, dtype=bool)
            if low is not None:
                outside |= column < low
            if high is not None:
                outside |= column > high
            work.keep(f"range {name}", ~outside)
        if not work.count and not self.minimum:
            told = ", ".join(f"{step} {number}" for step, number in work.removed.items() if number)
            none = f"cleaning left none of its {len(galaxy.rows)} particles (left out: {told})"
            what = none if len(galaxy.rows) else "the file has no rows"
            raise ValueError(f"{galaxy.called}: {what}; minimum=1 leaves such galaxies out")
        if work.count < self.minimum:
            return work.removed | {"minimum": work.count}
        rotation = self._turned(work)
        left = galaxy._replace(rows=work.rows, columns=work.columns)
        return Cleaned(left, work.removed | {"minimum": 0}, centre, rotation)

    def _centred(self, work: _Work) -> np.ndarray:
        """Centre position and velocity; returns what is subtracted."""
        centre = np.zeros((2, len(self.position)))
        if self.centre and work.count:
            for i, names in enumerate((self.position, self.velocity)):
                values = work.stack(names)
                if names:
                    mean = self.centre == "mean"
                    centre[i] = np.average(values, 0, work.weights(self.mass)) if mean else np.median(values, 0)
                    work.put(names, values - centre[i])
        return centre

    def _within(self, work: _Work) -> np.ndarray:
        """Which particles are within the radius."""
        r = np.linalg.norm(work.stack(self.position), axis=1)
        limit = math.inf if self.radius is None else self.radius
        if self.radius_percentile is not None and len(r):
            limit = min(limit, float(np.percentile(r, self.radius_percentile)))
        return np.asarray(r <= limit)

    def _turned(self, work: _Work) -> np.ndarray:
        """Turn position and velocity; returns the rotation."""
        if not self.rotate or not work.count:
            return np.eye(len(self.position))
        r, v, m = work.stack(self.position), work.stack(self.velocity), work.weights(self.mass)
        try:
            if self.rotate == "inertia":
                rotation = by_inertia(r, v if self.velocity else None, m)
            else:
                rotation = by_angular_momentum(r, v, m)
        except ValueError as error:
            raise ValueError(f"{work.called}: {error}") from None
        work.put(self.position, r @ rotation.T)
        if self.velocity:
            work.put(self.velocity, v @ rotation.T)
        return rotation


class _Work:
    """The particles that are left, on the way."""

    def __init__(self, galaxy: Galaxy) -> None:
        self.called, self.rows, self.columns = galaxy.called, galaxy.rows, dict(galaxy.columns)
        self.removed: dict[str, int] = {}

    @property
    def count(self) -> int:
        return len(self.rows)

    def keep(self, step: str, kept: np.ndarray) -> None:
        """Leave the others out."""
        self.removed[step] = int((~kept).sum())
        if self.removed[step]:
            self.rows = self.rows[kept]
            self.columns = {label: column[kept] for label, column in self.columns.items()}

    def stack(self, names: Sequence[str]) -> np.ndarray:
        """``(n, d)`` float64 of these columns."""
        return np.stack([self.columns[name].astype(np.float64) for name in names], 1) if names else np.empty((0, 0))

    def put(self, names: Sequence[str], values: np.ndarray) -> None:
        """Set these columns."""
        self.columns |= {name: values[:, i] for i, name in enumerate(names)}

    def weights(self, mass: str) -> np.ndarray:
        """``(n,)`` of the masses, or ones."""
        if not mass:
            return np.ones(self.count)
        weights = self.columns[mass].astype(np.float64)
        if not (weights.min() >= 0 and weights.sum() > 0):
            raise ValueError(f"{self.called}: the mass '{mass}' has negative values, or none above 0; it is a weight")
        return weights
