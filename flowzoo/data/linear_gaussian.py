"""A linear Gaussian model, in which density, posterior and entropy are known: the judge of the whole path."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from flowzoo.data._data import Data, References
from flowzoo.data._direction import Direction, directed
from flowzoo.inference import Gaussian
from flowzoo.registry import DATASETS
from flowzoo.seeding import generator

_OBSERVATIONS, _DRAWS = 10, 2000  # of the reference posteriors


@DATASETS.register
@dataclass(frozen=True)
class LinearGaussian:
    r"""x given theta, all without units, with every answer in closed form.

    .. math:: \theta \sim N(0, I_k),\quad x = A\theta + b + \epsilon,\quad \epsilon \sim N(0, S)

    A (entries N(0, 1/k)), b (N(0, 1)) and S are drawn from the seed; :math:`S = \mathrm{noise}^2
    (I + L L^\top / d)`, L with standard normal entries, is not diagonal, and its condition number is of
    order 5. A flow that is right reaches ``excess_nll`` near 0; ``references`` of its ``Data`` hold

    - ``"posterior"``: ``posterior(x)``, the ``MultivariateNormal`` of theta given x,
    - ``"nll"``: the entropy of x given theta in nats, which is the best NLL that can be expected; with
      ``direction="posterior"`` that of theta given x.

    ``reference_posteriors`` are ten observations by a seed of their own with 2000 exact draws each.

    Args:
        num_events: pairs (theta, x) drawn.
        dim: dimension d of x.
        context_dim: dimension k of theta; 0 is the unconditional N(b, S).
        noise: scale of eps.
        seed: of A, b, S and of the draws.
        direction: ``posterior``: the events are theta, given x.
    """

    num_events: int = 10_000
    dim: int = 4
    context_dim: int = 3
    noise: float = 0.5
    seed: int = 0
    direction: Direction = "likelihood"

    def load(self) -> Data:
        """Draw theta from the prior and x from the simulator.

        Raises:
            ValueError: if a size or the noise is out of range, or ``direction="posterior"`` has no theta.
        """
        if self.num_events < 1 or self.dim < 1 or self.context_dim < 0 or not 0 < self.noise < math.inf:
            raise ValueError(
                "linear_gaussian needs num_events >= 1, dim >= 1, context_dim >= 0 and noise > 0; got "
                f"{self.num_events}, {self.dim}, {self.context_dim}, {self.noise}"
            )
        k = self.context_dim
        theta = torch.randn(self.num_events, k, generator=generator(self.seed, "theta"))
        _, _, tril = self._system
        entropy = 0.5 * self.dim * (1 + math.log(2 * math.pi)) + float(tril.diagonal().log().sum())
        references: dict[str, Any] = {"nll": entropy}
        prior = None
        if k:
            references["posterior"] = self.posterior
            prior = Gaussian([0.0] * k, [1.0] * k)
        data = Data(
            x=self.simulate(theta, generator(self.seed, "x")),
            context=theta if k else None,
            names=tuple(f"x{i + 1}" for i in range(self.dim)),
            context_names=tuple(f"theta{i + 1}" for i in range(k)),
            prior=prior,
            simulate=self.simulate,
            true_log_prob=self.true_log_prob,
            references=references,
            reference_posteriors=self.reference_posteriors if k else None,
        )
        if self.direction == "likelihood":
            return data
        if not k:
            raise ValueError("direction 'posterior' is of theta, and context_dim is 0; give it at least one parameter")
        # The covariance, and with it the entropy, is the same for every x.
        entropy = float(self.posterior(torch.zeros(self.dim)).entropy())
        return replace(
            directed(data, self.direction),
            true_log_prob=self.posterior_log_prob,
            references={"nll": entropy, "posterior": self.posterior},
        )

    def simulate(self, theta: Tensor, generator: torch.Generator) -> Tensor:
        """Draw x ``(..., d)`` for theta ``(..., k)``; the generator may be on another device."""
        _, _, tril = self._system
        shape = (*theta.shape[:-1], self.dim)
        noise = torch.randn(shape, generator=generator, device=generator.device).to(theta.device).double()
        return (self._mean(theta) + noise @ tril.T.to(theta.device)).to(theta.dtype)

    def true_log_prob(self, x: Tensor, context: Tensor) -> Tensor:
        """log N(x; A theta + b, S) in nats: ``(..., d)`` and ``(..., k)`` to ``(...)``."""
        tril = self._system[2].to(x.device)
        exact = MultivariateNormal(self._mean(context), scale_tril=tril, validate_args=False)
        return exact.log_prob(x.double()).to(x.dtype)

    def posterior(self, x: Tensor) -> MultivariateNormal:
        r"""The exact p(theta | x) of each x ``(..., d)``: batch ``(...)``, event ``(k,)``, in float64.

        .. math:: \Sigma = (I + A^\top S^{-1} A)^{-1},\qquad \mu = \Sigma A^\top S^{-1} (x - b)

        (Bishop 2006, Pattern Recognition and Machine Learning, section 2.3.3).
        """
        a, b, tril = (t.to(x.device) for t in self._system)
        whitened = torch.linalg.solve_triangular(tril, a, upper=False)
        precision = torch.eye(self.context_dim, dtype=a.dtype, device=a.device) + whitened.T @ whitened
        residual = torch.linalg.solve_triangular(tril, (x.double() - b).reshape(-1, self.dim).T, upper=False)
        mean = torch.linalg.solve(precision, whitened.T @ residual).T.reshape(*x.shape[:-1], self.context_dim)
        return MultivariateNormal(mean, precision_matrix=precision)

    def posterior_log_prob(self, theta: Tensor, x: Tensor) -> Tensor:
        """log p(theta | x) in nats: ``(..., k)`` and ``(..., d)`` to ``(...)``."""
        return self.posterior(x).log_prob(theta.double()).to(theta.dtype)

    def reference_posteriors(self) -> References:
        """Ten observations that are no events, and draws ``(10, 2000, k)`` of their posteriors."""
        truth = torch.randn(_OBSERVATIONS, self.context_dim, generator=generator(self.seed, "observation theta"))
        x = self.simulate(truth, generator(self.seed, "observation"))
        exact = self.posterior(x)
        shape, source = (_DRAWS, *truth.shape), generator(self.seed, "reference")
        noise = torch.randn(shape, generator=source, dtype=torch.float64)
        theta = exact.mean + (exact.scale_tril @ noise[..., None])[..., 0]
        return References(x, theta.transpose(0, 1).float(), truth, note="exact draws of the closed form")

    def _mean(self, theta: Tensor) -> Tensor:
        a, b, _ = (t.to(theta.device) for t in self._system)
        return theta.double() @ a.T + b

    @cached_property
    def _system(self) -> tuple[Tensor, Tensor, Tensor]:
        """A ``(d, k)``, b ``(d,)`` and the Cholesky factor of S ``(d, d)``, in float64."""
        source = generator(self.seed, "system")
        d, k = self.dim, self.context_dim
        a = torch.randn(d, k, generator=source, dtype=torch.float64) / math.sqrt(max(k, 1))
        b = torch.randn(d, generator=source, dtype=torch.float64)
        factor = torch.randn(d, d, generator=source, dtype=torch.float64)
        covariance = torch.eye(d, dtype=torch.float64) + factor @ factor.T / d
        return a, b, self.noise * torch.linalg.cholesky(covariance)
