"""``Task``: what is tuned, on what, and how."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from flowzoo import config as configs
from flowzoo.checkpoint import versions
from flowzoo.data import Splits
from flowzoo.flow import ConditionalFlow
from flowzoo.models import ModelConfig
from flowzoo.registry import MODELS
from flowzoo.train_config import FitConfig
from flowzoo.tune.space import Space
from flowzoo.tune.tune_config import TuneConfig, is_name


@dataclass(frozen=True)
class Task:
    """A model on a dataset, to be tuned. Workers on one study have equal ones.

    Args:
        model: the config as it stands, with what the user set.
        fit: the same of the training.
        splits: the data; the test part is not touched.
        build: makes the flow of a config, with its initial weights, on the device of the splits.
        config: how to tune.
        folder: of the run; holds the checkpoints of trials that are on.
        name: of the study, ``<dataset>.<model>[.foldK]``; ``config.study`` is put before it.
        given_model: options of the model that the user set: they are not searched.
        given_train: the same of the training.
        seed: of every training.
        depends_on: what else the value of a trial depends on, as JSON.

    Raises:
        ValueError: if the study cannot be called so.
    """

    model: ModelConfig
    fit: FitConfig
    splits: Splits
    build: Callable[[ModelConfig], ConditionalFlow]
    config: TuneConfig
    folder: Path
    name: str
    given_model: Collection[str] = ()
    given_train: Collection[str] = ()
    seed: int = 0
    depends_on: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not is_name(self.study):
            raise ValueError(f"a study's name must be letters, digits, '_', '-' and single dots; got {self.study!r}")

    @property
    def study(self) -> str:
        """Its whole name."""
        return self.name if self.config.study is None else f"{self.config.study}.{self.name}"

    @cached_property
    def space(self) -> Space:
        """What is searched; nothing of a model that has nothing to train."""
        trainable = any(p.requires_grad for p in self.build(self.model).parameters())
        given = frozenset(self.given_model), frozenset(self.given_train)
        return Space(self.model, self.fit, *given, self.config.training and trainable)

    @property
    def subject(self) -> dict[str, Any]:
        """What the value of a trial depends on, as JSON."""
        return {
            "split": self.splits.hash,
            "model": {"name": MODELS.name_of(self.model), **configs.to_dict(self.model)},
            "train": configs.to_dict(self.fit),
            "space": {key: str(value) for key, value in sorted(self.space.asked.items())},
            "seeds": [self.config.seed, self.seed],
            "version": versions()["flowzoo"],
            "depends_on": dict(self.depends_on),
        }
