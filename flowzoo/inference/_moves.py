"""Moves of emcee for many ensembles side by side: walkers meet those of their own ensemble alone.

Imported at first use, as it imports emcee.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from emcee.moves import RedBlueMove
from emcee.state import State

from flowzoo.inference._mixture import Mixture, log_sum, pick


class _BlockMove(RedBlueMove):
    """Walkers ``(B * W, D)``, B ensembles one after another; of each one half moves against the other, then back.

    emcee's own step accepts in a loop over walkers, and pairs any two of them.
    """

    def __init__(self, blocks: int) -> None:
        super().__init__(nsplits=2, randomize_split=False)
        self.blocks = blocks
        self.accepted, self.steps = np.zeros(blocks), 0

    def propose(self, model: Any, state: State) -> tuple[State, np.ndarray]:
        """One step of all walkers, and which were accepted."""
        dim = state.coords.shape[1]
        coords = state.coords.reshape(self.blocks, -1, dim).copy()
        heights = state.log_prob.reshape(self.blocks, -1).copy()
        accepted = np.zeros(heights.shape, dtype=bool)
        half = coords.shape[1] // 2
        for mine, other in ((slice(0, half), slice(half, None)), (slice(half, None), slice(0, half))):
            moved, factors = self.get_proposal(coords[:, mine], coords[:, other], model.random)
            found = model.log_prob_fn(moved.reshape(-1, dim)).reshape(self.blocks, half)
            with np.errstate(invalid="ignore"):
                gain = factors + found - heights[:, mine]
            yes = np.log(model.random.random_sample(gain.shape)) < gain
            coords[:, mine][yes], heights[:, mine][yes], accepted[:, mine][yes] = moved[yes], found[yes], True
        # The same object: emcee yields it, and nothing else holds it.
        state.coords, state.log_prob = coords.reshape(-1, dim), heights.reshape(-1)
        self.accepted += accepted.sum(1)
        self.steps += 1
        return state, accepted.reshape(-1)


class Stretch(_BlockMove):
    """The affine-invariant stretch (Goodman and Weare 2010, equation 7), a = 2."""

    def get_proposal(self, s: np.ndarray, c: np.ndarray, random: Any) -> tuple[np.ndarray, np.ndarray]:
        """``(B, W/2, D)`` walkers and their complement, to proposals and log factors ``(B, W/2)``."""
        blocks, half, dim = s.shape
        z = (random.random_sample((blocks, half)) + 1) ** 2 / 2
        other = c[np.arange(blocks)[:, None], random.randint(half, size=(blocks, half))]
        return other - (other - s) * z[..., None], (dim - 1) * np.log(z)


class Difference(_BlockMove):
    """Along the difference of two others (ter Braak 2006; Nelson et al. 2013); with gamma = 1 from mode to mode."""

    def __init__(self, blocks: int, gamma: float) -> None:
        super().__init__(blocks)
        self.gamma = gamma

    def get_proposal(self, s: np.ndarray, c: np.ndarray, random: Any) -> tuple[np.ndarray, np.ndarray]:
        """As in ``Stretch``; it is symmetric."""
        blocks, half, _ = s.shape
        rows = np.arange(blocks)[:, None]
        first = random.randint(half, size=(blocks, half))
        second = (first + random.randint(1, half, size=(blocks, half))) % half
        # The length is blurred a little, or walkers would stay on a lattice.
        gamma = self.gamma * (1 + 1e-2 * random.standard_normal((blocks, half, 1)))
        return s + gamma * (c[rows, first] - c[rows, second]), np.zeros((blocks, half))


class _MixtureMove(_BlockMove):
    """By a mixture of each observation, whose ensembles stand one after another; while it is used it may not change."""

    def __init__(self, blocks: int, mixture: Mixture) -> None:
        super().__init__(blocks)
        self.mixture = mixture

    def get_proposal(self, s: np.ndarray, c: np.ndarray, random: Any) -> tuple[np.ndarray, np.ndarray]:
        """As in ``Stretch``; the complement is not looked at."""
        moved, factors = self.propose_from(s.reshape(len(self.mixture.mean), -1, s.shape[2]), random)
        return moved.reshape(s.shape), factors.reshape(s.shape[:2])

    def propose_from(self, v: np.ndarray, random: Any) -> tuple[np.ndarray, np.ndarray]:
        """``(K, N, D)`` to proposals and log factors ``(K, N)``."""
        raise NotImplementedError


class Leap(_MixtureMove):
    """Anywhere: a draw of the mixture (an independence sampler, Tierney 1994, section 2.3.3)."""

    def propose_from(self, v: np.ndarray, random: Any) -> tuple[np.ndarray, np.ndarray]:
        """As said there."""
        moved = self.mixture.draw(v.shape[1], random)
        return moved, self.mixture.log_prob(v) - self.mixture.log_prob(moved)


class Stroll(_MixtureMove):
    """A normal step of the scale of the component that a walker is in: small where the posterior is narrow."""

    def propose_from(self, v: np.ndarray, random: Any) -> tuple[np.ndarray, np.ndarray]:
        """As said there."""
        mixture, gamma = self.mixture, 2 / np.sqrt(v.shape[2])
        here = mixture.parts(v)[1]
        here -= log_sum(here)[:, None]
        which = pick(np.exp(here), random)
        z = random.standard_normal((*v.shape, 1))
        step = gamma * (mixture.root[np.arange(len(v))[:, None], which] @ z)[..., 0]
        there = mixture.parts(v + step)[1]
        there -= log_sum(there)[:, None]
        # Density of the step from either end, over the component that it may have been drawn from.
        z = step[:, None] @ mixture.whiten / gamma
        taken = -0.5 * np.einsum("...d,...d->...", z, z) - mixture.log_volume[..., None]
        return v + step, log_sum(there + taken) - log_sum(here + taken)
