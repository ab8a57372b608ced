"""The simulation-based inference benchmark of Lueckmann et al. 2021: nine tasks, simulators and references."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

import torch

from flowzoo.bijectors import Compose, Log, Standardize
from flowzoo.config import ConfigError
from flowzoo.data import _sbibm_gaussian, _sbibm_glm, _sbibm_ode, _sbibm_references, _sbibm_tasks
from flowzoo.data._data import Data, References
from flowzoo.data._direction import Direction, directed
from flowzoo.data._sbibm_tasks import Task
from flowzoo.inference import LogNormal
from flowzoo.registry import DATASETS
from flowzoo.seeding import generator

Name = Literal[
    "two_moons",
    "slcp",
    "sir",
    "lotka_volterra",
    "gaussian_linear",
    "gaussian_linear_uniform",
    "gaussian_mixture",
    "bernoulli_glm",
    "bernoulli_glm_raw",
]
TASKS: tuple[Name, ...] = get_args(Name)
_MAKERS = {
    "two_moons": _sbibm_tasks.two_moons,
    "slcp": _sbibm_tasks.slcp,
    "sir": _sbibm_ode.sir,
    "lotka_volterra": _sbibm_ode.lotka_volterra,
    "gaussian_linear": _sbibm_gaussian.gaussian_linear,
    "gaussian_linear_uniform": _sbibm_gaussian.gaussian_linear_uniform,
    "gaussian_mixture": _sbibm_gaussian.gaussian_mixture,
}
_SPIKES = {"bernoulli_glm": _sbibm_glm.bernoulli_glm, "bernoulli_glm_raw": _sbibm_glm.bernoulli_glm_raw}


@DATASETS.register
@dataclass(frozen=True)
class Sbibm:
    r"""Pairs (theta, x) of a task of sbibm: theta from its prior, x from its simulator.

    | task | theta | x |
    | --- | --- | --- |
    | two_moons | 2, flat | 2 |
    | slcp | 5, flat | 8: four points of a normal distribution |
    | sir | 2, lognormal | 10 counts |
    | lotka_volterra | 4, lognormal | 20 populations |
    | gaussian_linear | 10, normal | 10 |
    | gaussian_linear_uniform | 10, flat | 10 |
    | gaussian_mixture | 2, flat | 2 |
    | bernoulli_glm | 10, normal | 10 sums over spikes |
    | bernoulli_glm_raw | 10, normal | 100 spikes |

    (Lueckmann et al. 2021, arXiv:2101.04653, appendix T; the conventions are those of its reference posteriors.)
    Equations are in ``_sbibm_tasks``, ``_sbibm_ode``, ``_sbibm_gaussian`` and ``_sbibm_glm``.

    Of counts and spikes a likelihood flow learns the density of x + U(0, 1); bernoulli_glm, whose sums are on no ladder
    of levels, has the posterior direction alone.

    ``reference_posteriors`` of its ``Data`` are read from ``TASK.npz`` where the folder of references has one, with the
    scores in ``published_c2st.csv`` at as many simulations. For two_moons, the Gaussian and the Bernoulli tasks they
    are else made by us: ten observations by a seed of their own, 10,000 exact draws each.

    Args:
        task: which of these.
        simulations: the budget: so many pairs are for training and validation.
        direction: ``posterior``: the events are theta, given x; ``likelihood``: the events are x, given theta.
        references: folder of ``TASK.npz``, ``bernoulli_glm_design.npz`` and ``published_c2st.csv``, each if needed; by
            default ``$FLOWZOO_DATA/sbibm`` if there is one.
        tests: fresh pairs for the test part, which are no part of the budget.
        validation: share of the budget for validation.
        seed: of the pairs; the tests are the same whatever the budget.
    """

    task: Name = "two_moons"
    simulations: int = 10_000
    direction: Direction = "posterior"
    references: str | None = None
    tests: int = 2000
    validation: float = 0.1
    seed: int = 0

    def load(self) -> Data:
        """Draw theta from the prior and x from the simulator.

        Raises:
            ConfigError: if an option is out of range.
            FileNotFoundError: if the folder of references is not there, or lacks a file that nothing replaces.
            ConfigError: if a file in it has other arrays, or is damaged.
        """
        held = self._check()
        task, events = self._task, self.direction == "likelihood"
        parts = [(self.simulations, ""), (self.tests, "test ")]
        theta = [task.prior.sample(count, generator(self.seed, f"{part}theta")) for count, part in parts]
        x = [task.simulate(t, generator(self.seed, f"{part}x")) for t, (_, part) in zip(theta, parts, strict=True)]
        sizes = torch.tensor([self.simulations - held, held, self.tests])
        notes = [
            f"sbibm {self.task}: {self.simulations} simulations, {held} of them for validation, and {self.tests} more"
        ]
        if task.levels is not None and events:
            notes.append("x is of integers: the density is that of x + U(0, 1)")
        if self._file is None and task.draw is None:
            notes.append(f"no reference posteriors: they need {self.task}.npz in the folder of references")
        data = Data(
            x=torch.cat(x),
            context=torch.cat(theta),
            names=task.names,
            context_names=task.parameters,
            levels=task.levels if events else None,
            # The scale of an observation; that of integers as events is for the levels to say.
            x_map=None if task.levels and events else task.scale or Standardize((len(task.names),)),
            context_map=_context_map(task),
            given_split=torch.arange(3).repeat_interleave(sizes),
            prior=task.prior,
            simulate=task.simulate,
            true_log_prob=task.log_likelihood if task.normalised else None,
            reference_posteriors=None if self._file is None and task.draw is None else self.reference_posteriors,
            notes=notes,
        )
        return data if events else replace(directed(data, self.direction), true_log_prob=task.log_posterior)

    def reference_posteriors(self) -> References:
        """Observations with draws from their posteriors: read, or made, which takes some seconds.

        Raises:
            ConfigError: if the file has other arrays, or is damaged.
        """
        if self._file is not None:
            return _sbibm_references.read(self._file.parent, self.task, self._task, self.simulations)
        return _sbibm_references.make(self.task, self._task)

    @cached_property
    def _folder(self) -> Path | None:
        return _sbibm_references.find_folder(self.references)

    @property
    def _file(self) -> Path | None:
        """Of the reference draws."""
        folder = self._folder
        return file if folder is not None and (file := folder / f"{self.task}.npz").is_file() else None

    @cached_property
    def _task(self) -> Task:
        if self.task in _SPIKES:
            design = _sbibm_references.read_design(self._folder)
            return _SPIKES[self.task](_sbibm_glm.own_design() if design is None else design)
        return _MAKERS[self.task]()

    def _check(self) -> int:
        """The size of the validation part."""
        if self.task not in TASKS:
            raise ConfigError(f"task must be one of {', '.join(TASKS)}; got {self.task!r}")
        if self.direction not in ("posterior", "likelihood"):
            raise ConfigError(f"direction must be posterior or likelihood; got {self.direction!r}")
        if self.tests < 1:
            raise ConfigError(f"tests must be at least 1; got {self.tests}")
        held = round(self.validation * self.simulations) if 0 < self.validation < 1 else 0
        if not 0 < held < self.simulations:
            raise ConfigError(
                "simulations must be enough for training and validation, and validation a share between 0 and 1; got "
                f"simulations {self.simulations} and validation {self.validation:g}"
            )
        if self.direction == "likelihood" and self._task.no_event:
            raise ConfigError(f"{self.task} has no likelihood flow: {self._task.no_event}; take direction=posterior")
        if self.references and self._file is None and self._task.draw is None:
            raise FileNotFoundError(
                f"no such file: {self.references}/{self.task}.npz; nothing replaces it: leave references out, or take "
                "another task"
            )
        return held


def _context_map(task: Task) -> Compose | None:
    """Positive parameters in the logarithm; None for the default."""
    return Compose(Log(), Standardize((task.prior.dim,))) if isinstance(task.prior, LogNormal) else None
