"""Rows that are equal: which they are, what belongs together for it, and what to say where a split tears them apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor

if TYPE_CHECKING:
    from flowzoo.data._data import Data

_PIECE = 1 << 18  # numbers that are compared together, so that they stay in the cache
_FEWEST = 3  # groups of which a split can be made
_NARROW = 64  # columns up to which rows may be equal by chance, if they were rounded
_BY_CHANCE = 2  # times as many pairs, or more, are then equal in all columns but the most varied one
_SAMPLE = 4096  # rows from which is told which column that is


def first_equal(rows: np.ndarray) -> np.ndarray | None:
    """The first row equal to each, ``(N,)``; None where all rows differ. A row with NaN equals none.

    By a hash of 64 bits, sorted; what it finds equal is compared number by number.

    Args:
        rows: ``(N, D)`` numbers.
    """
    hashes = _hashes(rows)
    ordered = np.sort(hashes)
    if not (ordered[1:] == ordered[:-1]).any():
        return None
    order = np.argsort(hashes, kind="stable")
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    first = np.empty(len(rows), dtype=np.int64)
    first[order] = np.repeat(order[starts], np.diff(starts, append=len(rows)))
    later = np.flatnonzero(first != np.arange(len(rows)))
    step = max(1, _PIECE // rows.shape[1])
    for start in range(0, len(later), step):
        part = later[start : start + step]
        differ = part[(rows[part] != rows[first[part]]).any(1)]
        first[differ] = differ
    return first if (first != np.arange(len(rows))).any() else None


def grouped_by(theta: np.ndarray) -> tuple[Tensor, str] | None:
    """A group for each different row of parameters, in their order, and a note; None where no row comes twice.

    Rows of less than three different ones are not grouped, because no split of them could be made; nor are draws that
    only float32 makes equal, as it does of many in one column.

    Args:
        theta: ``(N, D)``.
    """
    first = _meant_equal(theta)
    if first is None:
        return None
    own, inverse, counts = np.unique(first, return_inverse=True, return_counts=True)
    if len(own) < _FEWEST:
        return None
    rank = np.empty(len(own), dtype=np.int64)
    rank[np.lexsort(theta[own].T[::-1])] = np.arange(len(own))  # so that it does not depend on the order of the rows
    each = f"{counts[0]} rows for each of" if (counts == counts[0]).all() else f"{len(theta)} rows of"
    return torch.from_numpy(rank[inverse]), f"{each} {len(own)} different parameter rows: each of these is a group"


def leak(data: Data) -> str:
    """What to say of rows that a split may put into the training and into the test; empty where there are none.

    Rows are equal if event and context are, or, where there is a prior, if the parameters are. Events that agree by
    chance, because they were rounded or have few columns, are not said to be copies.
    """
    assert data.context is not None
    assert data.context_index is not None
    assert data.groups is not None
    labels, other = data.groups.numpy(), "group"
    if data.given_split is not None:
        labels, other = data.given_split.numpy(), "part of the split"
    in_context = data.prior is not None and data.theta == "context"
    alike = None if in_context else _meant_equal(_flat(data.x))
    if in_context:
        alike = _of_events(data.context, data.context_index)
    elif data.prior is None and alike is not None:
        alike = _joined(alike, _of_events(data.context, data.context_index))
    torn = 0 if alike is None else _torn(alike, labels)
    if alike is None or not torn or (data.prior is None and _by_chance(data, _pairs(alike))):
        return ""
    what = "are equal to a row" if data.prior is None else "have the parameters of a row"
    cure = f"give rows that belong together one {other}"
    if data.prior is None:
        cure += ", or leave the copies out"
    return f"{torn} of {len(data)} rows {what} of another {other}: {cure}; test events may be in the training"


def _meant_equal(rows: np.ndarray) -> np.ndarray | None:
    """As ``first_equal``, but None where only float32 makes rows equal: more are so then but for their last bits."""
    first = first_equal(rows)
    if first is None or rows.dtype != np.float32:
        return first
    coarser = first_equal(np.ascontiguousarray(rows).view(np.int32) >> 3)
    return None if coarser is not None and _pairs(coarser) >= _BY_CHANCE * _pairs(first) else first


def _pairs(first: np.ndarray) -> int:
    """Pairs of equal rows."""
    counts = np.bincount(first)
    return int((counts * (counts - 1)).sum()) // 2


def _torn(first: np.ndarray, groups: np.ndarray) -> int:
    torn = np.zeros(len(first), dtype=bool)
    torn[first[groups != groups[first]]] = True
    return int(torn[first].sum())


def _of_events(context: Tensor, index: Tensor) -> np.ndarray:
    """The first event with the context of each."""
    rows = _flat(context)
    first = _meant_equal(rows) if rows.shape[1] else np.zeros(len(rows), dtype=np.int64)
    own = index.numpy()
    _, event, inverse = np.unique(own if first is None else first[own], return_index=True, return_inverse=True)
    return np.asarray(event[inverse])


def _joined(first: np.ndarray, labels: np.ndarray) -> np.ndarray | None:
    """The first row with the same two labels."""
    return first_equal(np.stack([first, labels], 1))


def _by_chance(data: Data, pairs: int) -> bool:
    """Whether more pairs of rows are equal but for one column, as of rounded columns; of copies no others are."""
    assert data.context is not None
    assert data.context_index is not None
    x, context = _flat(data.x), _flat(data.context)
    width = x.shape[1] + context.shape[1]
    if width > _NARROW:
        return False
    rows = np.concatenate([x, context[data.context_index.numpy()]], 1)
    some = rows[:: max(1, len(rows) // _SAMPLE)]
    varied = int(np.argmax([len(np.unique(column)) for column in some.T]))
    others = None if width == 1 else first_equal(np.delete(rows, varied, 1))
    return others is None or _pairs(others) >= _BY_CHANCE * pairs


def _flat(values: Tensor) -> np.ndarray:
    """``(N, D)`` of ``(N, ...)``."""
    return values.reshape(len(values), -1).numpy()


def _hashes(rows: np.ndarray) -> np.ndarray:
    """``(N,)`` of 64 bits."""
    found = np.zeros(len(rows), dtype=np.uint64)
    for column in rows.T:
        found *= np.uint64(1_000_003)  # so that the order of the columns counts
        # Contiguous, and with 0 for -0.
        found ^= pd.util.hash_array(np.ascontiguousarray(column) + column.dtype.type(0), categorize=False)
    return found
