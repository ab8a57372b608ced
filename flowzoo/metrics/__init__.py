"""Metrics: one file each. A file registers a frozen config that is called with an ``Evaluation``."""

from __future__ import annotations

from typing import Any

from flowzoo import config as configs
from flowzoo.metrics._lc2st import Local, lc2st
from flowzoo.metrics._metric import (
    MIN_SIDE,
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
    """The config of a metric by name, from its options."""
    config: MetricConfig = configs.make(METRICS.get(name), options, METRICS.resolve(name))
    return config


def columns() -> dict[str, Column]:
    """Every column that the installed metrics fill, by name."""
    return {column.name: column for name in METRICS.names() for column in METRICS.get(name).columns}
