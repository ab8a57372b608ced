"""Adapter to normflows 1.7 (Stimper et al. 2023, arXiv:2302.12014).

In normflows ``forward`` goes from latent to data and ``inverse`` back, the opposite of nflows. The sampling
of its models is left out, because their bases take no generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import ClassVar

import torch
from normflows import MultiscaleFlow
from normflows.distributions import GlowBase
from normflows.flows import (
    ActNorm,
    CoupledRationalQuadraticSpline,
    GlowBlock,
    LULinearPermute,
    Merge,
    Squeeze,
)
from torch import Tensor, nn

from flowzoo.base import DiagonalNormal
from flowzoo.bijectors import Bijector
from flowzoo.flow import ConditionalFlow
from flowzoo.models._spline_coupling import SplineCouplingConfig


class Chain(nn.Module):
    """normflows layers in the order from latent to data; ``forward`` goes from data to latent.

    The log-determinants are summed here, because normflows sums those of a float64 model in float32.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, u: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Data ``(N, D)`` to latent, with the log|det| ``(N,)``."""
        total = u.new_zeros(len(u))
        for layer in reversed(self.layers):
            u, log_det = layer.inverse(u, context=context)  # type: ignore[operator]
            total = total + log_det
        return u, total

    def inverse(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Latent ``(N, D)`` to data, with the log|det| ``(N,)``."""
        total = z.new_zeros(len(z))
        for layer in self.layers:
            z, log_det = layer(z, context=context)
            total = total + log_det
        return z, total


def spline_chain(config: SplineCouplingConfig, features: int, context_features: int) -> Chain:
    """Rational-quadratic couplings with linear tails, each with a permutation and a learned linear map.

    Args:
        config: the options.
        features: length D of the flattened event.
        context_features: length C of the flattened context, 0 for none.
    """
    layers: list[nn.Module] = []
    for step in range(config.num_steps):
        layers.append(
            CoupledRationalQuadraticSpline(
                features,
                config.num_blocks,
                config.hidden_features,
                num_context_channels=context_features or None,
                num_bins=config.num_bins,
                tail_bound=config.tail_bound,
                reverse_mask=step % 2 == 1,
            )
        )
        layers.append(LULinearPermute(features))
    return Chain(layers)


def glow(
    event_shape: Sequence[int],
    *,
    num_classes: int,
    num_levels: int,
    num_steps: int,
    hidden_features: int,
    scale_map: str,
) -> MultiscaleFlow:
    """normflows' multiscale Glow for images ``(C, H, W)``, coarsest level first; 0 classes: unconditional."""
    channels, height, width = event_shape
    bases, levels, merges = [], [], []
    for level in range(num_levels):
        # Each squeeze on the way here gave 4 times the channels, and half of them left before the next one.
        depth = num_levels - level
        inside = channels * 2 ** (depth + 1)
        # The LU form of the 1x1 convolution would call torch.lu, which torch is about to remove.
        steps = [GlowBlock(inside, hidden_features, scale_map=scale_map, use_lu=False) for _ in range(num_steps)]
        levels.append([*steps, Squeeze()])
        if level > 0:
            merges.append(Merge())
        outside = inside if level == 0 else inside // 2
        shape = (outside, height // 2**depth, width // 2**depth)
        bases.append(GlowBase(shape, num_classes or None))
    model = MultiscaleFlow(bases, levels, merges, class_cond=num_classes > 0)
    for norm in _actnorms(model):
        # normflows keeps "initialised" in a buffer that every call reads (a wait for the GPU) and that the
        # first call replaces by one on the CPU. An ordinary attribute in its place costs nothing to read. It
        # says done, because evaluating a flow must not change it; `GlowFlow._initialize` lifts it.
        del norm.data_dep_init_done
        norm.data_dep_init_done = True
    return model


class GlowFlow(ConditionalFlow):
    """A normflows ``MultiscaleFlow`` of Glow blocks as a ``ConditionalFlow``.

    The latent is the event's shape filled with the levels' latents one after the other, coarsest first.
    """

    # An actnorm averages over events and pixels, so it needs no more; the activations of more cost gigabytes.
    init_events: ClassVar[int | None] = 1024

    def __init__(
        self,
        model: MultiscaleFlow,
        event_shape: Sequence[int],
        context_shape: Sequence[int],
        *,
        x_map: Bijector | None = None,
        context_map: Bijector | None = None,
    ) -> None:
        super().__init__(event_shape, context_shape, x_map=x_map, context_map=context_map)
        self.model = model

    def _to_latent(self, u: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        parts, log_det = self.model.inverse_and_log_det(u)
        return self._join(parts), log_det

    def _to_data(self, z: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        shapes = [base.shape for base in self.model.q0]
        flat = z.flatten(1).split([prod(shape) for shape in shapes], dim=1)
        parts = [part.reshape(-1, *shape) for part, shape in zip(flat, shapes, strict=True)]
        u, log_det = self.model.forward_and_log_det(parts)
        return u, log_det

    def _base(self, c: Tensor) -> DiagonalNormal:
        """The ``GlowBase`` of every level, in the layout of the latent."""
        locs, log_scales = [], []
        for base in self.model.q0:
            loc = base.loc * torch.exp(base.loc_logs * base.logscale_factor)
            log_scale = base.log_scale * torch.exp(base.log_scale_logs * base.logscale_factor)
            if base.class_cond:
                loc = loc + (c @ base.loc_cc)[:, :, None, None]
                log_scale = log_scale + (c @ base.log_scale_cc)[:, :, None, None]
            locs.append(loc.expand(-1, *base.shape))
            log_scales.append(log_scale.expand(-1, *base.shape))
        return DiagonalNormal(self._join(locs), self._join(log_scales))

    def _initialize(self, u: Tensor, c: Tensor) -> None:
        """Let normflows set its actnorms by one pass over these events."""
        norms = _actnorms(self.model)
        try:
            for norm in norms:
                norm.data_dep_init_done = False
            self.model.inverse_and_log_det(u)
        finally:
            for norm in norms:
                norm.data_dep_init_done = True

    def _join(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat([part.flatten(1) for part in parts], dim=1).reshape(-1, *self.event_shape)


def _actnorms(model: nn.Module) -> list[ActNorm]:
    return [module for module in model.modules() if isinstance(module, ActNorm)]
