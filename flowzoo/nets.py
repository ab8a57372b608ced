"""Conditioner networks: small maps from (part of an event, context) to the parameters of a transform."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Padding = Literal["zeros", "circular", "reflect"]
Activation = Literal["relu", "silu", "elu", "tanh"]


class Context(NamedTuple):
    """What the layers of an image flow are given.

    Args:
        vector: ``(N, D)``, D may be 0.
        image: ``(N, F, H, W)``, features of an image context at the resolution of the layer, or None.
    """

    vector: Tensor
    image: Tensor | None = None


@dataclass(frozen=True)
class Shared:
    """Contexts that events share, so that a network of the context alone sees each of them once.

    Args:
        rows: ``(G, *context)``.
        index: ``(N,)``: event i has row ``index[i]``.
    """

    rows: Tensor
    index: Tensor

    def each(self) -> Tensor:
        """The context of each event, ``(N, *context)``."""
        return self.rows[self.index]


Given = Tensor | Context | Shared


def vector_of(c: Given) -> Tensor:
    """The vector part of a context, of each event."""
    if isinstance(c, Shared):
        return c.each()
    return c.vector if isinstance(c, Context) else c


def image_of(c: Given) -> Tensor | None:
    """The image part of a context, if it has one."""
    return c.image if isinstance(c, Context) else None


def zero_(layer: nn.Linear | nn.Conv2d) -> nn.Linear | nn.Conv2d:
    """Set weights and bias of a layer to zero, so that what it parametrises starts at its neutral value."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def mlp(
    in_features: int,
    out_features: int,
    hidden_features: Sequence[int],
    *,
    activation: type[nn.Module] = nn.SiLU,
    zero_init: bool = False,
) -> nn.Sequential:
    """A fully connected network ``(N, in_features) -> (N, out_features)``.

    Args:
        in_features: width of the input; 0 is allowed, and then only the biases speak.
        out_features: width of the output.
        hidden_features: widths of the hidden layers.
        activation: module class between the layers.
        zero_init: start with an output of exactly zero.
    """
    widths = [in_features, *hidden_features]
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [_linear(before, after), activation()]
    last = nn.Linear(widths[-1], out_features)
    layers.append(zero_(last) if zero_init else last)
    return nn.Sequential(*layers)


