"""The base p(z) of a flow."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class DiagonalNormal:
    """The base p(z): independent normals, one per latent; ``loc`` and ``log_scale`` broadcast to ``(N, *event)``.

    Anything richer than this is a layer of the flow, so that the sampler and the density cannot disagree.
    """

    loc: Tensor | float = 0.0
    log_scale: Tensor | float = 0.0

    def log_prob(self, z: Tensor) -> Tensor:
        """``(N, *event)`` to ``(N,)``, in nats."""
        log_scale = _beside(z, self.log_scale)
        standard = (z - self.loc) * torch.exp(-log_scale)
        each = -0.5 * standard.square() - log_scale - 0.5 * math.log(2 * math.pi)
        return each.flatten(1).sum(1)

    def from_noise(self, noise: Tensor) -> Tensor:
        """Standard-normal noise to a draw of this base."""
        return noise * torch.exp(_beside(noise, self.log_scale)) + self.loc


def _beside(z: Tensor, value: Tensor | float) -> Tensor:
    """A number as a tensor like those beside it: filled there, for a copy makes a GPU wait and ends a capture."""
    return value.to(z) if isinstance(value, Tensor) else torch.full((), value, dtype=z.dtype, device=z.device)
