"""``TuneConfig``: how to tune."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TuneConfig:
    """How to tune: every model gets the same budget.

    Args:
        trials: of each study, pruned and failed ones among them; not those that a killed worker lost.
        minutes: of training of each study, all its workers together, instead of ``trials``. A trial that has begun
            is ended, so that its value does not depend on the clock; which trials there are does.
        sampler: of Optuna, by name: tpe, random, cmaes, qmc, gp, nsgaii, ...
        pruner: what ends a trial that is worse than others at the same step: ``"hyperband"``, ``"halving"``
            (successive), ``"median"`` or ``"none"``.
        storage: where the studies are: ``sqlite:///FILE``, ``postgresql+psycopg://USER@HOST/DATABASE`` or
            ``journal:FILE``. By default a SQLite file in the run directory. Whoever opens the same storage
            with the same command joins its studies.
        study: put before the names of the studies, so that several runs can share one storage.
        seed: of the sampler.
        training: search the training's options too.
        heartbeat: seconds between signs of life of a worker. One of another machine that gave none for four times as
            long has lost its trial, which another goes on with; where they share no folder, after eight times as long,
            and it begins again.
    """

    trials: int = 20
    minutes: float | None = None
    sampler: str = "tpe"
    pruner: Literal["hyperband", "halving", "median", "none"] = "hyperband"
    storage: str | None = None
    study: str | None = None
    seed: int = 0
    training: bool = True
    heartbeat: int = 15

    def __post_init__(self) -> None:
        for name in ("trials", "heartbeat"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")
        if self.minutes is not None and not self.minutes > 0:
            raise ValueError(f"minutes must be positive; got {self.minutes}")
        if self.storage == "":
            raise ValueError("storage must be a URL, or null for a file in the run directory; got an empty text")
        if self.study is not None and not is_name(self.study):
            raise ValueError(f"study must be letters, digits, '_', '-' and single dots; got {self.study!r}")


def is_name(text: str) -> bool:
    """Whether a study may be called so: it becomes a part of file names."""
    return re.fullmatch(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", text) is not None and len(text) <= 150
