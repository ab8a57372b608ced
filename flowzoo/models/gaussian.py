"""The linear-Gaussian conditional baseline, in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from flowzoo.bijectors import Bijector
from flowzoo.flow import ConditionalFlow
from flowzoo.registry import MODELS


@MODELS.register
@dataclass(frozen=True)
class Gaussian:
    r""":math:`u \mid c \sim \mathcal N(A c + b, \Sigma)` in network units, with the maps of the flows.

    A and b are least squares, of minimum norm where the contexts do not determine them; :math:`\Sigma` is the
    Ledoit-Wolf shrinkage of the residuals' covariance to a multiple of the identity (Ledoit and Wolf 2004, J. Multivar.
    Anal. 88, equations 14 to 16, as scikit-learn computes it), which is positive definite at 4096 dimensions
    with 600 events. What a flow must beat. It has no parameters to train: ``initialize`` fits it.
    """

    family: ClassVar[str] = "baseline"
    backend: ClassVar[str] = "flowzoo"
    events: ClassVar[str] = "any (flattened)"
    contexts: ClassVar[str] = "any (flattened)"
    inverse: ClassVar[str] = "closed form"
    paper: ClassVar[str] = "Ledoit and Wolf 2004, J. Multivar. Anal. 88"

    def build(
        self,
        event_shape: Sequence[int],
        context_shape: Sequence[int],
        *,
        x_map: Bijector | None = None,
        context_map: Bijector | None = None,
    ) -> ConditionalFlow:
        """See ``flowzoo.models.ModelConfig``."""
        return _LinearGaussian(event_shape, context_shape, x_map=x_map, context_map=context_map)

    @classmethod
    def suggest(cls, trial: Any) -> Gaussian:
        """Nothing to tune."""
        return cls()


class _LinearGaussian(ConditionalFlow):
    init_events = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        features, context = self.event_shape.numel(), self.context_shape.numel()
        self.weight: Tensor
        self.bias: Tensor
        self.cholesky: Tensor
        self.register_buffer("weight", torch.zeros(features, context))
        self.register_buffer("bias", torch.zeros(features))
        self.register_buffer("cholesky", torch.eye(features))

    def _initialize(self, u: Tensor, c: Tensor) -> None:
        from sklearn.covariance import ledoit_wolf

        # On the host in float64, once: a closed form is worth its digits.
        u, c = u.flatten(1).double().cpu(), c.flatten(1).double().cpu()
        design = torch.cat([c, torch.ones(len(c), 1, dtype=c.dtype)], 1)
        solution = torch.linalg.lstsq(design, u, driver="gelsd").solution
        residual = u - design @ solution
        if float(residual.square().mean()) <= 1e-20 * float(u.square().mean()):
            raise ValueError(
                f"the {len(c)} training events are determined by their {c.shape[1]} columns of context: "
                "nothing is left to scatter. Give more events than columns, or fewer columns."
            )
        covariance, _ = ledoit_wolf(residual.numpy(), assume_centered=True)
        self.weight.copy_(solution[:-1].T)
        self.bias.copy_(solution[-1])
        self.cholesky.copy_(torch.linalg.cholesky(torch.from_numpy(covariance)))

    def _to_latent(self, u: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        residual = u.flatten(1) - self._mean(c)
        z = torch.linalg.solve_triangular(self.cholesky, residual.T, upper=False).T
        return z.reshape(u.shape), -self._log_det(u)

    def _to_data(self, z: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        u = z.flatten(1) @ self.cholesky.T + self._mean(c)
        return u.reshape(z.shape), self._log_det(z)

    def _mean(self, c: Tensor) -> Tensor:
        return c.flatten(1) @ self.weight.T + self.bias

    def _log_det(self, like: Tensor) -> Tensor:
        return self.cholesky.diagonal().log().sum().expand(len(like))
