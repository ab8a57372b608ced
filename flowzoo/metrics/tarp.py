"""TARP: is the truth as near to reference points as draws are, whatever the points?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from flowzoo.metrics._calibration import BAD_P, GOOD_P, chi2_p, holm, ks_p, randomised_pit, stream, uniform_p, usable
from flowzoo.metrics._metric import Column, Evaluation, Posteriors
from flowzoo.registry import METRICS

KINDS = ("uniform", "regression", "side")
FAR = 100.0  # sides of the box: from there spheres are planes


@METRICS.register
@dataclass(frozen=True)
class TARP:
    r"""p-value of distances to reference points (tests of accuracy with random points).

    Lemos et al. 2023, arXiv:2302.03026. In the unit box of the prior, with a reference r for each observation,

    .. math:: f = \Pr_{\theta \sim q(\theta \mid x)} \bigl(\lVert \theta - r \rVert < \lVert \theta^* - r \rVert\bigr)

    is uniform over observations if q is exact, provided that r does not depend on :math:`\theta^*` but through x; and q
    is exact if it is so for every function r(x) (their theorem 3). Of L draws f is a rank and is randomised as in
    ``sbc``. References of three kinds, the column is the smallest p (``_calibration.uniform_p``) after Holm's
    correction for their number:

    - ``uniform``: uniform in the box, as published. Blind to a posterior that returns the prior.
    - ``regression``: theta as trees predict it from x, learnt of the training pairs. Where x tells anything, the truth
      is nearer to it than draws from the prior are: the case that ``uniform``, SBC and HPD regions cannot see. Near the
      middle of the posterior, it sees a wrong spread best.
    - ``side``: far away, on the side on which the truths *of the pairs before* were found. The first two lie on no side
      of the posterior on average, and a shifted mean changes f at second order only; here at first. Given the pairs
      before, f is uniform, so all f are independent and uniform.

    Kept: ``fraction`` (3, N), ``p_ks``, ``p_chi2``, ``p`` and ``p_holm`` (3,), in this order.
    """

    needs: ClassVar[tuple[str, ...]] = ("posteriors",)
    columns: ClassVar[tuple[Column, ...]] = (
        Column(
            "tarp_p",
            "higher",
            "p that draws lie about reference points as the truth does (TARP: uniform, regression and side, Holm)",
            good=GOOD_P,
            bad=BAD_P,
        ),
    )

    def __call__(self, evaluation: Evaluation) -> dict[str, float | str | Tensor]:
        """See the class."""
        posteriors = usable(evaluation, predicted=True)
        f = tarp(posteriors, stream(evaluation, "tarp"))
        p = uniform_p(f)
        adjusted = holm(p)
        kept = {"fraction": f, "p_ks": ks_p(f), "p_chi2": chi2_p(f), "p": p, "p_holm": adjusted}
        return {"tarp_p": float(adjusted.min()), **kept}


def tarp(posteriors: Posteriors, source: torch.Generator) -> Tensor:
    """Randomised fractions of draws nearer to the reference than the truth, by kind of reference.

    Args:
        posteriors: draws ``(L, N, D)``, truths, and what is predicted of them.
        source: of references and randomisation.

    Returns:
        ``(3, N)``, as ``KINDS``.

    Raises:
        ValueError: if nothing is predicted.
    """
    if posteriors.predicted is None:
        raise ValueError("references that know x need predictions of theta; got None")
    draws, truth = posteriors.to_unit(posteriors.draws), posteriors.to_unit(posteriors.truth)
    uniform = torch.rand(truth.shape, dtype=truth.dtype, generator=source, device=source.device).to(truth.device)
    references = (uniform, posteriors.predicted.to(truth), sides(draws, truth))
    return torch.stack([fraction(draws, truth, reference, source) for reference in references])


def fraction(draws: Tensor, truth: Tensor, reference: Tensor, source: torch.Generator) -> Tensor:
    """Share of draws nearer to the reference than the truth, randomised: (rank + U) / (L + 1).

    Args:
        draws: ``(L, ..., D)``.
        truth: ``(..., D)``.
        reference: ``(..., D)``.
        source: of U.

    Returns:
        ``(...)``.
    """
    return randomised_pit((draws - reference).square().sum(-1), (truth - reference).square().sum(-1), source)


def sides(draws: Tensor, truth: Tensor) -> Tensor:
    r"""Far references on the side of the posterior on which the truths of the pairs before lay.

    In the direction :math:`v_i = \sum_{j<i} (u_j - 1/2) / \bar s_i`, u being the rank of a truth among its draws by
    parameter, 0 to 1, and :math:`\bar s_i` the mean spread of the draws so far. The first has all parameters alike.

    Args:
        draws: ``(L, ..., N, D)`` in the unit box, the N in an order that knows nothing of them.
        truth: ``(..., N, D)``.

    Returns:
        ``(..., N, D)``.
    """
    rank = ((draws < truth).double() + 0.5 * (draws == truth)).mean(0) - 0.5
    spread = draws.std(0) if len(draws) > 1 else torch.ones_like(truth)  # of one draw there is none

    def before(each: Tensor) -> Tensor:
        # Not the sum less its own: what rounding leaves of that would know the sign of a truth.
        return torch.cat([torch.zeros_like(each[..., :1, :]), each[..., :-1, :].cumsum(-2)], -2)

    # Spreads only weigh the parameters, so the sum does as well as the mean.
    width = before(spread)
    toward = before(rank) / width.where(width > 0, 1.0)
    length = toward.norm(dim=-1, keepdim=True)
    straight = torch.full_like(toward, 1 / math.sqrt(truth.shape[-1]))
    return 0.5 + FAR * torch.where(length > 0, toward / length.where(length > 0, 1.0), straight)
