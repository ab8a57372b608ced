"""Optuna's samplers and pruners, made so that a study that was killed goes on as if nothing had happened.

Imported late, because it imports Optuna.
"""

from __future__ import annotations

import copy
import importlib.util
import inspect
import warnings
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler
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


def _samplers() -> dict[str, type[BaseSampler]]:
    """Those of Optuna that take any search space, by name: ``TPESampler`` is ``tpe``."""
    found: dict[str, Any] = {}
    for name in optuna.samplers.__all__:
        kind: Any = getattr(optuna.samplers, name)
        if not inspect.isclass(kind) or inspect.isabstract(kind) or not name.endswith("Sampler"):
            continue
        parameters = inspect.signature(kind.__init__).parameters
        needed = [p for key, p in parameters.items() if key != "self" and p.default is p.empty]
        if not needed and "seed" in parameters and name != "BruteForceSampler":  # that one wants it finite
            found[name.removesuffix("Sampler").lower()] = kind
    return found


def _make(name: str, seed: int, number: int, parameter: str = "") -> BaseSampler:
    kind = _samplers()[name]
    # The points of a low-discrepancy sequence are one sequence.
    own = derive(seed, "study") if name == "qmc" else derive(seed, "trial", number, parameter)
    options: dict[str, Any] = {"seed": own % 2**32}
    known = inspect.signature(kind.__init__).parameters
    options |= {"warn_independent_sampling": False} if name in ("cmaes", "qmc") else {}
    options |= {"n_startup_trials": STARTUP} if "n_startup_trials" in known else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return kind(**options)


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
        if self.name not in _samplers():
            raise ConfigError(f"tune.sampler: there is no '{name}'; there are {', '.join(sorted(_samplers()))}")
        if self.name == "cmaes" and importlib.util.find_spec("cmaes") is None:  # Optuna finds out in the second trial
            raise ConfigError("tune.sampler: 'cmaes' needs a package that is not installed: pip install cmaes")
        self.inner = _make(self.name, seed, 0)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """See ``BaseSampler``."""
        self.inner = _make(self.name, self.seed, origin(trial))
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
        sampler = _make(self.name, self.seed, number, param_name)
        return sampler.sample_independent(study, trial, param_name, distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Any) -> None:
        """See ``BaseSampler``."""
        self.inner.after_trial(study, trial, state, values)


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
