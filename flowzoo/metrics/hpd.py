"""Do regions of highest posterior density hold the truth as often as they claim?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from flowzoo.metrics._calibration import (
    BAD_P,
    GOOD_P,
    bootstrap_band,
    chi2_p,
    density_pit,
    ks_p,
    stream,
    uniform_p,
    usable,
)
from flowzoo.metrics._metric import Column, Evaluation, Posteriors
from flowzoo.registry import METRICS

POINTS = 101  # of the coverage curve


@METRICS.register
@dataclass(frozen=True)
class ExpectedCoverage:
    r"""Expected coverage of the regions of highest posterior density, and how far it is from what they claim.

    The smallest region that q gives the probability c holds :math:`\theta^*` if its credibility level

    .. math:: \alpha = \Pr_{\theta \sim q(\theta \mid x)}\bigl(q(\theta \mid x) > q(\theta^* \mid x)\bigr)

    is at most c. So the expected coverage at c (Hermans et al. 2022, TMLR, arXiv:2110.06581, section 2) is the
    distribution function of :math:`\alpha` over observations, and the diagonal if q is calibrated. From L draws
    :math:`\alpha` is a rank, randomised as in ``sbc``, so it is exactly uniform for an exact posterior.

    .. math:: \mathrm{coverage\_error} = \int_0^1 \bigl(\Pr(\alpha \le c) - c\bigr)\, dc = \tfrac12 - \mathbb E \alpha ,

    between -1/2 and 1/2: **negative is overconfident**, positive underconfident. Its standard error is what a
    bootstrap over observations converges to, s / sqrt(N). A curve that crosses the diagonal may have no area, so the
    p-value is of all of it (``_calibration.uniform_p``).

    Kept: ``alpha`` (N,), and for the figure ``level``, ``coverage``, ``lower`` and ``upper`` (101,), a bootstrap band
    of 95 % at each level; ``p_ks`` and ``p_chi2``.
    """

    needs: ClassVar[tuple[str, ...]] = ("posteriors",)
    columns: ClassVar[tuple[Column, ...]] = (
        Column("hpd_p", "higher", "p that the coverage of HPD regions is what they claim", good=GOOD_P, bad=BAD_P),
        Column(
            "coverage_error",
            "zero",
            "area between coverage of HPD regions and the diagonal; negative: overconfident",
            good=0.05,
            bad=0.1,
        ),
        Column("coverage_error_se", "none", "standard error of coverage_error over observations"),
    )

    def __call__(self, evaluation: Evaluation) -> dict[str, float | str | Tensor]:
        """See the class."""
        alpha = credibility(usable(evaluation), stream(evaluation, "hpd"))
        level = torch.linspace(0, 1, POINTS, dtype=torch.float64, device=alpha.device)
        lower, upper = bootstrap_band(alpha, level, stream(evaluation, "hpd bootstrap"))
        error, se = coverage_error(alpha)
        return {
            "hpd_p": float(uniform_p(alpha)),
            "coverage_error": error,
            "coverage_error_se": se,
            "alpha": alpha,
            "level": level,
            "coverage": torch.searchsorted(alpha.sort().values, level, right=True).double() / len(alpha),
            "lower": lower,
            "upper": upper,
            "p_ks": ks_p(alpha),
            "p_chi2": chi2_p(alpha),
        }


def credibility(posteriors: Posteriors, source: torch.Generator) -> Tensor:
    """Smallest credibility level whose region holds the truth, ``(N,)``; 1 or nearly where q excludes the truth.

    Args:
        posteriors: with log q of draws and truths.
        source: of the randomisation.
    """
    return density_pit(-posteriors.log_prob, -posteriors.truth_log_prob, source)


def coverage_error(alpha: Tensor) -> tuple[float, float]:
    """Signed area between the coverage curve and the diagonal, and its standard error.

    Args:
        alpha: ``(N,)`` credibility levels.

    >>> coverage_error(torch.tensor([0.25, 0.75]))[0]
    0.0
    """
    alpha = alpha.double()
    return float(0.5 - alpha.mean()), float(alpha.std() / len(alpha) ** 0.5)
