"""What no density can be fitted to, found before training: non-finite values, constants, atoms, dependent columns."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flowzoo.data._data import Data
from flowzoo.data._dependence import refuse_dependent
from flowzoo.seeding import generator

ATOM_FRACTION = 0.01  # above this share of identical values a column has no density worth the name
_LEVEL_ROWS = 4096  # events looked at together: in float64 images are eight times their bytes
_ATOM_ROWS = 200_000  # an atom of 1 % shows in a sample of this size beyond doubt


def check(data: Data) -> None:
    """Refuse data that has no density, in one line that names the column and counts the rows.

    Raises:
        ValueError: for no events, NaN or infinite values (event or context), integer data outside its levels; of
            continuous data, constant columns, atoms, or columns that follow from others; for symmetries with a context
            that has an image.
    """
    assert data.context is not None
    if len(data) == 0:
        raise ValueError("the dataset has no events")
    images = data.context_image is not None or len(data.context_shape) >= 3
    if data.augment and data.theta == "context" and images:
        raise ValueError(
            f"augment ({', '.join(data.augment)}) would move the events and not the images that are their contexts; "
            "leave it out"
        )
    names = _names(data.names, data.x, "x")
    _finite(data.x, names)
    contexts = [fold.context for fold in data.folds] or [data.context]
    for context in contexts:
        _finite(context, _names(data.context_names, context, "context"))
    _tested_once(data)
    if data.levels is not None:
        low, step, count = data.levels
        bad = 0
        for part in data.x.split(_LEVEL_ROWS):
            k = (part.double() - low) / step
            bad += int(((k < 0) | (k > count - 1) | (k != k.round())).flatten(1).any(1).sum())
        if bad:
            raise ValueError(
                f"{bad} of {len(data)} events have values outside the declared levels "
                f"{low:g}, {low + step:g}, ..., {low + step * (count - 1):g}"
            )
        return
    # The maps of a simulation share their theta: of that one of each group is looked at.
    own = _firsts(data.groups) if data.theta == "event" and data.groups is not None else slice(None)
    for column, name in zip(_columns(data.x), names, strict=True):
        _constant(column, name)
        _atom(column[own], name, data.remedy)
    if data.x.ndim == 2:
        refuse_dependent(data.x, data.x_map, names)


def _tested_once(data: Data) -> None:
    """Refuse folds of the data that count a group twice, or never."""
    if not data.folds:
        return
    assert data.groups is not None
    labels, index = torch.unique(data.groups, return_inverse=True)
    tested = torch.zeros(len(labels), dtype=torch.long)
    for fold in data.folds:
        tested[torch.unique(index[fold.part == 2])] += 1
    bad = int((tested != 1).sum())
    if bad:
        raise ValueError(
            f"{bad} of {len(labels)} groups are not tested exactly once in the {len(data.folds)} folds that the data "
            "come with; every group must be a test group in one of them"
        )


def _finite(x: Tensor, names: Sequence[str]) -> None:
    # One pass where all is well, however many columns: a sum is finite only if every term is.
    if not x.is_floating_point() or bool(torch.isfinite(x.sum())):
        return
    for column, name in zip(_columns(x), names, strict=True):
        bad = ~torch.isfinite(column).flatten(1).all(1)
        if bool(bad.any()):
            nan = int(torch.isnan(column).flatten(1).any(1).sum())
            raise ValueError(
                f"column '{name}': {int(bad.sum())} of {len(bad)} rows are not finite ({nan} NaN). "
                "Remove them, or declare the value that means missing."
            )


def _constant(column: Tensor, name: str) -> None:
    first = column[(0,) * column.ndim]
    if len(column) > 1 and bool((column == first).all()):
        raise ValueError(
            f"column '{name}': all {len(column)} rows are {float(first):g}; a constant has no density. "
            "Leave it out of x."
        )


def _atom(column: Tensor, name: str, remedy: str) -> None:
    total = column.numel()
    if total < 2 / ATOM_FRACTION:
        return
    if total <= _ATOM_ROWS:
        sample = column
    else:
        # At random: a stride that divides the width of an image would see some of its columns alone.
        source = generator(0, "atoms")
        place, index = torch.randint(total, (_ATOM_ROWS,), generator=source), list[Tensor]()
        for size in reversed(column.shape):  # torch.unravel_index does the same, and imports sympy for it
            index.insert(0, place % size)
            place = place // size
        sample = column[tuple(index)]
    unique, counts = torch.unique(sample, return_counts=True)
    top = unique[counts.argmax()]
    equal = int(torch.count_nonzero(column == top))
    share = equal / total
    if share > ATOM_FRACTION:
        what = "pixels" if column[0].numel() > 1 else "rows"
        raise ValueError(
            f"column '{name}': {equal} of {total} {what} ({share:.0%}) are exactly {float(top):g}, "
            f"an atom, which has no density. {remedy.format(value=f'{float(top):g}', column=name)}"
        )


def _firsts(groups: Tensor) -> Tensor:
    """The first event of each group."""
    labels, index = torch.unique(groups, return_inverse=True)
    first = torch.full((len(labels),), len(groups), device=groups.device)
    return first.scatter_reduce_(0, index, torch.arange(len(groups), device=groups.device), "amin")


def _columns(x: Tensor) -> list[Tensor]:
    """Columns of a vector, channels of an image, each ``(N, ...)`` with at least one trailing axis."""
    if x.ndim == 2:
        return [x[:, i : i + 1] for i in range(x.shape[1])]
    if x.ndim >= 4:
        return [x[:, i] for i in range(x.shape[1])]
    return [x.reshape(len(x), -1)]


def _names(names: Sequence[str], x: Tensor, kind: str) -> list[str]:
    count = len(_columns(x))
    return list(names) if len(names) == count else [f"{kind}[{i}]" for i in range(count)]
