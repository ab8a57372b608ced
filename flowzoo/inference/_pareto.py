"""How heavy the tail of importance weights is: the shape of a generalized Pareto distribution."""

from __future__ import annotations

import torch
from torch import Tensor

FEWEST = 5  # weights in the tail that a fit needs
NOTHING = 1e-12  # of the largest weight
PRIOR_SHAPE, PRIOR_WEIGHT = 0.5, 10  # the weak prior of Vehtari et al., appendix C


def pareto_k(log_weights: Tensor) -> Tensor:
    r"""The shape k of the tail of importance weights, by the largest :math:`M = \min(S/5, 3\sqrt S)` of S.

    The fit is that of Zhang and Stephens 2009 (Technometrics 51, section 2), the choice of the tail and the weak prior
    of k those of Vehtari et al. 2024 (JMLR 25, section 2 and appendix C). Moments of the weights up to 1/k exist:
    over 0.7 an importance estimate is not to be trusted.

    Args:
        log_weights: ``(S, K)``, of any scale. Those that are nothing beside the largest do not count in S: a tail with
            them in it has another shape than that of the weights that matter.

    Returns:
        ``(K,)``; infinity where there are too few weights for a tail, 0 where those in it are all the same.

    >>> u = (torch.arange(10_000) + 0.5) / 10_000
    >>> round(float(pareto_k(-0.8 * u.log()[:, None])[0]), 1)  # weights with the tail u^-0.8
    0.8
    """
    weights = (log_weights.double() - log_weights.double().amax(0)).exp()
    sizes = (weights > NOTHING).sum(0)
    found = torch.empty_like(weights[0])
    for size in sizes.unique().tolist():
        found[sizes == size] = _shape(weights[:, sizes == size], int(min(0.2 * size, 3 * size**0.5)))
    return found


def _shape(weights: Tensor, tail: int) -> Tensor:
    """Of the ``tail`` largest of ``(S, K)``."""
    if tail < FEWEST:
        return torch.full_like(weights[0], torch.inf)
    top = weights.topk(tail + 1, dim=0).values.flip(0)
    excess = (top[1:] - top[0]).T  # (K, M), ascending
    same = excess[:, -1] <= 0
    excess = excess.where(~same[:, None], 1.0)
    points = 30 + int(tail**0.5)
    i = torch.arange(1, points + 1, dtype=excess.dtype, device=excess.device)
    quartile = excess[:, int(tail / 4 + 0.5) - 1, None].maximum(NOTHING * excess[:, -1:])
    b = (1 - (points / (i - 0.5)).sqrt()) / (3 * quartile) + 1 / excess[:, -1:]
    k = torch.log1p(-b[:, :, None] * excess[:, None]).mean(-1)
    profile = tail * ((-b / k).log() - k - 1)
    mean = (b * torch.softmax(profile.nan_to_num(nan=-torch.inf), 1)).sum(1, keepdim=True)
    shape = torch.log1p(-mean * excess).mean(1)
    shape = (shape * tail + PRIOR_SHAPE * PRIOR_WEIGHT) / (tail + PRIOR_WEIGHT)
    return shape.where(~same, 0.0)
