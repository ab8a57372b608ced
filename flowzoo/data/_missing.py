"""Values that mean "not measured": found where they were declared, filled and flagged in a context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


def is_missing(column: np.ndarray, missing: Sequence[float | str]) -> np.ndarray:
    """Which rows hold one of the values, ``(n,)`` booleans.

    Args:
        column: ``(n,)`` numbers, in the precision of their file.
        missing: what was declared; ``nan`` is a value too.
    """
    gone = np.zeros(len(column), dtype=bool)
    for value in map(float, missing):
        if np.isnan(value):
            gone |= np.isnan(column) if column.dtype.kind == "f" else False
        else:
            # -99.9 stored as float32 is equal to float32(-99.9), not to -99.9.
            with np.errstate(over="ignore"):
                stored = column.dtype.type(value) if column.dtype.kind == "f" else value
            if np.isfinite(stored) == np.isfinite(value):  # 1e300 is in no column of float32, inf may be
                gone |= column == stored
    return gone


def flag_of(label: str) -> str:
    """What the column is called that says where another has gaps."""
    return f"{label} missing"


def filled(
    labels: Sequence[str], raw: Mapping[str, np.ndarray], gone: Mapping[str, np.ndarray]
) -> tuple[list[np.ndarray], dict[str, float], list[str]]:
    """Columns with their gaps filled and flags after them, by what each that has gaps was filled, and notes.

    It is filled with the median of the rest; its flag is called ``flag_of`` it.

    Args:
        labels: names of the columns.
        raw: name to numbers ``(n,)``.
        gone: name to where they are missing.

    Raises:
        ValueError: for a column that is missing everywhere.
    """
    columns, flags, fills, notes = [], [], dict[str, float](), []
    for label in labels:
        column, hole = raw[label], gone[label]
        if hole.all():
            raise ValueError(f"column '{label}': all {len(hole)} rows are missing; leave it out of the context")
        if hole.any():
            median = np.float32(np.median(column[~hole]))
            fills[label] = float(median)
            column = np.where(hole, fills[label], column)
            flags.append(hole.astype(float))
            notes.append(
                f"'{label}' is missing in {hole.sum()} of {len(hole)} rows: filled with the median of "
                f"the others, {median}, and flagged in '{flag_of(label)}'"
            )
        columns.append(column)
    return [*columns, *flags], fills, notes
