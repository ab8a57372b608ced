"""Data whose density is known, so many of them for training and the same ones for testing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from flowzoo.data import Data, configure

# name -> options that make so many events, each of them a group of its own
DATA: dict[str, Callable[[int], dict[str, Any]]] = {
    "linear_gaussian": lambda count: {"num_events": count},
    "two_moons": lambda count: {"num_events": count},
    "galaxies": lambda count: {"num_galaxies": count, "stars_per_galaxy": 1},
    "fields": lambda count: {"num_contexts": count, "maps_per_context": 1, "size": 8},
}


class Known:
    """Events of a dataset: test, validation and training ones, the smaller training sets within the larger.

    Args:
        name: of the dataset, in ``DATA``.
        most: training events.
        test: test events.
    """

    def __init__(self, name: str, most: int, test: int) -> None:
        self.name, self.most, self.test = name, most, test
        data = configure(name, DATA[name](test + most + held_out(most))).load()
        self.data = replace(data, augment=())  # what is rotated and shifted is more than so many events

    def of_size(self, size: int) -> Data:
        """So many events for training, a fifth of that for validation, and all for testing."""
        first = self.test + held_out(self.most)
        rows = torch.cat(
            [
                torch.arange(self.test),
                torch.arange(self.test, self.test + held_out(size)),
                torch.arange(first, first + size),
            ]
        )
        part = torch.full((len(self.data),), 0)
        part[: self.test], part[self.test : first] = 2, 1
        return replace(self.data, given_split=part).select(rows)

    def true_scores(self) -> Tensor:
        """log p of the test events, nats."""
        data = self.data
        assert data.true_log_prob is not None
        assert data.context is not None
        assert data.context_index is not None
        return data.true_log_prob(data.x[: self.test], data.context[data.context_index[: self.test]]).double()


def held_out(size: int) -> int:
    """Validation events beside so many training events: what somebody with so little data would spare."""
    return max(20, size // 5)
