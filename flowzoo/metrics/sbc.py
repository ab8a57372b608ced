"""Simulation-based calibration: is the truth one more draw, in every parameter and in its likelihood?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from flowzoo.metrics._calibration import (
    BAD_P,
    GOOD_P,
    chi2_p,
    density_pit,
    holm,
    ks_p,
    randomised_pit,
    stream,
    uniform_p,
    usable,
)
from flowzoo.metrics._metric import Column, Evaluation, Posteriors
from flowzoo.registry import METRICS


@METRICS.register
@dataclass(frozen=True)
class SBC:
    r"""p-value of the ranks of the truth among posterior draws, parameter by parameter.

    Talts et al. 2018, arXiv:1804.06788: if :math:`\theta^*, x` come from prior and simulator and the L draws from the
    exact posterior, the rank of :math:`\theta^*_j` among them is uniform on 0 ... L. Modrák et al. 2023,
    arXiv:2211.02383: so is that of any function of theta and x, and the log-likelihood is one that sees what no single
    parameter shows, such as a wrong correlation. The randomised ranks of all D parameters and of the log-likelihood are
    tested for uniformity (``_calibration.uniform_p``), and the column is the smallest p after Holm's correction for
    their number.

    Of a flow p(theta | x) the likelihood is its own, q(theta | x) / p(theta). If q is the prior, that is constant and
    tells nothing: see ``tarp`` for what does.

    Kept: ``pit`` (N, D), ``pit_log_likelihood`` (N,), and by quantity, the log-likelihood last, ``p_ks``, ``p_chi2``,
    ``p`` of both together and ``p_holm``.
    """

    needs: ClassVar[tuple[str, ...]] = ("posteriors",)
    columns: ClassVar[tuple[Column, ...]] = (
        Column(
            "sbc_p",
            "higher",
            "p that all ranks of the truth are uniform (SBC: every parameter and the log-likelihood, Holm)",
            good=GOOD_P,
            bad=BAD_P,
        ),
    )

    def __call__(self, evaluation: Evaluation) -> dict[str, float | str | Tensor]:
        """See the class."""
        posteriors = usable(evaluation)
        u = sbc(posteriors, stream(evaluation, "sbc"))
        dim = posteriors.truth.shape[1]
        p = uniform_p(u.T)
        adjusted = holm(p)
        kept = {"p_ks": ks_p(u.T), "p_chi2": chi2_p(u.T), "p": p, "p_holm": adjusted, "pit": u[:, :dim]}
        if u.shape[1] > dim:
            kept["pit_log_likelihood"] = u[:, dim]
        return {"sbc_p": float(adjusted.min()), **kept}


def sbc(posteriors: Posteriors, source: torch.Generator) -> Tensor:
    """Randomised ranks of the truth in every parameter and, where it is known, in the log-likelihood.

    Args:
        posteriors: draws ``(L, N, D)`` and truths.
        source: of the randomisation.

    Returns:
        ``(N, D + 1)``, the log-likelihood last; ``(N, D)`` without one. Uniform on [0, 1], and independent from row to
        row, if the posteriors are exact.
    """
    found = randomised_pit(posteriors.draws, posteriors.truth, source)
    if posteriors.log_likelihood is None or posteriors.truth_log_likelihood is None:
        return found
    likelihood = density_pit(posteriors.log_likelihood, posteriors.truth_log_likelihood, source)
    return torch.cat([found, likelihood[:, None]], 1)
