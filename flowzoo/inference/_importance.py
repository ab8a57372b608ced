"""Importance sampling: draws of the prior, or of a better guess, weighted by what they explain."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from flowzoo.inference._inferred import of_observations
from flowzoo.inference._pareto import pareto_k
from flowzoo.inference._scipy_priors import Samples
from flowzoo.inference._scoring import NoPosterior, Target
from flowzoo.inference.priors import Prior

#: ``(count, generator)`` to ``(count, D)`` or ``(count, K, D)``, and the log-density of the same
Proposal = Prior | tuple[Callable[[int, torch.Generator], Tensor], Callable[[Tensor], Tensor]]

HEAVY = 0.7  # Pareto k over which an estimate is not to be trusted (Vehtari et al. 2024)
LEAST = 100  # effective draws
ADVICE = "take the method mcmc, or in Python more proposals or others, nearer to the posterior"
OF_SAMPLES = "give more samples of the prior, or the prior as a distribution"
ROOM = 2**22  # proposals of all observations that are scored at once


@dataclass
class Weighted:
    """Draws ``(L, K, D)``, their log posterior density ``(L, K)``; log evidence, ESS, Pareto k ``(K,)``; warnings."""

    theta: Tensor
    log_prob: Tensor
    log_evidence: Tensor
    ess: Tensor
    pareto_k: Tensor
    warnings: list[str]


def importance(
    log_likelihood: Target,
    prior: Prior,
    observations: int,
    count: int,
    generator: torch.Generator,
    *,
    proposal: Proposal | None = None,
    proposals: int | None = None,
    device: torch.device | str = "cpu",
) -> Weighted:
    r"""Draw from g, weigh by :math:`w = q(x \mid \theta)\, \pi(\theta) / g(\theta)`, and draw again by the weights.

    The effective sample size is :math:`(\sum w)^2 / \sum w^2`, the evidence the mean of w.

    Args:
        log_likelihood: ``(R, M, D)`` and ``(R,)`` observations to ``(R, M)``.
        prior: with or without a density; without one it is also g, and weights are likelihoods.
        observations: K.
        count: draws L.
        generator: of both kinds of draws.
        proposal: g, by default the prior: another prior, or a pair ``(sample, log_prob)`` of functions,
            ``sample(count, generator)`` being ``(count, D)`` for all observations or ``(count, K, D)``.
        proposals: draws of g for each observation; by default 10 for each draw that is wanted, 10000 at least. A prior
            of samples proposes each of them once: taken twice, they would count twice and know no more.
        device: of the draws.

    Raises:
        ValueError: if a prior without a density is not itself the proposal, or (``NoPosterior``) no proposal explains
            some observations.
    """
    if proposal is not None and not prior.has_density:
        raise ValueError("a prior without a density is its own proposal; leave proposal out, or give another prior")
    advice = ADVICE if prior.has_density else OF_SAMPLES
    size = max(10_000, 10 * count) if proposals is None else proposals
    if size < 2:
        raise ValueError(f"proposals must be at least 2; got {size}")
    given: Proposal = prior if proposal is None else proposal
    sample, density = (given.sample, given.log_prob) if isinstance(given, Prior) else given
    if isinstance(given, Samples):
        sample, size = given.sample_once, min(size, len(given.theta))
    theta = sample(size, generator).to(device).double()
    shared, own = (size, prior.dim), (size, observations, prior.dim)
    if tuple(theta.shape) not in (shared, own):
        raise ValueError(f"proposal must draw {shared} or {own}; got {tuple(theta.shape)}")
    theta = theta[:, None] if theta.ndim == 2 else theta
    extra = torch.zeros(theta.shape[:2], dtype=torch.float64, device=theta.device)
    if proposal is not None:
        extra = prior.log_prob(theta) - density(theta).to(extra)
        if lost := int((extra.isnan() | extra.isposinf()).sum()):
            raise ValueError(
                f"the proposal's log_prob is not finite at {lost} of {extra.numel()} of its own draws; it must be the "
                "density that they are drawn from"
            )
    # A proposal beyond the support has no weight, and the flow, which may be NaN there, is not asked.
    beyond = extra.isneginf()
    possible = theta.gather(0, beyond.byte().argmin(0)[None, :, None].expand(1, -1, prior.dim))
    asked = torch.where(beyond[..., None], possible, theta)
    likelihood = torch.empty(size, observations, dtype=torch.float64, device=theta.device)
    for rows in torch.arange(observations, device=theta.device).split(max(1, ROOM // size)):
        some = asked.expand(-1, observations, -1)[:, rows].transpose(0, 1)
        likelihood[:, rows] = log_likelihood(some, rows).T
    weights = likelihood + extra
    nothing = ~weights.isfinite().any(0)
    if bool(nothing.any()):
        raise NoPosterior("no proposal has a density", nothing, advice)
    total = weights.logsumexp(0)
    share = (weights - total).exp()
    ess, shape = 1 / share.square().sum(0), pareto_k(weights)
    r = torch.rand(observations, count, generator=generator, device=generator.device, dtype=torch.float64)
    ladder = share.T.cumsum(1).contiguous()
    chosen = torch.searchsorted(ladder, r.to(ladder) * ladder[:, -1:], right=True).clamp_max(size - 1)
    rows = torch.arange(observations, device=theta.device)[:, None]
    drawn = theta.expand(-1, observations, -1)[chosen, rows]
    evidence = total - math.log(size)
    height = likelihood.T.gather(1, chosen) - evidence[:, None]
    if prior.has_density:
        height = height + prior.log_prob(drawn)
    return Weighted(drawn.transpose(0, 1), height.T, evidence, ess, shape, _remarks(ess, shape, size, advice))


def _remarks(ess: Tensor, shape: Tensor, size: int, advice: str) -> list[str]:
    said = []
    heavy, few = shape > HEAVY, ess < LEAST
    if bool(heavy.any()):
        said.append(
            f"importance weights have a heavy tail for {of_observations(heavy)} (Pareto k up to "
            f"{float(shape.max()):.2f}, over {HEAVY}): do not trust these posteriors; {advice}"
        )
    if bool(few.any()):
        said.append(
            f"fewer than {LEAST} of {size} proposals count for {of_observations(few)} (effective sample size down to "
            f"{float(ess.min()):.1f}): draws repeat one another; {advice}"
        )
    return said
