"""``Inferred``: what was found of the parameters of each observation."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Inferred:
    """Draws from the posterior of each of K observations, and how far they can be trusted.

    Args:
        theta: ``(L, K, D)`` draws of equal weight, in float64, in the units of the parameters.
        log_prob: ``(L, K)`` log posterior density of each; normalised where ``log_evidence`` is known, otherwise up to
            a constant for each observation. With a likelihood and a prior without a density it is the log of posterior
            over prior.
        log_evidence: ``(K,)`` log of the integral of likelihood times prior; zeros for a posterior flow; None where
            it is not known.
        best: ``(K, D)``, the parameters of the highest posterior density that were found (MAP); NaN where a likelihood
            has a prior without a density.
        method: grid, importance, mcmc, or direct for a posterior flow.
        diagnostics: numbers ``(K,)`` by name, those that the method has.
        warnings: a line each.
    """

    theta: Tensor
    log_prob: Tensor
    log_evidence: Tensor | None
    best: Tensor
    method: str
    diagnostics: dict[str, Tensor] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def mean(self) -> Tensor:
        """``(K, D)``."""
        return self.theta.mean(0)

    @property
    def std(self) -> Tensor:
        """``(K, D)``; NaN for a single draw."""
        return self.covariance.diagonal(dim1=-2, dim2=-1).sqrt()

    @property
    def covariance(self) -> Tensor:
        """``(K, D, D)``; NaN for a single draw."""
        centred = self.theta - self.mean
        many = len(centred) - 1 if len(centred) > 1 else float("nan")
        return torch.einsum("lki,lkj->kij", centred, centred) / many

    def quantile(self, levels: Tensor | list[float]) -> Tensor:
        """Of each parameter: ``(Q,)`` levels in [0, 1] to ``(Q, K, D)``, interpolated between draws."""
        ordered = self.theta.sort(0).values
        where = torch.as_tensor(levels, dtype=torch.float64, device=ordered.device) * (len(ordered) - 1)
        below = where.floor().long()
        above = (below + 1).clamp_max(len(ordered) - 1)
        return torch.lerp(ordered[below], ordered[above], (where - below)[:, None, None])

    def interval(self, level: float = 0.68) -> Tensor:
        """Equal-tailed credible interval of each parameter: ``(K, D, 2)``.

        Raises:
            ValueError: unless 0 < level < 1.
        """
        _check(level)
        return self.quantile([(1 - level) / 2, (1 + level) / 2]).movedim(0, -1)

    def hdi(self, level: float = 0.68) -> Tensor:
        """The shortest interval that holds a share ``level`` of the draws, of each parameter: ``(K, D, 2)``.

        For a marginal of several peaks it is one interval all the same.

        Raises:
            ValueError: unless 0 < level < 1.
        """
        _check(level)
        ordered = self.theta.sort(0).values
        held = min(len(ordered) - 1, max(1, round(level * len(ordered)))) if len(ordered) > 1 else 0
        widths = ordered[held:] - ordered[: len(ordered) - held]
        start = widths.argmin(0, keepdim=True)
        return torch.stack([ordered.gather(0, start)[0], ordered.gather(0, start + held)[0]], -1)


def _check(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, such as 0.68; got {level}")


def of_observations(bad: Tensor) -> str:
    """How many of the K observations are marked in ``(K,)`` booleans, in words."""
    return f"{int(bad.sum())} of {len(bad)} observations"
