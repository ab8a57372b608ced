"""Tuning: one Optuna study for a model on a dataset, which any number of workers join, and which survives a kill."""

from __future__ import annotations

from flowzoo.tune.loop import check, search
from flowzoo.tune.space import Space
from flowzoo.tune.study import StudyError
from flowzoo.tune.task import Task
from flowzoo.tune.tune_config import TuneConfig
from flowzoo.tune.tuned import Tuned

__all__ = ["Space", "StudyError", "Task", "TuneConfig", "Tuned", "check", "search"]
