"""What a fixed map is, and the one that does nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

PIECE = 2**25  # numbers that are looked at together: 256 MB in float64


def pieces(x: Tensor) -> tuple[Tensor, ...]:
    """The events of ``x`` in parts of about ``PIECE`` numbers: 15,000 maps of 256 x 256 would be 8 GB in float64."""
    return x.split(max(1, PIECE // max(1, x[:1].numel())))


class Bijector(nn.Module):
    """A fixed invertible map. A subclass implements ``to_latent``, ``to_data`` and ``describe``.

    Bijectors that learn constants from data override ``fit`` and create their buffers in ``__init__`` with the
    event's shape, so that a checkpoint loads into a freshly built map.
    """

    @property
    def partial(self) -> bool:
        """Whether there are values that the map does not take; ``to_latent`` is not finite there, and the density 0."""
        return False

    def fit(self, x: Tensor, names: Sequence[str] | None = None) -> None:
        """Set the constants from training data ``(N, *event)``.

        Raises:
            ValueError: if the data do not fit the map, naming the column and counting the rows.
        """

    def to_latent(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Data units to network units, with its log-derivative."""
        raise NotImplementedError

    def to_data(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Network units to data units, with its log-derivative."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """What ``from_description`` needs to build the same map, constants apart."""
        raise NotImplementedError


class Identity(Bijector):
    """Leaves the data as they are: one-hot classes, or data already in network units."""

    def to_latent(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Identity."""
        return x, torch.zeros_like(x)

    def to_data(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Identity."""
        return u, torch.zeros_like(u)

    def describe(self) -> dict[str, Any]:
        """See the base class."""
        return {"kind": "identity"}


def column_name(names: Sequence[str] | None, index: int, total: int) -> str:
    """How a message calls a column."""
    if names is not None and len(names) == total:
        return f"column '{names[index]}'"
    return f"column {index}"
