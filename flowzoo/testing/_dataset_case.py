"""What the checks of datasets are run on: a dataset with its options, loaded and split once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from flowzoo.config import ConfigError
from flowzoo.data import Data, DatasetConfig, Splits, configure
from flowzoo.inference import sides
from flowzoo.registry import DATASETS
from flowzoo.testing._suite import NotApplicable


@dataclass(frozen=True)
class DatasetCase:
    """What a check is run on.

    Args:
        name: under which the dataset is registered.
        config: with its options.
    """

    name: str
    config: DatasetConfig

    @cached_property
    def data(self) -> Data:
        """What it loads."""
        return self.config.load()

    @cached_property
    def splits(self) -> Splits:
        """See ``split``."""
        return split(self.data)

    @property
    def contexts(self) -> Tensor:
        """``(N, *context)``, of every event."""
        assert self.data.context is not None
        assert self.data.context_index is not None
        return self.data.context[self.data.context_index]

    @cached_property
    def pairs(self) -> tuple[Tensor, Tensor]:
        """Theta and observation of one event of each group, which are independent; as they are in the data."""
        assert self.data.groups is not None
        labels, of = torch.unique(self.data.groups, return_inverse=True)
        rows = torch.arange(len(of))
        first = torch.full((len(labels),), len(of)).scatter_reduce(0, of, rows, "amin")
        return sides(self.data.theta, self.data.x[first], self.contexts[first])


def split(data: Data, seed: int = 0) -> Splits:
    """The first fold, where the data have folds of their own."""
    return Splits.make(data, seed=seed, fold=(0, len(data.folds)) if data.folds else None)


def dataset_case(name: str, **options: Any) -> DatasetCase:
    """The case of a registered dataset.

    Args:
        name: registered.
        options: of the dataset, over those of its class attribute ``conformance``, ``{"options": {...}}``.

    Raises:
        NotApplicable: if its files are not there, or it has options that must be given and none were.
        ConfigError: if the options that were given are wrong.
    """
    given = {**getattr(DATASETS.get(name), "conformance", {}).get("options", {}), **options}
    try:
        case = DatasetCase(name, configure(name, given))
        _ = case.data
    except FileNotFoundError as error:
        raise NotApplicable(f"a file of {name} is not there: {error}") from None
    except ConfigError as error:
        if given:
            raise
        raise NotApplicable(f"{name} needs options: {error}") from None
    return case
