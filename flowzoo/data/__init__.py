"""Datasets: one file each. A file registers a frozen config whose ``load()`` returns a ``Data``."""

from __future__ import annotations

from typing import Any

from flowzoo import config as configs
from flowzoo.data._data import Data, DatasetConfig, Fold, Levels, References
from flowzoo.data._splits import FRACTIONS, Split, Splits
from flowzoo.registry import DATASETS

__all__ = ["FRACTIONS", "Data", "DatasetConfig", "Fold", "Levels", "References", "Split", "Splits", "configure"]


def configure(name: str, options: dict[str, Any]) -> DatasetConfig:
    """The config of a dataset by name, from its options.

    Raises:
        UnknownName, MissingDependency, ConfigError: in one line each, with what exists.
    """
    config: DatasetConfig = configs.make(DATASETS.get(name), options, DATASETS.resolve(name))
    return config
