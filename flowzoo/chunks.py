"""A function of events in chunks, which bounds the memory of what has no gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from flowzoo.nets import Shared

Parts = tuple[Tensor, ...]


def in_chunks(function: Callable[..., Parts], size: int, *flat: Tensor) -> Parts:
    """The function of tensors ``(N, ...)``, of at most so many rows at a time where no gradient is wanted."""
    if len(flat[0]) == 0:  # not every backend takes an empty batch: the shapes of one event, and none of it
        return tuple(part[:0] for part in function(*(t.new_zeros(1, *t.shape[1:]) for t in flat)))
    if torch.is_grad_enabled() or len(flat[0]) <= size:
        return function(*flat)
    parts = [function(*chunk) for chunk in zip(*(t.split(size) for t in flat), strict=True)]
    return tuple(torch.cat(part) for part in zip(*parts, strict=True))


def by_context(function: Callable[[Tensor, Any], Parts], size: int, x: Tensor, c: Tensor, index: Tensor) -> Parts:
    """The function of events and ``Shared`` contexts, in chunks of events whose contexts are near one another.

    So a context comes into one chunk or two, and a network of the context sees it as often. A chunk in which most
    events have a context of their own is given ``(n, *context)``.
    """

    def shared(x: Tensor, c: Tensor, index: Tensor) -> Parts:
        return function(x, Shared(c, index) if 2 * len(c) <= len(index) else c[index])

    if torch.is_grad_enabled() or len(x) <= size:
        return shared(x, c, index)
    index, order = torch.sort(index, stable=True)
    starts = range(0, len(x), size)
    ends = [min(start + size, len(x)) for start in starts]
    first, last = (index[torch.tensor(rows, device=index.device)].tolist() for rows in (starts, [e - 1 for e in ends]))
    parts = [
        shared(x[order[start:end]], c[low : high + 1], index[start:end] - low)
        for start, end, low, high in zip(starts, ends, first, last, strict=True)
    ]
    found = [torch.cat(part) for part in zip(*parts, strict=True)]
    return tuple(torch.empty_like(part).index_copy_(0, order, part) for part in found)
