"""From a flow and a prior to what a method works on, and from what it gives to draws of the parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from flowzoo.inference._checks import WIDER
from flowzoo.inference._coordinates import FAR, Coordinates
from flowzoo.inference._grid import TOLERANCE, grid
from flowzoo.inference._importance import importance
from flowzoo.inference._inferred import of_observations
from flowzoo.inference._mcmc import mcmc
from flowzoo.inference._scoring import NoPosterior, Scorer
from flowzoo.inference.priors import Prior
from flowzoo.progress import bar


@dataclass
class Found:
    """Draws ``(L, K, D)`` and their log posterior ``(L, K)``, normalised where the evidence ``(K,)`` is known.

    Of a posterior flow also ``log_share`` ``(K,)``, the log of its mass in the support of the prior.
    """

    theta: Tensor
    log_prob: Tensor
    log_evidence: Tensor | None
    diagnostics: dict[str, Tensor]
    warnings: list[str] = field(default_factory=list)
    log_share: Tensor | None = None


def by_grid(prior: Prior, likelihood: Scorer, count: int, generator: torch.Generator, **options: Any) -> Found:
    """See ``grid``."""
    coordinates, device = Coordinates(prior), likelihood.bad.device
    low, high, normal = (part.to(device) for part in (coordinates.low, coordinates.high, coordinates.normal))
    target = _in(coordinates, likelihood)
    many = len(likelihood.bad)
    with _reasons(likelihood), bar("posteriors on grids", many) as tell:
        made = grid(target, low, high, many, count, generator, normal=normal, tell=tell, **options)
    found = _back(coordinates, made.v, made.log_density, made.log_integral)
    found.diagnostics |= {"evaluations": made.evaluations, "error": made.error}
    tolerance = options.get("tolerance", TOLERANCE)
    coarse = made.error > tolerance
    if bool(coarse.any()):
        found.warnings.append(
            f"the grid ran out of evaluations for {of_observations(coarse)}: its error there is estimated at up to "
            f"{float(made.error.max()):.2g}, over {tolerance:g}; take the method mcmc, or in Python more evaluations"
        )
    return found


def by_importance(prior: Prior, likelihood: Scorer, count: int, generator: torch.Generator, **options: Any) -> Found:
    """See ``importance``."""
    many, device = len(likelihood.bad), likelihood.bad.device
    with _reasons(likelihood):
        made = importance(likelihood, prior, many, count, generator, device=device, **options)
    numbers = {"ess": made.ess, "pareto_k": made.pareto_k}
    return Found(made.theta, made.log_prob, made.log_evidence, numbers, made.warnings)


def by_mcmc(prior: Prior, likelihood: Scorer, count: int, generator: torch.Generator, **options: Any) -> Found:
    """See ``mcmc``."""
    coordinates, device = Coordinates(prior, line=True), likelihood.bad.device
    target, many = _in(coordinates, likelihood), len(likelihood.bad)
    with _reasons(likelihood), bar("posteriors by mcmc", many) as tell:
        made = mcmc(target, prior.dim, many, count, generator, device=device, tell=tell, **options)
    found = _back(coordinates, made.v, made.log_density, None)
    found.diagnostics |= made.diagnostics
    found.warnings += made.warnings
    return found


METHODS: dict[str, Callable[..., Found]] = {"grid": by_grid, "importance": by_importance, "mcmc": by_mcmc}


@contextmanager
def _reasons(likelihood: Scorer) -> Iterator[None]:
    """A method that found no density says of which observations, and why."""
    try:
        yield
    except ValueError as error:
        likelihood.check()  # where the density is NaN everywhere, that is the reason
        if isinstance(error, NoPosterior) or not bool(likelihood.nowhere.any()):
            raise
        why, cure = "no draw of the prior has a density", "give a narrower prior, or look for far-off values in x"
        raise NoPosterior(why, likelihood.nowhere, cure) from None


def _in(coordinates: Coordinates, likelihood: Scorer) -> Callable[..., Tensor]:
    """The log posterior in coordinates."""

    def target(v: Tensor, rows: Tensor | None = None) -> Tensor:
        theta = coordinates.theta(v)
        return likelihood(theta, rows) + coordinates.log_prior(v, theta)

    return target


def _back(coordinates: Coordinates, v: Tensor, height: Tensor, integral: Tensor | None) -> Found:
    """Draws and their log-density, from coordinates to parameters."""
    theta = coordinates.theta(v)
    log_prob = height - coordinates.log_prior(v, theta) + coordinates.prior.log_prob(theta)
    found = Found(theta, log_prob if integral is None else log_prob - integral, integral, {})
    far = coordinates.conflicts(v)
    if bool(far.any()):
        found.warnings.append(
            f"the prior all but excludes the posterior of {of_observations(far)}: it reaches beyond {FAR:g} standard "
            f"deviations of the prior, and is cut at {float(coordinates.high.max()):g}; "
            f"{WIDER}"
        )
    return found
