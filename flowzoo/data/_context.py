"""What a context is mapped by, if its dataset says nothing."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from flowzoo.bijectors import Bijector, Identity, Standardize, Whiten

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
