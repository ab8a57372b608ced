"""The three Gaussian tasks of sbibm, whose posteriors are known."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flowzoo.data._sbibm_tasks import Task, normal, numbered
from flowzoo.inference import Box, Gaussian

_VARIANCE = 0.1  # of the noise of the linear tasks, and of the prior of the first
_SIDE = 10.0  # half of the side of the mixture's box
_SPREADS = (1.0, 0.1)  # standard deviations of the two components, each of weight 1/2


def gaussian_linear() -> Task:
    r"""Ten means: :math:`\theta \sim N(0, 0.1 I), x \sim N(\theta, 0.1 I)`; the posterior is N(x / 2, 0.05 I)."""
    return Task(
        prior=Gaussian([0.0] * 10, [_VARIANCE] * 10),
        parameters=numbered("theta", 10),
        names=numbered("x", 10),
        simulate=_simulate,
        log_likelihood=_log_likelihood,
        draw=_draw,
        log_posterior=_log_posterior,
    )


def gaussian_linear_uniform() -> Task:
    """As ``gaussian_linear`` with a flat prior on [-1, 1]^10; the posterior is a truncated normal in each parameter."""
    return Task(
        prior=Box([-1.0] * 10, [1.0] * 10),
        parameters=numbered("theta", 10),
        names=numbered("x", 10),
        simulate=_simulate,
        log_likelihood=_log_likelihood,
        draw=_draw_uniform,
        log_posterior=_log_posterior_uniform,
    )


def gaussian_mixture() -> Task:
    r"""A common mean of a wide and a narrow normal, :math:`\frac12 N(\theta, I) + \frac12 N(\theta, 0.01 I)`.

    The prior is flat on [-10, 10]^2, so the posterior is the same mixture about x, cut at the box: two truncated
    normals, each weighted with its mass in the box.
    """
    return Task(
        prior=Box([-_SIDE] * 2, [_SIDE] * 2),
        parameters=numbered("theta", 2),
        names=numbered("x", 2),
        simulate=_simulate_mixture,
        log_likelihood=_mixture_log_likelihood,
        draw=_draw_mixture,
        log_posterior=_mixture_log_posterior,
    )


def _simulate(theta: Tensor, generator: torch.Generator) -> Tensor:
    return (theta.double() + _VARIANCE**0.5 * normal(tuple(theta.shape), generator, theta)).to(theta.dtype)


def _gaussian(value: Tensor, mean: Tensor, variance: float) -> Tensor:
    """log N of the last axis, independent columns, in float64."""
    square = (value.double() - mean.double()).square() / variance
    return -0.5 * (square + math.log(2 * math.pi * variance)).sum(-1)


def _log_likelihood(x: Tensor, theta: Tensor) -> Tensor:
    return _gaussian(x, theta, _VARIANCE).to(x.dtype)


def _draw(x: Tensor, count: int, generator: torch.Generator) -> Tensor:
    return x.double() / 2 + (_VARIANCE / 2) ** 0.5 * normal((count, len(x)), generator, x)


def _log_posterior(theta: Tensor, x: Tensor) -> Tensor:
    return _gaussian(theta, x.double() / 2, _VARIANCE / 2).to(theta.dtype)


def _draw_uniform(x: Tensor, count: int, generator: torch.Generator) -> Tensor:
    return _truncated(x, _VARIANCE**0.5, 1.0, count, generator)


def _log_posterior_uniform(theta: Tensor, x: Tensor) -> Tensor:
    mass = _mass(x.double(), _VARIANCE**0.5, 1.0).log().sum(-1)
    inside = (theta.abs() <= 1).all(-1)
    return torch.where(inside, _gaussian(theta, x, _VARIANCE) - mass, -math.inf).to(theta.dtype)


def _simulate_mixture(theta: Tensor, generator: torch.Generator) -> Tensor:
    noise = normal(tuple(theta.shape), generator, theta)
    which = torch.randint(2, theta.shape[:-1], generator=generator, device=generator.device).to(theta.device)
    spread = torch.tensor(_SPREADS, dtype=torch.float64, device=theta.device)[which]
    return (theta.double() + spread[..., None] * noise).to(theta.dtype)


def _mixture_log_likelihood(x: Tensor, theta: Tensor) -> Tensor:
    parts = torch.stack([_gaussian(x, theta, spread**2) for spread in _SPREADS])
    return (parts.logsumexp(0) - math.log(2)).to(x.dtype)


def _draw_mixture(x: Tensor, count: int, generator: torch.Generator) -> Tensor:
    wide, narrow = (_truncated(x, spread, _SIDE, count, generator) for spread in _SPREADS)
    weight = [float(_mass(x.double(), spread, _SIDE).prod()) for spread in _SPREADS]
    u = torch.rand(count, generator=generator, device=generator.device, dtype=torch.float64).to(x.device)
    return torch.where((u * sum(weight) < weight[0])[:, None], wide, narrow)


def _mixture_log_posterior(theta: Tensor, x: Tensor) -> Tensor:
    mass = sum(0.5 * _mass(x.double(), spread, _SIDE).prod(-1) for spread in _SPREADS)
    assert isinstance(mass, Tensor)
    inside = (theta.abs() <= _SIDE).all(-1)
    log_p = _mixture_log_likelihood(x.double(), theta.double()) - mass.log()
    return torch.where(inside, log_p, -math.inf).to(theta.dtype)


def _ends(mean: Tensor, spread: float, side: float) -> tuple[Tensor, Tensor]:
    """Of N(-|mean|, spread^2), the probabilities above ``side`` and above ``-side``."""
    # Mirrored to the left, the mass that remains is a difference of small numbers, not of numbers near one.
    size = mean.abs()
    return torch.special.ndtr(-(side + size) / spread), torch.special.ndtr((side - size) / spread)


def _mass(mean: Tensor, spread: float, side: float) -> Tensor:
    """The probability that N(mean, spread^2) is in [-side, side], element by element."""
    above, below = _ends(mean, spread, side)
    return below - above


def _truncated(mean: Tensor, spread: float, side: float, count: int, generator: torch.Generator) -> Tensor:
    """``(count, D)`` independent draws of N(mean, spread^2), ``(D,)``, given that they are in [-side, side]."""
    mean = mean.double()
    above, below = _ends(mean, spread, side)
    u = torch.rand(count, len(mean), generator=generator, device=generator.device, dtype=torch.float64)
    z = -torch.special.ndtri(above + (below - above) * u.to(mean.device))
    mirrored = (-mean.abs() + spread * z).clamp(-side, side)
    return torch.where(mean > 0, -mirrored, mirrored)
