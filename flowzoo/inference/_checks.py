"""What a prior has to say of parameters: whether it covers them, and whether a posterior leans on its bounds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flowzoo.inference._inferred import of_observations
from flowzoo.inference.priors import Prior

RIM = 0.01  # share of the prior at either end of a parameter
LEANS = 0.1  # share of the posterior there from which it is said: ten times the prior's
MANY = 20  # observations, over which a share of them must lean
MANY_LEAN = 0.1


def check_covers(prior: Prior, truth: Tensor, names: Sequence[str] | None = None) -> tuple[str, ...]:
    """Whether the prior covers parameters that are known.

    Args:
        prior: of D parameters.
        truth: ``(N, D)`` or ``(D,)``.
        names: D of them.

    Returns:
        A line for each parameter with values that the prior excludes: how many, the first, the bounds.

    Raises:
        ValueError: if the parameters are not as many as the prior's.
    """
    truth = truth[None] if truth.ndim == 1 else truth
    if truth.ndim != 2 or truth.shape[1] != prior.dim:
        raise ValueError(f"truth must be (N, {prior.dim}), as the prior has it; got {tuple(truth.shape)}")
    names = [f"theta{d + 1}" for d in range(prior.dim)] if names is None else names
    said = []
    low, high = prior.bounds(truth.device)
    outside = ~((truth >= low) & (truth <= high))
    for d, name in enumerate(names):
        lost = outside[:, d]
        if bool(lost.any()):
            ends = f"[{float(prior.low[d]):.6g}, {float(prior.high[d]):.6g}]"
            said.append(
                f"the prior does not cover the truth: {name} = {float(truth[lost, d][0]):.6g} lies outside {ends} "
                f"({of_observations(lost)}); widen the prior of {name}"
            )
    return tuple(said)


def leaning(prior: Prior, theta: Tensor) -> list[str]:
    """Of which parameters the draws ``(L, K, D)`` crowd at a finite end of the prior, a line each.

    Of many observations some have parameters near an end, as the prior says; then a tenth of them must lean.
    """
    u = prior.to_unit(theta)
    below = (u < RIM).double().mean(0) * prior.low.isfinite().to(u)
    above = (u > 1 - RIM).double().mean(0) * prior.high.isfinite().to(u)
    crowded = torch.maximum(below, above) > LEANS
    fewest = MANY_LEAN * len(crowded) if len(crowded) > MANY else 0
    return [
        f"parameter {d + 1}: the posterior leans on an end of the prior for {of_observations(crowded[:, d])} (over "
        f"{LEANS:.0%} of it is in the outermost {RIM:.0%} of the prior); the data may want values beyond: widen it"
        for d in range(prior.dim)
        if int(crowded[:, d].sum()) > fewest
    ]
