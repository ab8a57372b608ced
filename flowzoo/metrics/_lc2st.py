"""Local classifier two-sample test: is the posterior of *this* observation right?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from flowzoo.metrics._metric import Posteriors
from flowzoo.metrics._regression import leading

CLASSIFIER = "ridge logistic regression in quadratic features of standardised theta and its products with x"
COMPONENTS = 4  # of posterior means and observation together, that the classifier sees
LIMIT = 6.0  # posterior standard deviations, beyond which a parameter counts as this far
RIDGE = 0.003  # of the number of pairs
STEPS = 50


@dataclass(frozen=True)
class Local:
    """Result of the test at K observations.

    Args:
        p: ``(K,)``.
        statistic: ``(K,)``, mean squared distance of the classifier from 1/2 over the draws.
        null: ``(trials, K)``, the same of classifiers of exchanged labels.
    """

    p: Tensor
    statistic: Tensor
    null: Tensor


def lc2st(
    posteriors: Posteriors, observation: Tensor, theta_at: Tensor, source: torch.Generator, trials: int = 100
) -> Local:
    r"""Tests at given observations whether draws of their posteriors could be told from the truth.

    Linhart, Gramfort and Rodrigues 2023, arXiv:2306.03580: a classifier d learns to tell the pairs
    :math:`(\theta^*_i, x_i)` from :math:`(\theta_i, x_i), \theta_i \sim q(\theta \mid x_i)`. At an observation x
    the statistic is the mean of :math:`(d(\theta, x) - 1/2)^2` over draws of q(theta | x). If q is right everywhere,
    truth and draw of a pair may change places; classifiers are trained again with each pair exchanged or not by a
    coin, and

    .. math:: p = \frac{1 + \#\{t: T_t \ge T\}}{1 + \mathrm{trials}}

    has its size exactly, whatever the classifier. What it sees depends on it: this one is a logistic regression with a
    ridge. With :math:`u = (\theta - m(x)) / s(x)` in units of the posterior's own mean and spread, and c the 4 leading
    principal components of m(x) and x together, its features are 1, u, c, all products of two u or of two c, and u and
    u^2 times c. So it sees shifts, spreads and correlations that are wrong everywhere, and shifts and spreads that are
    wrong in proportion to c. It is blind to shapes with the right first two moments, where C2ST against reference draws
    would see them.

    The null hypothesis is that q is right *everywhere*: where it is wrong elsewhere, a small p at an observation may be
    the classifier's error. The statistic says how much: 1/4 is told apart always, 0 never.

    Args:
        posteriors: of N pairs; draw 0 of each stands against the truth, the others give m and s.
        observation: ``(K, F)`` in the columns of ``posteriors.observation``.
        theta_at: ``(n, K, D)`` draws from the posterior of each.
        source: of the coins.
        trials: exchanged labels; p is 1 / (1 + trials) at least.

    Returns:
        p and statistic of each observation.

    Raises:
        ValueError: if shapes do not fit, or there are fewer than 20 pairs or 3 draws.
    """
    draws, truth = posteriors.draws.double(), posteriors.truth.double()
    length, count, dim = draws.shape
    if theta_at.ndim != 3 or theta_at.shape[1:] != (len(observation), dim):
        raise ValueError(f"theta_at must be (n, {len(observation)}, {dim}); got {tuple(theta_at.shape)}")
    if observation.shape[1:] != posteriors.observation.shape[1:]:
        raise ValueError(
            f"observations must have the {posteriors.observation.shape[1]} columns of the pairs; "
            f"got {tuple(observation.shape)}"
        )
    if length < 3 or count < 20:
        raise ValueError(f"L-C2ST needs 3 draws of 20 pairs at least; got {length} of {count}")
    at = theta_at.double()
    mean, spread = draws[1:].mean(0), draws[1:].std(0)
    mean_at, spread_at = at.mean(0), at.std(0)
    c, c_at = _summaries(torch.cat([mean, posteriors.observation], 1), torch.cat([mean_at, observation], 1), source)
    pairs = _features((torch.stack([truth, draws[0]]) - mean) / spread.where(spread > 0, 1.0), c)
    features_at = _features((at - mean_at) / spread_at.where(spread_at > 0, 1.0), c_at)
    size = pairs.square().mean((0, 1)).sqrt()
    size = size.where(size > 0, 1.0)
    coins = torch.randint(2, (trials, count), generator=source, device=source.device).to(pairs)
    label = torch.cat([torch.ones(1, count).to(coins), coins])  # 1: the truth is called so
    weights = _logistic(pairs / size, label)
    statistic = ((features_at / size @ weights.T).sigmoid() - 0.5).square().mean(0).T
    null = statistic[1:]
    p = (1 + (null >= statistic[0]).double().sum(0)) / (1 + trials)
    return Local(p, statistic[0], null)


def _summaries(known: Tensor, at: Tensor, source: torch.Generator) -> tuple[Tensor, Tensor]:
    """At most four principal components of standardised columns, standardised again; of the pairs, and elsewhere."""
    centre, unit = known.mean(0), known.std(0)
    unit = unit.where(unit > 0, 1.0)
    known, at = leading((known - centre) / unit, (at - centre) / unit, source, COMPONENTS)
    unit = known.std(0)
    unit = unit.where(unit > 0, 1.0)
    return known / unit, at / unit


def _features(u: Tensor, c: Tensor) -> Tensor:
    """``(n, K, D)`` standardised parameters and ``(K, C)`` of the observation to ``(n, K, features)``.

    Those of x alone tell no truth from a draw, but the density ratio of two normal laws has such terms.
    """
    u = u.clamp(-LIMIT, LIMIT)
    single = torch.cat([u, u.square()], -1)
    with_x = (single.unsqueeze(-1) * c.unsqueeze(-2)).flatten(-2)
    alone = torch.cat([torch.ones_like(c[:, :1]), c, _products(c)], -1).expand(*u.shape[:-1], -1)
    return torch.cat([u, _products(u), alone, with_x], -1)


def _products(a: Tensor) -> Tensor:
    """All products of two columns, squares too: ``(..., D)`` to ``(..., D (D + 1) / 2)``."""
    rows, columns = torch.triu_indices(a.shape[-1], a.shape[-1], device=a.device)
    return a[..., rows] * a[..., columns]


def _logistic(pairs: Tensor, label: Tensor) -> Tensor:
    """Ridge logistic regressions with one design and many labels, all at once: weights ``(T, features)``.

    Steps with the bound 1/4 X'X of the Hessian (Böhning and Lindsay 1988, Ann. Inst. Stat. Math. 40, 641), which is the
    same for all labels.

    Args:
        pairs: ``(2, N, features)``.
        label: ``(T, N)``, of the first of each pair; the other has 1 - label.
    """
    x = pairs.flatten(0, 1)
    y = torch.cat([label, 1 - label], 1)
    ridge = RIDGE * label.shape[1]
    bound = x.T @ x / 4 + ridge * torch.eye(x.shape[1]).to(x)
    factor = torch.linalg.cholesky(bound)
    weights = torch.zeros(len(label), x.shape[1]).to(x)
    for _ in range(STEPS):
        slope = (y - (weights @ x.T).sigmoid()) @ x - ridge * weights
        weights = weights + torch.cholesky_solve(slope.T, factor).T
    return weights
