"""A convolutional encoder of an image context."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from flowzoo.registry import EMBEDDINGS

SMALLEST = 8  # pixels a side, of which a convolution can tell anything
LEFT = 4  # pixels a side, at which the linear layer takes over
SILU_POWER = 0.3557  # mean square of SiLU(z), z standard normal


@EMBEDDINGS.register
@dataclass(frozen=True)
class Conv:
    """Strided 3x3 convolutions down to 4 x 4 pixels or fewer, then a linear layer.

    Sides of any length from 8 on will do: one of n pixels becomes one of n / 2, rounded up. The channels double from
    layer to layer. There is no normalisation: a batch's would make an event depend on its company, and an image's own
    would take from the flow how bright it is. The weights start such that the size of a signal is kept through any
    number of layers (He et al. 2015, arXiv:1502.01852, section 2.2).

    Where the context is a vector and an image after it, the columns of the vector are passed on as they are, before the
    features of the image.

    Args:
        hidden_features: channels of the first layer.
        max_features: the most channels of any layer.
    """

    hidden_features: int = 16
    max_features: int = 128

    def build(self, context_shape: Sequence[int], features: int, image: tuple[int, int, int] | None) -> nn.Module:
        """See ``flowzoo.embeddings.EmbeddingConfig``; ``(N, columns of the vector + features)``."""
        if image is None:
            raise ValueError(
                f"embed 'conv' needs an image (C, H, W), or a flat context whose last columns are one (context_image); "
                f"the context has shape {tuple(context_shape)}. For a vector take mlp."
            )
        if min(image[1:]) < SMALLEST:
            raise ValueError(
                f"embed 'conv' needs {SMALLEST} pixels a side or more; the image is {tuple(image)}. For these take mlp."
            )
        channels, height, width = image
        widths = [channels]
        while max(height, width) > LEFT:
            widths.append(min(self.hidden_features * 2 ** (len(widths) - 1), self.max_features))
            height, width = (height + 1) // 2, (width + 1) // 2
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            convolution = _scaled(nn.Conv2d(before, after, 3, stride=2, padding=1), SILU_POWER if layers else 1.0)
            layers += [convolution, nn.SiLU()]
        linear = _scaled(nn.Linear(widths[-1] * height * width, features), SILU_POWER)
        return _VectorBesideImage(image, nn.Sequential(*layers, nn.Flatten(), linear))


def _scaled(layer: nn.Conv2d | nn.Linear, power: float) -> nn.Module:
    """Weights that make of inputs of this mean square outputs of mean square one."""
    nn.init.normal_(layer.weight, std=(power * layer.weight[0].numel()) ** -0.5)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class _VectorBesideImage(nn.Module):
    """A network of the image that ends a context; what comes before it is passed on."""

    def __init__(self, image: Sequence[int], net: nn.Module) -> None:
        super().__init__()
        self.image, self.net = tuple(image), net

    def forward(self, context: Tensor) -> Tensor:
        """``(N, *context)`` to ``(N, V + F)``."""
        flat = context.flatten(1)
        vector, image = flat.split([flat.shape[1] - prod(self.image), prod(self.image)], 1)
        return torch.cat([vector, self.net(image.unflatten(1, self.image))], 1)
