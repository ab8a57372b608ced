"""The two Bernoulli tasks of sbibm: spikes of a neuron that answers to a stimulus, whole or summed up."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from flowzoo.bijectors import Rescale
from flowzoo.data._data import Levels
from flowzoo.data._sbibm_tasks import Task, normal
from flowzoo.inference import Gaussian
from flowzoo.seeding import generator

_BINS, _LAGS = 100, 9
_PARAMETERS = ("offset", *(f"filter {lag}" for lag in range(_LAGS)))
_STEPS = 60  # of the chains
_PILOT = 8192  # draws from which their proposal is made
_FREEDOM = 8  # degrees of freedom of their proposal


def bernoulli_glm(design: Tensor) -> Task:
    r"""The number of spikes and the sum of the stimulus at nine lags before each, given offset and filter.

    .. math:: y_t \sim \mathrm{Bernoulli}(\mathrm{sigmoid}(d_t \cdot \theta)),\qquad x = \sum_t y_t d_t

    They are sufficient for theta; how many y have the same x is not known, so that the likelihood is known up to a
    function of x.

    Args:
        design: ``(100, 10)``, rows d_t: one, then the stimulus at t, t - 1, ..., t - 8.
    """
    model = _Spikes(design.double())
    return Task(
        prior=prior(),
        parameters=_PARAMETERS,
        names=("spikes", *(f"stimulus at lag {lag}" for lag in range(_LAGS))),
        simulate=model.simulate_sums,
        log_likelihood=model.of_sums,
        normalised=False,
        draw=model.draw,
        no_event="a number of spikes and sums over them are discrete, and no ladder of levels holds them",
    )


def bernoulli_glm_raw(design: Tensor) -> Task:
    """As ``bernoulli_glm`` with the hundred y_t themselves as x."""
    model = _Spikes(design.double())
    return Task(
        prior=prior(),
        parameters=_PARAMETERS,
        names=tuple(f"y{t + 1}" for t in range(_BINS)),
        simulate=model.simulate,
        log_likelihood=model.of_spikes,
        draw=model.draw_of_spikes,
        scale=Rescale(0.0, 1.0),
        levels=Levels(0, 1, 2),
    )


def prior() -> Gaussian:
    r"""N(0, P^-1), of a smooth filter: P is 1/2 for the offset and F^T F for the filter, F = D^2 + diag(sqrt(k / 9)).

    D has 1 on its diagonal and -1 below it (Lueckmann et al. 2021, task T.5).
    """
    difference = torch.eye(_LAGS, dtype=torch.float64) - torch.eye(_LAGS, dtype=torch.float64).roll(1, 0).tril()
    factor = difference @ difference + torch.diag((torch.arange(_LAGS, dtype=torch.float64) / _LAGS).sqrt())
    precision = torch.block_diag(torch.tensor([[0.5]], dtype=torch.float64), factor.T @ factor)
    covariance = torch.linalg.inv(precision)
    return Gaussian([0.0] * (_LAGS + 1), 0.5 * (covariance + covariance.T))


def own_design() -> Tensor:
    """A design matrix ``(100, 10)`` of a stimulus of our own: N(0, 1) in each bin, from a fixed seed."""
    stimulus = torch.randn(_BINS, generator=generator(0, "sbibm", "stimulus"))
    lagged = [torch.cat([stimulus.new_zeros(lag), stimulus[: _BINS - lag]]) for lag in range(_LAGS)]
    return torch.stack([torch.ones(_BINS), *lagged], 1)


@dataclass(frozen=True)
class _Spikes:
    design: Tensor  # (100, 10) in float64

    def simulate(self, theta: Tensor, generator: torch.Generator) -> Tensor:
        """y ``(..., 100)`` for theta ``(..., 10)``."""
        chance = (theta.double() @ self.design.T.to(theta.device)).sigmoid()
        u = torch.rand(chance.shape, generator=generator, device=generator.device, dtype=torch.float64)
        return (u.to(theta.device) < chance).to(theta.dtype)

    def simulate_sums(self, theta: Tensor, generator: torch.Generator) -> Tensor:
        """``(..., 10)``."""
        return (self.simulate(theta, generator).double() @ self.design.to(theta.device)).to(theta.dtype)

    def of_sums(self, x: Tensor, theta: Tensor) -> Tensor:
        """theta . x minus the logarithm of the normalisation over all y."""
        activity = theta.double() @ self.design.T.to(theta.device)
        return ((x.double() * theta.double()).sum(-1) - F.softplus(activity).sum(-1)).to(x.dtype)

    def of_spikes(self, x: Tensor, theta: Tensor) -> Tensor:
        """log p(y | theta); of y with dequantisation noise too."""
        return self.of_sums(x.double().floor() @ self.design.to(x.device), theta).to(x.dtype)

    def draw_of_spikes(self, x: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """As ``draw``, for y."""
        return self.draw(x.double() @ self.design.to(x.device), count, generator)

    def draw(self, x: Tensor, count: int, generator: torch.Generator) -> Tensor:
        r"""``(count, 10)`` draws of the posterior given the sums, each the end of a Markov chain of its own.

        Chains propose from Student's t with the mean and the covariance of the posterior, whatever their state. They
        come as near to the posterior as (1 - 1 / w)^steps in total variation, w the largest ratio of posterior and
        proposal (Tierney 1994, Annals of Statistics 22, 1701, corollary 4). The tests have w below 5; 60 steps then
        leave less than 2e-6.
        """
        x = x.double()
        centre, scale = self._moments(x, generator)
        theta, weight = self._propose(x, centre, scale, count, generator)
        for _ in range(_STEPS):
            proposed, new = self._propose(x, centre, scale, count, generator)
            u = torch.rand(count, generator=generator, device=generator.device, dtype=torch.float64).to(x.device)
            accepted = u.log() < new - weight
            theta, weight = torch.where(accepted[:, None], proposed, theta), torch.where(accepted, new, weight)
        return theta

    def _moments(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Mean of the posterior and root of its covariance, by importance sampling.

        The log posterior is concave; where its maximum is, and how it curves there, is where the draws come from. It
        is skew for few spikes, so that this alone would be a poor proposal.
        """
        peak, curvature = self._peak(x)
        scale = torch.linalg.inv(torch.linalg.cholesky(curvature)).T  # scale scale^T is the inverse
        theta, weight = self._propose(x, peak, scale, _PILOT, generator)
        share = weight.softmax(0)
        centre = share @ theta
        off = theta - centre
        return centre, torch.linalg.cholesky((share[:, None] * off).T @ off)

    def _propose(
        self, x: Tensor, centre: Tensor, scale: Tensor, count: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Draws ``(count, 10)`` of Student's t, and the logarithm of posterior over proposal up to a constant."""
        z = normal((count, len(centre)), generator, x)
        chi = normal((count, _FREEDOM), generator, x).square().mean(-1, keepdim=True)
        step = z / chi.sqrt()
        theta = centre + step @ scale.T
        log_q = -0.5 * (_FREEDOM + len(centre)) * torch.log1p(step.square().sum(-1) / _FREEDOM)
        quadratic = ((theta @ self._precision(x)) * theta).sum(-1)
        return theta, self.of_sums(x.expand_as(theta), theta) - 0.5 * quadratic - log_q

    @staticmethod
    def _precision(like: Tensor) -> Tensor:
        return torch.linalg.inv(prior().covariance).to(like.device)

    def _peak(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The maximum of the log posterior by Newton's method with halved steps, and minus its Hessian."""
        design, theta, precision = self.design.to(x.device), torch.zeros_like(x), self._precision(x)

        def value(theta: Tensor) -> Tensor:
            return theta @ x - F.softplus(design @ theta).sum() - 0.5 * theta @ precision @ theta

        for _ in range(100):
            chance = (design @ theta).sigmoid()
            slope = x - design.T @ chance - precision @ theta
            curvature = design.T @ ((chance * (1 - chance))[:, None] * design) + precision
            step = torch.linalg.solve(curvature, slope)
            rise = float(slope @ step)
            if rise < 1e-16:
                break
            while value(theta + step) < value(theta) + 1e-4 * rise and float(step.abs().max()) > 1e-9:
                step = step / 2
            theta = theta + step
        return theta, curvature
