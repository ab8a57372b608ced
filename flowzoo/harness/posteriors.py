"""Posteriors of test observations, and of those with known answers: what calibration is measured on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from flowzoo.data import Data, References, Split, Splits
from flowzoo.flow import ConditionalFlow
from flowzoo.inference import Inferred, Posterior, Prior, sides
from flowzoo.metrics import PAIRS, Local, Posteriors, ReferenceDraws, lc2st, regressed
from flowzoo.seeding import generator

if TYPE_CHECKING:
    from flowzoo.harness.bench_config import BenchConfig

KNOWN = 5000  # training pairs kept for what is learnt of theta given an observation
PRIOR_DRAWS = 10_000
LOCAL_DRAWS = 1000  # at each observation that is tested by itself
WIDEST = 2**26  # numbers in all observations that are kept as columns, 256 MiB; of larger ones fewer pairs are


@dataclass(frozen=True)
class Observed:
    """Test observations with the parameters that made them: one of each test group, so that they are independent.

    With them come training pairs, of which is learnt what an observation says of theta.

    Args:
        rows: ``(N,)`` of the test part.
        theta: ``(N, D)``.
        x: ``(N, *observation)``.
        known_theta: ``(M, D)`` of training events.
        known_x: ``(M, *observation)``.
        prior: of theta.
        prior_draws: ``(P, D)``.
        seed: of what is learnt.
        note: what they are, in one line.
    """

    rows: Tensor
    theta: Tensor
    x: Tensor
    known_theta: Tensor
    known_x: Tensor
    prior: Prior
    prior_draws: Tensor
    seed: int
    note: str

    def columns(self, x: Tensor) -> Tensor:
        """Observations flattened, ``(..., F)``, each column in units of its spread in training."""
        flat = self.known_x.flatten(1)
        spread = flat.std(0)
        return (x.flatten(1) - flat.mean(0)) / spread.where(spread > 0, 1.0)

    @cached_property
    def predicted(self) -> Tensor | None:
        """``(N, D)`` theta in the unit box of the prior as the training pairs predict it; None of too few pairs."""
        if len(self.known_theta) < PAIRS:
            return None
        theta = self.prior.to_unit(self.known_theta.double())
        source = generator(self.seed, "regression")
        return regressed(self.columns(self.known_x), theta, self.columns(self.x), source)


def observed(splits: Splits, count: int) -> Observed | str:
    """Choose the test observations, the same for every model.

    Args:
        splits: whose test part is looked at.
        count: N at most; 0 for none.

    Returns:
        The choice, or the reason why there is none.
    """
    data, test = splits.data, splits.test
    if data.prior is None:
        return "the dataset has no prior, so there are no posteriors"
    if not count:
        return "no posteriors were asked for (posteriors = 0)"
    source = generator(splits.seed, "posteriors")
    order = torch.randperm(len(test), generator=source)
    groups = test.groups.cpu()[order]
    labels, index = torch.unique(groups, return_inverse=True)
    # The first of each group in a random order.
    first = torch.full((len(labels),), len(order)).scatter_reduce_(0, index, torch.arange(len(order)), "amin")
    rows = order[first.sort().values[:count]].to(test.x.device)
    outside = int((~data.prior.covers(_pairs(data, test, rows)[0])).sum())
    if outside:
        return f"{outside} of {len(rows)} test parameters lie outside the prior; give a prior that covers them"
    known = torch.randperm(len(splits.train), generator=source)[
        : max(100, min(KNOWN, WIDEST // data.observation_shape.numel()))
    ]
    known_theta, known_x = _pairs(data, splits.train, known.to(test.x.device))
    theta, x = _pairs(data, test, rows)
    return Observed(
        rows=rows,
        theta=theta,
        x=x,
        known_theta=known_theta,
        known_x=known_x,
        prior=data.prior,
        prior_draws=data.prior.sample(PRIOR_DRAWS, generator(splits.seed, "prior")),
        seed=splits.seed,
        note=f"{len(rows)} of {len(labels)} test groups, one observation of each",
    )


def _pairs(data: Data, part: Split, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Parameters and observations of some events."""
    event, context = part.fixed[rows], part.contexts[part.context_index[rows]]
    return sides(data.theta, event, context)


