"""Values that mean "not measured": found where they were declared, filled and flagged in a context."""

from __future__ import annotations

import re
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
            gone |= column == (column.dtype.type(value) if column.dtype.kind == "f" else value)
    return gone


def flag_of(label: str) -> str:
    """What the column is called that says where another has gaps."""
    return f"{label} missing"


def filled(
    labels: Sequence[str], raw: Mapping[str, np.ndarray], gone: Mapping[str, np.ndarray]
) -> tuple[list[np.ndarray], list[str], list[str]]:
    """Columns with their gaps filled by the median of the rest and the flags after them, names of these, and notes.

    Args:
        labels: names of the columns.
        raw: name to numbers ``(n,)``.
        gone: name to where they are missing.

    Raises:
        ValueError: for a column that is missing everywhere.
    """
    columns, flags, names, notes = [], [], [], []
    for label in labels:
        column, hole = raw[label], gone[label]
        if hole.all():
            raise ValueError(f"column '{label}': all {len(hole)} rows are missing; leave it out of the context")
        if hole.any():
            median = np.float32(np.median(column[~hole]))
            column = np.where(hole, float(median), column)
            flags.append(hole.astype(float))
            names.append(flag_of(label))
            notes.append(
                f"'{label}' is missing in {hole.sum()} of {len(hole)} rows: filled with the median of "
                f"the others, {median}, and flagged in '{names[-1]}'"
            )
        columns.append(column)
    return [*columns, *flags], names, notes


def fills(notes: Sequence[str]) -> dict[str, float]:
    """From the notes of ``filled``, which travel with a flow, by what the gaps of each column were filled.

    >>> column, gap = np.array([1.0, -99.0, 2.1, 0.3]), np.array([False, True, False, False])
    >>> fills(filled(["z"], {"z": column}, {"z": gap})[2])
    {'z': 1.0}
    """
    pattern = r"'(.+)' is missing in \d+ of \d+ rows: filled with the median of the others, (\S+), and flagged in '.+'"
    found = (re.fullmatch(pattern, note) for note in notes)
    return {match[1]: float(match[2]) for match in found if match}
