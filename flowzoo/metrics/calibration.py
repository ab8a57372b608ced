"""One p-value of all calibration tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from flowzoo.metrics._calibration import BAD_P, GOOD_P, holm, stream, uniform_p, usable
from flowzoo.metrics._metric import Column, Evaluation, Posteriors
from flowzoo.metrics.hpd import credibility
from flowzoo.metrics.sbc import sbc
from flowzoo.metrics.tarp import tarp
from flowzoo.registry import METRICS


@dataclass(frozen=True)
class Family:
    """Calibration tests of one set of posteriors.

    Args:
        names: of the m tests.
        p: ``(m,)``, each by itself.
        adjusted: ``(m,)``, after Holm's correction for their number; the smallest is the p-value of the family.
    """

    names: tuple[str, ...]
    p: Tensor
    adjusted: Tensor


@METRICS.register
@dataclass(frozen=True)
class Calibration:
    """p-value of the family of SBC in every parameter, SBC in the log-likelihood, HPD coverage, and TARP.

    Each is a test by itself, TARP with the correction for its kinds of references; over all of them Holm's correction
    holds whatever they have in common. An exact posterior is below 0.05 in at most 5 % of all cases. The same ranks
    as in the columns ``sbc_p``, ``hpd_p`` and ``tarp_p``.

    Kept: ``p`` and ``p_holm`` (m,), in the order parameters, log-likelihood (if it is known), HPD, TARP.
    """

    needs: ClassVar[tuple[str, ...]] = ("posteriors",)
    columns: ClassVar[tuple[Column, ...]] = (
        Column(
            "calibration_p",
            "higher",
            "p that the posteriors are calibrated (SBC, HPD coverage and TARP, Holm)",
            good=GOOD_P,
            bad=BAD_P,
        ),
        Column(
            "calibration_observations", "none", "test observations that all p are of: with more a fault has a smaller p"
        ),
    )

    def __call__(self, evaluation: Evaluation) -> dict[str, float | str | Tensor]:
        """See the class."""
        posteriors = usable(evaluation, predicted=True)
        found = family(posteriors, *(stream(evaluation, name) for name in ("sbc", "hpd", "tarp")))
        count = float(len(posteriors.truth))
        numbers = {"calibration_p": float(found.adjusted.min()), "calibration_observations": count}
        return {**numbers, "p": found.p, "p_holm": found.adjusted}


def family(
    posteriors: Posteriors, sbc_source: torch.Generator, hpd_source: torch.Generator, tarp_source: torch.Generator
) -> Family:
    """All tests of some posteriors.

    Args:
        posteriors: what is tested.
        sbc_source: randomises the ranks of SBC.
        hpd_source: those of HPD coverage.
        tarp_source: references and ranks of TARP.
    """
    ranks = sbc(posteriors, sbc_source)
    dim = posteriors.truth.shape[1]
    names = tuple(posteriors.names) or tuple(f"theta{i + 1}" for i in range(dim))
    likelihood = ("sbc log-likelihood",) if ranks.shape[1] > dim else ()
    p = torch.cat(
        [
            uniform_p(ranks.T),
            uniform_p(credibility(posteriors, hpd_source))[None],
            holm(uniform_p(tarp(posteriors, tarp_source))).min()[None],
        ]
    )
    return Family((*(f"sbc {name}" for name in names), *likelihood, "hpd", "tarp"), p, holm(p))
