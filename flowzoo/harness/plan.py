"""The plan of a bench: every cell, checked whole before anything trains."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from flowzoo import __version__, models
from flowzoo import config as configs
from flowzoo.config import ConfigError
from flowzoo.flow import ConditionalFlow
from flowzoo.harness.bench_config import EVALUATION, BenchConfig
from flowzoo.harness.digests import code_digest
from flowzoo.harness.source import Source
from flowzoo.metrics import configure as configure_metric
from flowzoo.models import ModelConfig
from flowzoo.record import BASELINE, TUNED, one_line, stem
from flowzoo.registry import METRICS, MODELS, MissingDependency
from flowzoo.seeding import generator
from flowzoo.storage import plain_name
from flowzoo.train import FitConfig

BASELINE_DIMS = 8192  # above these the covariance of the baseline, which nobody asked for, takes gigabytes


@dataclass(frozen=True)
class Cell:
    """One (dataset, model, seed, fold), with everything that determines its result.

    ``tuned``: whether model and fit are the best of a study, and not as they were given.
    """

    source: Source
    model: ModelConfig
    seed: int
    fit: FitConfig
    bench: BenchConfig
    tuned: bool = False

    @property
    def name(self) -> str:
        """The registered name of the model."""
        return MODELS.name_of(self.model)

    @property
    def label(self) -> str:
        """What its row in a table is called."""
        return self.name + (TUNED if self.tuned else "")

    @property
    def stem(self) -> str:
        """File name of its record, without the ending."""
        return stem(self.source.name, self.label, self.seed, self.source.fold)

    @cached_property
    def config(self) -> dict[str, Any]:
        """Every option, as JSON."""
        bench = configs.to_dict(self.bench)
        evaluation = {key: bench[key] for key in EVALUATION}
        return {
            "data": {"name": self.source.name, **self.source.options},
            "model": {"name": self.name, **configs.to_dict(self.model)},
            "train": configs.to_dict(self.fit),
            "bench": evaluation,
        }

    @cached_property
    def hash(self) -> str:
        """Of all that the result depends on; a record with another hash is of another cell."""
        parts = [self.config, self.seed, self.source.splits.hash, __version__, code_digest(self.model)]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    def build(self) -> ConditionalFlow:
        """The flow, with the cell's initial weights, on the device of the splits."""
        splits = self.source.splits
        x_map, context_map = splits.maps()
        flow = models.build_from(
            self.model,
            splits.data.event_shape,
            splits.data.context_shape,
            x_map,
            context_map,
            generator(self.seed, "init"),
        )
        return flow.to(splits.train.x.device)


def make_plan(
    sources: Sequence[Source],
    chosen: Mapping[str, Mapping[str, Any]],
    fit: FitConfig,
    bench: BenchConfig,
) -> list[Cell]:
    """Cross datasets, models and seeds, and check that every model takes every dataset.

    Raises:
        UnknownName, MissingDependency, ConfigError: in one line.
    """
    if not sources:
        raise ConfigError("no data to compare on; give at least one dataset")
    if not chosen:
        raise ConfigError(f"no models to compare; give --models, some of {', '.join(MODELS.names())}")
    names = {MODELS.resolve(name): dict(options) for name, options in chosen.items()}
    added = bench.baseline and BASELINE not in names
    if added:
        names = {BASELINE: {}, **names}
    names_and_folds = [(source.name, source.fold) for source in sources]
    repeated = [pair[0] for i, pair in enumerate(names_and_folds) if pair in names_and_folds[:i]]
    if repeated:
        raise ConfigError(f"dataset '{repeated[0]}' is in the plan twice: bench its variants in runs of their own")
    made = [models.configure(name, options) for name, options in names.items()]
    _check_metrics()
    cells = []
    for source in sources:
        given = source.splits.data
        shapes = given.event_shape, given.context_shape
        possible = given.event_shape.numel() <= BASELINE_DIMS and given.context_shape.numel() < len(source.splits.train)
        for config in made:
            if added and not possible and MODELS.name_of(config) == BASELINE:
                continue
            model = models.adapt(config, periodic=given.periodic, context_image=given.context_image)
            try:
                if not source.fold:  # folds have the same shapes
                    models.build_from(model, *shapes, generator=generator(0, "plan"))
            except ModuleNotFoundError as error:
                raise MissingDependency(
                    f"model '{MODELS.name_of(model)}' needs the package '{error.name}', which is not installed: "
                    f"pip install {error.name}"
                ) from error
            except ValueError as error:
                raise ConfigError(f"dataset '{source.name}': {error}") from error
            except Exception as error:  # a backend's own words for options that it cannot take
                raise ConfigError(
                    f"dataset '{source.name}': {MODELS.name_of(model)} cannot be built with the options "
                    f"{configs.to_dict(model)} ({one_line(error)})"
                ) from error
            cells += [Cell(source, model, seed, fit, bench) for seed in bench.seeds]
    return cells


def _check_metrics() -> None:
    """Find out now, and not after the training, whether each metric can be had and fills columns of its own."""
    owners: dict[str, str] = {}
    for name in METRICS.names():
        for column in configure_metric(name, {}).columns:
            if owners.setdefault(column.name, name) != name:
                raise ConfigError(f"column '{column.name}' is filled by two metrics, {owners[column.name]} and {name}")


def default_out(cells: Sequence[Cell]) -> str:
    """``runs/<datasets>-<hash>``: the same plan, the same folder."""
    digest = hashlib.sha256("".join(cell.hash for cell in cells).encode()).hexdigest()[:8]
    names = "-".join(dict.fromkeys(plain_name(cell.source.name, "the dataset") for cell in cells))
    return f"runs/{names[:60]}-{digest}"
