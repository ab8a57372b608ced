"""Mixtures of Student's t, one for each of many clouds of points: what walkers are proposed from."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

COMPONENTS = 16
FREEDOM = 5.0  # degrees; the tails of a proposal must be longer than those of what it proposes to
ROUNDS = 15  # of expectation and maximisation
POINTS = 1500  # of a cloud that are looked at
ROOM = 2**22  # numbers of all clouds and components that are worked on at once
FLOOR = 1e-10  # of a variance, as a share of that of its cloud


class Mixture:
    """K mixtures of C components in D dimensions.

    Args:
        log_weight: ``(K, C)``.
        mean: ``(K, C, D)``.
        root: ``(K, C, D, D)``, lower triangular; a component has the scale ``root root^T``.
    """

    def __init__(self, log_weight: np.ndarray, mean: np.ndarray, root: np.ndarray) -> None:
        self.log_weight, self.mean, self.root = log_weight, mean, root
        dim = mean.shape[-1]
        self.whiten = np.linalg.inv(root).swapaxes(-1, -2)
        self.log_volume = np.log(np.diagonal(root, axis1=-2, axis2=-1)).sum(-1)
        self.constant = (
            math.lgamma((FREEDOM + dim) / 2) - math.lgamma(FREEDOM / 2) - dim / 2 * math.log(FREEDOM * math.pi)
        )

    def of(self, clouds: np.ndarray) -> Mixture:
        """Of some of the clouds, ``(K,)`` booleans."""
        return Mixture(self.log_weight[clouds], self.mean[clouds], self.root[clouds])

    def parts(self, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """``(K, N, D)`` to the squared distances from the components and their log densities, ``(K, C, N)`` each."""
        square = _square(v[:, None] @ self.whiten - self.mean[:, :, None] @ self.whiten)
        height = (self.log_weight - self.log_volume + self.constant)[..., None]
        return square, height - 0.5 * (FREEDOM + v.shape[-1]) * np.log1p(square / FREEDOM)

    def log_prob(self, v: np.ndarray) -> np.ndarray:
        """``(K, N, D)`` to ``(K, N)``."""
        return log_sum(self.parts(v)[1])

    def draw(self, count: int, random: Any) -> np.ndarray:
        """``(K, count, D)``."""
        many, _, dim = self.mean.shape
        which = pick(np.broadcast_to(np.exp(self.log_weight)[..., None], (*self.log_weight.shape, count)), random)
        rows = np.arange(many)[:, None]
        z = random.standard_normal((many, count, dim)) * np.sqrt(FREEDOM / random.chisquare(FREEDOM, (many, count, 1)))
        return self.mean[rows, which] + (self.root[rows, which] @ z[..., None])[..., 0]


def fit(v: np.ndarray, random: Any) -> Mixture:
    """To clouds ``(K, N, D)``, by expectation and maximisation (Peel and McLachlan 2000, section 3).

    A scale leans on the mean of all, with the weight of 2 D points: a component of few points has a volume too.
    """
    v = v[:, random.permutation(v.shape[1])[:POINTS]]
    some = max(1, ROOM // (COMPONENTS * v[0].size))
    found = [_fit(v[k : k + some], random) for k in range(0, len(v), some)]
    weight, mean, root = (np.concatenate(each) for each in zip(*found, strict=True))
    return Mixture(weight, mean, root)


def _fit(v: np.ndarray, random: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    size, dim = v.shape[1:]
    middle, spread = v.mean(1, keepdims=True), np.maximum(v.std(1, keepdims=True), 1e-300)
    w = (v - middle) / spread
    share = heavy = _apart(w, random)
    for _ in range(ROUNDS):
        count, total = share.sum(-1), np.maximum(heavy.sum(-1), 1e-300)
        mean = (heavy @ w) / total[..., None]
        left = (w[:, None] - mean[:, :, None]) * np.sqrt(heavy)[..., None]
        sums = left.swapaxes(-1, -2) @ left
        common = sums.sum(1, keepdims=True) / size + FLOOR * np.eye(dim)
        scale = (sums + 2 * dim * common) / (count + 2 * dim)[..., None, None]
        found = Mixture(np.log((count + 1) / (size + COMPONENTS)), mean, np.linalg.cholesky(scale))
        square, height = found.parts(w)
        share = np.exp(height - log_sum(height)[:, None])
        heavy = share * (FREEDOM + dim) / (FREEDOM + square)
    return found.log_weight, middle + found.mean * spread, spread[:, 0, None, :, None] * found.root


def _apart(w: np.ndarray, random: Any) -> np.ndarray:
    """Points ``(K, N, D)`` to the nearest of centres far apart, ``(K, C, N)`` zeros and ones.

    A centre is a point drawn by its squared distance from those before (Arthur and Vassilvitskii 2007).
    """
    away, nearest = [], np.ones((len(w), 1, w.shape[1]))
    for _ in range(COMPONENTS):
        centre = w[np.arange(len(w)), pick(nearest.swapaxes(1, 2), random)[:, 0]]
        away.append(_square(w - centre[:, None]))
        nearest = np.minimum(nearest, away[-1][:, None]) if len(away) > 1 else away[-1][:, None]
    chosen = np.stack(away, 1).argmin(1)
    return (chosen[:, None] == np.arange(COMPONENTS)[:, None]).astype(float)


def pick(weights: np.ndarray, random: Any) -> np.ndarray:
    """Of ``(K, C, N)`` weights one of C by them: ``(K, N)``."""
    ladder = weights.cumsum(1)
    u = random.random_sample((len(weights), 1, weights.shape[2])) * ladder[:, -1:]
    return (u >= ladder[:, :-1]).sum(1)


def log_sum(height: np.ndarray) -> np.ndarray:
    """Of ``(K, C, N)`` over C."""
    top = height.max(1)
    return top + np.log(np.exp(height - top[:, None]).sum(1))


def _square(z: np.ndarray) -> np.ndarray:
    return np.einsum("...d,...d->...", z, z)
