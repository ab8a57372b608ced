"""How a context is stored and what it is mapped by, if its dataset says nothing."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor

from flowzoo.bijectors import Bijector, Identity, Standardize, Whiten

PIECE = 4096  # events that are looked at together
WHITEN_ROWS = 10  # contexts per column, from which a covariance is known well enough to divide by


def default_context_map(shape: Sequence[int], rows: int) -> Bijector:
    """Whitened where there are rows enough to tell how, else standardised.

    Args:
        shape: of a context.
        rows: different contexts that it will be fitted on.
    """
    if prod(shape) == 0:
        return Identity()
    if len(shape) == 1 and rows >= WHITEN_ROWS * shape[0]:
        return Whiten(shape)
    return Standardize(shape)


def stored_once(context: Tensor, groups: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """A context that is the same in all events of each group, stored once per group; any other as it came.

    So a map that is fitted to it counts each galaxy once, however many events it has, and it is known which events have
    the same context.

    Args:
        context: ``(N, *context)``.
        groups: ``(N,)`` integers.

    Returns:
        ``(G, *context)`` and ``(N,)``, the row of each event; or the context and None.
    """
    if groups is None:
        return context, None
    found = np.unique(groups.numpy(), return_index=True, return_inverse=True)
    first, index = (torch.from_numpy(part) for part in found[1:])
    if len(first) == len(context):
        return context, None
    for part in torch.arange(len(context)).split(PIECE):  # of images the whole would be in memory once more
        if not bool((context[first[index[part]]] == context[part]).all()):
            return context, None
    return context[first], index
