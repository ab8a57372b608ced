"""Draws from a posterior flow q(theta | x), and what of its mass lies outside the support of the prior."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from flowzoo.inference._inferred import of_observations
from flowzoo.inference._scoring import NUMBERS, NoPosterior
from flowzoo.inference.priors import Prior

LEAKS = 0.01  # leakage from which it is said
LEAST = 1e-3  # acceptance below which a flow is no use under its prior
ENOUGH = 10_000  # draws before that is said


@dataclass
class Drawn:
    """Draws ``(L, K, D)`` in the support, log q of each ``(L, K)``; how many draws were made, and lost, ``(K,)``."""

    theta: Tensor
    log_prob: Tensor
    made: Tensor
    outside: Tensor
    failed: Tensor

    @property
    def log_acceptance(self) -> Tensor:
        """``(K,)``, the log of the share of draws in the support."""
        return torch.log1p(-self.leakage)

    @property
    def leakage(self) -> Tensor:
        """``(K,)``, the share of the finite draws that lay outside the support."""
        return self.outside.double() / (self.made - self.failed)

    def remarks(self) -> list[str]:
        """What to say of draws that were made again."""
        said, leaks = [], self.leakage > LEAKS
        if bool(leaks.any()):
            said.append(
                f"over {LEAKS:.0%} of the flow's mass lies outside the prior for {of_observations(leaks)} (up to "
                f"{float(self.leakage.max()):.1%}); draws there were made again and the density divided by the rest"
            )
        if bool(self.failed.any()):
            said.append(
                f"{int(self.failed.sum())} of {int(self.made.sum())} draws were not finite, in "
                f"{of_observations(self.failed > 0)}, and were drawn again: the flow's inverse failed there"
            )
        return said


@torch.no_grad()
def draw(flow: Any, x: Tensor, prior: Prior | None, count: int, generator: torch.Generator) -> Drawn:
    """Draw from q(theta | x), or from q truncated to the support of the prior, by rejection.

    Args:
        flow: with theta as event.
        x: ``(K, *obs)``.
        prior: whose support it is; None keeps every draw.
        count: draws L.
        generator: of the draws.

    Raises:
        NoPosterior: if fewer than one draw in a thousand lies in the support, or none is finite.
    """
    many, dim, device = len(x), flow.event_shape[0], x.device
    theta = torch.empty(many, count, dim, dtype=torch.float64, device=device)
    log_prob = theta.new_empty(many, count)
    have, made, outside, failed = (torch.zeros(many, dtype=torch.long, device=device) for _ in range(4))
    while bool((have < count).any()):
        short = (have < count).nonzero()[:, 0]
        need = int((count - have[short]).max())
        kept = ((made - outside - failed) / made.clamp_min(1))[short].min()
        each = (
            need
            if int(made[short].min()) == 0
            else int(min(need / max(float(kept), 0.01) * 1.1 + 8, 20 * count + 1000))
        )
        for rows, some, score in _batches(flow, x, short, each, generator):
            finite = some.isfinite().all(-1) & score.isfinite()
            inside = finite if prior is None else finite & supported(prior, some)
            made[rows] += some.shape[1]
            failed[rows] += (~finite).sum(1)
            outside[rows] += (finite & ~inside).sum(1)
            place = have[rows][:, None] + inside.cumsum(1) - 1
            take = inside & (place < count)
            at = rows[:, None].expand_as(place)[take]
            theta[at, place[take]] = some[take].double()
            log_prob[at, place[take]] = score[take].double()
            have[rows] += take.sum(1)
        _give_up(have, made, outside, failed, count)
    return Drawn(theta.transpose(0, 1), log_prob.T, made, outside, failed)


def supported(prior: Prior, theta: Tensor) -> Tensor:
    """Whether the density of the prior, or else its bounds, have each of ``(..., D)``: ``(...)`` booleans."""
    inside = prior.covers(theta)
    # The support of a density may be less than its bounds.
    return inside & prior.log_prob(theta).isfinite() if prior.has_density else inside


def _batches(flow: Any, x: Tensor, short: Tensor, each: int, generator: torch.Generator) -> Any:
    """Draws ``(R, M, D)`` and log q ``(R, M)`` of some observations, in pieces that fit."""
    width = prod(x.shape[1:]) + flow.event_shape[0]
    size = max(1, NUMBERS // width)
    for rows in short.split(max(1, size // each)):
        for part in range(0, each, size):
            shape = (min(size, each - part),)
            with warnings.catch_warnings():
                # Draws that the inverse of a flow loses are counted here.
                warnings.filterwarnings("ignore", message=".*no finite preimage.*")
                theta, score = flow.sample_and_log_prob(x[rows], shape, generator=generator)
            yield rows, theta.transpose(0, 1), score.T


def _give_up(have: Tensor, made: Tensor, outside: Tensor, failed: Tensor, count: int) -> None:
    lost = (have < count) & (made >= ENOUGH) & (have < LEAST * made)
    if not bool(lost.any()):
        return
    first = int(lost.nonzero()[0])
    leakage = float(outside[first] / made[first])
    raise NoPosterior(
        f"{leakage:.2%} of the flow's mass lies outside the prior and {int(failed[first])} of {int(made[first])} draws "
        "are not finite",
        lost,
        "train it on parameters mapped to the whole line, or give the prior that it was trained with",
    )
