"""``Tuned``: what a study found."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from flowzoo import config as configs
from flowzoo import models
from flowzoo.models import ModelConfig
from flowzoo.registry import MODELS
from flowzoo.train_config import FitConfig


@dataclass(frozen=True)
class Tuned:
    """The best trial of a study, and how the others went.

    Values are mean validation log-likelihoods, in nats per event.

    Args:
        study: its name.
        storage: its URL, without a password.
        model: the best config; the one that was there before if no trial was completed.
        fit: the same of the training.
        params: of the best trial, as they are in the study.
        number: of the best trial, or None.
        value: of the best trial, or None.
        default_value: of the config that was there before, or None if that failed.
        counts: of trials: ``complete``, ``pruned``, ``failed``, and ``lost`` with their worker.
        reasons: why trials failed, by number.
        searched: names in the study of what was searched; none where there is nothing to search.
        given: options that the user set, as ``option`` and ``train.option``.
    """

    study: str
    storage: str
    model: ModelConfig
    fit: FitConfig
    params: dict[str, Any]
    number: int | None
    value: float | None
    default_value: float | None
    counts: dict[str, int]
    reasons: dict[int, str] = field(default_factory=dict)
    searched: tuple[str, ...] = ()
    given: tuple[str, ...] = ()

    def to_settings(self) -> dict[str, Any]:
        """The sections ``models`` and ``train`` of a config file: what was searched and what the user set."""
        names = {*self.searched, *self.given}
        train = {name.removeprefix("train.") for name in names if name.startswith("train.")}
        sections: dict[str, Any] = {"models": {MODELS.name_of(self.model): _options(self.model, names)}}
        return {**sections, "train": _options(self.fit, train)} if train else sections

    def to_json(self) -> dict[str, Any]:
        """As values of JSON, which ``from_json`` takes back."""
        found = {each.name: getattr(self, each.name) for each in fields(self)}
        model = {"name": MODELS.name_of(self.model), **configs.to_dict(self.model)}
        reasons = {str(number): reason for number, reason in self.reasons.items()}
        return {**found, "model": model, "fit": configs.to_dict(self.fit), "reasons": reasons}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Tuned:
        """What ``to_json`` gave."""
        options = dict(values["model"])
        own = {
            "model": models.configure(options.pop("name"), options),
            "fit": configs.make(FitConfig, values["fit"], "train"),
            "reasons": {int(number): reason for number, reason in values["reasons"].items()},
            "searched": tuple(values["searched"]),
            "given": tuple(values["given"]),
        }
        return cls(**{**values, **own})

    def summary(self) -> str:
        """In one line."""
        counts = ", ".join(f"{count} {kind}" for kind, count in self.counts.items() if count)
        if self.value is None:
            return f"{self.study}: no trial was completed ({counts}): {next(iter(self.reasons.values()), 'no reason')}"
        if not self.searched:
            return f"{self.study}: nothing to search; {self.value:.4f} nats"
        before = "failed" if self.default_value is None else f"{self.default_value:.4f}"
        return f"{self.study}: {self.value:.4f} nats in trial {self.number}, the config before {before} ({counts})"


def _options(config: Any, names: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in configs.to_dict(config).items() if name in names}
