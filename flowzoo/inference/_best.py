"""The highest point of many posteriors at once."""

from __future__ import annotations

import torch
from torch import Tensor

from flowzoo.inference._scoring import Target

PROPOSALS = 32  # a round, for each observation
ROUNDS = 12
SHRINK = 0.6  # the first proposals are half a standard deviation away, the last 2e-3


def climb(
    target: Target, theta: Tensor, log_prob: Tensor, low: Tensor, high: Tensor, source: torch.Generator
) -> Tensor:
    """From the best of the draws, by shrinking Gaussian proposals that never go down and never leave the bounds.

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
    centred = theta - theta.mean(0)
    covariance = torch.einsum("lki,lkj->kij", centred, centred) / len(theta)
    scale = covariance.diagonal(dim1=1, dim2=2).clamp_min(1e-30)
    ridge = torch.diag_embed(1e-9 * scale)
    tril, info = torch.linalg.cholesky_ex(covariance + ridge)
    tril = torch.where((info == 0)[:, None, None], tril, torch.diag_embed(scale.sqrt()))
    step = 0.5
    for _ in range(ROUNDS):
        noise = torch.randn(many, PROPOSALS, dim, generator=source, device=source.device, dtype=torch.float64)
        near = best[:, None] + step * noise.to(theta.device) @ tril.transpose(1, 2)
        near = torch.minimum(torch.maximum(near, low), high)
        found = target(near)
        better, where = found.max(1)
        up = better > height
        best = torch.where(up[:, None], near[columns, where], best)
        height = torch.where(up, better, height)
        step *= SHRINK
    return best
