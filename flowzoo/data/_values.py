"""Columns of a file as what the house works with: numbers, float32, labels, the parts of a split."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowzoo.config import ConfigError

_PARTS = {"0": 0, "1": 1, "2": 2, "train": 0, "validation": 1, "val": 1, "valid": 1, "test": 2}


def numeric(column: np.ndarray, label: str) -> np.ndarray:
    """The column, if it holds numbers.

    Raises:
        ConfigError: if not, with the first cell that is none, its row counted from 1, and how many there are.
    """
    if column.dtype.kind not in "biuf":
        cells = column.tolist()
        bad = [i for i, cell in enumerate(cells) if not (cell is None or is_number(cell))]
        row = bad[0] if bad else 0
        cell = cells[row] if cells else ""
        kind = f"values of type {type(cell).__name__}" if column.dtype.kind == "O" else f"{column.dtype}"
        what = "text" if isinstance(cell, str | bytes) else kind
        example = f", for example {cell!r}" if cells else ""
        if bad:
            example += f" in row {row + 1} ({len(bad)} of {len(column)} rows have no number)"
        raise ConfigError(
            f"column '{label}' holds {what}{example}; columns of x and context must be numbers "
            "(only labels, as those of `group`, may be text)"
        )
    return column


def is_number(cell: Any) -> bool:
    """Whether a cell, or a word, reads as a number; nan does."""
    try:
        float(cell)
    except (TypeError, ValueError):
        return False
    return True


def numbers(column: np.ndarray, label: str) -> np.ndarray:
    """A column as float64.

    Raises:
        ConfigError: as ``numeric``.
    """
    return numeric(column, label).astype(np.float64)


def single(values: np.ndarray, labels: Sequence[str]) -> np.ndarray:
    """float64 to float32, refusing a column that float32 cannot resolve (Julian dates, large ids).

    Raises:
        ValueError: naming the column.
    """
    for i, label in enumerate(labels):
        column = values[:, i][np.isfinite(values[:, i])]
        with np.errstate(over="ignore"):  # what is so large is refused
            spread = float(column.std()) if len(column) else 0.0
        resolved(label, float(np.abs(column).max(initial=0.0)), spread)
    return np.ascontiguousarray(values, dtype=np.float32)


def resolved(label: str, largest: float, spread: float) -> None:
    """Refuse a column whose largest magnitude and standard deviation are such that float32 would lose it.

    Raises:
        ValueError: naming the column.
    """
    ends = np.finfo(np.float32)
    if largest and not float(ends.tiny) <= largest <= float(ends.max):
        raise ValueError(f"column '{label}': {largest:g} is beyond float32; rescale the column")
    step = float(np.spacing(np.float32(largest)))
    if spread > 0 and step > 1e-2 * spread:
        raise ValueError(
            f"column '{label}': near {largest:g} float32 goes in steps of {step:.2g}, and the standard "
            f"deviation of the column is {spread:.2g}; subtract an offset from it"
        )


class Moments:
    """Ends, mean and spread of numbers that come part by part."""

    def __init__(self) -> None:
        self.low, self.high = math.inf, -math.inf
        self._count, self._mean, self._squares = 0, np.float64(0), np.float64(0)

    def add(self, values: np.ndarray) -> None:
        """Join the moments of a part to those of the parts before it (Chan, Golub and LeVeque 1979)."""
        with np.errstate(over="ignore", invalid="ignore"):  # what is so large is refused by ``resolved``
            more, mean = values.size, values.mean(dtype=np.float64)
            step, total = mean - self._mean, self._count + more
            self._squares += more * values.var(dtype=np.float64) + step**2 * self._count * more / total
            self._mean, self._count = self._mean + step * more / total, total
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))

    @property
    def spread(self) -> float:
        """The standard deviation."""
        return float(np.sqrt(self._squares / max(1, self._count)))


class Rows:
    """Rows of float32 that grow part by part in one piece of memory, and lose nothing that matters on the way.

    Args:
        labels: names of the columns.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = tuple(labels)
        self._count = 0
        self._array = np.empty((0, len(self.labels)), dtype=np.float32)
        self._moments = [Moments() for _ in self.labels]

    def add(self, columns: Sequence[np.ndarray]) -> None:
        """Append rows, given by their columns; finite numbers."""
        start, self._count = self._count, self._count + len(columns[0])
        if self._count > len(self._array):
            # In place: at this size realloc moves pages and copies nothing. Some to spare, because it takes its time.
            self._resize(max(self._count, len(self._array) * 5 // 4))
        for i, column in enumerate(columns):
            if len(column) and (column.dtype.kind != "f" or column.dtype.itemsize > 4):
                self._moments[i].add(column)
            with np.errstate(over="ignore"):  # refused by name in ``done``
                self._array[start : self._count, i] = column

    def done(self) -> np.ndarray:
        """All rows, ``(n, D)``.

        Raises:
            ValueError: for a column that float32 cannot resolve.
        """
        for label, found in zip(self.labels, self._moments, strict=True):
            resolved(label, max(0.0, -found.low, found.high), found.spread)
        self._resize(self._count)
        return self._array

    def _resize(self, rows: int) -> None:
        self._array.resize((rows, len(self.labels)), refcheck=False)


def texts(column: np.ndarray) -> list[str]:
    """Text as str without blanks around it, whether the file holds str or bytes (HDF5), in UTF-8 or not."""
    return [(v.decode(errors="backslashreplace") if isinstance(v, bytes) else str(v)).strip() for v in column.tolist()]


def check_labels(column: np.ndarray, name: str) -> None:
    """Refuse labels that do not tell rows apart.

    Raises:
        ValueError: if a row has none, or for floats so large that two labels may have become one.
    """
    import pandas as pd

    none = pd.isna(column)
    if column.dtype.kind in "OSUT":
        none |= [isinstance(cell, str | bytes) and not cell.strip() for cell in column.tolist()]
    if empty := int(none.sum()):
        raise ValueError(f"column '{name}': {empty} of {len(column)} rows have no value")
    if column.dtype.kind == "f":
        large = np.abs(column) >= 2.0 ** (np.finfo(column.dtype).nmant + 1)
        if large.any():
            raise ValueError(
                f"column '{name}' holds {column[large][0]:.17g} as {column.dtype}, which rounds ids so large; "
                "ids must be integers or text"
            )


def factorise(column: np.ndarray, name: str) -> tuple[Tensor, tuple[str, ...]]:
    """Labels as 0, 1, ..., in sorted order, so that a split does not depend on the order of the rows; and as texts.

    Raises:
        ValueError: as ``check_labels``.
    """
    check_labels(column, name)
    labels = column if column.dtype.kind in "biuf" else np.array(texts(column))
    found, index = np.unique(labels, return_inverse=True)
    # A column of whole numbers, of which some row had none, was read as floats.
    whole = found.dtype.kind == "f" and bool((found == found.round()).all())
    return torch.from_numpy(index).long(), tuple(map(str, (found.astype(int) if whole else found).tolist()))


def parts(column: np.ndarray, name: str) -> Tensor:
    """The official split as 0, 1, 2.

    Raises:
        ValueError: for other values.
    """
    if column.dtype.kind in "biuf":
        words = [f"{value:g}" for value in column.astype(float).tolist()]
    else:
        words = [text.lower() for text in texts(column)]
    unknown = sorted(set(words) - set(_PARTS))
    if unknown:
        raise ValueError(
            f"split column '{name}' must hold 0, 1, 2 or train, validation, test; it also has {', '.join(unknown[:5])}"
        )
    return torch.tensor([_PARTS[text] for text in words])
