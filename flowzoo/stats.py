"""Means of per-event scores with honest errors (events of one group are not independent), and p-values as one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def clustered_mean(values: Tensor, groups: Tensor, weights: Tensor | None = None) -> tuple[float, float]:
    r"""The mean over events and its cluster-robust standard error.

    With N events in G groups, :math:`m = \frac1N \sum_i v_i` and

    .. math:: \mathrm{se}^2 = \frac{G}{G-1} \frac{1}{N^2} \sum_g \Bigl(\sum_{i \in g} (v_i - m)\Bigr)^2 ,

    the linearised estimator of a ratio mean under cluster sampling (Cameron and Miller 2015, J. Human Resources 50,
    section II.A). With one event per group it is the usual :math:`s/\sqrt N`. With weights of mean 1, :math:`w_i v_i`
    and :math:`w_i (v_i - m)` take the places of :math:`v_i` and :math:`v_i - m`.

    Args:
        values: ``(N,)`` scores.
        groups: ``(N,)`` integer label of the group of each event.
        weights: ``(N,)`` of mean 1, what each event counts; all the same by default.

    Returns:
        Mean and standard error. The error is NaN for a single group: one galaxy does not tell how galaxies scatter.

    >>> mean, error = clustered_mean(torch.tensor([0.0, 2.0]), torch.tensor([0, 1]))
    >>> f"{mean:.3f} +- {error:.3f}"
    '1.000 +- 1.000'
    """
    values = values.double()
    weights = torch.ones_like(values) if weights is None else weights.to(values)
    mean = (weights * values).mean()
    labels, index = torch.unique(groups, return_inverse=True)
    count = len(labels)
    if count < 2:
        return float(mean), float("nan")
    sums = torch.zeros(count, dtype=torch.float64, device=values.device)
    sums.index_add_(0, index, weights * (values - mean))
    se = (count / (count - 1)) ** 0.5 * sums.square().sum().sqrt() / len(values)
    return float(mean), float(se)


def joint_p(values: Sequence[float]) -> float:
    """One p-value of several, that all of their null hypotheses are true: the smallest times their number, at most 1.

    Bonferroni's, whatever they have in common. Their mean is none: of five the one that is zero is lost in it.

    >>> joint_p([1e-9, 0.4]), joint_p([0.7, 0.8])
    (2e-09, 1.0)
    """
    return min(1.0, len(values) * min(values))


def error_of_mean(errors: Sequence[float]) -> float:
    """Standard error of the mean of independent numbers, of which each has its own.

    >>> error_of_mean([3.0, 4.0])
    2.5
    """
    return math.hypot(*errors) / len(errors)
