"""What a prior has to say of parameters: whether it covers them, and whether a posterior leans on its bounds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flowzoo.inference._inferred import of_observations
from flowzoo.inference.priors import Prior
from flowzoo.seeding import generator as stream

RIM = 0.01  # share of the prior at either end of a parameter
LEANS = 0.1  # share of the posterior there from which it is said: ten times the prior's
MANY = 20  # observations, over which a share of them must lean
MANY_LEAN = 0.1
SHAPES = 256  # draws at which the shapes of two priors are compared
WIDER = "widen the prior as far as the training went, or simulate and train on a wider one"
SAME = 1e-3  # nats, by which the ratio of their densities varies, from rounding


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
                f"({of_observations(lost)}); {WIDER}"
            )
    return tuple(said)


def check_truncates(prior: Prior, trained: Prior, names: Sequence[str] = ()) -> tuple[str, ...]:
    """Whether a prior only cuts the one that a posterior flow was trained under: it can do nothing else to one.

    Args:
        prior: of D parameters.
        trained: that of the training.
        names: D of them.

    Returns:
        A line if the prior has another shape where both are, which such a flow cannot be given any more.

    Raises:
        ValueError: if the prior has another number of parameters, or reaches to where the flow has learnt nothing.
    """
    if prior.dim != trained.dim:
        raise ValueError(f"the prior has {prior.dim} parameters, and that of the training {trained.dim}")
    names = names or [f"theta{d + 1}" for d in range(prior.dim)]
    low, high = trained.bounds()
    for d in ((prior.low < low) | (prior.high > high)).nonzero()[:, 0].tolist():
        own, known = (f"[{float(p.low[d]):.6g}, {float(p.high[d]):.6g}]" for p in (prior, trained))
        raise ValueError(
            f"the prior of {names[d]} is on {own}, and the flow was trained on {known}: a posterior flow says nothing "
            "outside; give a prior within that, or train one on simulations of the wider prior"
        )
    if prior.has_density and trained.has_density:
        # Where one is a piece of the other, their densities differ by a factor.
        theta = prior.sample(SHAPES, stream(0, "shape of a prior")).double()
        ratio = prior.log_prob(theta) - trained.log_prob(theta)
        ratio = ratio[ratio.isfinite()]
        same = len(ratio) > 0 and float(ratio.max() - ratio.min()) < SAME
    else:
        same = prior.describe() == trained.describe()
    if same:
        return ()
    return (
        "a posterior flow has learnt the prior of its training, of another shape than this one, which only cuts its "
        "posterior and weighs nothing inside; for another prior train a likelihood flow, or this one under that prior",
    )


def leaning(prior: Prior, theta: Tensor, names: Sequence[str] = ()) -> list[str]:
    """Of which parameters the draws ``(L, K, D)`` crowd at a finite end of the prior, a line each.

    Of many observations some have parameters near an end, as the prior says; then a tenth of them must lean.
    """
    u = prior.to_unit(theta)
    below = (u < RIM).double().mean(0) * prior.low.isfinite().to(u)
    above = (u > 1 - RIM).double().mean(0) * prior.high.isfinite().to(u)
    crowded = torch.maximum(below, above) > LEANS
    fewest = MANY_LEAN * len(crowded) if len(crowded) > MANY else 0
    names = names or [f"parameter {d + 1}" for d in range(prior.dim)]
    return [
        f"{names[d]}: the posterior leans on an end of the prior for {of_observations(crowded[:, d])} (over "
        f"{LEANS:.0%} of it is in the outermost {RIM:.0%} of the prior); the data may want values beyond: "
        f"{WIDER}"
        for d in range(prior.dim)
        if int(crowded[:, d].sum()) > fewest
    ]
