"""The studies of a plan, and the cells of what they found."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowzoo import config as configs
from flowzoo.harness.digests import code_digest
from flowzoo.harness.plan import Cell
from flowzoo.harness.run import cpu_threads
from flowzoo.registry import MODELS
from flowzoo.tune import Task, TuneConfig, Tuned, search

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


def describe_trial(trial: FrozenTrial) -> str:
    """How a trial ended, in a line."""
    state = trial.state.name
    what = f"{trial.value:.4f} nats" if state == "COMPLETE" else {"FAIL": "failed"}.get(state, state.lower())
    reason = f": {trial.user_attrs['reason']}" if "reason" in trial.user_attrs else ""
    return f"trial {trial.number}: {what}{reason} ({trial.user_attrs.get('seconds', 0):.0f} s)"


@dataclass(frozen=True)
class Study:
    """A model on a dataset, or on a fold of it, to be tuned.

    Args:
        cell: of the config as it stands and the first seed of the bench, with which all trials train.
        given_model: options of the model that the user set: they are not searched.
        given_train: the same of the training.
        config: how to tune.
    """

    cell: Cell
    given_model: frozenset[str]
    given_train: frozenset[str]
    config: TuneConfig

    @property
    def name(self) -> str:
        """``<dataset>.<model>``, and ``.fold2`` behind it; what the user set before it comes on top."""
        fold = self.cell.source.fold
        return f"{self.cell.source.name}.{self.cell.name}" + ("" if fold is None else f".fold{fold}")

    @cached_property
    def hash(self) -> str:
        """Of all that it depends on."""
        parts = [self.cell.hash, sorted(self.given_model), sorted(self.given_train), configs.to_dict(self.config)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    def own(self, cells: Sequence[Cell]) -> list[Cell]:
        """Those of its dataset, fold and model, of every seed."""
        return [c for c in cells if c.source is self.cell.source and c.name == self.cell.name]

    def run(
        self,
        folder: Path,
        *,
        show: bool | None = None,
        on_trial: Callable[[FrozenTrial], None] | None = None,
    ) -> Tuned:
        """Go through with it, alone or with others; see ``flowzoo.tune.search``.

        Args:
            folder: the run directory.
            show: force the progress bars on or off.
            on_trial: called after every trial of this process.
        """
        with cpu_threads(self.cell.bench.threads):
            return search(self.task(folder), on_trial=on_trial, show=show)

    def task(self, folder: Path) -> Task:
        """What ``flowzoo.tune`` takes, of a run directory."""
        cell = self.cell
        return Task(
            model=cell.model,
            fit=cell.fit,
            splits=cell.source.splits,
            build=lambda model: replace(cell, model=model).build(),
            config=self.config,
            folder=folder,
            name=self.name,
            given_model=self.given_model,
            given_train=self.given_train,
            seed=cell.seed,
            depends_on={"model": code_digest(cell.model)},
        )


def studies_of(
    cells: Sequence[Cell], models: Mapping[str, Mapping[str, Any]], train: Mapping[str, Any], config: TuneConfig
) -> list[Study]:
    """One study for each dataset, fold and model of a plan; none for what has nothing to train.

    Args:
        cells: of a plan, none of them tuned.
        models: the options that the user set, by name of the model.
        train: those of the training.
        config: how to tune.
    """
    given = {MODELS.resolve(name): frozenset(options) for name, options in models.items()}
    found: dict[str, Study] = {}
    for cell in cells:
        study = Study(cell, given.get(cell.name, frozenset()), frozenset(train), config)
        if study.name not in found and any(p.requires_grad for p in cell.build().parameters()):
            found[study.name] = study
    return list(found.values())


def tuned_cells(cells: Sequence[Cell], studies: Sequence[Study], found: Mapping[str, Tuned | str]) -> list[Cell]:
    """The cells of the best configs, on every seed of the plan.

    Args:
        cells: the plan.
        studies: of it.
        found: as ``run_studies`` returns it; of a study that found nothing there are no cells.
    """
    tuned = []
    for study in studies:
        best = found[study.name]
        if isinstance(best, Tuned):
            tuned += [replace(c, model=best.model, fit=best.fit, tuned=True) for c in study.own(cells)]
    return tuned