class Saturate(nn.Module):
    r"""Keeps a vector within the range that was seen, and a little beyond: no network is asked about what lies far out.

    .. math:: y = \bar x + m \tanh\bigl((x - \bar x)/m\bigr),\qquad \bar x = \mathrm{clip}(x, \ell, h)

    per column: the identity between the least value l and the largest h that ``initialize`` saw, at most m beyond them.
    Before that it is the identity everywhere.

    Args:
        features: columns.
        margin: m, in the units of the input.
    """

    def __init__(self, features: int, margin: float) -> None:
        super().__init__()
        self.margin = margin
        self.low: Tensor
        self.high: Tensor
        self.register_buffer("low", torch.full((features,), -torch.inf))
        self.register_buffer("high", torch.full((features,), torch.inf))

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Note the range of ``(N, features)``."""
        self.low.copy_(x.amin(0))
        self.high.copy_(x.amax(0))

    def forward(self, x: Tensor) -> Tensor:
        """``(N, features)``, whatever its values, to the same within bounds."""
        near = torch.minimum(torch.maximum(x, self.low), self.high)
        return near + self.margin * torch.tanh((x - near) / self.margin)


class ContextMLP(nn.Module):
    """Two-input network ``(half, context) -> parameters`` for vectors; the last layer starts at zero."""

    def __init__(
        self, in_features: int, context_features: int, out_features: int, hidden_features: Sequence[int]
    ) -> None:
        super().__init__()
        self.first = _linear(in_features, hidden_features[0])
        # The context is a per-sample bias of every hidden layer: cheap, and it cannot be forgotten on the way.
        self.inject = nn.ModuleList(
            nn.Linear(context_features, width, bias=False) for width in hidden_features if context_features
        )
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(hidden_features))
        self.activation = nn.SiLU()
        self.last = zero_(nn.Linear(hidden_features[-1], out_features))

    def forward(self, x: Tensor, context: Given) -> Tensor:
        """``(N, in_features)``, ``(N, context_features)`` to ``(N, out_features)``."""
        h, context = self.first(x), vector_of(context)
        if self.inject:
            h = h + self.inject[0](context)
        for i, layer in enumerate(self.hidden, start=1):
            h = layer(self.activation(h))
            if self.inject:
                h = h + self.inject[i](context)
        return self.last(self.activation(h))


class ContextConv(nn.Module):
    """Two-input network ``(half, context) -> parameters`` for images: 3x3, 1x1, 3x3, the last zero-initialised.

    A vector context enters as a per-sample, per-channel bias of both hidden layers, not as a constant image through a
    convolution, which costs the same as the image itself and says no more. The features of an image context enter at
    the same places, as a bias per pixel (a 1x1 convolution).

    Args:
        in_channels: channels seen.
        context_features: width of the context's vector, 0 for none.
        out_channels: channels of parameters returned.
        hidden_channels: width of the two hidden layers.
        padding_mode: ``"zeros"``, ``"circular"`` for periodic boxes, or ``"reflect"``.
        image_features: channels of the context's image, 0 for none.
        size: ``(H, W)`` of the images, to tell the network where in it a pixel is: second-order polynomials of the
            coordinates enter the first layer (Liu et al. 2018, arXiv:1807.03247). None: it cannot know, as in
            a periodic box, where every place is like any other.
    """

    def __init__(
        self,
        in_channels: int,
        context_features: int,
        out_channels: int,
        hidden_channels: int,
        *,
        padding_mode: Padding = "zeros",
        image_features: int = 0,
        size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.first = nn.Conv2d(in_channels, hidden_channels, 3, padding=1, padding_mode=padding_mode)
        self.second = nn.Conv2d(hidden_channels, hidden_channels, 1)
        self.last = nn.Conv2d(hidden_channels, out_channels, 3, padding=1, padding_mode=padding_mode)
        zero_(self.last)
        self.inject = nn.Linear(context_features, 2 * hidden_channels) if context_features else None
        self.inject_image = nn.Conv2d(image_features, 2 * hidden_channels, 1) if image_features else None
        self.inject_place = None
        if size is not None:
            self.place: Tensor
            self.register_buffer("place", _places(size), persistent=False)
            self.inject_place = nn.Conv2d(self.place.shape[1], hidden_channels, 1, bias=False)
        self.activation = nn.SiLU()

    def forward(self, x: Tensor, context: Given) -> Tensor:
        """``(N, in_channels, H, W)`` and a context to ``(N, out_channels, H, W)``."""
        # In place: these are the largest tensors of a step, and a convolution does not need its output again.
        h, second = self.first(x), []
        if self.inject_place is not None:
            h = h.add_(self.inject_place(self.place))
        for inject, given in ((self.inject, vector_of(context)), (self.inject_image, image_of(context))):
            if inject is not None:
                bias = inject(given)
                bias = (bias[:, :, None, None] if bias.ndim == 2 else bias).chunk(2, dim=1)
                h = h.add_(bias[0])
                second.append(bias[1])
        h = self.second(self.activation(h))
        for bias in second:
            h = h.add_(bias)
        return self.last(self.activation(h))


def _places(size: tuple[int, int]) -> Tensor:
    """``(1, 5, H, W)``: x, y, x^2, y^2 and x y, with x and y from -1 to 1."""
    y, x = (torch.linspace(-1, 1, n) if n > 1 else torch.zeros(1) for n in size)
    y, x = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([x, y, x.square(), y.square(), x * y])[None]


class ContextPyramid(nn.Module):
    """Encodes an image context once, into features at the resolution of every level.

    A 3x3 convolution at the resolution at which the image came, then for every level the features are brought to its
    resolution (means over what is finer, copies of what is coarser) and pass a 3x3 convolution. SRFlow (Lugmayr et al.
    2020, arXiv:2006.14200, section 3.3) does the same with a pretrained encoder.

    Args:
        in_channels: of the image.
        features: channels at each level.
        sizes: ``(height, width)`` of each level.
        padding_mode: as in ``ContextConv``.
    """

    def __init__(
        self, in_channels: int, features: int, sizes: Sequence[Sequence[int]], *, padding_mode: Padding = "zeros"
    ) -> None:
        super().__init__()
        self.sizes = [(height, width) for height, width in sizes]
        self.first = nn.Conv2d(in_channels, features, 3, padding=1, padding_mode=padding_mode)
        self.heads = nn.ModuleList(
            nn.Conv2d(features, features, 3, padding=1, padding_mode=padding_mode if min(size) > 1 else "zeros")
            for size in sizes
        )
        self.activation = nn.SiLU()

    def forward(self, image: Tensor) -> list[Tensor]:
        """``(N, in_channels, H, W)`` to a ``(N, features, h, w)`` for each level."""
        h = self.activation(self.first(image))
        found = []
        for size, head in zip(self.sizes, self.heads, strict=True):
            finer = h.shape[-2] >= size[0] and h.shape[-1] >= size[1]
            at_level = F.adaptive_avg_pool2d(h, size) if finer else F.interpolate(h, size, mode="nearest")
            found.append(self.activation(head(at_level)))
        return found


class Tuned(nn.Module):
    """Runs a conditioner network in bfloat16 or in channels-last memory; what leaves it is as it would be without.

    Args:
        net: ``(x, context) -> parameters``.
        low_precision: autocast to bfloat16 inside the network alone: log-determinants stay in float32.
        channels_last: keep the pixels of a channel apart and the channels of a pixel together.
    """

    def __init__(self, net: nn.Module, *, low_precision: bool, channels_last: bool) -> None:
        super().__init__()
        self.net = net.to(memory_format=torch.channels_last) if channels_last else net  # type: ignore[call-overload]
        self.low_precision, self.channels_last = low_precision, channels_last

    def forward(self, x: Tensor, context: Given) -> Tensor:
        """As the network."""
        dtype = x.dtype
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        # A flow in float64 was asked for its digits.
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.low_precision and dtype == torch.float32):
            y = self.net(x, context)
        return y.to(dtype).contiguous() if self.channels_last else y.to(dtype)


class _Constant(nn.Module):
    """A linear layer of nothing: only its bias speaks. (torch's own, of no inputs, warns and is not initialised.)"""

    def __init__(self, out_features: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(nn.init.uniform_(torch.empty(out_features), -1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """``(N, 0)`` to ``(N, out_features)``."""
        return self.bias.expand(len(x), -1)


def _linear(in_features: int, out_features: int) -> nn.Module:
    return nn.Linear(in_features, out_features) if in_features else _Constant(out_features)


def activation(name: Activation) -> type[nn.Module]:
    """The layer of a name; ``silu`` fits what changes smoothly with the context with fewer units than ``relu``."""
    return {"relu": nn.ReLU, "silu": nn.SiLU, "elu": nn.ELU, "tanh": nn.Tanh}[name]


def widths(hidden_features: int | Sequence[int], depth: int = 2) -> tuple[int, ...]:
    """The widths of hidden layers from an option that is an int (``depth`` equal layers) or a sequence."""
    if isinstance(hidden_features, int):
        return (hidden_features,) * depth
    return tuple(hidden_features)
