"""How near the truth posteriors are, in units of their own spread and of the prior's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from flowzoo.metrics._calibration import usable
from flowzoo.metrics._metric import Column, Evaluation, NotComputed, Posteriors
from flowzoo.registry import METRICS


@METRICS.register
@dataclass(frozen=True)
class PosteriorError:
    r"""z-scores, contraction, error of the posterior mean, and log q of the truth.

    With mean :math:`m_{ij}` and standard deviation :math:`s_{ij}` of the draws of observation i in parameter j,

    .. math:: z_{ij} = \frac{m_{ij} - \theta^*_{ij}}{s_{ij}}, \qquad
              \mathrm{contraction} = 1 - \frac{s_{ij}^2}{\mathrm{Var}_\mathrm{prior}\,\theta_j}

    (Schad, Betancourt and Vasishth 2021, Psychol. Methods 26, 103; the sign of z is kept). Of any exact posterior,
    normal or not, z has mean 0 and variance 1 over observations.

    - ``z_mean``: mean over parameters of the *absolute* mean of z. About 0.8 / sqrt(N) for an exact posterior.
    - ``z_std_error``: standard deviation of z about its means, over all parameters, less 1. Positive: overconfident.
      Spreads from L draws make it about 3 / (2 L) for an exact normal one.
    - ``contraction``: the mean; 0 if nothing was learnt, 1 if all. An overconfident posterior has more, so it has no
      side.
    - ``posterior_rmse``: root mean square of :math:`m - \theta^*` in units of the prior's spread, mean over
      parameters. 1 is what the prior's mean reaches.
    - ``log_posterior_truth``: mean of log q(theta* | x), nats in the units of theta, and its standard error over
      observations. Empty where q is known up to a constant only. The one score here whose best value only the exact
      posterior reaches, and the one that compares a posterior flow with a likelihood flow.

    Kept: ``z`` and ``contraction_by_observation`` (N, D); ``z_mean_by_parameter``, signed, ``z_std_by_parameter`` and
    ``rmse_by_parameter`` (D,).
    """

    needs: ClassVar[tuple[str, ...]] = ("posteriors",)
    columns: ClassVar[tuple[Column, ...]] = (
        Column(
            "z_mean",
            "lower",
            "|mean z-score| of the posterior mean, mean over parameters; 0 is perfect",
            None,
            0.15,
            0.4,
        ),
        Column("z_std_error", "zero", "spread of the z-scores less 1; positive: overconfident", None, 0.1, 0.25),
        Column("contraction", "none", "1 - posterior variance / prior variance, mean over parameters"),
        Column("posterior_rmse", "lower", "RMSE of the posterior mean, in standard deviations of the prior"),
        Column("log_posterior_truth", "higher", "mean log q(true theta | x), nats"),
        Column("log_posterior_truth_se", "none", "standard error of log_posterior_truth over observations"),
    )

    def __call__(self, evaluation: Evaluation) -> dict[str, float | str | Tensor]:
        """See the class."""
        posteriors = usable(evaluation)
        same = int((posteriors.draws == posteriors.draws[0]).all(0).any(-1).sum())
        if same:
            raise NotComputed(f"of {same} observations all draws of a parameter are the same: no spread, no z-score")
        z, contraction, error = posterior_error(posteriors)
        mean, rmse = z.mean(0), error.square().mean(0).sqrt()
        truth = "q is known up to a constant only: no evidence was computed"
        scores = posteriors.truth_log_prob.double()
        if posteriors.normalised:
            excluded = int(scores.isneginf().sum())
            truth = f"q excludes the truth at {excluded} of {len(scores)} observations" if excluded else ""
        return {
            "z_mean": float(mean.abs().mean()),
            "z_std_error": float((z - mean).square().mean().sqrt() - 1),
            "contraction": float(contraction.mean()),
            "posterior_rmse": float(rmse.mean()),
            "log_posterior_truth": truth or float(scores.mean()),
            "log_posterior_truth_se": truth or float(scores.std() / len(scores) ** 0.5),
            "z": z,
            "contraction_by_observation": contraction,
            "z_mean_by_parameter": mean,
            "z_std_by_parameter": z.std(0),
            "rmse_by_parameter": rmse,
        }


def posterior_error(posteriors: Posteriors) -> tuple[Tensor, Tensor, Tensor]:
    """z-scores, contractions, and errors of the mean in units of the prior's spread; ``(N, D)`` each.

    Args:
        posteriors: draws, truths, and draws from the prior.
    """
    draws, truth = posteriors.draws.double(), posteriors.truth.double()
    prior = posteriors.prior_draws.double().var(0).to(draws.device)
    mean, variance = draws.mean(0), draws.var(0)
    return (mean - truth) / variance.sqrt(), 1 - variance / prior, (mean - truth) / prior.sqrt()
