"""Activation normalisation: data-initialised scale and shift per channel, with a conditional one on top."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

from flowzoo.nets import Given, image_of, mlp, vector_of, zero_


class ActNorm(nn.Module):
    r""":math:`y = (x - \mu)\, e^{-s}` per channel (Kingma and Dhariwal 2018, section 3.1).

    ``initialize`` sets mu and s so that the first batch leaves with zero mean and unit variance. It is called once,
    by name; nothing hides in the forward pass.

    Args:
        channels: size of dimension 1 of ``(N, C)`` or ``(N, C, H, W)``.
        context_features: width of the context; if not 0 an MLP of the context, which starts at zero, adds a scale
            and a shift of its own (Friedman and Hassan 2022, arXiv:2211.12724: the conditional injector of HIGlow).
        hidden_features: widths of that MLP.
        bound: the conditional log-scale stays within (-bound, bound).
    """

    def __init__(
        self,
        channels: int,
        context_features: int = 0,
        hidden_features: Sequence[int] = (64,),
        bound: float = 2.0,
    ) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(channels))
        self.log_scale = nn.Parameter(torch.zeros(channels))
        self.bound = bound
        self.net = None
        if context_features:
            self.net = mlp(context_features, 2 * channels, hidden_features, zero_init=True)

    @torch.no_grad()
    def initialize(self, x: Tensor, c: Given) -> None:
        """Set mean and scale from a batch, over everything but the channels."""
        over = [0, *range(2, x.ndim)]
        self.mean.copy_(x.mean(over))
        self.log_scale.copy_(x.std(over, correction=0).clamp_min(1e-6).log())

    def to_latent(self, x: Tensor, c: Given) -> tuple[Tensor, Tensor]:
        """Normalise, then scale and shift by the context."""
        return self._transform(x, *self._affine(c))

    def to_data(self, y: Tensor, c: Given) -> tuple[Tensor, Tensor]:
        """The inverse."""
        log_scale, shift = self._affine(c)
        return self._restore(y, log_scale, shift), -self._log_det(y, log_scale)

    def recompute(self, y: Tensor, c: Given) -> tuple[Tensor, Tensor, Tensor]:
        """From the output: the input, a leaf that requires gradient, and output and log|det| with graph.

        For ``flowzoo.layers.reversible``. The network of the context runs once.
        """
        log_scale, shift = self._affine(c)
        with torch.no_grad():
            x = self._restore(y, log_scale, shift)
        x.requires_grad_()
        return x, *self._transform(x, log_scale, shift)

    def _affine(self, c: Given) -> tuple[Tensor, Tensor]:
        """Log-scale and shift of both normalisations as one, ``(N or 1, C)``."""
        log_scale, shift = -self.log_scale[None], None
        if self.net is not None:
            raw, shift = self.net(vector_of(c)).chunk(2, dim=1)
            log_scale = log_scale + self.bound * torch.tanh(raw / self.bound)
        offset = self.mean * torch.exp(log_scale)
        return log_scale, -offset if shift is None else shift - offset

    def _transform(self, x: Tensor, log_scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        # One pass over the activations, where a subtraction, two products and a sum would be four.
        y = torch.addcmul(_like(x, shift), x, _like(x, torch.exp(log_scale)))
        return y, self._log_det(x, log_scale)

    def _restore(self, y: Tensor, log_scale: Tensor, shift: Tensor) -> Tensor:
        return (y - _like(y, shift)) * _like(y, torch.exp(-log_scale))

    def _log_det(self, x: Tensor, log_scale: Tensor) -> Tensor:
        return (log_scale.sum(1) * prod(x.shape[2:])).expand(len(x))


class Injector(nn.Module):
    r""":math:`y = x\, e^{s(c)} + t(c)` per pixel and channel, by the features of an image context.

    The affine injector of SRFlow (Lugmayr et al. 2020, arXiv:2006.14200, section 3.2). It starts as the identity.

    Args:
        channels: C.
        image_features: channels of the features.
        hidden_features: width of the network, two 1x1 convolutions.
        bound: the log-scale stays within (-bound, bound).
    """

    def __init__(self, channels: int, image_features: int, hidden_features: int, bound: float = 2.0) -> None:
        super().__init__()
        last = zero_(nn.Conv2d(hidden_features, 2 * channels, 1))
        self.net = nn.Sequential(nn.Conv2d(image_features, hidden_features, 1), nn.SiLU(), last)
        self.bound = bound

    def to_latent(self, x: Tensor, c: Given) -> tuple[Tensor, Tensor]:
        """Scale and shift by the image."""
        return self._transform(x, *self._affine(c))

    def to_data(self, y: Tensor, c: Given) -> tuple[Tensor, Tensor]:
        """The inverse."""
        log_scale, shift = self._affine(c)
        return (y - shift) * torch.exp(-log_scale), -log_scale.flatten(1).sum(1)

    def recompute(self, y: Tensor, c: Given) -> tuple[Tensor, Tensor, Tensor]:
        """As that of ``ActNorm``: the network runs once."""
        log_scale, shift = self._affine(c)
        with torch.no_grad():
            x = (y - shift) * torch.exp(-log_scale)
        x.requires_grad_()
        return x, *self._transform(x, log_scale, shift)

    def _transform(self, x: Tensor, log_scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        return x * torch.exp(log_scale) + shift, log_scale.flatten(1).sum(1)

    def _affine(self, c: Given) -> tuple[Tensor, Tensor]:
        raw, shift = self.net(image_of(c)).chunk(2, dim=1)
        return self.bound * torch.tanh(raw / self.bound), shift


def _like(x: Tensor, channels: Tensor) -> Tensor:
    """``(N, C)`` with trailing axes to broadcast against ``x``."""
    return channels.reshape(*channels.shape, *(1,) * (x.ndim - 2))
