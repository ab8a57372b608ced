"""A tiny problem, and a study of it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest

from flowzoo import FitConfig, data, models
from flowzoo.data import Splits
from flowzoo.seeding import generator
from flowzoo.tune import Task, TuneConfig, Tuned, search
from flowzoo.tune.storage import open_storage

FIT = FitConfig(steps=12, evaluate_every=3, checkpoint_every=4, batch_size=64, ema=0.5)


class Untouchable:
    """A test part that must not be looked at."""

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(f"the test part was asked for '{name}'")


class Problem:
    """A model, data, and a folder; called with options of ``TuneConfig`` it runs a study."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.model, self.fit = folder, models.configure("maf", {"num_steps": 1}), FIT
        self.given: dict[str, tuple[str, ...]] = {"given_model": ("num_steps", "activation"), "given_train": ("steps",)}
        splits = Splits.make(data.configure("two_moons", {"num_events": 300}).load())
        self.splits = replace(splits, test=Untouchable())  # type: ignore[arg-type]

    def build(self, model: Any) -> Any:
        shapes = self.splits.data.event_shape, self.splits.data.context_shape
        return models.build_from(model, *shapes, *self.splits.maps(), generator(0, "init"))

    def __call__(self, folder: str = "run", build: Callable[..., Any] | None = None, **options: Any) -> Tuned:
        on_trial = options.pop("on_trial", None)
        given = {**self.given, "depends_on": options.pop("depends_on", {})}
        config = TuneConfig(**{"trials": 5, "pruner": "none", **options})
        place = self.folder / folder
        task = Task(self.model, self.fit, self.splits, build or self.build, config, place, "two_moons.maf", **given)
        return search(task, show=False, on_trial=on_trial)

    def study(self, folder: str = "run") -> optuna.Study:
        """As anybody reads it who has Optuna."""
        return optuna.load_study(study_name="two_moons.maf", storage=f"sqlite:///{self.folder / folder}/study.db")

    def trials(self, folder: str = "run") -> list[tuple[Any, ...]]:
        """All of a study that does not depend on the clock."""
        return [
            (t.number, t.state.name, t.params, t.values, t.intermediate_values, t.user_attrs.get("reason"))
            for t in self.study(folder).get_trials()
        ]


@pytest.fixture(autouse=True)
def _quiet_optuna() -> Any:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(before)


@pytest.fixture(scope="session")
def problem_in() -> type[Problem]:
    return Problem


@pytest.fixture(scope="session")
def memory() -> Iterator[Path]:
    """A folder in memory where there is one: a study waits for the disk some forty times a trial."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if os.access(shared, os.W_OK) else None) as folder:
        yield Path(folder)


@pytest.fixture
def problem(memory: Path) -> Problem:
    return Problem(Path(tempfile.mkdtemp(dir=memory)))


@pytest.fixture
def opened(tmp_path: Path) -> Any:
    return open_storage(None, tmp_path)
