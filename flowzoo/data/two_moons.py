"""sbibm's two moons: a crescent whose place depends on two parameters, with its exact density."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from flowzoo.data._data import Data
from flowzoo.inference import Box
from flowzoo.registry import DATASETS
from flowzoo.seeding import generator

_RADIUS, _WIDTH, _OFFSET = 0.1, 0.01, 0.25
_EDGE = 5e-7  # x is rounded to float32 (steps of 1.2e-7 up to |x| = 2), and so may fall beyond the edge


@DATASETS.register
@dataclass(frozen=True)
class TwoMoons:
    r"""p(x | theta), two numbers given two, all without units.

    .. math:: a \sim U(-\pi/2, \pi/2),\quad r \sim N(0.1, 0.01^2),\quad
              x = \begin{pmatrix} r\cos a + 0.25 \\ r\sin a \end{pmatrix}
                + \frac{1}{\sqrt 2}\begin{pmatrix} -\lvert\theta_1 + \theta_2\rvert \\ -\theta_1 + \theta_2
                  \end{pmatrix},\quad \theta \sim U(-1, 1)^2

    (Lueckmann et al. 2021, arXiv:2101.04653, task T.8). The posterior of theta given x has two moons; x given
    theta has one.

    Args:
        num_events: pairs (theta, x) drawn.
        seed: of the draws.
    """

    num_events: int = 10_000
    seed: int = 0

    def load(self) -> Data:
        """Draw theta from the prior and x from the simulator.

        Raises:
            ValueError: for fewer than one event.
        """
        if self.num_events < 1:
            raise ValueError(f"two_moons needs num_events >= 1; got {self.num_events}")
        prior = Box([-1.0, -1.0], [1.0, 1.0])
        theta = prior.sample(self.num_events, generator(self.seed, "theta"))
        return Data(
            x=self.simulate(theta, generator(self.seed, "x")),
            context=theta,
            names=("x1", "x2"),
            context_names=("theta1", "theta2"),
            prior=prior,
            simulate=self.simulate,
            true_log_prob=self.true_log_prob,
        )

    def simulate(self, theta: Tensor, generator: torch.Generator) -> Tensor:
        """Draw x ``(..., 2)`` for theta ``(..., 2)``; the generator may be on another device."""
        shape = theta.shape[:-1]
        a = math.pi * (torch.rand(shape, generator=generator, device=generator.device) - 0.5)
        r = _RADIUS + _WIDTH * torch.randn(shape, generator=generator, device=generator.device)
        crescent = torch.stack([r * a.cos() + _OFFSET, r * a.sin()], -1)
        return crescent.to(theta) + self._shift(theta)

    def true_log_prob(self, x: Tensor, context: Tensor) -> Tensor:
        r"""log p(x | theta) in nats, ``(..., 2)`` and ``(..., 2)`` to ``(...)``.

        With q = x - shift(theta) - (0.25, 0) and r its length, the area element is r dr da, so

        .. math:: p(x \mid \theta) = \frac{N(r; 0.1, 0.01^2)}{\pi r}\ \text{for}\ q_1 \ge 0,\ \text{else}\ 0.

        Neglected: draws with r < 0, which land at q_1 < 0 with probability 8e-24. The edge is taken at
        q_1 = -5e-7, because x is rounded to float32; that adds 3e-6 to the integral.
        """
        q = x.double() - self._shift(context.double())
        u, v = q[..., 0] - _OFFSET, q[..., 1]
        r = torch.hypot(u, v)
        z = (r - _RADIUS) / _WIDTH
        log_p = -0.5 * z.square() - math.log(_WIDTH * math.sqrt(2 * math.pi)) - math.log(math.pi) - r.log()
        return torch.where(u >= -_EDGE, log_p, -math.inf).to(x.dtype)

    @staticmethod
    def _shift(theta: Tensor) -> Tensor:
        """Where the crescent of each theta is moved to."""
        first, second = theta[..., 0], theta[..., 1]
        return torch.stack([-(first + second).abs(), second - first], -1) / math.sqrt(2)
