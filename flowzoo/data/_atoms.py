"""Noise and floors, as stated, for columns with exact values: a density of what is left.

Where more than ``ATOM_FRACTION`` of a column are one value (a star formation rate that is 0 in most cells), the column
has no density and ``_checks`` refuses it. It can be left out of the event, or one of these can be done to it; either
way what is scored is the density of the column as changed here, and the notes say so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from flowzoo.config import ConfigError
from flowzoo.seeding import generator

REMEDY = (
    "Leave the column out of x, add noise by the option `noise` (value + f * U(0, 1)), or give it a floor and noise in "
    "dex (`floor`, `noise_dex`)."
)
_STEPS, _FAR_STEPS = 1000, 100  # of float32 within the noise, at the most frequent value and far out
_FAR = 0.999  # quantile of the magnitudes that is far out
_LEAST_DEX = 1e-4  # a thousand steps of float32 in a factor of 10^1e-4


def add_uniform(values: np.ndarray, f: float, label: str, *sources: torch.Generator, ends: Sequence[int] = ()) -> None:
    """Add f U(0, 1) to a column, in place.

    Args:
        values: ``(n,)`` float, the column.
        f: amount, in units of the column.
        label: its name, for messages.
        sources: of the noise, one for each part of the column.
        ends: where the parts end, if there are several.

    Raises:
        ConfigError: if f is not positive, or so small that float32 has no numbers between.
    """
    if not (np.isfinite(f) and f > 0):
        raise ConfigError(f"noise of '{label}' must be positive, in the units of the column; got {f}")
    found, counts = np.unique(values, return_counts=True)
    top = found[counts.argmax()]
    # With fewer than some hundred values to land on, an atom stays an atom.
    # Values far from it that are rounded are many atoms together, each of fewer rows.
    far = float(np.quantile(np.abs(values), _FAR))
    kinds = ((top, _STEPS, "its most frequent value"), (far, _FAR_STEPS, "its large values, such as"))
    for value, steps, what in kinds:
        least = steps * float(np.spacing(np.float32(abs(value))))
        if f < least:
            raise ConfigError(
                f"noise of '{label}' is {f:g}, which float32 cannot resolve beside {what} {value:g}: "
                f"give {least:.2g} or more, or subtract an offset"
            )
    start = 0
    for source, end in zip(sources, ends or (len(values),), strict=True):
        values[start:end] += f * torch.rand(end - start, generator=source, dtype=torch.float64).numpy()
        start = end


@dataclass(frozen=True)
class Atoms:
    """What is done to columns of x that have exact values, before they are events.

    Args:
        noise: column to f: value + f U(0, 1).
        floor: column to the least value that it may have; what is below is raised to it.
        noise_dex: column to s: the value (after its floor) times 10^(s N(0, 1)). It stays in its units.
        seed: of the noise. Every galaxy has a stream of its own, by its name.
    """

    noise: Mapping[str, float] = field(default_factory=dict)
    floor: Mapping[str, float] = field(default_factory=dict)
    noise_dex: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0

    def apply(self, x: np.ndarray, labels: Sequence[str], galaxies: Sequence[str], ends: Sequence[int]) -> list[str]:
        """Change the columns of x in place; returns notes of what was done.

        Args:
            x: ``(n, D)`` float32.
            labels: names of the columns.
            galaxies: names of the galaxies, in the order of the rows.
            ends: the row after the last of each.

        Raises:
            ConfigError: for a column that is not in x, or amounts that do not go together.
            ValueError: if a column that is multiplied has values that are not positive.
        """
        for option in ("noise", "floor", "noise_dex"):
            for label in getattr(self, option):
                if label not in labels:
                    raise ConfigError(f"{option} names '{label}', which is not in x; x has {', '.join(labels)}")
        notes = []
        for label in labels:
            column = x[:, labels.index(label)]
            streams = [generator(self.seed, "noise", label, galaxy) for galaxy in galaxies]
            if label in self.floor:
                notes.append(_raise(column, self.floor[label], label))
            if label in self.noise and label in self.noise_dex:
                raise ConfigError(
                    f"'{label}' has both noise, which is added, and noise_dex, which multiplies; give one"
                )
            if label in self.noise:
                add_uniform(column, self.noise[label], label, *streams, ends=ends)
                notes.append(f"added {self.noise[label]:g} * U(0, 1) to '{label}', seed {self.seed}")
            if label in self.noise_dex:
                _multiply(column, self.noise_dex[label], label, streams, ends)
                notes.append(f"multiplied '{label}' by 10^({self.noise_dex[label]:g} N(0, 1)), seed {self.seed}")
        return notes


def _raise(column: np.ndarray, floor: float, label: str) -> str:
    """Raise what is below the floor to it; returns the note."""
    low = column < floor
    column[low] = floor
    return f"raised the {low.sum()} of {len(column)} values of '{label}' below {floor:g} to it"


def _multiply(
    column: np.ndarray, dex: float, label: str, streams: Sequence[torch.Generator], ends: Sequence[int]
) -> None:
    """Noise of so many dex, galaxy by galaxy."""
    if not (np.isfinite(dex) and dex >= _LEAST_DEX):
        raise ConfigError(
            f"noise_dex of '{label}' is {dex:g}, which float32 cannot resolve; give {_LEAST_DEX:g} or more"
        )
    bad = int((column <= 0).sum())
    if bad:
        raise ValueError(
            f"column '{label}': {bad} of {len(column)} values are <= 0, and noise in dex would leave them there; "
            "give a positive `floor` for it"
        )
    start = 0
    for source, end in zip(streams, ends, strict=True):
        column[start:end] *= 10 ** (dex * torch.randn(end - start, generator=source, dtype=torch.float64).numpy())
        start = end
