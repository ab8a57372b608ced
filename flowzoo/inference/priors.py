r"""Priors p(theta): what a posterior needs of one, and those in closed form (the others: ``_scipy_priors``).

Parameters are ``(..., D)`` in their own units, D numbers each. A prior is described by plain JSON values
(``describe``; ``prior_text.from_description``), so that it travels with a trained flow and is written in YAML.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flowzoo.held import held_on

ROUNDED = 2.0**-23  # relative; of a float32 number, which parameters come as


class Prior:
    """A density of D parameters.

    ``low`` and ``high``, ``(D,)`` in float64, bound its support; they may be infinite.
    """

    low: Tensor
    high: Tensor
    #: whether ``log_prob`` is known; a prior given by samples alone has none
    has_density: bool = True

    @property
    def dim(self) -> int:
        """Number of parameters D."""
        return len(self.low)

    def log_prob(self, theta: Tensor) -> Tensor:
        """log p(theta): ``(..., D)`` to ``(...)``, minus infinity outside the support, never an exception."""
        raise NotImplementedError

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """``(count, D)`` float32 draws, on the device of the generator."""
        raise NotImplementedError

    def to_unit(self, theta: Tensor) -> Tensor:
        """Each parameter through the distribution function of its marginal: ``(..., D)`` to ``(..., D)`` in [0, 1]."""
        raise NotImplementedError

    def from_unit(self, u: Tensor) -> Tensor:
        """The inverse of ``to_unit``: marginal quantiles."""
        raise NotImplementedError

    def log_copula(self, theta: Tensor) -> Tensor:
        """log p(theta) less those of its marginals, ``(..., D)`` to ``(...)``.

        Zero for independent parameters; a prior that correlates them says so here, or grids and walkers are wrong.
        """
        return torch.zeros(theta.shape[:-1], dtype=theta.dtype, device=theta.device)

    def describe(self) -> dict[str, Any]:
        """Plain JSON values that ``from_description`` makes the same prior of."""
        raise NotImplementedError

    def bounds(self, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """The ends of the support, ``(D,)`` each, as far out as float32 may round them: 0.3 to 0.30000001."""
        low, high = held_on(self.low, device), held_on(self.high, device)
        return low - ROUNDED * low.abs(), high + ROUNDED * high.abs()

    def covers(self, theta: Tensor) -> Tensor:
        """Whether each of ``(..., D)`` lies in the ``bounds`` of the support: ``(...)`` booleans."""
        (low, high), value = self.bounds(theta.device), theta.double()
        return ((value >= low) & (value <= high)).all(-1)

    def _check(self, theta: Tensor) -> Tensor:
        if theta.ndim < 1 or theta.shape[-1] != self.dim:
            raise ValueError(f"theta must be (..., {self.dim}), as the prior has it; got {tuple(theta.shape)}")
        return theta.double()


class Box(Prior):
    """Uniform between ``low`` and ``high``, ``(D,)`` each.

    Raises:
        ValueError: unless low < high, finite, of one length.
    """

    def __init__(self, low: Sequence[float] | Tensor, high: Sequence[float] | Tensor) -> None:
        self.low, self.high = _vector(low, "low"), _vector(high, "high", len(low))
        if not bool((self.low < self.high).all()):
            raise ValueError(f"a box needs low < high; got low {self.low.tolist()} and high {self.high.tolist()}")

    def log_prob(self, theta: Tensor) -> Tensor:
        """See ``Prior``."""
        self._check(theta)
        volume = float((self.high - self.low).log().sum())
        return torch.where(self.covers(theta), theta.new_full((), -volume), -math.inf)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """See ``Prior``."""
        u = torch.rand(count, self.dim, generator=generator, device=generator.device)
        return self.low.to(u) + (self.high.to(u) - self.low.to(u)) * u

    def to_unit(self, theta: Tensor) -> Tensor:
        """See ``Prior``."""
        low, high = held_on(self.low, theta.device), held_on(self.high, theta.device)
        return ((self._check(theta) - low) / (high - low)).clamp(0, 1).to(theta.dtype)

    def from_unit(self, u: Tensor) -> Tensor:
        """See ``Prior``."""
        low, high = held_on(self.low, u.device), held_on(self.high, u.device)
        return (low + (high - low) * self._check(u)).to(u.dtype)

    def describe(self) -> dict[str, Any]:
        """See ``Prior``."""
        return {"kind": "box", "low": self.low.tolist(), "high": self.high.tolist()}


class Gaussian(Prior):
    """N(mean, covariance), ``(D,)`` and ``(D, D)``, or ``(D,)`` variances of a diagonal one.

    Raises:
        ValueError: if the covariance is not symmetric and positive definite.
    """

    def __init__(self, mean: Sequence[float] | Tensor, covariance: Sequence[Any] | Tensor) -> None:
        self.mean = _vector(mean, "mean")
        given = torch.as_tensor(covariance, dtype=torch.float64, device="cpu")
        self.covariance = given.diag() if given.ndim == 1 else given
        if self.covariance.shape != (self.dim, self.dim):
            raise ValueError(f"covariance must be {(self.dim, self.dim)}; got {tuple(given.shape)}")
        self._tril, info = torch.linalg.cholesky_ex(self.covariance)
        if int(info) or not torch.allclose(self.covariance, self.covariance.T):
            raise ValueError("covariance must be symmetric and positive definite")
        self.low, self.high = torch.full_like(self.mean, -math.inf), torch.full_like(self.mean, math.inf)

    @property
    def dim(self) -> int:
        """Number of parameters D."""
        return len(self.mean)

    def log_prob(self, theta: Tensor) -> Tensor:
        """See ``Prior``."""
        mean, tril = held_on(self.mean, theta.device), held_on(self._tril, theta.device)
        exact = torch.distributions.MultivariateNormal(mean, scale_tril=tril, validate_args=False)
        return exact.log_prob(self._check(theta)).to(theta.dtype)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """See ``Prior``."""
        noise = torch.randn(count, self.dim, generator=generator, device=generator.device)
        return self.mean.to(noise) + noise @ self._tril.T.to(noise)

    def to_unit(self, theta: Tensor) -> Tensor:
        """See ``Prior``."""
        mean, spread = held_on(self.mean, theta.device), held_on(self.covariance, theta.device).diagonal().sqrt()
        return torch.special.ndtr((self._check(theta) - mean) / spread).to(theta.dtype)

    def from_unit(self, u: Tensor) -> Tensor:
        """See ``Prior``."""
        mean, spread = held_on(self.mean, u.device), held_on(self.covariance, u.device).diagonal().sqrt()
        return (mean + spread * torch.special.ndtri(self._check(u))).to(u.dtype)

    def log_copula(self, theta: Tensor) -> Tensor:
        """See ``Prior``."""
        mean, variance = held_on(self.mean, theta.device), held_on(self.covariance, theta.device).diagonal()
        squares = (self._check(theta) - mean).square() / variance
        marginals = -0.5 * (squares + variance.log() + math.log(2 * math.pi)).sum(-1)
        return (self.log_prob(theta.double()) - marginals).to(theta.dtype)

    def describe(self) -> dict[str, Any]:
        """See ``Prior``."""
        return {"kind": "gaussian", "mean": self.mean.tolist(), "covariance": self.covariance.tolist()}


class LogNormal(Prior):
    r"""Independent :math:`\log\theta_d \sim N(\mu_d, \sigma_d^2)`, ``(D,)`` each.

    Raises:
        ValueError: unless every sigma is positive.
    """

    def __init__(self, mu: Sequence[float] | Tensor, sigma: Sequence[float] | Tensor) -> None:
        self.mu, self.sigma = _vector(mu, "mu"), _vector(sigma, "sigma", len(mu))
        if not bool((self.sigma > 0).all()):
            raise ValueError(f"sigma must be positive; got {self.sigma.tolist()}")
        self.low, self.high = torch.zeros_like(self.mu), torch.full_like(self.mu, math.inf)

    def log_prob(self, theta: Tensor) -> Tensor:
        """See ``Prior``."""
        value, (mu, sigma) = self._check(theta), self._on(theta)
        positive = value > 0
        log = value.where(positive, 1.0).log()
        each = -0.5 * ((log - mu) / sigma).square() - log - sigma.log() - 0.5 * math.log(2 * math.pi)
        return each.where(positive, -math.inf).sum(-1).to(theta.dtype)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """See ``Prior``."""
        noise = torch.randn(count, self.dim, generator=generator, device=generator.device)
        return (self.mu.to(noise) + self.sigma.to(noise) * noise).exp()

    def to_unit(self, theta: Tensor) -> Tensor:
        """See ``Prior``."""
        mu, sigma = self._on(theta)
        return torch.special.ndtr((self._check(theta).clamp_min(0).log() - mu) / sigma).to(theta.dtype)

    def from_unit(self, u: Tensor) -> Tensor:
        """See ``Prior``."""
        mu, sigma = self._on(u)
        return (mu + sigma * torch.special.ndtri(self._check(u))).exp().to(u.dtype)

    def describe(self) -> dict[str, Any]:
        """See ``Prior``."""
        return {"kind": "lognormal", "mu": self.mu.tolist(), "sigma": self.sigma.tolist()}

    def _on(self, like: Tensor) -> tuple[Tensor, Tensor]:
        return held_on(self.mu, like.device), held_on(self.sigma, like.device)


def _vector(values: Sequence[float] | Tensor, name: str, length: int | None = None) -> Tensor:
    vector = torch.as_tensor(values, dtype=torch.float64, device="cpu")
    if vector.ndim != 1 or len(vector) == 0 or (length is not None and len(vector) != length):
        wanted = f"({length},)" if length is not None else "(D,) with D >= 1"
        raise ValueError(f"{name} must be {wanted}; got {tuple(vector.shape)}")
    if not bool(vector.isfinite().all()):
        raise ValueError(f"{name} must be finite; got {vector.tolist()}")
    return vector
