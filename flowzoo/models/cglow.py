"""Conditional Glow: our own, for images and for vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from flowzoo.bijectors import Bijector
from flowzoo.flow import ConditionalFlow
from flowzoo.layers.actnorm import ActNorm
from flowzoo.layers.chain import Chain
from flowzoo.layers.coupling import AffineCoupling
from flowzoo.layers.linear import LULinear
from flowzoo.layers.multiscale import FactorOut, squeeze, unsqueeze
from flowzoo.nets import ContextConv, ContextMLP, Padding
from flowzoo.registry import MODELS

MAX_LEVELS = 3  # the default number of levels, where the size allows as many


@MODELS.register
@dataclass(frozen=True)
class CGlow:
    r"""Glow whose context enters every layer.

    A step is conditional actnorm, an invertible 1x1 convolution (PLU), and an affine coupling whose network sees half
    of the channels and the context. A level squeezes 2 x 2 pixels into channels, takes K steps, and sets half of the
    channels aside, Gaussianised given the other half and the context. Kingma and Dhariwal 2018, arXiv:1807.03039,
    section 3; conditioned as in HIGlow (Friedman and Hassan 2022, arXiv:2211.12724).

    At the start the conditional parts are neutral: the flow is volume-preserving up to actnorm and does not depend on
    the context. A vector of D features is taken as D channels of one pixel, on one level.

    Args:
        num_steps: steps per level, K.
        num_levels: levels, L; None takes as many as the size of the image allows, up to 3.
        hidden_features: width of the coupling networks.
        padding: how the 3 x 3 convolutions see beyond the border; ``"circular"`` for periodic boxes.
    """

    num_steps: int = 4
    num_levels: int | None = None
    hidden_features: int = 64
    padding: Padding = "zeros"

    family: ClassVar[str] = "coupling, affine, multiscale"
    backend: ClassVar[str] = "flowzoo"
    events: ClassVar[str] = "images (C, H, W), vectors"
    contexts: ClassVar[str] = "vectors"
    inverse: ClassVar[str] = "closed form, one pass"
    paper: ClassVar[str] = "Kingma and Dhariwal 2018, arXiv:1807.03039"

    def build(
        self,
        event_shape: Sequence[int],
        context_shape: Sequence[int],
        *,
        x_map: Bijector | None = None,
        context_map: Bijector | None = None,
    ) -> ConditionalFlow:
        """See ``flowzoo.models.ModelConfig``."""
        if len(event_shape) not in (1, 3):
            raise ValueError(f"cglow takes images (C, H, W) and vectors (D,); got {tuple(event_shape)}")
        if len(context_shape) != 1:
            raise ValueError(f"cglow takes a vector as context; got shape {tuple(context_shape)}")
        image = len(event_shape) == 3
        channels, context = event_shape[0], context_shape[0]
        chains, splits = [], []
        levels = self._levels(event_shape) if image else 1
        for level in range(levels):
            channels = 4 * channels if image else channels
            steps = [self._step(channels, context, image) for _ in range(self.num_steps)]
            chains.append(Chain([layer for step in steps for layer in step]))
            if level < levels - 1:
                kept = channels // 2
                splits.append(FactorOut(channels, self._net(kept, context, 2 * (channels - kept), image)))
                channels = kept
        return _Glow(event_shape, context_shape, chains, splits, x_map=x_map, context_map=context_map)

    def _step(self, channels: int, context: int, image: bool) -> list[nn.Module]:
        kept = channels // 2
        net = self._net(kept, context, 2 * (channels - kept), image)
        hidden = (self.hidden_features,)
        return [ActNorm(channels, context, hidden), LULinear(channels), AffineCoupling(channels, net)]

    def _net(self, channels: int, context: int, out: int, image: bool) -> nn.Module:
        if image:
            return ContextConv(channels, context, out, self.hidden_features, padding_mode=self.padding)
        return ContextMLP(channels, context, out, (self.hidden_features,) * 2)

    def _levels(self, event_shape: Sequence[int]) -> int:
        _, height, width = event_shape
        # A reflection about the border needs a second pixel to show.
        smallest = 2 if self.padding == "reflect" else 1
        possible, block = 0, 2
        while height % block == 0 and width % block == 0 and min(height, width) // block >= smallest:
            possible, block = possible + 1, 2 * block
        wanted = min(possible, MAX_LEVELS) if self.num_levels is None else self.num_levels
        if not 1 <= wanted <= possible:
            raise ValueError(
                f"cglow cannot squeeze {height} x {width} pixels {max(wanted, 1)} times; "
                + (f"num_levels can be 1 to {possible}" if possible else "height and width must be even")
                + (f" with padding '{self.padding}', which needs {smallest} pixels to be left" if smallest > 1 else "")
            )
        return wanted

    @classmethod
    def suggest(cls, trial: Any) -> CGlow:
        """Depth and width."""
        return cls(
            num_steps=trial.suggest_int("num_steps", 4, 16),
            hidden_features=trial.suggest_categorical("hidden_features", [32, 64, 128, 256]),
        )


class _Glow(ConditionalFlow):
    """Levels of steps. The latent is the parts in the order of their levels, laid out in the shape of the event."""

    def __init__(
        self,
        event_shape: Sequence[int],
        context_shape: Sequence[int],
        chains: Sequence[Chain],
        splits: Sequence[FactorOut],
        *,
        x_map: Bijector | None,
        context_map: Bijector | None,
    ) -> None:
        super().__init__(event_shape, context_shape, x_map=x_map, context_map=context_map)
        self.chains = nn.ModuleList(chains)
        self.splits = nn.ModuleList(splits)
        self.image = len(self.event_shape) == 3

    def _initialize(self, u: Tensor, c: Tensor) -> None:
        x = u
        for chain, split in self._levels():
            x = chain.initialize(squeeze(x) if self.image else x, c)
            if split is not None:
                x, _, _ = split.to_latent(x, c)

    def _to_latent(self, u: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        parts, log_det, x = [], u.new_zeros(len(u)), u
        for chain, split in self._levels():
            x, each = chain.to_latent(squeeze(x) if self.image else x, c)
            log_det = log_det + each
            if split is not None:
                x, z, each = split.to_latent(x, c)
                log_det = log_det + each
                parts.append(z.flatten(1))
        parts.append(x.flatten(1))
        return torch.cat(parts, 1).reshape(u.shape), log_det

    def _to_data(self, z: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        shapes = self._part_shapes()
        flat = z.flatten(1).split([shape.numel() for shape in shapes], 1)
        parts = [part.reshape(-1, *shape) for part, shape in zip(flat, shapes, strict=True)]
        log_det, x = z.new_zeros(len(z)), parts.pop()
        for chain, split in reversed(self._levels()):
            if split is not None:
                x, each = split.to_data(x, parts.pop(), c)
                log_det = log_det + each
            x, each = chain.to_data(x, c)
            log_det = log_det + each
            x = unsqueeze(x) if self.image else x
        return x, log_det

    def _levels(self) -> list[tuple[Chain, FactorOut | None]]:
        """The steps of each level, and what sets half of its channels aside; nothing does on the last."""
        return list(zip(self.chains, [*self.splits, None], strict=True))  # type: ignore[arg-type]

    def _part_shapes(self) -> list[torch.Size]:
        shape, shapes = self.event_shape, []
        for _, split in self._levels():
            if self.image:
                shape = torch.Size((4 * shape[0], shape[1] // 2, shape[2] // 2))
            if split is not None:
                kept = shape[0] // 2
                shapes.append(torch.Size((shape[0] - kept, *shape[1:])))
                shape = torch.Size((kept, *shape[1:]))
        return [*shapes, shape]
