"""Priors evaluated on the CPU: marginals of scipy, and draws without a density."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowzoo.inference.priors import Prior


class Product(Prior):
    """Independent parameters, each with a frozen continuous distribution of ``scipy.stats``.

    Evaluated by scipy, on the CPU.

    Args:
        marginals: such as ``[scipy.stats.norm(0.7, 0.05), scipy.stats.beta(2, 5)]``.

    Raises:
        ValueError: for anything that is not a frozen distribution with a density.
    """

    def __init__(self, marginals: Sequence[Any]) -> None:
        if len(marginals) == 0:
            raise ValueError("a prior needs a distribution for each parameter; got none")
        for marginal in marginals:
            if not (hasattr(marginal, "logpdf") and hasattr(marginal, "dist")):
                raise ValueError(
                    f"a prior needs frozen continuous distributions, such as scipy.stats.norm(0, 1); got {marginal!r}"
                )
        self.marginals = tuple(marginals)
        low, high = zip(*(marginal.support() for marginal in marginals), strict=True)
        self.low = torch.tensor([float(value) for value in low], dtype=torch.float64)
        self.high = torch.tensor([float(value) for value in high], dtype=torch.float64)

    def log_prob(self, theta: Tensor) -> Tensor:
        """See ``Prior``."""
        # What float32 rounded to beyond an end counts as on it; and a hair inside, or scipy's own rounding loses it.
        low, high = self.low.to(theta.device), self.high.to(theta.device)
        hair = torch.where((high - low).isfinite(), 1e-12 * (high - low), 0.0)
        held = torch.minimum(torch.maximum(self._check(theta), low + hair), high - hair)
        found = self._each(held, "logpdf").sum(-1)
        return torch.where(self.covers(theta), found, -torch.inf).to(theta.dtype)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """See ``Prior``."""
        # In float64: of float32 numbers one in 2^24 is zero, where a normal is minus infinity.
        u = torch.rand(count, self.dim, generator=generator, device=generator.device, dtype=torch.float64)
        return self.from_unit(u.clamp_min(2**-54)).float()

    def to_unit(self, theta: Tensor) -> Tensor:
        """See ``Prior``."""
        return self._each(theta, "cdf").to(theta.dtype)

    def from_unit(self, u: Tensor) -> Tensor:
        """See ``Prior``."""
        return self._each(u, "ppf").to(u.dtype)

    def describe(self) -> dict[str, Any]:
        """See ``Prior``."""
        return {"kind": "product", "marginals": [_call_of(marginal) for marginal in self.marginals]}

    def _each(self, value: Tensor, method: str) -> Tensor:
        columns = self._check(value).detach().cpu().numpy()
        found = [getattr(m, method)(columns[..., i]) for i, m in enumerate(self.marginals)]
        return torch.from_numpy(np.stack(found, -1)).to(value.device)


class Samples(Prior):
    """A prior of which draws are known, and no density: importance sampling needs no more.

    Args:
        theta: ``(M, D)`` draws.

    Raises:
        ValueError: for fewer than two draws, or draws that are not finite.
    """

    has_density = False

    def __init__(self, theta: Tensor | np.ndarray | Sequence[Sequence[float]]) -> None:
        self.theta = torch.as_tensor(theta, dtype=torch.float64, device="cpu")
        if self.theta.ndim != 2 or len(self.theta) < 2 or not bool(self.theta.isfinite().all()):
            raise ValueError(f"samples of a prior must be (M, D), finite, M >= 2; got {tuple(self.theta.shape)}")
        self.low, self.high = self.theta.amin(0), self.theta.amax(0)
        self._sorted = self.theta.sort(0).values

    def log_prob(self, theta: Tensor) -> Tensor:
        """Not known.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "a prior given by samples has no density, and nor have posteriors under it, which can be drawn (method "
            "importance) but not scored or calibrated; for that give the prior as a distribution"
        )

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """``(count, D)`` of the draws, with replacement."""
        rows = torch.randint(len(self.theta), (count,), generator=generator, device=generator.device)
        return self.theta.to(rows.device)[rows].float()

    def sample_once(self, count: int, generator: torch.Generator) -> Tensor:
        """Of the draws ``count`` or, if there are fewer, all, each once and in any order: ``(at most count, D)``."""
        rows = torch.randperm(len(self.theta), generator=generator, device=generator.device)[:count]
        return self.theta.to(rows.device)[rows]

    def to_unit(self, theta: Tensor) -> Tensor:
        """By the share of the draws below, interpolated."""
        return self._interpolated(theta, inverse=False)

    def from_unit(self, u: Tensor) -> Tensor:
        """See ``Prior``."""
        return self._interpolated(u, inverse=True)

    def describe(self) -> dict[str, Any]:
        """See ``Prior``."""
        return {"kind": "samples", "theta": self.theta.tolist()}

    def _interpolated(self, value: Tensor, *, inverse: bool) -> Tensor:
        columns, u = self._check(value).detach().cpu().numpy(), np.linspace(0, 1, len(self.theta))
        known = self._sorted.cpu().numpy()
        pairs = [(u, known[:, i]) if inverse else (known[:, i], u) for i in range(self.dim)]
        found = [np.interp(columns[..., i], *pair) for i, pair in enumerate(pairs)]
        return torch.from_numpy(np.stack(found, -1)).to(value)


def _call_of(marginal: Any) -> str:
    """A frozen distribution as ``prior_text`` reads it."""
    name, args, keywords = marginal.dist.name, list(marginal.args), dict(marginal.kwds)
    if name == "uniform":  # scipy's own takes (loc, scale)
        low, high = marginal.support()
        return f"uniform({float(low)!r}, {float(high)!r})"
    parts = [repr(float(value)) for value in args] + [f"{key}={float(value)!r}" for key, value in keywords.items()]
    return f"{name}({', '.join(parts)})"
