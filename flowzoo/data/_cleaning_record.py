"""What cleaning did to every galaxy: told, counted, and undone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from flowzoo.config import ConfigError
from flowzoo.data._cleaning import Cleaned, Cleaning

if TYPE_CHECKING:
    import pandas as pd

_WORST = 3  # galaxies that a note names


@dataclass(frozen=True, eq=False)
class CleaningRecord:
    """The steps that were taken and what each did to each galaxy. ``Data.references["cleaning"]`` of a catalogue.

    Args:
        cleaning: the steps.
        names: columns of an event.
        galaxies: ids of those that are left, in the order of ``Data.groups``.
        ends: ``(G,)``, the event after the last of each.
        rows: ``(N,)``, the row of each event in the file of its galaxy.
        centres: ``(G, 2, d)``, the position and velocity in the file that became 0.
        rotations: ``(G, d, d)``, proper, acting on columns.
        counts: a line for each galaxy, those left out too: its id, its particles, what each step removed.
    """

    cleaning: Cleaning
    names: tuple[str, ...]
    galaxies: tuple[str, ...]
    ends: np.ndarray
    rows: np.ndarray
    centres: np.ndarray
    rotations: np.ndarray
    counts: Sequence[tuple[str, int, dict[str, int]]]

    def rows_of(self, galaxy: str) -> np.ndarray:
        """The rows of a galaxy's file that its events are, in their order.

        Raises:
            ValueError: for a galaxy that is not there.
        """
        if galaxy not in self.galaxies:
            raise ValueError(f"no galaxy '{galaxy}' is left after cleaning; there are {', '.join(self.galaxies[:10])}")
        g = self.galaxies.index(galaxy)
        return self.rows[self.ends[g - 1] if g else 0 : self.ends[g]]

    def report(self) -> pd.DataFrame:
        """As the function ``report``."""
        return report(self.cleaning, self.counts)

    def notes(self) -> list[str]:
        """A line for each step that was asked for: the total, and the galaxies that lost most."""
        notes = []
        told = {"radius": self._radius(), "metallicity": f"{self.cleaning.metallicity_outliers} highest of each galaxy"}
        for name, (low, high) in self.cleaning.ranges.items():
            told[f"range {name}"] = f"{'' if low is None else f'{low:g}'}..{'' if high is None else f'{high:g}'}"
        total = sum(particles for _, particles, _ in self.counts)
        for step in self.cleaning.steps[:-1]:
            removed = sum(counts.get(step, 0) for _, _, counts in self.counts)
            how = f" ({told[step]})" if step in told else ""
            notes.append(f"cleaning, {step}{how}: left out {removed} of {total} particles{self._worst(step)}")
        if self.cleaning.minimum:
            left = set(self.galaxies)
            small = [(g, counts["minimum"]) for g, _, counts in self.counts if g not in left]
            names = ", ".join(f"'{galaxy}' with {count}" for galaxy, count in small[:10])
            more = f" and {len(small) - 10} more" if len(small) > 10 else ""
            listing = f": {names}{more}" if small else ""
            many = f"left out {len(small)} of {len(self.counts)} galaxies{listing}"
            notes.append(f"cleaning, minimum of {self.cleaning.minimum} particles: {many}")
        both = "position and velocity" if self.cleaning.velocity else "position"
        if self.cleaning.centre:
            weights = f", weighted by '{self.cleaning.mass}'," if self.cleaning.mass else ""
            what = "median" if self.cleaning.centre == "median" else f"mean{weights}"
            notes.append(f"cleaning, centre: {both} of each galaxy are from their {what}".rstrip(","))
        if self.cleaning.rotate:
            to = {"angular_momentum": "its angular momentum is along +z", "inertia": "its axes of inertia are x, y, z"}
            notes.append(f"cleaning, rotate: {both} of each galaxy are turned so that {to[self.cleaning.rotate]}")
        return notes

    def restore(self, x: Tensor, groups: Tensor | None = None) -> Tensor:
        """Events with position and velocity as the files have them; other columns are left alone.

        As float64 where coordinates were moved: a position beside a large centre is more than float32 can hold.

        Args:
            x: ``(n, D)`` events, of the data or drawn.
            groups: ``(n,)``, the galaxy of each; None for the events of the data in their order.

        Raises:
            ConfigError: if an axis that was turned is not in x.
            ValueError: if x is not of this catalogue's events, or groups is not of its galaxies.
        """
        if x.ndim != 2 or x.shape[1] != len(self.names) or (groups is None and len(x) != len(self.rows)):
            raise ValueError(
                f"x must be (n, {len(self.names)}), with groups (n,) if n is not {len(self.rows)}; got {tuple(x.shape)}"
            )
        if groups is not None:
            whole = not (groups.is_floating_point() or groups.dtype == torch.bool)
            if not whole or groups.shape != x.shape[:1] or bool(((groups < 0) | (groups >= len(self.ends))).any()):
                raise ValueError(
                    f"groups must be ({len(x)},) whole numbers from 0 to {len(self.ends) - 1}, the galaxy of each "
                    f"event; got {tuple(groups.shape)} {groups.dtype}"
                    + (f" from {groups.min()} to {groups.max()}" if groups.numel() else "")
                )
        result = x.to(torch.float64 if self.cleaning.moves else x.dtype, copy=True)
        of_event = np.repeat(np.arange(len(self.ends)), np.diff(self.ends, prepend=0)) if groups is None else groups
        order = np.argsort(np.asarray(of_event), kind="stable")
        ends = np.cumsum(np.bincount(np.asarray(of_event), minlength=len(self.ends)))
        for i, columns in enumerate((self.cleaning.position, self.cleaning.velocity)):
            axes = [axis for axis, name in enumerate(columns) if name in self.names]
            if self.cleaning.rotate and axes and len(axes) < len(columns):
                gone = next(name for name in columns if name not in self.names)
                raise ConfigError(f"'{gone}' is not in x, so the others cannot be turned back")
            where = [self.names.index(columns[axis]) for axis in axes]
            for g, (start, end) in enumerate(zip(np.r_[0, ends[:-1]], ends, strict=True)) if axes else ():
                rows = torch.from_numpy(order[start:end])
                values = x[rows][:, where].double()
                if self.cleaning.rotate:
                    values = values @ torch.from_numpy(self.rotations[g])
                values = values + torch.from_numpy(self.centres[g, i, axes])
                result[rows[:, None], torch.tensor(where)] = values.to(result.dtype)
        return result

    def _radius(self) -> str:
        percentile, absolute = self.cleaning.radius_percentile, self.cleaning.radius
        by_percentile = [] if percentile is None else [f"percentile {percentile:g} of each galaxy"]
        limits = by_percentile + ([] if absolute is None else [f"{absolute:g}"])
        return f"R <= {limits[0]}" if len(limits) == 1 else f"R <= the lesser of {' and '.join(limits)}"

    def _worst(self, step: str) -> str:
        """The galaxies that lost the largest shares."""
        lost = [(counts.get(step, 0) / max(1, n), counts.get(step, 0), n, g) for g, n, counts in self.counts]
        worst = sorted((loss for loss in lost if loss[1]), key=lambda loss: -loss[0])[:_WORST]
        return (", most of " + ", ".join(f"'{g}' ({k} of {n})" for _, k, n, g in worst)) if worst else ""


def report(cleaning: Cleaning, counts: Sequence[tuple[str, int, dict[str, int]]]) -> pd.DataFrame:
    """Counts per galaxy: ``particles``, a column for what each step left out, and how many are ``left``.

    A galaxy with too few particles has all of the rest in the column ``minimum``.
    """
    import pandas as pd

    lines = []
    for galaxy, particles, removed in counts:
        own = {step: removed.get(step, 0) for step in cleaning.steps}
        lines.append({"galaxy": galaxy, "particles": particles, **own, "left": particles - sum(own.values())})
    return pd.DataFrame(lines)


def record(
    cleaning: Cleaning, cleaned: Sequence[Cleaned], counts: Sequence[tuple[str, int, dict[str, int]]]
) -> CleaningRecord:
    """The record of galaxies that are left, and of the counts of all."""
    return CleaningRecord(
        cleaning,
        cleaned[0].galaxy.labels,
        tuple(each.galaxy.id for each in cleaned),
        np.cumsum([len(each.galaxy.rows) for each in cleaned]),
        np.concatenate([each.galaxy.rows for each in cleaned]),
        np.stack([each.centre for each in cleaned]),
        np.stack([each.rotation for each in cleaned]),
        counts,
    )
