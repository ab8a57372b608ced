"""The flow that ``cglow`` builds: levels of steps, with their contexts and their latents."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from flowzoo.bijectors import Bijector
from flowzoo.flow import ConditionalFlow
from flowzoo.layers.chain import Chain
from flowzoo.layers.coupling import AffineCoupling, SplineCoupling
from flowzoo.layers.multiscale import ContextBase, FactorOut, squeeze, unsqueeze
from flowzoo.layers.reversible import choose_anchors, reversible
from flowzoo.layers.spectral import SpectralNorm
from flowzoo.nets import Context, ContextPyramid, Saturate, Shared, vector_of

PLAIN_BYTES = 2**31  # of activations per batch, above which they are recomputed rather than kept
DRIFT = 1e-5  # relative error of a recomputed activation, above which an anchor is set


class Level(NamedTuple):
    """Steps at one resolution, what sets half of their channels aside after them, and whether a squeeze is before."""

    chain: Chain
    split: FactorOut | None
    squeezed: bool


class Glow(ConditionalFlow):
    """Levels of steps. The latent is the parts in the order of their levels, laid out in the shape of the event.

    Args:
        event_shape: as in ``ConditionalFlow``.
        context_shape: as in ``ConditionalFlow``.
        levels: from the data to the base.
        spectral: what comes before the first level, if anything does.
        top: the base of the last part, as a layer of which nothing is kept; None is the standard normal.
        embedding: of the vector of a context, for the layers; None where it has none.
        pyramid: encodes the image of a context; None where it has none.
        vector_features: columns of the context that are its vector.
        image_shape: what the other columns are.
        width: of the coupling networks, for the estimate of what a batch holds.
        reversible: see ``CGlow``.
        penalty: weight of the top's penalty in the training loss.
        x_map: as in ``ConditionalFlow``.
        context_map: as in ``ConditionalFlow``.
    """

    shares_contexts: ClassVar[bool] = True

    def __init__(
        self,
        event_shape: Sequence[int],
        context_shape: Sequence[int],
        levels: Sequence[Level],
        *,
        spectral: SpectralNorm | None,
        top: FactorOut | None,
        embedding: nn.Module | None,
        pyramid: ContextPyramid | None,
        vector_features: int,
        image_shape: tuple[int, ...] | None,
        width: int,
        reversible: bool | None,
        penalty: float,
        x_map: Bijector | None,
        context_map: Bijector | None,
    ) -> None:
        super().__init__(event_shape, context_shape, x_map=x_map, context_map=context_map)
        self.image = len(self.event_shape) == 3
        self.spectral = spectral
        self.chains = nn.ModuleList(level.chain for level in levels)
        self.splits = nn.ModuleList(level.split for level in levels if level.split is not None)
        self.top = top
        self.embedding = embedding
        self.pyramid = pyramid
        self.squeezed = [level.squeezed for level in levels]
        self.vector_features, self.image_shape = vector_features, image_shape
        self.width, self.reversible, self.penalty = width, reversible, penalty
        # Per level, the layers whose inputs are kept when the others' are recomputed; set by `prepare`.
        self.anchors: list[list[int]] = [[] for _ in levels]

    def regularization(self) -> Tensor | None:
        """See ``ConditionalFlow``."""
        if not self.penalty or self.top is None or not isinstance(self.top.net, ContextBase):
            return None
        return self.penalty * self.top.net.penalty()

    @torch.no_grad()
    def prepare(self, x: Tensor, context: Tensor | None = None) -> None:
        """Measure how well the steps invert, and set anchors where they do not; see ``ConditionalFlow``."""
        x, c, index, _ = self._match(x, context, "x", self.event_shape)
        u, c = self.x_map.to_latent(x)[0], c if index is None else c[index]
        if not self.prepares(len(u)):
            return
        contexts = self._contexts(c)
        if self.spectral is not None:
            u, _ = self.spectral.to_latent(u, contexts[0])
        for i, (level, given) in enumerate(zip(self._levels(), contexts, strict=True)):
            u = squeeze(u) if level.squeezed else u
            self.anchors[i] = choose_anchors(list(level.chain), u, given, DRIFT)
            u, _ = level.chain.to_latent(u, given)
            if level.split is not None:
                u, _, _ = level.split.to_latent(u, given)

    def _initialize(self, u: Tensor, c: Tensor) -> None:
        if isinstance(self.embedding, nn.Sequential) and isinstance(self.embedding[0], Saturate):
            self.embedding[0].initialize(c.flatten(1)[:, : self.vector_features])
        contexts, x = self._contexts(c), u
        if self.spectral is not None:
            self.spectral.initialize(x, contexts[0])
            x, _ = self.spectral.to_latent(x, contexts[0])
        for level, given in zip(self._levels(), contexts, strict=True):
            x = level.chain.initialize(squeeze(x) if level.squeezed else x, given)
            if level.split is not None:
                x, _, _ = level.split.to_latent(x, given)

    def _to_latent(self, u: Tensor, c: Tensor | Shared) -> tuple[Tensor, Tensor]:
        contexts, x, log_det, parts = self._contexts(c), u, u.new_zeros(len(u)), []
        recomputes = self.training and torch.is_grad_enabled() and self.prepares(len(u))
        if self.spectral is not None:
            x, log_det = self.spectral.to_latent(x, contexts[0])
        for level, given, anchors in zip(self._levels(), contexts, self.anchors, strict=True):
            x = squeeze(x) if level.squeezed else x
            if recomputes:
                x, each = reversible(list(level.chain), x, given, anchors=anchors)
            else:
                x, each = level.chain.to_latent(x, given)
            log_det = log_det + each
            if level.split is not None:
                x, z, each = level.split.to_latent(x, given)
                log_det = log_det + each
                parts.append(z.flatten(1))
        if self.top is not None:
            _, x, each = self.top.to_latent(x, Context(vector_of(c)))
            log_det = log_det + each
        parts.append(x.flatten(1))
        return torch.cat(parts, 1).reshape(u.shape), log_det

    def _to_data(self, z: Tensor, c: Tensor | Shared) -> tuple[Tensor, Tensor]:
        shapes = self._part_shapes()
        flat = z.flatten(1).split([shape.numel() for shape in shapes], 1)
        parts = [part.reshape(-1, *shape) for part, shape in zip(flat, shapes, strict=True)]
        contexts, log_det, x = self._contexts(c), z.new_zeros(len(z)), parts.pop()
        if self.top is not None:
            x, log_det = self.top.to_data(x[:, :0], x, Context(vector_of(c)))
        for level, given in zip(reversed(self._levels()), reversed(contexts), strict=True):
            if level.split is not None:
                x, each = level.split.to_data(x, parts.pop(), given)
                log_det = log_det + each
            x, each = level.chain.to_data(x, given)
            log_det = log_det + each
            x = unsqueeze(x) if level.squeezed else x
        if self.spectral is not None:
            x, each = self.spectral.to_data(x, contexts[0])
            log_det = log_det + each
        return x, log_det

    def prepares(self, batch: int) -> bool:
        """Whether a batch's activations are recomputed in the backward pass, rather than kept."""
        return self.kept_bytes(batch) > PLAIN_BYTES if self.reversible is None else self.reversible

    def kept_bytes(self, batch: int) -> int:
        """About what autograd would keep of the activations of a batch.

        A step keeps some 4 images of the width of its network, and 8 of its channels: within 15 % of what was counted
        for affine couplings given a vector (``benchmarks/results/glow_memory.md``); splines and image contexts keep
        two to three times that.
        """
        shape, total = self.event_shape, 0
        for level in self._levels():
            if level.squeezed:
                shape = torch.Size((4 * shape[0], shape[1] // 2, shape[2] // 2))
            steps = sum(1 for layer in level.chain if isinstance(layer, AffineCoupling | SplineCoupling))
            total += steps * prod(shape[1:]) * (4 * self.width + 8 * shape[0])
            if level.split is not None:
                shape = torch.Size((shape[0] // 2, *shape[1:]))
        return 4 * batch * total

    def _levels(self) -> list[Level]:
        """The levels from the data to the base; on the last nothing is set aside."""
        splits = [*self.splits, None]
        return [Level(*parts) for parts in zip(self.chains, splits, self.squeezed, strict=True)]  # type: ignore[arg-type]

    def _contexts(self, c: Tensor | Shared) -> list[Context]:
        """What each level is given."""
        rows = c.rows if isinstance(c, Shared) else c
        vector, features = rows, [None] * len(self.chains)
        if self.pyramid is not None and self.image_shape is not None:
            vector, image = rows.flatten(1).split([self.vector_features, prod(self.image_shape)], 1)
            features = self.pyramid(image.unflatten(1, self.image_shape))
        if self.embedding is not None:
            vector = self.embedding(vector)
        if isinstance(c, Shared):
            vector = vector[c.index]
            features = [each if each is None else each[c.index] for each in features]
        return [Context(vector, each) for each in features]

    def _part_shapes(self) -> list[torch.Size]:
        shape, shapes = self.event_shape, []
        for level in self._levels():
            if level.squeezed:
                shape = torch.Size((4 * shape[0], shape[1] // 2, shape[2] // 2))
            if level.split is not None:
                kept = shape[0] // 2
                shapes.append(torch.Size((shape[0] - kept, *shape[1:])))
                shape = torch.Size((kept, *shape[1:]))
        return [*shapes, shape]
