"""Conditioner networks: small maps from (part of an event, context) to the parameters of a transform."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

Padding = Literal["zeros", "circular", "reflect"]


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

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """``(N, in_features)``, ``(N, context_features)`` to ``(N, out_features)``."""
        h = self.first(x)
        if self.inject:
            h = h + self.inject[0](context)
        for i, layer in enumerate(self.hidden, start=1):
            h = layer(self.activation(h))
            if self.inject:
                h = h + self.inject[i](context)
        return self.last(self.activation(h))


class ContextConv(nn.Module):
    """Two-input network ``(half, context) -> parameters`` for images: 3x3, 1x1, 3x3, the last zero-initialised.

    The context enters as a per-sample, per-channel bias of both hidden layers, not as a constant image through a
    convolution, which costs the same as the image itself and says no more.

    Args:
        in_channels: channels seen.
        context_features: width of the context, 0 for none.
        out_channels: channels of parameters returned.
        hidden_channels: width of the two hidden layers.
        padding_mode: ``"zeros"``, ``"circular"`` for periodic boxes, or ``"reflect"``.
    """

    def __init__(
        self,
        in_channels: int,
        context_features: int,
        out_channels: int,
        hidden_channels: int,
        *,
        padding_mode: Padding = "zeros",
    ) -> None:
        super().__init__()
        self.first = nn.Conv2d(in_channels, hidden_channels, 3, padding=1, padding_mode=padding_mode)
        self.second = nn.Conv2d(hidden_channels, hidden_channels, 1)
        self.last = nn.Conv2d(hidden_channels, out_channels, 3, padding=1, padding_mode=padding_mode)
        zero_(self.last)
        self.inject = nn.Linear(context_features, 2 * hidden_channels) if context_features else None
        self.activation = nn.SiLU()

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """``(N, in_channels, H, W)``, ``(N, context_features)`` to ``(N, out_channels, H, W)``."""
        h, bias = self.first(x), None
        if self.inject is not None:
            bias = self.inject(context)[:, :, None, None].chunk(2, dim=1)
            h = h + bias[0]
        h = self.second(self.activation(h))
        if bias is not None:
            h = h + bias[1]
        return self.last(self.activation(h))


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


def widths(hidden_features: int | Sequence[int], depth: int = 2) -> tuple[int, ...]:
    """The widths of hidden layers from an option that is an int (``depth`` equal layers) or a sequence."""
    if isinstance(hidden_features, int):
        return (hidden_features,) * depth
    return tuple(hidden_features)
