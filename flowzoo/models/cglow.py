"""Conditional Glow: our own, for images and for vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, ClassVar, Literal

from torch import nn

from flowzoo.bijectors import Bijector
from flowzoo.flow import ConditionalFlow
from flowzoo.layers.actnorm import ActNorm, Injector
from flowzoo.layers.chain import Chain
from flowzoo.layers.coupling import AffineCoupling, SplineCoupling
from flowzoo.layers.linear import LULinear, MatrixLinear, Permutation
from flowzoo.layers.multiscale import ContextBase, Diagonal, FactorOut
from flowzoo.layers.spectral import SpectralNorm
from flowzoo.layers.spline import MIN_BIN, num_parameters
from flowzoo.models._embeds import Embeds
from flowzoo.models._glow import Glow, Level
from flowzoo.nets import ContextConv, ContextMLP, ContextPyramid, Padding, Saturate, Tuned, mlp
from flowzoo.registry import MODELS

MAX_LEVELS = 3  # the default number of levels, where the size allows as many
# Training spreads by which a context may lie beyond the training ones before it is taken for the edge of them:
# extrapolation is at a loss (docs/decisions/0008).
CONTEXT_MARGIN = 0.5
SPLINE_BOUND = 4.0  # standard deviations of a normalised activation that the splines transform; the identity beyond


@MODELS.register
@dataclass(frozen=True)
class CGlow(Embeds):
    r"""Glow whose context enters every layer.

    A step is conditional actnorm, an invertible 1x1 convolution (PLU), and a coupling whose network sees half of the
    channels and the context. A level squeezes 2 x 2 pixels into channels, takes K steps, and sets half of the channels
    aside, Gaussianised given the other half and the context. Kingma and Dhariwal 2018, arXiv:1807.03039, section 3;
    conditioned as in HIGlow (Friedman and Hassan 2022, arXiv:2211.12724).

    At the start the conditional parts are neutral: the flow is volume-preserving up to actnorm and does not depend on
    the context. A vector of D features is taken as D channels of one pixel, on one level. A context is a vector
    ``(D,)``, an image ``(C', H', W')`` of any size, or both, flattened into one vector that ``context_image`` splits.
    With ``embed`` it is a vector, the features.

    Args:
        num_steps: steps per level, K.
        num_levels: levels, L; None takes as many as the size of the image allows, up to 3.
        hidden_features: width of the coupling networks.
        coupling: ``"affine"``, ``"additive"`` or ``"rq-spline"``.
        scale: form of the affine scale: ``"tanh"``, or ``"sigmoid"`` as published (not volume-preserving at the start).
        num_bins: of the spline coupling; other couplings have none.
        mixing: of the channels: ``"plu"``, ``"matrix"`` (no factors) or ``"permutation"`` (fixed).
        order: of a step: ``"glow"`` is actnorm, 1x1, coupling; ``"higlow"`` is 1x1, actnorm, coupling.
        base: of the parts set aside: ``"conditional"`` on the context and the kept half, ``"diagonal"`` (one mean and
            scale per channel, learned; of the last part too) or ``"normal"``.
        conditioning: where the context enters: ``"layers"``; ``"base"``, the mean and scale of the last part alone,
            linear in the context (Glow's class-conditional CIFAR-10); or ``"both"``.
        base_penalty: weight of the mean square of the latter's coefficients in the training loss.
        tail: sets half of the last level aside too, and takes K more steps on the rest, as HIGlow does.
        padding: how the 3 x 3 convolutions see beyond the border: ``"zeros"``, ``"circular"`` or ``"reflect"``; None is
            circular where the dataset says that it is periodic, else zeros. This, ``position``, ``precision`` and
            ``channels_last`` are of images; flows of vectors have nothing that they could change.
        position: tell the coupling networks where in the image a pixel is; None does unless the padding is circular.
        spectral: start with ``SpectralNorm``, which whitens a periodic field by its spectrum given the context; None
            does where the dataset says that it is periodic.
        context_features: channels into which an image context is encoded.
        reversible: recompute activations from the inverse in the backward pass, so that memory does not grow with the
            number of steps; None does where a batch would else hold more than 2 GiB. A training loop of your own should
            call ``flow.prepare`` now and then, as ``flowzoo.fit`` does.
        precision: of the coupling networks; log-determinants are in float32 with both.
        channels_last: memory layout inside the coupling networks.
    """

    num_steps: int = 4
    num_levels: int | None = None
    hidden_features: int = 64
    coupling: Literal["affine", "additive", "rq-spline"] = "affine"
    scale: Literal["tanh", "sigmoid"] = "tanh"
    num_bins: int = 8
    mixing: Literal["plu", "matrix", "permutation"] = "plu"
    order: Literal["glow", "higlow"] = "glow"
    base: Literal["conditional", "diagonal", "normal"] = "conditional"
    conditioning: Literal["layers", "base", "both"] = "layers"
    base_penalty: float = 0.0
    tail: bool = False
    padding: Padding | None = None
    position: bool | None = None
    spectral: bool | None = None
    context_features: int = 32
    reversible: bool | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    channels_last: bool = False

    family: ClassVar[str] = "coupling, affine, multiscale"
    backend: ClassVar[str] = "flowzoo"
    events: ClassVar[str] = "images (C, H, W), vectors"
    contexts: ClassVar[str] = "vectors, images, both"
    inverse: ClassVar[str] = "closed form, one pass"
    paper: ClassVar[str] = "Kingma and Dhariwal 2018, arXiv:1807.03039"

    def adapted(self, *, periodic: Sequence[int], context_image: tuple[int, int, int] | None) -> CGlow:
        """What was left to the dataset, filled in by what it declares."""
        box = tuple(periodic) == (1, 2)
        return replace(
            self,
            padding=self.padding or ("circular" if box else "zeros"),
            spectral=box if self.spectral is None else self.spectral,
            context_image=self.context_image or context_image,
        )

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
        if self.base_penalty < 0 or (self.base_penalty and self.conditioning == "layers"):
            raise ValueError(
                "cglow.base_penalty must not be negative, and needs conditioning 'base' or 'both'; "
                f"got {self.base_penalty:g} with '{self.conditioning}'"
            )
        if self.num_bins * MIN_BIN >= 1:
            raise ValueError(f"cglow.num_bins must be below {1 / MIN_BIN:.0f}; got {self.num_bins}")
        return _Builder(self, event_shape, context_shape).build(x_map, context_map)

    @classmethod
    def suggest(cls, trial: Any) -> CGlow:
        """Depth and width."""
        return cls(
            num_steps=trial.suggest_int("num_steps", 2, 12),
            hidden_features=trial.suggest_categorical("hidden_features", [32, 64, 128]),
        )


class _Builder:
    """The layers of one flow: what the options mean for these shapes."""

    def __init__(self, config: CGlow, event_shape: Sequence[int], context_shape: Sequence[int]) -> None:
        self.config, self.event_shape, self.context_shape = config, tuple(event_shape), tuple(context_shape)
        self.image = len(self.event_shape) == 3
        self.padding: Padding = config.padding or "zeros"
        self.vector, self.image_shape = self._context_parts()
        self.position = self.padding != "circular" if config.position is None else config.position
        self.image_features = config.context_features if self.image_shape is not None else 0
        # What the layers see of the vector: an embedding of it, or nothing where it enters the base alone.
        self.seen = config.hidden_features if self.vector and config.conditioning != "base" else 0

    def build(self, x_map: Bijector | None, context_map: Bijector | None) -> ConditionalFlow:
        config = self.config
        channels, levels = self.event_shape[0], self._num_levels() if self.image else 1
        size = self.event_shape[1:]
        made: list[Level] = []
        sizes: list[tuple[int, ...]] = []
        for level in range(levels):
            channels, size = (4 * channels, tuple(n // 2 for n in size)) if self.image else (channels, ())
            last = level == levels - 1
            sizes.append(size)
            made.append(self._level(channels, size, squeezed=self.image, split=not last or config.tail))
            channels = channels // 2 if made[-1].split is not None else channels
        if config.tail:
            sizes.append(size)
            made.append(self._level(channels, size, squeezed=False, split=False))
        pyramid = None
        if self.image_shape is not None:
            pyramid = ContextPyramid(self.image_shape[0], self.image_features, sizes, padding_mode=self.padding)
        return Glow(
            self.event_shape,
            self.context_shape,
            made,
            spectral=self._spectral(),
            top=self._top((channels, *size)),
            embedding=self._embedding(),
            pyramid=pyramid,
            vector_features=self.vector,
            image_shape=self.image_shape,
            width=config.hidden_features,
            reversible=config.reversible,
            penalty=config.base_penalty,
            x_map=x_map,
            context_map=context_map,
        )

    def _level(self, channels: int, size: tuple[int, ...], *, squeezed: bool, split: bool) -> Level:
        steps = [layer for _ in range(self.config.num_steps) for layer in self._step(channels, size)]
        factor = None
        if split:
            if channels < 2:
                raise ValueError("cglow.tail sets half of the channels aside; one channel is left")
            factor = FactorOut(channels, self._part_net(channels // 2, channels - channels // 2, size))
        return Level(Chain(steps), factor, squeezed)

    def _step(self, channels: int, size: tuple[int, ...]) -> list[nn.Module]:
        config = self.config
        kinds = {"plu": LULinear, "matrix": MatrixLinear, "permutation": Permutation}
        norm: list[nn.Module] = [ActNorm(channels, self.seen, ())]
        if self.image_features:
            norm.append(Injector(channels, self.image_features, config.hidden_features))
        mixing: list[nn.Module] = [kinds[config.mixing](channels)]
        both = [*mixing, *norm] if config.order == "higlow" else [*norm, *mixing]
        return [*both, self._coupling(channels, size)]

    def _coupling(self, channels: int, size: tuple[int, ...]) -> nn.Module:
        kept, moved = channels // 2, channels - channels // 2
        if self.config.coupling == "rq-spline":
            net = self._net(kept, moved * num_parameters(self.config.num_bins), size)
            return SplineCoupling(slice(0, kept), slice(kept, channels), net, SPLINE_BOUND)
        if self.config.coupling == "additive":
            return AffineCoupling(channels, self._net(kept, moved, size), scale="none")
        return AffineCoupling(channels, self._net(kept, 2 * moved, size), scale=self.config.scale)

    def _part_net(self, kept: int, moved: int, size: tuple[int, ...]) -> nn.Module | None:
        if self.config.base == "conditional":
            return self._net(kept, 2 * moved, size)
        return Diagonal(2 * moved) if self.config.base == "diagonal" else None

    def _top(self, shape: Sequence[int]) -> FactorOut | None:
        """The base of the last part: a part set aside of which nothing goes on."""
        if self.config.conditioning != "layers":
            net: nn.Module = ContextBase(self.vector, (2 * shape[0], *shape[1:]))
        elif self.config.base == "diagonal":
            net = Diagonal(2 * shape[0])
        else:
            return None
        return FactorOut(shape[0], net, kept=0)

    def _net(self, channels: int, out: int, size: tuple[int, ...]) -> nn.Module:
        config, width = self.config, self.config.hidden_features
        if not self.image:
            return ContextMLP(channels, self.seen, out, (width, width))
        net: nn.Module = ContextConv(
            channels,
            self.seen,
            out,
            width,
            padding_mode=self.padding,
            image_features=self.image_features,
            size=(size[0], size[1]) if self.position else None,
        )
        if config.precision == "bfloat16" or config.channels_last:
            net = Tuned(net, low_precision=config.precision == "bfloat16", channels_last=config.channels_last)
        return net

    def _embedding(self) -> nn.Module | None:
        """One network of the vector for all layers, each of which has only a linear map of what it returns."""
        if not self.seen:
            return None
        # Features that are learnt move beyond what they are at the start.
        bounded = nn.Identity() if self.config.embed else Saturate(self.vector, CONTEXT_MARGIN)
        return nn.Sequential(bounded, mlp(self.vector, self.seen, (self.seen,)), nn.SiLU())

    def _spectral(self) -> SpectralNorm | None:
        if not self.config.spectral:
            return None
        if not self.image:
            raise ValueError(f"cglow.spectral whitens images (C, H, W); the events are {self.event_shape}")
        channels, height, width = self.event_shape
        return SpectralNorm((channels, height, width), self.seen, hidden_features=self.config.hidden_features)

    def _context_parts(self) -> tuple[int, tuple[int, ...] | None]:
        """Width of the vector, and shape of the image."""
        shape, declared = self.context_shape, self.config.context_image
        if len(shape) == 3 or declared is not None:
            if not self.image:
                raise ValueError(f"cglow takes an image as context of images only; the events are {self.event_shape}")
            if self.config.conditioning != "layers":
                raise ValueError(f"an image context enters the layers; got conditioning='{self.config.conditioning}'")
        if len(shape) == 3 and declared is not None and tuple(declared) != shape:
            raise ValueError(f"cglow.context_image is {tuple(declared)}; the context is an image {shape}")
        image = shape if len(shape) == 3 else declared
        if image is not None and min(image) < 1:
            raise ValueError(f"an image context needs a channel and a pixel; got {tuple(image)}")
        if image is not None and self.padding == "reflect" and min(image[1:]) < 2:
            raise ValueError(f"padding 'reflect' needs 2 pixels a side; the image context is {tuple(image)}")
        if len(shape) == 3:
            return 0, shape
        if len(shape) != 1:
            raise ValueError(f"cglow takes a vector (D,) or an image (C, H, W) as context; got shape {shape}")
        if declared is None:
            return shape[0], None
        if prod(declared) > shape[0]:
            raise ValueError(
                f"cglow.context_image {tuple(declared)} has {prod(declared)} pixels; the context has {shape[0]} columns"
            )
        return shape[0] - prod(declared), tuple(declared)

    def _num_levels(self) -> int:
        _, height, width = self.event_shape
        # A reflection about the border needs a second pixel to show.
        smallest = 2 if self.padding == "reflect" else 1
        least = 2 * smallest
        possible, block = 0, 2
        while height % block == 0 and width % block == 0 and min(height, width) // block >= smallest:
            possible, block = possible + 1, 2 * block
        wanted = min(possible, MAX_LEVELS) if self.config.num_levels is None else self.config.num_levels
        if not 1 <= wanted <= possible:
            raise ValueError(
                f"cglow cannot squeeze {height} x {width} pixels {max(wanted, 1)} times; "
                + (
                    f"num_levels can be 1 to {possible}"
                    if possible
                    else f"height and width must be even, {least} at least"
                )
                + (f" with padding '{self.padding}', which needs {smallest} pixels to be left" if smallest > 1 else "")
            )
        return wanted
