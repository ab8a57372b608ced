"""What a task of sbibm is, and the two whose simulators are formulas with latent draws: two_moons and slcp."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from flowzoo.bijectors import Bijector
from flowzoo.data._data import Levels
from flowzoo.data.two_moons import TwoMoons
from flowzoo.inference import Box, Prior

_ROUND, _ROUNDS = 4096, 50  # points tried at a time, and how often in vain


@dataclass(frozen=True)
class Task:
    """A prior of D parameters and a simulator of F numbers.

    Args:
        prior: of theta.
        parameters: D names.
        names: F names, of the columns of an observation.
        simulate: theta ``(..., D)`` and a generator, on any device, to x ``(..., F)``.
        log_likelihood: x ``(..., F)`` and theta ``(..., D)`` to log p(x | theta) ``(...)`` in nats, in the type of x.
        normalised: whether that is known with what depends on x alone.
        draw: exact draws of the posterior: x ``(F,)``, how many, a generator, to ``(count, D)`` in float64; None where
            they come from files alone.
        log_posterior: theta ``(..., D)`` and x ``(..., F)`` to the normalised log p(theta | x), where it is known.
        scale: unfitted map of an observation; None: standardised.
        levels: the values of an observation of integers.
        no_event: why an observation cannot be the event of a flow, in a few words.
    """

    prior: Prior
    parameters: tuple[str, ...]
    names: tuple[str, ...]
    simulate: Callable[[Tensor, torch.Generator], Tensor]
    log_likelihood: Callable[[Tensor, Tensor], Tensor]
    normalised: bool = True
    draw: Callable[[Tensor, int, torch.Generator], Tensor] | None = None
    log_posterior: Callable[[Tensor, Tensor], Tensor] | None = None
    scale: Bijector | None = None
    levels: Levels | None = None
    no_event: str = ""


def numbered(stem: str, count: int) -> tuple[str, ...]:
    """``x1, x2, ...``."""
    return tuple(f"{stem}{i + 1}" for i in range(count))


def normal(shape: tuple[int, ...], generator: torch.Generator, like: Tensor) -> Tensor:
    """N(0, 1) noise from the generator, on the device of ``like``, in float64."""
    return torch.randn(shape, generator=generator, device=generator.device).to(like.device).double()


def two_moons() -> Task:
    """A crescent that depends on theta through |t1 + t2| and t2 - t1: see the dataset ``two_moons``."""
    moons = TwoMoons()
    return Task(
        prior=Box([-1.0] * 2, [1.0] * 2),
        parameters=numbered("theta", 2),
        names=numbered("x", 2),
        simulate=moons.simulate,
        log_likelihood=moons.true_log_prob,
        draw=_draw_moons,
    )


def _draw_moons(x: Tensor, count: int, generator: torch.Generator) -> Tensor:
    r"""The simulator read backwards.

    Given the point p of the crescent, x fixes :math:`|t_1 + t_2| = \sqrt2 (p_1 + 0.25 - x_1)` and
    :math:`t_2 - t_1 = \sqrt2 (x_2 - p_2)`. The prior is flat in both and in the sign, so p is distributed as in the
    simulator, except where no theta of the square belongs to it.
    """
    found, kept, rounds = list[Tensor](), 0, 0
    centre = torch.zeros(2, dtype=torch.float64, device=x.device)
    while kept < count:
        # At theta = 0 the simulator gives the crescent itself, moved by 0.25.
        crescent = TwoMoons().simulate(centre.expand(max(_ROUND, 4 * count), 2), generator)
        total, difference = math.sqrt(2) * (crescent[:, 0] - x[0]), math.sqrt(2) * (x[1] - crescent[:, 1])
        sign = 1 - 2 * torch.randint(2, total.shape, generator=generator, device=generator.device)
        sign = sign.to(total)
        theta = torch.stack([sign * total - difference, sign * total + difference], -1) / 2
        inside = (total >= 0) & (theta.abs() <= 1).all(-1)
        found.append(theta[inside])
        kept, rounds = kept + len(found[-1]), rounds + 1
        if not kept and rounds == _ROUNDS:
            raise ValueError(f"no theta of the square [-1, 1]^2 leads to x = {x.tolist()}")
    return torch.cat(found)[:count]


def slcp() -> Task:
    r"""Simple likelihood, complex posterior: four points of a plane, N(m, S), drawn by draw one after another.

    .. math:: m = (t_1, t_2),\quad s_1 = t_3^2,\quad s_2 = t_4^2,\quad \rho = \tanh t_5,\quad
              S = \begin{pmatrix} s_1^2 & \rho s_1 s_2 \\ \cdot & s_2^2 \end{pmatrix} + 10^{-6} I
    """
    return Task(
        prior=Box([-3.0] * 5, [3.0] * 5),
        parameters=numbered("theta", 5),
        names=tuple(f"x{draw}{axis}" for draw in range(1, 5) for axis in "ab"),
        simulate=_simulate_slcp,
        log_likelihood=_slcp_log_likelihood,
    )


def _cholesky(theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The entries (1, 1), (2, 1) and (2, 2) of the Cholesky factor of S, in float64."""
    first, second = theta[..., 2].square(), theta[..., 3].square()
    a = (first.square() + 1e-6).sqrt()
    b = theta[..., 4].tanh() * first * second / a
    return a, b, (second.square() + 1e-6 - b.square()).sqrt()


def _simulate_slcp(theta: Tensor, generator: torch.Generator) -> Tensor:
    shape, wide = theta.shape[:-1], theta.double()
    noise = normal((*shape, 4, 2), generator, theta)
    a, b, c = (entry[..., None] for entry in _cholesky(wide))
    first = wide[..., 0, None] + a * noise[..., 0]
    second = wide[..., 1, None] + b * noise[..., 0] + c * noise[..., 1]
    return torch.stack([first, second], -1).flatten(-2).to(theta.dtype)


def _slcp_log_likelihood(x: Tensor, theta: Tensor) -> Tensor:
    points, wide = x.double().unflatten(-1, (4, 2)), theta.double()
    a, b, c = (entry[..., None] for entry in _cholesky(wide))
    u = (points[..., 0] - wide[..., 0, None]) / a
    v = (points[..., 1] - wide[..., 1, None] - b * u) / c
    each = -0.5 * (u.square() + v.square()) - math.log(2 * math.pi) - a.log() - c.log()
    return each.sum(-1).to(x.dtype)
