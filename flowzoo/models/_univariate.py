"""Univariate transforms in the place of zuko's: onto, or finite; the parameters stay zuko's."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Transform, constraints

from flowzoo.models import _quiet_zuko  # noqa: F401

# isort: split
from zuko.transforms import GaussianizationTransform


class AsinhTransform(Transform):
    r""":math:`y = B\,\mathrm{asinh}(x / B)`: near the identity inside B, logarithmic beyond, and onto.

    It stands where zuko puts ``SoftclipTransform(11)``, whose range is bounded, so that a draw of the base beyond it
    has no preimage.
    """

    domain = constraints.real
    codomain = constraints.real
    bijective = True
    sign = +1

    def __init__(self, bound: float = 11.0) -> None:
        super().__init__()
        self.bound = bound

    def _call(self, x: Tensor) -> Tensor:
        return self.bound * torch.asinh(x / self.bound)

    def _inverse(self, y: Tensor) -> Tensor:
        return self.bound * torch.sinh(y / self.bound)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Elementwise."""
        # log cosh(y/B) without overflow
        a = (y / self.bound).abs()
        return -(a + torch.log1p(torch.exp(-2 * a)) - math.log(2))


class LogSpaceGaussianization(GaussianizationTransform):
    r"""zuko's Gaussianization :math:`\Phi^{-1}(F(x)),\ F(x) = \tfrac1K \sum_k \Phi(s_k x + b_k)`, in log space.

    zuko's float32 ``erf`` is exactly 1 beyond 3.9, where its derivative, and so the density, is exactly 0. Here the
    smaller of the two tails is carried as a logarithm, and the derivative by hazards :math:`h = \phi / \Phi`, so
    that no large squares cancel:

    .. math:: \frac{dy}{dx} = \frac{1}{h(y)} \sum_k w_k\, s_k\, h(a_k), \quad w = \mathrm{softmax}(\log \Phi(a))
    """

    def f(self, x: Tensor) -> Tensor:
        """The transform."""
        return self.call_and_ladj(x)[0]

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The transform and its log-derivative, in closed form."""
        a = x[..., None] * self.scale + self.shift
        log_k = math.log(a.shape[-1])
        log_lower = torch.special.log_ndtr(a).logsumexp(-1) - log_k
        log_upper = torch.special.log_ndtr(-a).logsumexp(-1) - log_k
        sign = torch.where(log_lower < log_upper, 1.0, -1.0)
        tail = _NormalQuantile.apply(torch.minimum(log_lower, log_upper))
        toward = a * sign[..., None]
        weights = torch.special.log_ndtr(toward).log_softmax(-1)
        log_slope = (weights + self.scale.log() + _log_hazard(toward)).logsumexp(-1) - _log_hazard(tail)
        return sign * tail, log_slope


class _NormalQuantile(torch.autograd.Function):
    """The normal quantile of exp(log_p), for log_p <= log(1/2), down to where exp(log_p) underflows."""

    @staticmethod
    def forward(ctx: Any, log_p: Tensor) -> Tensor:
        # Far out log Phi(z) ~ -z^2/2 - log(-z) - log(2 pi)/2; nearer, ndtri itself starts Newton's method.
        tail = -(-2 * log_p - math.log(2 * math.pi)).clamp_min(1.0).sqrt()
        z = torch.where(log_p > -20, torch.special.ndtri(log_p.clamp_min(-21).exp()), tail)
        for _ in range(4):
            z = z - (torch.special.log_ndtr(z) - log_p) * torch.exp(-_log_hazard(z))
        ctx.save_for_backward(z)
        return z

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors
        return grad * torch.exp(-_log_hazard(z))


def _log_hazard(a: Tensor) -> Tensor:
    """log(phi(a) / Phi(a)), without cancellation in the lower tail."""
    low, high = a.clamp_max(-1.0), a.clamp_min(-1.0)
    far = -torch.special.erfcx(-low / math.sqrt(2)).log() - 0.5 * math.log(math.pi / 2)
    near = -0.5 * high.square() - 0.5 * math.log(2 * math.pi) - torch.special.log_ndtr(high)
    return torch.where(a < -1.0, far, near)
