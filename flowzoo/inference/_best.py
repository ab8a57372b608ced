"""The highest point of many posteriors at once."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flowzoo.inference._scoring import Target

PROPOSALS = 32  # a round, for each observation
ROUNDS = 12  # for each four parameters: so much slower a random search comes nearer the more there are
FIRST, LAST = 0.5, 2e-3  # how far away the proposals of the first and the last round are, in standard deviations
NEAR = 0.1  # share of the draws that are near the best: in its own mode, where there are several


def climb(
    target: Target, theta: Tensor, log_prob: Tensor, low: Tensor, high: Tensor, source: torch.Generator
) -> Tensor:
    """From the best of the draws, by shrinking Gaussian proposals that never go down and never leave the bounds.

    Half of them are as wide as all draws, half as those near the best.

    Args:
        target: the log-density of theta, ``(K, M, D)`` to ``(K, M)``.
        theta: ``(L, K, D)`` draws.
        log_prob: ``(L, K)`` of each.
        low: ``(D,)``, of the support.
        high: ``(D,)``.
        source: of the proposals.

    Returns:
        ``(K, D)``.
    """
    many, dim = theta.shape[1:]
    columns = torch.arange(many, device=theta.device)
    low, high = low.to(theta), high.to(theta)
    # The density itself is asked again of a few of the best: a method may have interpolated it.
    few = log_prob.topk(min(16, len(log_prob)), dim=0).indices
    candidates = theta.transpose(0, 1)[columns[:, None], few.T]
    scores = target(candidates)
    best, height = candidates[columns, scores.argmax(1)], scores.amax(1)
    away = ((theta - best) / theta.std(0).clamp_min(1e-15)).square().sum(-1)
    near = away.topk(min(len(theta), max(int(NEAR * len(theta)), 5 * dim)), dim=0, largest=False).indices
    roots = torch.stack([_root(theta), _root(theta[near, columns])], 1).transpose(2, 3)  # (K, 2, D, D)
    for step in torch.logspace(math.log10(FIRST), math.log10(LAST), ROUNDS * math.ceil(dim / 4)).tolist():
        noise = torch.randn(many, 2, PROPOSALS // 2, dim, generator=source, device=source.device, dtype=torch.float64)
        tried = best[:, None] + step * (noise.to(theta.device) @ roots).flatten(1, 2)
        tried = torch.minimum(torch.maximum(tried, low), high)
        found = target(tried)
        better, where = found.max(1)
        up = better > height
        best = torch.where(up[:, None], tried[columns, where], best)
        height = torch.where(up, better, height)
    return best


def _root(theta: Tensor) -> Tensor:
    """Of the covariance of draws ``(L, K, D)``: ``(K, D, D)``, lower triangular."""
    centred = theta - theta.mean(0)
    covariance = torch.einsum("lki,lkj->kij", centred, centred) / len(theta)
    scale = covariance.diagonal(dim1=1, dim2=2).clamp_min(1e-30)
    tril, info = torch.linalg.cholesky_ex(covariance + torch.diag_embed(1e-9 * scale))
    return torch.where((info == 0)[:, None, None], tril, torch.diag_embed(scale.sqrt()))
