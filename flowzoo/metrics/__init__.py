"""Metrics: one file each. A file registers a frozen config that is called with an ``Evaluation``."""

from __future__ import annotations

from typing import Any

from flowzoo import config as configs
from flowzoo.metrics._lc2st import Local, lc2st
from flowzoo.metrics._metric import (
    MIN_SIDE,
    NEEDS,
    Clouds,
    Column,
    Ensembles,
    Evaluation,
    MetricConfig,
    NotComputed,
    Posteriors,
    ReferenceDraws,
)
from flowzoo.metrics._regression import PAIRS, regressed
from flowzoo.registry import METRICS

__all__ = [
    "MIN_SIDE",
    "NEEDS",
    "PAIRS",
    "Clouds",
    "Column",
    "Ensembles",
    "Evaluation",
    "Local",
    "MetricConfig",
    "NotComputed",
    "Posteriors",
    "ReferenceDraws",
    "columns",
    "configure",
    "lc2st",
    "regressed",
]


def configure(name: str, options: dict[str, Any]) -> MetricConfig:
    """The config of a metric by name, from its options.

    Raises:
        UnknownName, MissingDependency, ConfigError: in one line each, with what exists; also for a class that does not
            say what it needs and fills.
    """
    config: MetricConfig = configs.make(METRICS.get(name), options, METRICS.resolve(name))
    needs, filled = getattr(config, "needs", None), getattr(config, "columns", None)
    if not isinstance(needs, tuple) or not needs or not set(needs) <= set(NEEDS):
        raise configs.ConfigError(f"metric '{name}': needs must be a tuple of {', '.join(NEEDS)}; got {needs!r:.80}")
    if not isinstance(filled, tuple) or not filled or not all(isinstance(column, Column) for column in filled):
        raise configs.ConfigError(f"metric '{name}': columns must be a tuple of metrics.Column; got {filled!r:.80}")
    return config


def columns() -> dict[str, Column]:
    """Every column that the installed metrics fill, by name."""
    return {column.name: column for name in METRICS.names() for column in METRICS.get(name).columns}
