"""The plan of a bench: every cell, checked whole before anything trains."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import torch

from flowzoo import __version__, data, models
from flowzoo import config as configs
from flowzoo.config import ConfigError
from flowzoo.data import Data, DatasetConfig, References, Splits
from flowzoo.distributed import world
from flowzoo.flow import ConditionalFlow
from flowzoo.harness.clouds import LEAST, RealClouds, real_clouds
from flowzoo.harness.ensembles import RealEnsembles, real_ensembles
from flowzoo.harness.posteriors import Observed, observed
from flowzoo.metrics import configure as configure_metric
from flowzoo.models import ModelConfig
from flowzoo.record import TUNED, one_line, stem
from flowzoo.registry import EMBEDDINGS, METRICS, MODELS, MissingDependency
from flowzoo.seeding import generator
from flowzoo.storage import plain_name
from flowzoo.train import FitConfig

BASELINE = "gaussian"
BASELINE_DIMS = 8192  # above these the covariance of the baseline, which nobody asked for, takes gigabytes
# The options of a bench that a cell's figures depend on.
EVALUATION = (
    *(
        "split_seed",
        "fractions",
        "folds",
        "draws",
        "ensemble_contexts",
        "ensemble_draws",
        "cloud_groups",
        "cloud_points",
        "posteriors",
        "posterior_draws",
        "posterior_method",
        "reference_draws",
    ),
    *("context_gain", "max_passes"),
)


@dataclass(frozen=True)
class BenchConfig:
    """How to compare.

    Args:
        seeds: of initialisation, order and noise; one cell per dataset, model and seed.
        split_seed: of the split, the same for every model and seed.
        fractions: of the groups that go to train, validation and test.
        folds: 0 for one split; else the groups are cut into so many parts, each is left out in turn, and a cell is one
            of these: every group is tested once, which errors over few groups need.
        out: run directory; by default ``runs/<datasets>-<hash of the plan>``, so that the same command goes on
            where it stopped.
        device: ``auto`` takes the first GPU if there is one.
        threads: of torch on the CPU. One by default: small flows gain little from more, and where another process
            wants the cores, threads that wait for one another are many times slower than one.
        draws: events drawn for the sample statistics, at most one per test context.
        ensemble_contexts: held-out contexts at which field statistics are taken, of images.
        ensemble_draws: draws at each of them, and fresh real events where the dataset can simulate.
        cloud_groups: test groups of many events for which point statistics are taken, of vectors.
        cloud_points: events in each half of such a group, and as many draws.
        posteriors: test observations, one of each test group, whose posteriors are drawn for calibration, where the
            dataset has a prior; 0 for none. By default 200, or 50 where they take Markov chains, which are slow:
            likelihoods of more than three parameters.
        posterior_draws: draws from each.
        posterior_method: how posteriors are drawn from a likelihood: grid (up to three parameters), importance, mcmc,
            or auto.
        reference_draws: draws from each posterior for which the dataset has reference draws, at most as many as those;
            0 for none.
        context_gain: train each config a second time without context, and say what the context is worth.
        max_passes: sampling is skipped, with this reason, where one draw takes more sequential network passes
            (a count and not a time, so that the same command gives the same table).
        together: train the seeds of a config at once (``torch.func.vmap``), where one process trains them; by default
            those of small flows, of vectors if on a CPU: elsewhere nothing is gained. Figures are the same up to
            rounding.
        baseline: add ``gaussian`` to every dataset for which its covariance can be had: events of at most 8,192
            numbers, and fewer columns of context than training events. Named itself, it is tried all the same.
    """

    seeds: tuple[int, ...] = (0,)
    split_seed: int = 0
    fractions: tuple[float, float, float] = data.FRACTIONS
    folds: int = 0
    out: str | None = None
    device: str = "auto"
    threads: int = 1
    draws: int = 1000
    ensemble_contexts: int = 16
    ensemble_draws: int = 500
    cloud_groups: int = 16
    cloud_points: int = 500
    posteriors: int | None = None
    posterior_draws: int = 200
    posterior_method: Literal["auto", "grid", "importance", "mcmc"] = "auto"
    reference_draws: int = 10_000
    context_gain: bool = False
    max_passes: int = 4096
    together: bool | None = None
    baseline: bool = True

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise ValueError(f"threads must be at least 1; got {self.threads}")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds must be different numbers, at least one; got {list(self.seeds)}")
        if self.folds < 0 or self.folds == 1:
            raise ValueError(f"folds must be 2 or more, or 0 for one split; got {self.folds}")
        counts = {"draws": 1, "ensemble_contexts": 1, "ensemble_draws": 2, "cloud_groups": 1, "cloud_points": LEAST}
        counts |= {"posteriors": 0, "posterior_draws": 1, "reference_draws": 0}
        for name, least in counts.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}; got {value}")


@dataclass(frozen=True)
class Source:
    """A dataset of the plan, loaded and split once, or a fold of it; every cell of it uses the same tensors."""

    name: str
    options: Mapping[str, Any]
    splits: Splits
    note: str
    fold: int | None = None
    known: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)

    def ensembles(self, bench: BenchConfig) -> RealEnsembles | str:
        """Real events at held-out contexts, made once for all models; or the reason why there are none."""
        key = (bench.ensemble_contexts, bench.ensemble_draws)
        if key not in self.known:
            self.known[key] = real_ensembles(self.splits, *key)
        found: RealEnsembles | str = self.known[key]
        return found

    def clouds(self, bench: BenchConfig) -> RealClouds | str:
        """The test events of which point statistics are taken, the same for all models; or why there are none."""
        key = (bench.cloud_groups, bench.cloud_points, bench.draws)
        if key not in self.known:
            self.known[key] = real_clouds(self.splits, *key)
        found: RealClouds | str = self.known[key]
        return found

    def observed(self, bench: BenchConfig) -> Observed | str:
        """Test observations whose posteriors are drawn, the same for all models; or why there are none."""
        data, count = self.splits.data, bench.posteriors
        if count is None:
            chains = data.theta == "context" and data.prior is not None and data.prior.dim > 3
            count = 50 if chains else 200
        key = ("observed", count)
        if key not in self.known:
            self.known[key] = observed(self.splits, count)
        found: Observed | str = self.known[key]
        return found

    def references(self, bench: BenchConfig) -> References | str:
        """Observations with draws from their exact posteriors, made once for all models; or why there are none."""
        if self.splits.data.reference_posteriors is None:
            return "the dataset has no reference posteriors"
        if not bench.reference_draws:
            return "no reference posteriors were asked for (reference_draws = 0)"
        if "references" not in self.known:
            self.known["references"] = self.splits.data.reference_posteriors()
        found: References = self.known["references"]
        return found


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


def code_digest(model: ModelConfig) -> str:
    """A digest of the files that define a model: whoever edits one of them means another model."""
    return _code_digest(type(model), getattr(model, "embed", None))


@lru_cache
def _code_digest(kind: type, embed: str | None) -> str:
    # Once a process: what runs is what was loaded, whatever is edited meanwhile.
    file = inspect.getsourcefile(kind)
    if file is None:
        return ""
    files = [Path(file)]
    if kind.__module__.startswith("flowzoo."):
        root = Path(models.__file__).parents[1]
        files += [root / "flow.py", root / "nets.py", *root.glob("models/_*.py"), *root.glob("layers/*.py")]
    if embed is not None:
        files += [Path(part) for part in [inspect.getsourcefile(EMBEDDINGS.get(embed))] if part]
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def resolve_device(name: str) -> torch.device:
    """A torch device from an option; of several processes (``flowzoo.distributed``) each takes a GPU of its own.

    Raises:
        ConfigError: for a device that this machine does not have, or one GPU for several processes.
    """
    _, processes, local_rank = world()
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
        if processes == 1:
            return torch.device(name)
    if processes > 1 and name.startswith("cuda"):
        if name != "cuda":
            raise ConfigError(f"device '{name}' is one GPU and there are {processes} processes; take auto or cpu")
        name = f"cuda:{local_rank}"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # a device that exists, and holds numbers (`meta` does not)
    except (RuntimeError, AssertionError, ImportError) as error:
        text = str(error).splitlines()[0]
        raise ConfigError(f"device '{name}' cannot be used here ({text}); try auto or cpu") from None
    return device


def open_source(name: str, options: Mapping[str, Any], bench: BenchConfig, given: Data | None = None) -> Source:
    """Load and split a dataset.

    Args:
        name: registered, or what to call ``given``.
        options: of the dataset.
        bench: how to split it, and where it shall live.
        given: data from Python instead of a registered dataset.

    Raises:
        ConfigError: for options that do not fit, a missing file, or data that has no density; in one line.
    """
    return open_sources(name, options, replace(bench, folds=0), given)[0]


def open_sources(
    name: str, options: Mapping[str, Any], bench: BenchConfig, given: Data | None = None, only: int | None = None
) -> list[Source]:
    """As ``open_source``, once for each of the folds that the bench asks for, or ``only`` for one of them."""
    resolved, device = dict(options), resolve_device(bench.device)
    if given is None:
        config: DatasetConfig = data.configure(name, resolved)
        resolved = configs.to_dict(config)
        try:
            given = config.load()
        except (OSError, ValueError) as error:
            raise ConfigError(f"{name}: {error}") from None
    sources: list[Source] = []
    folds: Sequence[int | None] = range(bench.folds) if bench.folds else (None,)
    for fold in folds if only is None else (only,):
        try:
            splits = Splits.make(
                given,
                seed=bench.split_seed,
                fractions=bench.fractions,
                device=device,
                fold=None if fold is None else (fold, bench.folds),
                checked=bool(sources),
            )
            splits.maps()  # fails now, not in the first cell
        except ValueError as error:
            raise ConfigError(f"{name}: {error}") from None
        sources.append(Source(name, resolved, splits, given.describe(), fold))
    return sources


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
    for name in METRICS.names():
        configure_metric(name, {})
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


def default_out(cells: Sequence[Cell]) -> str:
    """``runs/<datasets>-<hash>``: the same plan, the same folder."""
    digest = hashlib.sha256("".join(cell.hash for cell in cells).encode()).hexdigest()[:8]
    names = "-".join(dict.fromkeys(plain_name(cell.source.name, "the dataset") for cell in cells))
    return f"runs/{names[:60]}-{digest}"
