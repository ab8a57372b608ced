"""Where walkers begin."""

from __future__ import annotations

import math

import numpy as np
import torch

from flowzoo.inference._inferred import of_observations
from flowzoo.inference._scoring import Target

DRAWS = 4096  # of the prior at least, so that of every mode there are some


def start(
    target: Target, dim: int, observations: int, needed: int, generator: torch.Generator, device: torch.device | str
) -> np.ndarray:
    """Walkers ``(K * needed, D)``: distinct draws of the prior, chosen by the target without replacement (Gumbel)."""
    size = max(DRAWS, 8 * needed)
    noise = torch.randn(size, dim, generator=generator, device=generator.device, dtype=torch.float64).to(device)
    v = noise.clamp(-6, 6)
    prior = -0.5 * v.square().sum(1) - 0.5 * dim * math.log(2 * math.pi)
    weights = target(v.expand(observations, -1, -1), None) - prior
    alive = weights.isfinite().sum(1)
    if bool((alive == 0).any()):
        lost = alive == 0
        raise ValueError(
            f"no draw of the prior explains {of_observations(lost)} (the first is observation "
            f"{int(lost.nonzero()[0])}), so walkers have nowhere to begin; give a narrower prior"
        )
    u = torch.rand(observations, size, generator=generator, device=generator.device, dtype=torch.float64).to(device)
    order = (weights - torch.log(-torch.log(u.clamp_min(1e-300)))).argsort(1, descending=True)
    # Where too few of them are possible, those are taken again, shaken.
    turn = torch.arange(needed, device=device)
    again = turn >= alive[:, None]
    index = order.gather(1, turn % alive.clamp_max(needed)[:, None])
    # Best first: shuffled, so that the ensembles are alike.
    shuffle = torch.rand(needed, generator=generator, device=generator.device).to(device).argsort()
    shake = torch.randn(observations, needed, dim, generator=generator, device=generator.device, dtype=torch.float64)
    chosen = v[index] + torch.where(again, 0.1, 1e-6)[..., None] * shake.to(device)
    return chosen[:, shuffle].clamp(-7, 7).reshape(-1, dim).cpu().numpy()


def brought_along(
    coords: np.ndarray, heights: np.ndarray, observations: int, random: np.random.RandomState
) -> np.ndarray:
    """Walkers left far below the others of their observation are put between two that were not."""
    dim = coords.shape[1]
    v, height = coords.reshape(observations, -1, dim).copy(), heights.reshape(observations, -1)
    good = height > height.max(1, keepdims=True) - 20 - 2 * dim
    for k in np.flatnonzero((~good).any(1) & (good.sum(1) > 2 * dim)):
        known, lost = np.flatnonzero(good[k]), np.flatnonzero(~good[k])
        here, a, b = (v[k, random.choice(known, len(lost))] for _ in range(3))
        v[k, lost] = here + 0.1 * (a - b)
    return v.reshape(-1, dim)
