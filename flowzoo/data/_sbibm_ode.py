"""The two tasks of sbibm that are differential equations: an epidemic, and predators with their prey."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flowzoo.bijectors import Arcsine, Columns, Compose, Log, Standardize, Whiten
from flowzoo.data._data import Levels
from flowzoo.data._sbibm_tasks import Task, normal
from flowzoo.inference import LogNormal

_PEOPLE, _SAMPLED, _DAYS, _TIMES = 1e6, 1000, 17.0, 10
_START, _PERIOD, _NOISE = (30.0, 1.0), 2.1, 0.1
_LIVING = (1e-10, 1e4)  # within reach of float32, which a few draws of the prior would leave
_CHUNK = 4096  # trajectories at a time, which a processor's cache can hold


def sir() -> Task:
    r"""Infected among 1000 people that are tested on ten days, given the rates of contact and of recovery per day.

    .. math:: \dot S = -\beta S I / N,\quad \dot I = \beta S I / N - \gamma I,\quad N = 10^6,\quad
              S(0) = N - 1,\quad I(0) = 1,\qquad x_i \sim \mathrm{Binomial}(1000, I(t_i)/N),\quad
              t_i = 0, 17, \dots, 153

    As a context a count is put on the scale on which all are equally noisy (``Arcsine``), and then all are whitened but
    that of day 0, which is nearly always 0.
    """
    return Task(
        prior=LogNormal([math.log(0.4), math.log(0.125)], [0.5, 0.2]),
        parameters=("beta", "gamma"),
        names=tuple(f"infected on day {_DAYS * i:g}" for i in range(_TIMES)),
        simulate=_simulate_sir,
        log_likelihood=_sir_log_likelihood,
        scale=Compose(
            Arcsine(0, _SAMPLED, 0.375 / (_SAMPLED + 0.75)), Columns(range(1, _TIMES), Whiten((_TIMES - 1,)))
        ),
        levels=Levels(0, 1, _SAMPLED + 1),
    )


def lotka_volterra() -> Task:
    r"""Ten counts of prey, then ten of predators, given (alpha, beta, gamma, delta).

    .. math:: \dot u = \alpha u - \beta u v,\quad \dot v = -\gamma v + \delta u v,\quad u(0) = 30,\quad v(0) = 1,
              \qquad \log x \sim N(\log(u, v)(t_i), 0.1^2),\quad t_i = 0, 2.1, \dots, 18.9

    Populations are held within 1e-10 and 1e4 before the noise.
    """
    return Task(
        prior=LogNormal([-0.125, -3.0, -0.125, -3.0], [0.5] * 4),
        parameters=("alpha", "beta", "gamma", "delta"),
        names=tuple(f"{kind} at {_PERIOD * i:.3g}" for kind in ("prey", "predators") for i in range(_TIMES)),
        simulate=_simulate_lotka_volterra,
        log_likelihood=_lotka_volterra_log_likelihood,
        scale=Compose(Log(), Standardize((2 * _TIMES,))),
    )


def infected(theta: Tensor) -> Tensor:
    """I / N on the ten days, ``(..., 10)`` in float64, for theta ``(..., 2)``."""
    beta, gamma = theta.double().reshape(-1, 2).unbind(-1)
    growth, contact = torch.stack([torch.zeros_like(gamma), -gamma]), torch.stack([-beta, beta])
    start = (math.log1p(-1 / _PEOPLE), -math.log(_PEOPLE))
    # A quarter of a day.
    return _solve(growth, contact, start, _DAYS, 68)[:, 1].exp().reshape(*theta.shape[:-1], _TIMES)


def log_populations(theta: Tensor) -> Tensor:
    """The logarithms of prey at the ten times, then of predators, ``(..., 20)`` in float64, for theta ``(..., 4)``."""
    alpha, beta, gamma, delta = theta.double().reshape(-1, 4).unbind(-1)
    growth, contact = torch.stack([alpha, -gamma]), torch.stack([-beta, delta])
    start = (math.log(_START[0]), math.log(_START[1]))
    # A population in a burst changes with rates up to a hundred.
    found = _solve(growth, contact, start, _PERIOD, 300)
    return found.clamp(math.log(_LIVING[0]), math.log(_LIVING[1])).reshape(*theta.shape[:-1], 2 * _TIMES)


def _solve(growth: Tensor, contact: Tensor, start: tuple[float, float], period: float, steps: int) -> Tensor:
    r"""Two populations that meet, by the classical Runge-Kutta method with a fixed step, in logarithms.

    .. math:: \frac{d \log y_1}{dt} = g_1 + c_1 y_2,\qquad \frac{d \log y_2}{dt} = g_2 + c_2 y_1

    is the epidemic (y the shares S / N and I / N) as well as Lotka and Volterra's. Logarithms keep populations
    positive, and the error is a relative one.

    Args:
        growth: ``(2, B)``.
        contact: ``(2, B)``.
        start: logarithms at t = 0.
        period: time between outputs.
        steps: of the integrator in a period.

    Returns:
        ``(B, 2, T)``, the logarithms at t = 0, period, ...
    """
    found = []
    for g, c in zip(growth.split(_CHUNK, 1), contact.split(_CHUNK, 1), strict=True):
        y, h = torch.tensor(start, dtype=g.dtype, device=g.device)[:, None].expand_as(g), period / steps
        outputs = [y]
        for _ in range(_TIMES - 1):
            for _ in range(steps):
                first = torch.addcmul(g, c, y.exp().flip(0))
                second = torch.addcmul(g, c, y.add(first, alpha=0.5 * h).exp().flip(0))
                third = torch.addcmul(g, c, y.add(second, alpha=0.5 * h).exp().flip(0))
                fourth = torch.addcmul(g, c, y.add(third, alpha=h).exp().flip(0))
                y = y.add((first + fourth).add(second + third, alpha=2), alpha=h / 6)
            outputs.append(y)
        found.append(torch.stack(outputs, -1).transpose(0, 1))
    return torch.cat(found)


def _simulate_sir(theta: Tensor, generator: torch.Generator) -> Tensor:
    share = infected(theta).clamp(0, 1).to(generator.device)
    return torch.binomial(torch.full_like(share, _SAMPLED), share, generator=generator).to(theta)


def _sir_log_likelihood(x: Tensor, theta: Tensor) -> Tensor:
    # A count with its dequantisation noise, in [k, k + 1), has the density that k has as a probability.
    k, share = x.double().floor(), infected(theta).clamp(0, 1)
    ways = math.lgamma(_SAMPLED + 1) - torch.lgamma(k + 1) - torch.lgamma(_SAMPLED - k + 1)
    return (ways + torch.xlogy(k, share) + torch.special.xlog1py(_SAMPLED - k, -share)).sum(-1).to(x.dtype)


def _simulate_lotka_volterra(theta: Tensor, generator: torch.Generator) -> Tensor:
    log = log_populations(theta)
    return (log + _NOISE * normal(tuple(log.shape), generator, log)).exp().to(theta.dtype)


def _lotka_volterra_log_likelihood(x: Tensor, theta: Tensor) -> Tensor:
    positive = x > 0
    log = x.double().where(positive, 1.0).log()
    each = -0.5 * ((log - log_populations(theta)) / _NOISE).square() - log - 0.5 * math.log(2 * math.pi * _NOISE**2)
    return each.where(positive, -math.inf).sum(-1).to(x.dtype)
