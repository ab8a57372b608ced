"""Increasing functions of Bernstein form. Coefficients are along the first axis, where each lies together."""

from __future__ import annotations

import torch
from torch import Tensor


def powers(t: Tensor, n: int) -> Tensor:
    """1, t, ..., t^n: ``(...)`` to ``(n + 1, ...)``, by log n operations, as small ones cost more than their work."""
    found = torch.stack([torch.ones_like(t), t])
    while len(found) <= n:
        found = torch.cat([found, found[: n + 1 - len(found)] * (found[-1] * t)])
    return found[: n + 1]


def binomials(n: int) -> Tensor:
    """n over 0, ..., n over n: ``(n + 1,)`` in float64."""
    k = torch.arange(1, n + 1, dtype=torch.float64)
    return torch.cat([torch.ones(1, dtype=torch.float64), ((n + 1 - k) / k).cumprod(0)]).round()


def basis(t: Tensor, rest: Tensor, choose: Tensor) -> Tensor:
    r"""Bernstein's polynomials :math:`b_k = \binom{n}{k}\, t^k (1 - t)^{n - k}`.

    All terms are positive and products of powers, so that they are right to a few roundings each, however small.

    Args:
        t: ``(...)`` in [0, 1].
        rest: 1 - t, which near 1 its owner knows better.
        choose: ``binomials(n)`` in the dtype of ``t``.

    Returns:
        ``(n + 1, ...)``.
    """
    both = powers(torch.stack([t, rest]), len(choose) - 1)
    return choose.reshape(-1, *[1] * t.ndim) * both[:, 0] * both[:, 1].flip(0)


def value_and_slope(theta: Tensor, steps: Tensor, b: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    r"""The polynomial :math:`f = \sum_k \theta_k b_{k,n}(t)` and :math:`df / dt`, by the basis of one degree less.

    .. math:: f = \sum_k (\theta_k + t\, \Delta_k)\, b_{k,n-1}, \quad f' = n \sum_k \Delta_k\, b_{k,n-1}, \quad
        \Delta_k = \theta_{k+1} - \theta_k

    With positive differences nothing cancels in the slope.

    Args:
        theta: the first n coefficients ``(n, ...)``, where leading axes of ``t`` may be missing.
        steps: their differences to the next, likewise.
        b: ``basis`` of degree n - 1 at ``t``, ``(n, ...)``.
        t: ``(...)``.
    """
    missing = [1] * (b.ndim - theta.ndim)
    theta, steps = (each.reshape(len(each), *missing, *each.shape[1:]) for each in (theta, steps))
    slope = (steps * b).sum(0)
    return torch.addcmul((theta * b).sum(0), t, slope), len(theta) * slope
