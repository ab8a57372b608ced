"""``Source``: a dataset loaded and split once, on its device, and what all models are compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch

from flowzoo import config as configs
from flowzoo import data
from flowzoo.config import ConfigError
from flowzoo.data import Data, DatasetConfig, References, Splits
from flowzoo.data._context import stored_once
from flowzoo.distributed import world
from flowzoo.harness.bench_config import BenchConfig
from flowzoo.harness.clouds import RealClouds, real_clouds
from flowzoo.harness.ensembles import RealEnsembles, real_ensembles
from flowzoo.harness.posteriors import Observed, observed

Made = TypeVar("Made")


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
        count, draws = bench.ensemble_contexts, bench.ensemble_draws
        return self._once(("ensembles", count, draws), lambda: real_ensembles(self.splits, count, draws))

    def clouds(self, bench: BenchConfig) -> RealClouds | str:
        """The test events of which point statistics are taken, the same for all models; or why there are none."""
        sizes = bench.cloud_groups, bench.cloud_points, bench.draws
        return self._once(("clouds", *sizes), lambda: real_clouds(self.splits, *sizes))

    def observed(self, bench: BenchConfig) -> Observed | str:
        """Test observations whose posteriors are drawn, the same for all models; or why there are none."""
        data, count = self.splits.data, bench.posteriors
        if count is None:
            chains = data.theta == "context" and data.prior is not None and data.prior.dim > 3
            count = 50 if chains else 200
        return self._once(("observed", count), lambda: observed(self.splits, count))

    def references(self, bench: BenchConfig) -> References | str:
        """Observations with draws from their exact posteriors, made once for all models; or why there are none."""
        if self.splits.data.reference_posteriors is None:
            return "the dataset has no reference posteriors"
        if not bench.reference_draws:
            return "no reference posteriors were asked for (reference_draws = 0)"
        return self._once("references", self.splits.data.reference_posteriors)

    def _once(self, key: Any, make: Callable[[], Made]) -> Made:
        """What is made once for all cells of this source."""
        if key not in self.known:
            self.known[key] = make()
        found: Made = self.known[key]
        return found


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
    cure = "try auto or cpu"
    try:
        device = torch.device(name)
    except RuntimeError:  # which lists twenty kinds of devices
        raise ConfigError(f"unknown device '{name}': expected cpu, cuda, cuda:1 or auto") from None
    try:
        torch.zeros(1, device=device).item()  # a device that exists, and holds numbers (`meta` does not)
    except (RuntimeError, AssertionError, ImportError) as error:
        if device.type == "cuda" and torch.version.cuda is None and torch.version.hip is None:
            cure += ", or install a build of torch with CUDA (the selector on pytorch.org has the command)"
        why = str(error).splitlines()[0].split(". ")[0]  # of MPS that sentence, and then a page
        raise ConfigError(f"device '{name}' cannot be used here ({why}); {cure}") from None
    return device


def open_source(
    name: str, options: Mapping[str, Any], bench: BenchConfig, given: Data | DatasetConfig | None = None
) -> Source:
    """Load and split a dataset.

    Args:
        name: registered, or what to call ``given``.
        options: of the dataset.
        bench: how to split it, and where it shall live.
        given: data from Python, or what loads them, instead of a registered dataset.

    Raises:
        ConfigError: for options that do not fit, a missing file, or data that has no density; in one line.
    """
    return open_sources(name, options, replace(bench, folds=0), given)[0]


def open_sources(
    name: str,
    options: Mapping[str, Any],
    bench: BenchConfig,
    given: Data | DatasetConfig | None = None,
    only: int | None = None,
) -> list[Source]:
    """As ``open_source``, once for each of the folds that the bench asks for, or ``only`` for one of them."""
    resolved, device = dict(options), resolve_device(bench.device)
    if given is None:
        given = data.configure(name, resolved)
        resolved = configs.to_dict(given)
    if not isinstance(given, Data):
        try:
            given = given.load()
        except (OSError, ValueError) as error:
            raise ConfigError(f"{name}: {error}") from None
        if not isinstance(given, Data):
            raise ConfigError(f"{name}: load() must return a flowzoo.Data; got {type(given).__name__}")
    given = _stored_once(given)
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


def _stored_once(given: Data) -> Data:
    """The data, with a context that all events of a group have in one row, if every event has a row of its own."""
    assert given.context is not None
    assert given.context_index is not None
    own = torch.arange(len(given))
    if given.folds or len(given.context) != len(given) or not torch.equal(given.context_index, own):
        return given
    contexts, index = stored_once(given.context, given.groups)
    return given if index is None else replace(given, context=contexts, context_index=index)
