"""Optuna's samplers and pruners, made so that a study that was killed goes on as if nothing had happened.

Imported late, because it imports Optuna.
"""

from __future__ import annotations

import copy
import importlib.util
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    NSGAIIISampler,
    NSGAIISampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from flowzoo.config import ConfigError
from flowzoo.seeding import derive

# TPE draws at random before it has seen this many trials; Optuna's 10 would be half of a usual budget.
STARTUP = 5
SHORTEST = 9  # a trial is left alone for this part of its steps: 1 / 9


def origin(trial: FrozenTrial) -> int:
    """The number of a trial, or of the one that it is another attempt at, because its worker was lost."""
    return int(trial.system_attrs.get("failed_trial", trial.number))


#: By name, to be called with a seed; those of Optuna that take any search space. What its versions have different
#: defaults for is spelt out. By groups TPE learns of an option too that not every trial has; scrambled, a
#: low-discrepancy sequence heeds the seed, and does not begin in a corner of the space.
SAMPLERS: dict[str, Callable[..., BaseSampler]] = {
    "cmaes": partial(CmaEsSampler, n_startup_trials=STARTUP, warn_independent_sampling=False),
    "gp": partial(GPSampler, n_startup_trials=STARTUP, warn_independent_sampling=False),
    "nsgaii": NSGAIISampler,
    "nsgaiii": NSGAIIISampler,
    "qmc": partial(QMCSampler, scramble=True, warn_independent_sampling=False),
    "random": RandomSampler,
    "tpe": partial(TPESampler, n_startup_trials=STARTUP, multivariate=True, group=True, constant_liar=True),
}


def _make(name: str, seed: int) -> BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return SAMPLERS[name](seed=seed % 2**32)


class Sampler(BaseSampler):
    """One of Optuna's by name, made anew for each trial from the study's seed and the number of the trial.

    The first trial gets the values of the config as it stands.

    Args:
        name: see ``TuneConfig.sampler``.
        seed: of the study.
        present: the config as it stands, by name in the study.

    Raises:
        ConfigError: for a name that Optuna does not have, or a sampler that needs a package that is not there.
    """

    def __init__(self, name: str, seed: int, present: Mapping[str, Any]) -> None:
        self.name, self.seed, self.present = name.lower(), seed, dict(present)
        if self.name not in SAMPLERS:
            raise ConfigError(f"tune.sampler: there is no '{name}'; there are {', '.join(SAMPLERS)}")
        if self.name == "cmaes" and importlib.util.find_spec("cmaes") is None:  # Optuna finds out in the second trial
            raise ConfigError("tune.sampler: 'cmaes' needs a package that is not installed: pip install cmaes")
        self.inner = self._inner(0)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """See ``BaseSampler``."""
        self.inner = self._inner(origin(trial))
        self.inner.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """See ``BaseSampler``."""
        return self.inner.infer_relative_search_space(study, trial) if origin(trial) else {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """See ``BaseSampler``."""
        return self.inner.sample_relative(study, trial, search_space) if origin(trial) else {}

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str, distribution: Any) -> Any:
        """See ``BaseSampler``."""
        number = origin(trial)
        if not number and param_name in self.present:
            return self.present[param_name]
        # A stream of its own for each: who goes on with a trial may find some of them drawn.
        own = derive(self.seed, "trial", number, param_name)
        # Of a low-discrepancy sequence what it leaves out is drawn at random.
        sampler = _make("random" if self.name == "qmc" else self.name, own)
        return sampler.sample_independent(study, trial, param_name, distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Any) -> None:
        """See ``BaseSampler``."""
        self.inner.after_trial(study, trial, state, values)

    def _inner(self, number: int) -> BaseSampler:
        # The points of a low-discrepancy sequence are one sequence.
        one = derive(self.seed, "study") if self.name == "qmc" else derive(self.seed, "trial", number, "")
        return _make(self.name, one)


class Pruner(BasePruner):
    """One of Optuna's by name, which leaves the config as it stands alone.

    Optuna would let the sampler see the trials of one bracket of Hyperband only, and start at random in each; with a
    few dozen trials it would never learn. Behind this class it does not know.

    Args:
        name: see ``TuneConfig.pruner``.
        steps: of a training at most; what trials report is counted in steps.
        every: steps between two reports.
    """

    def __init__(self, name: str, steps: int, every: int) -> None:
        shortest = max(1, every, steps // SHORTEST)
        self.inner: BasePruner
        if name == "hyperband":
            self.inner = HyperbandPruner(min_resource=shortest, max_resource=max(steps, shortest))
        elif name == "halving":
            self.inner = SuccessiveHalvingPruner(min_resource=shortest, reduction_factor=3)
        elif name == "median":
            self.inner = MedianPruner(n_startup_trials=3, n_warmup_steps=shortest)
        else:
            self.inner = NopPruner()

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """See ``BasePruner``."""
        if trial.last_step is None:
            return False
        # Killed after a rung was taken down and before the verdict: taken down again, it is judged again.
        seen = copy.copy(trial)
        last = trial.intermediate_values[trial.last_step]
        seen.system_attrs = {
            key: value
            for key, value in trial.system_attrs.items()
            if not (key.startswith("completed_rung_") and value == last)
        }
        worse = self.inner.prune(study, seen)  # the rungs of the first one are what others are compared with
        return worse and origin(trial) != 0
