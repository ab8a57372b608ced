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
        text = column.dtype.kind in "OSUT"
        what = "text" if text else f"{column.dtype}"
        bad = [i for i, cell in enumerate(column.tolist()) if not (cell is None or is_number(cell))] if text else []
        row = bad[0] if bad else 0
        example = f", for example {column[row : row + 1].tolist()[0]!r}" if len(column) else ""  # not np.str_('a')
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
        resolved(label, float(np.abs(column).max(initial=0.0)), float(column.std()) if len(column) else 0.0)
    return np.ascontiguousarray(values, dtype=np.float32)


def resolved(label: str, largest: float, spread: float) -> None:
    """Refuse a column whose largest magnitude and standard deviation are such that float32 would lose it.

    Raises:
        ValueError: naming the column.
    """
    if largest > float(np.finfo(np.float32).max):
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
        self._count, self._mean, self._squares = 0, 0.0, 0.0

    def add(self, values: np.ndarray) -> None:
        """Join the moments of a part to those of the parts before it (Chan, Golub and LeVeque 1979)."""
        more, mean = values.size, float(values.mean(dtype=np.float64))
        step, total = mean - self._mean, self._count + more
        self._squares += more * float(values.var(dtype=np.float64)) + step**2 * self._count * more / total
        self._mean, self._count = self._mean + step * more / total, total
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))

    @property
    def spread(self) -> float:
        """The standard deviation."""
        return math.sqrt(self._squares / max(1, self._count))


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
    """Text as str, whether the file holds str or bytes (HDF5)."""
    return [v.decode() if isinstance(v, bytes) else str(v) for v in column.tolist()]


def factorise(column: np.ndarray, name: str) -> tuple[Tensor, tuple[str, ...]]:
    """Labels as 0, 1, ..., in sorted order, so that a split does not depend on the order of the rows; and as texts.

    Raises:
        ValueError: if a row has none.
    """
    import pandas as pd

    empty = int(pd.isna(column).sum())
    if empty:
        raise ValueError(f"group column '{name}': {empty} of {len(column)} rows have no value")
    labels = column if column.dtype.kind in "biuf" else np.array(texts(column))
    found, index = np.unique(labels, return_inverse=True)
    # A column of whole numbers, of which some row had none, was read as floats.
    whole = found.dtype.kind == "f" and bool((found == found.round()).all() and (np.abs(found) < 2**53).all())
    return torch.from_numpy(index).long(), tuple(map(str, (found.astype(int) if whole else found).tolist()))


def parts(column: np.ndarray, name: str) -> Tensor:
    """The official split as 0, 1, 2.

    Raises:
        ValueError: for other values.
    """
    if column.dtype.kind in "biuf":
        words = [f"{value:g}" for value in column.astype(float).tolist()]
    else:
        words = [text.strip().lower() for text in texts(column)]
    unknown = sorted(set(words) - set(_PARTS))
    if unknown:
        raise ValueError(
            f"split column '{name}' must hold 0, 1, 2 or train, validation, test; it also has {', '.join(unknown[:5])}"
        )
    return torch.tensor([_PARTS[text] for text in words])
