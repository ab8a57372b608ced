"""Markov chains by emcee: every walker of every ensemble of every observation moves at once."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from flowzoo.inference._inferred import of_observations
from flowzoo.inference._scoring import Target
from flowzoo.inference._walkers import brought_along, start
from flowzoo.progress import Update

LONG = 20  # autocorrelation times that each ensemble must walk: four of them are 80 from which the time is known
SHAKE = 100  # steps before walkers that were left behind are brought along, and before each of the first two mixtures
STEPS = 200  # before the first look at convergence
LEARNT = 1000  # steps of a chain, up to which its walkers may make a new mixture and it begins anew
LONGER = "in Python raise max_steps"  # no command has an option for it
LEAP, STROLL = 1.0, 0.5  # how often walkers move by the mixture, where the other moves are 1 together


@dataclass
class Walked:
    """Draws ``v (L, K, D)``, the log of the target there ``(L, K)``, diagnostics ``(K,)``, warnings."""

    v: Tensor
    log_density: Tensor
    diagnostics: dict[str, Tensor]
    warnings: list[str] = field(default_factory=list)


@dataclass
class _Chain:
    """What is kept of a run of B ensembles: of every step their numbers, of every ``stride``-th the walkers."""

    room: int
    stride: int = 1
    steps: int = 0
    series: list[np.ndarray] = field(default_factory=list)  # (B, 2 D) each: means and log spreads
    moved: list[np.ndarray] = field(default_factory=list)  # (B,) accepted until then
    states: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)  # (B, W, D), (B, W)

    def add(self, coords: np.ndarray, heights: np.ndarray, moved: np.ndarray) -> None:
        v = coords.reshape(len(moved), -1, coords.shape[1])
        with np.errstate(divide="ignore"):
            self.series.append(np.concatenate([v.mean(1), np.log(v.std(1))], axis=1))
        self.moved.append(moved)
        if self.steps % self.stride == 0:
            self.states.append((v, heights.reshape(v.shape[:2])))
        self.steps += 1
        if len(self.states) > self.room:
            self.states, self.stride = self.states[::2], 2 * self.stride

    def cloud(self, observations: int) -> np.ndarray:
        """Walkers of each observation after the first quarter, ``(K, N, D)``."""
        kept = np.stack([v for v, _ in self.states[len(self.states) // 4 :]], axis=1)  # (B, S, W, D)
        return kept.reshape(observations, -1, kept.shape[-1])

    def of(self, ensembles: np.ndarray) -> _Chain:
        """Of some of the ensembles, ``(B,)`` booleans."""
        return _Chain(
            self.room,
            self.stride,
            self.steps,
            [each[ensembles] for each in self.series],
            [each[ensembles] for each in self.moved],
            [(v[ensembles], height[ensembles]) for v, height in self.states],
        )


def mcmc(
    target: Target,
    dim: int,
    observations: int,
    count: int,
    generator: torch.Generator,
    *,
    device: torch.device | str = "cpu",
    ensembles: int = 4,
    walkers: int | None = None,
    max_steps: int = 8000,
    agreement: float = 1.05,
    tell: Update | None = None,
) -> Walked:
    """Draw from K densities on the whole line with emcee (Foreman-Mackey et al. 2013).

    Several independent ensembles walk for each observation. They begin at draws from a standard normal, which the prior
    is in these coordinates, chosen by the target. Stretch moves and differential evolution find out what the posterior
    looks like; then walkers also move by a mixture of Student's t, made of all of the observation: from mode to mode
    (``Leap``), and by steps as wide as a component (``Stroll``). Within a chain the mixture does not change, and given
    it ensembles are independent. A chain that is far from done at one of its first looks is dropped: its walkers make
    a new mixture, and a chain twice as long begins.

    The first quarter of a chain is discarded. It is done if each ensemble has walked 20 autocorrelation times, all of
    them together have as many independent draws as are wanted, and they agree: R-hat (Gelman et al. 2013, section 11.4,
    split in halves) with a number of an ensemble one chain. The numbers are the means and log spreads of its walkers,
    and their autocorrelation is about the mean over all ensembles (as in Vehtari et al. 2021, section 3.2), so that
    what ensembles disagree in is a time too. Walkers of one ensemble are no independent chains. An observation that is
    done walks no further.

    Args:
        target: ``(K, M, D)`` to ``(K, M)``.
        dim: D.
        observations: K.
        count: draws L.
        generator: of which emcee's seed is drawn.
        device: of the target.
        ensembles: independent ones for each observation, at least 2.
        walkers: in each, even; by default 4 D, 16 at least.
        max_steps: an observation stops when it has converged, or here; what is dropped counts.
        agreement: R-hat over which it is said that ensembles disagree.
        tell: called with the number of observations that are done, and a word on the others.

    Raises:
        ValueError: for too few walkers or ensembles, or if no starting point has a density.
    """
    from emcee import EnsembleSampler

    from flowzoo.inference._mixture import Mixture, fit
    from flowzoo.inference._moves import Difference, Leap, Stretch, Stroll

    many = max(16, 4 * dim) if walkers is None else walkers
    if many % 2 or many < 2 * dim + 2 or many < 6 or ensembles < 2 or max_steps < 40:
        raise ValueError(
            f"mcmc needs an even number of walkers, at least {max(6, 2 * dim + 2)}, 2 ensembles and 40 steps; "
            f"got {many} walkers, {ensembles} ensembles, {max_steps} steps"
        )
    active = np.arange(observations)  # the observations that still walk

    def heights(coords: np.ndarray) -> np.ndarray:
        v = torch.from_numpy(coords).to(device).reshape(len(active), -1, dim)
        rows = None if len(active) == observations else torch.from_numpy(active).to(device)
        return target(v, rows).cpu().numpy().reshape(-1)

    coords = start(target, dim, observations, ensembles * many, generator, device)
    seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
    random = np.random.RandomState(seed)  # emcee takes no newer generator

    def run(coords: np.ndarray, steps: int, keep: _Chain, mixture: Mixture | None) -> np.ndarray:
        blocks = len(active) * ensembles
        moves = [
            (Stretch(blocks), 0.4),
            (Difference(blocks, 2.38 / math.sqrt(2 * dim)), 0.5),
            (Difference(blocks, 1.0), 0.1),
        ]
        if mixture is not None:
            moves += [(Leap(blocks, mixture), LEAP), (Stroll(blocks, mixture), STROLL)]
        sampler = EnsembleSampler(blocks * many, dim, heights, moves=moves, vectorize=True)
        sampler.random_state = random.get_state()
        before = keep.moved[-1] if keep.moved else np.zeros(blocks)
        for state in sampler.sample(coords, iterations=steps, store=False, skip_initial_state_check=True):
            keep.add(state.coords, state.log_prob, before + sum(move.accepted for move, _ in moves))
            if tell is not None and keep.steps % 10 == 0:
                tell(observations - len(active), f"step {keep.steps} of a chain")
        random.set_state(sampler.random_state)
        return state.coords

    room, shake = max(64, math.ceil(4 * count / (ensembles * many))), max(1, min(SHAKE, max_steps // 4))
    coords = run(coords, shake, _Chain(room), None)
    coords = brought_along(coords, heights(coords), observations, random)
    coords = run(coords, shake, chain := _Chain(room), None)
    mixture = fit(chain.cloud(observations), random)
    coords = run(coords, shake, chain := _Chain(room), mixture)
    mixture = fit(chain.cloud(observations), random)
    chain, steps, walked = _Chain(room), min(STEPS, max_steps), 0
    v, density = np.empty((count, observations, dim)), np.empty((count, observations))
    numbers = {name: np.zeros(observations) for name in ("tau", "agreement", "acceptance", "ess", "steps")}
    while len(active):
        coords = run(coords, steps, chain, mixture)
        walked += steps
        first = chain.steps // 4
        kept = chain.steps - first
        tau, rhat = _convergence(np.stack(chain.series[first:]), len(active))
        enough = np.maximum(LONG, count / (ensembles * many)) * tau
        done = ((kept >= enough) & (rhat <= agreement)) | (walked >= max_steps)
        if done.any():
            own, which = chain.of(np.repeat(done, ensembles)), active[done]
            v[:, which], density[:, which] = _thinned(own, tau[done], len(which), count, generator)
            moved = (own.moved[-1] - own.moved[first]) / (kept - 1) / many
            numbers["tau"][which], numbers["agreement"][which] = tau[done], rhat[done]
            numbers["acceptance"][which] = moved.reshape(len(which), ensembles).mean(1)
            numbers["ess"][which], numbers["steps"][which] = ensembles * many * kept / tau[done], chain.steps
            chain, mixture = chain.of(np.repeat(~done, ensembles)), mixture.of(~done)
            coords = coords.reshape(len(active), -1, dim)[~done].reshape(-1, dim)
            active = active[~done]
        left = max_steps - walked
        steps = min(max(STEPS, chain.steps // 2), left)
        far = (enough > 2 * kept)[~done]
        if chain.steps <= LEARNT and 4 * chain.steps <= left and far.sum() > len(active) / 2:
            # What was walked by the old mixture is dropped: a chain must not have made its own proposals.
            mixture, steps, chain = fit(chain.cloud(len(active)), random), 2 * chain.steps, _Chain(room)
    return Walked(
        torch.from_numpy(v).to(device),
        torch.from_numpy(density).to(device),
        {name: torch.from_numpy(value).to(device) for name, value in numbers.items()},
        _remarks(numbers, max_steps, agreement, count),
    )


def _convergence(numbers: np.ndarray, observations: int) -> tuple[np.ndarray, np.ndarray]:
    """Of F numbers of each ensemble ``(n, B, F)``: autocorrelation time and R-hat of each observation, the worst."""
    # One after another: transforms of all at once take several times the memory of the chains.
    found = np.array([_agreement(series) for series in np.split(numbers, observations, axis=1)])
    # A chain that never moved has neither.
    tau, rhat = np.where(np.isfinite(found), found, np.inf).T
    return np.maximum(tau, 1.0), rhat


def _agreement(series: np.ndarray) -> tuple[float, float]:
    """Of E ensembles of an observation ``(n, E, F)``: autocorrelation time and R-hat, the worst of F."""
    half = len(series) // 2
    with np.errstate(all="ignore"):
        tau = _times(series - series.mean((0, 1))).max()
        chains = np.concatenate([series[:half], series[-half:]], axis=1)
        inner, outer = chains.var(0, ddof=1).mean(0), chains.mean(0).var(0, ddof=1)
        return tau, np.sqrt((half - 1) / half + outer / inner).max()


def _times(series: np.ndarray) -> np.ndarray:
    """Autocorrelation times ``(F,)`` of ``(n, E, F)``, with the window of Sokal 1997 (section 3), c = 5.

    From the mean over all E: a mean of each would hide what they disagree in, and make a time of n / 20 half as long.
    """
    steps = len(series)
    power = np.square(np.abs(np.fft.rfft(series, 2 * steps, axis=0))).mean(1)
    correlation = np.fft.irfft(power, axis=0)[:steps]
    times = 2 * (correlation / correlation[0]).cumsum(0) - 1
    enough = np.arange(steps)[:, None] >= 5 * times
    window = np.where(enough.any(0), enough.argmax(0), steps - 1)
    return np.take_along_axis(times, window[None], 0)[0]


def _thinned(
    chain: _Chain, tau: np.ndarray, observations: int, count: int, generator: torch.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draws at random among the states that are an autocorrelation time apart; closer ones where those are too few."""
    first = -(-(chain.steps // 4) // chain.stride)
    dim = chain.states[0][0].shape[-1]
    coords = np.stack([v for v, _ in chain.states[first:]]).reshape(len(chain.states) - first, observations, -1, dim)
    heights = np.stack([h for _, h in chain.states[first:]]).reshape(coords.shape[:3])
    stored, _, many = heights.shape
    widest = np.maximum(1, stored * many // count)
    apart = np.clip(np.nan_to_num(np.ceil(tau / chain.stride), posinf=stored), 1, widest)[:, None]
    allowed = np.repeat(np.arange(stored)[None] % apart == 0, many, axis=1)  # (K, stored * many)
    keys = torch.rand(allowed.shape, generator=generator, device=generator.device, dtype=torch.float64).cpu().numpy()
    order = np.argsort(np.where(allowed, keys, 2.0), axis=1)
    chosen = order[:, np.arange(count) % min(order.shape[1], count)]
    step, walker = chosen // many, chosen % many
    rows = np.arange(observations)[:, None]
    return coords[step, rows, walker].swapaxes(0, 1), heights[step, rows, walker].T


def _remarks(numbers: dict[str, np.ndarray], max_steps: int, agreement: float, count: int) -> list[str]:
    said = []
    tau, rhat, ess = numbers["tau"], numbers["agreement"], numbers["ess"]
    kept = numbers["steps"] - numbers["steps"] // 4
    short, apart = torch.from_numpy(kept < LONG * tau), torch.from_numpy(rhat > agreement)
    if bool(short.any()):
        said.append(
            f"mcmc has not converged for {of_observations(short)}: {kept.max():.0f} steps were kept of {max_steps}, "
            f"and {LONG} autocorrelation times are up to {LONG * float(tau.max()):.0f}; {LONGER}"
        )
    if bool(apart.any()):
        said.append(
            f"independent ensembles disagree for {of_observations(apart)}: R-hat of means or spreads up to "
            f"{float(rhat.max()):.3f}, over {agreement:g}; {LONGER}, or look for modes that walkers do not leave"
        )
    few = torch.from_numpy(ess < count) & ~short
    if bool(few.any()):
        said.append(
            f"{count} draws are more than the chains have for {of_observations(few)} (effective sample size down to "
            f"{float(ess[few.numpy()].min()):.0f}); take fewer draws, or {LONGER}"
        )
    return said