def posterior_of(flow: ConditionalFlow, data: Data) -> Posterior:
    """The posterior under the prior of the data."""
    return Posterior(flow, data.prior, theta=data.theta, names=data.theta_names)


@torch.no_grad()
def draw_posteriors(
    flow: ConditionalFlow, known: Observed, data: Data, bench: BenchConfig, seed: int
) -> tuple[Posteriors, Inferred]:
    """Draws from the flow's posterior of each observation, and the density that it gives the truth.

    Args:
        flow: a likelihood p(x | theta), or a posterior p(theta | x), as ``data.theta`` says.
        known: the observations.
        data: with the prior.
        bench: how many draws, and by which method.
        seed: of the draws.
    """
    posterior = posterior_of(flow, data)
    source = generator(seed, "posteriors")
    found = posterior.sample(known.x, bench.posterior_draws, method=bench.posterior_method, generator=source)
    theta, x = known.theta.double(), known.x
    truth = posterior.log_prob(theta, x).double()
    if found.log_evidence is not None:
        truth = truth - found.log_evidence
    likelihood = truth_likelihood = None
    if known.prior.has_density:
        # Up to a constant for each observation, which ranks do not see.
        likelihood = found.log_prob - known.prior.log_prob(found.theta)
        truth_likelihood = truth - known.prior.log_prob(theta)
    return (
        Posteriors(
            draws=found.theta.double(),
            truth=theta,
            log_prob=found.log_prob.double(),
            truth_log_prob=truth,
            normalised=found.log_evidence is not None,
            log_likelihood=likelihood,
            truth_log_likelihood=truth_likelihood,
            observation=known.columns(x),
            predicted=known.predicted,
            prior_draws=known.prior_draws.to(theta),
            to_unit=known.prior.to_unit,
            names=tuple(data.theta_names) or tuple(f"theta{i + 1}" for i in range(theta.shape[-1])),
        ),
        found,
    )


@torch.no_grad()
def draw_references(
    flow: ConditionalFlow, known: References, data: Data, bench: BenchConfig, seed: int
) -> tuple[ReferenceDraws, Inferred]:
    """As many draws of the flow's posterior as there are of the exact one, or fewer of both if asked."""
    count = min(bench.reference_draws, known.theta.shape[1])
    posterior, source = posterior_of(flow, data), generator(seed, "references")
    x = known.x + data.half_level
    found = posterior.sample(x, count, method=bench.posterior_method, generator=source)
    _complete(found)
    drawn = found.theta.transpose(0, 1).contiguous()
    return ReferenceDraws(drawn, known.theta[:, :count].to(drawn), known.published), found


@torch.no_grad()
def local_tests(
    flow: ConditionalFlow, posteriors: Posteriors, known: Observed, x: Tensor, data: Data, bench: BenchConfig, seed: int
) -> Local:
    """L-C2ST at given observations ``(K, *observation)``."""
    source = generator(seed, "local")
    found = posterior_of(flow, data).sample(x, LOCAL_DRAWS, method=bench.posterior_method, generator=source)
    _complete(found)
    return lc2st(posteriors, known.columns(x), found.theta.to(posteriors.draws), generator(seed, "lc2st"))


def _complete(found: Inferred) -> None:
    """Refuse posteriors some of which are none: a mean over the others would be of easier observations."""
    if bool(found.theta.isnan().any()):
        raise ValueError(found.warnings[0])


def remarks(found: Inferred) -> list[str]:
    """What the inference had to say, as notes of a record."""
    return [f"posteriors ({found.method}): {text}" for text in found.warnings]
