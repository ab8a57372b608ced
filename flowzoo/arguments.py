"""What a flow is called with, checked: tensors that end as it was built, and batch shapes that broadcast."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from typing import Any, SupportsIndex

import torch
from torch import Size, Tensor


def as_shape(shape: int | Sequence[int]) -> Size:
    """A shape; a number is one axis of as many."""
    return Size((index(shape),) if isinstance(shape, SupportsIndex) else shape)


def batch_of(values: Any, name: str, shape: Size) -> Size:
    """The axes ``B`` of values ``(*B, *shape)``.

    Raises:
        ValueError: if they are no tensor, or do not end in the shape.
    """
    if values is None:
        raise ValueError(f"{name} must end in {tuple(shape)}; got None")
    in_tensor(values, name)
    rank = values.ndim - len(shape)
    if rank < 0 or values.shape[rank:] != shape:
        raise ValueError(f"{name} must end in {tuple(shape)}; got {tuple(values.shape)}")
    return values.shape[:rank]


def as_index(index: Any, context: Any, shape: Size) -> Tensor | None:
    """Which of the contexts ``(G, *shape)`` each event has, in int64; None is each its own.

    On a GPU its values are not looked at.

    Raises:
        ValueError: if it is no tensor of integers from 0 to G - 1, or the contexts are no such table.
    """
    if index is None:
        return None
    batch = batch_of(context, "context", shape)
    if len(batch) != 1:
        raise ValueError(f"with an index, context must be (G, *{tuple(shape)}); got {tuple(context.shape)}")
    if not isinstance(index, Tensor) or index.dtype not in (torch.int64, torch.int32):
        got = index.dtype if isinstance(index, Tensor) else type(index).__name__
        raise ValueError(f"index must be a tensor of int64, the row of context of each event; got {got}")
    if index.device.type == "cpu" and index.numel():
        low, high = (int(value) for value in index.aminmax())
        if low < 0 or high >= batch[0]:
            raise ValueError(
                f"index must lie in 0 .. {batch[0] - 1}, as there are {batch[0]} contexts; got {low} .. {high}"
            )
    return index.long()


def in_tensor(values: Any, name: str) -> None:
    """Refuse arrays, lists and tables.

    Raises:
        ValueError: if they are some, with what makes a tensor of each.
    """
    if not isinstance(values, Tensor):
        raise ValueError(
            f"{name} must be a tensor; got {type(values).__name__}: "
            f"give torch.as_tensor(numpy.asarray({name}), dtype=torch.float32)"
        )


def in_floats(values: Tensor, name: str) -> None:
    """Refuse integers.

    Raises:
        ValueError: if they are some.
    """
    if not values.is_floating_point():
        raise ValueError(
            f"{name} must be floating point; got {values.dtype}. Integer data are dequantised by their dataset."
        )


def common_batch(name: str, batch: Size, context_batch: Size) -> Size:
    """What two batch shapes broadcast to.

    Raises:
        ValueError: if they do not.
    """
    try:
        return torch.broadcast_shapes(batch, context_batch)
    except RuntimeError:
        raise ValueError(
            f"the batch shapes of {name} and context must broadcast; got {tuple(batch)} and {tuple(context_batch)}"
        ) from None
