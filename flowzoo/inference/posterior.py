"""``Posterior``: what a flow and a prior say of the parameters behind an observation."""

from __future__ import annotations

import math
from collections.abc import Callable
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor

from flowzoo.flow import ConditionalFlow
from flowzoo.inference._best import climb
from flowzoo.inference._checks import leaning
from flowzoo.inference._direct import draw
from flowzoo.inference._inferred import Inferred
from flowzoo.inference._methods import METHODS, Found
from flowzoo.inference._scoring import Scorer, evaluating, observations
from flowzoo.inference.priors import Prior
from flowzoo.seeding import generator as stream

FEWEST = 256  # draws are made, and the first of them kept: the search for the best needs to know the scale
ACCEPTANCE_DRAWS = 2000  # for the density of a truncated flow where nothing was drawn before


class Posterior:
    r"""The posterior of parameters theta given observations x.

    With a likelihood flow q(x | theta), whose context is theta,

    .. math:: p(\theta \mid x) = q(x \mid \theta)\, \pi(\theta) / Z(x) ,\quad
              Z(x) = \int q(x \mid \theta)\, \pi(\theta)\, d\theta .

    With a posterior flow q(theta | x), whose event is theta, it is q itself; given a prior too, q truncated to its
    support, divided by the share of its mass that lies there (Greenberg et al. 2019, arXiv 1905.07488, section 3.3).

    Args:
        flow: a ``ConditionalFlow``; theta is a vector ``(D,)``.
        prior: of theta; a likelihood flow needs one.
        theta: whether theta is the flow's ``context`` or its ``event``; by default ``context`` if there is a prior.

    Raises:
        ValueError: for a likelihood flow without a prior, or a prior of another number of parameters than the flow's.
    """

    def __init__(
        self, flow: ConditionalFlow, prior: Prior | None = None, *, theta: Literal["context", "event"] | None = None
    ) -> None:
        self.theta = theta if theta is not None else ("event" if prior is None else "context")
        if self.theta not in ("context", "event"):
            raise ValueError(f"theta must be 'context' or 'event'; got {theta!r}")
        if self.theta == "context" and prior is None:
            raise ValueError("a likelihood flow needs a prior to have a posterior; give one, such as Box(low, high)")
        own, other = (flow.context_shape, flow.event_shape)[:: 1 if self.theta == "context" else -1]
        if len(own) != 1 or own[0] == 0:
            raise ValueError(f"theta, the flow's {self.theta}, must be a vector (D,); the flow has {tuple(own)}")
        if prior is not None and prior.dim != own[0]:
            raise ValueError(
                f"the prior has {prior.dim} parameters and the flow's {self.theta}, which is theta, has {own[0]}"
            )
        self.flow, self.prior, self.dim, self.x_shape = flow, prior, int(own[0]), torch.Size(other)
        self._last: tuple[Tensor, Tensor] | None = None

    # -- densities --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def log_prob(self, theta: Tensor, x: Tensor) -> Tensor:
        """The log posterior density: of a likelihood flow not normalised, log q(x | theta) + log prior.

        For a truncated posterior flow the share of mass in the support is that of the last ``sample`` if it was of the
        same observations, otherwise it is measured with 2000 draws of a fixed seed.

        Args:
            theta: ``(*B, D)``; batch shapes broadcast.
            x: ``(*B, *obs)``; moved to the flow's device.

        Returns:
            ``(*B,)`` in float64, on the flow's device; minus infinity outside the support of the prior.

        Raises:
            ValueError: if a shape does not fit, or a likelihood flow has a prior without a density.
        """
        if self.theta == "context":
            assert self.prior is not None
            found = self._scores(theta, x)
            prior = self.prior.log_prob(theta.double()).to(found.device)
            # A flow may be NaN at parameters that cannot be.
            return torch.where(prior.isneginf(), prior, found + prior)
        found = self._scores(theta, x)
        if self.prior is None:
            return found
        batch = x.shape[: x.ndim - len(self.x_shape)]
        share = self._log_acceptance(x.reshape(-1, *self.x_shape).to(found.device)).reshape(batch)
        return torch.where(self.prior.covers(theta).to(found.device), found - share, -torch.inf)

    @torch.no_grad()
    def log_likelihood(self, theta: Tensor, x: Tensor) -> Tensor | None:
        """log q(x | theta), or for a posterior flow log q(theta | x) less the log prior, which is that up to a constant
        of x; None where it needs a prior with a density and there is none. Shapes as in ``log_prob``.
        """
        if self.theta == "context":
            return self._scores(theta, x)
        if self.prior is None or not self.prior.has_density:
            return None
        found = self._scores(theta, x)
        return found - self.prior.log_prob(theta.double()).to(found.device)

    def _scores(self, theta: Tensor, x: Tensor) -> Tensor:
        """log q of the flow, whichever way it looks, in batches: broadcast, ``(*B,)`` in float64."""
        rank = len(self.x_shape)
        if theta.ndim < 1 or theta.shape[-1] != self.dim:
            raise ValueError(f"theta must end in ({self.dim},); got {tuple(theta.shape)}")
        if x.ndim < rank or x.shape[x.ndim - rank :] != self.x_shape:
            raise ValueError(f"x must end in {tuple(self.x_shape)}, as the flow was built; got {tuple(x.shape)}")
        own, x = x.shape[: x.ndim - rank], x.to(self._device(x))
        try:
            batch = torch.broadcast_shapes(theta.shape[:-1], own)
        except RuntimeError:
            raise ValueError(
                f"the batch shapes of theta and x must broadcast; got {tuple(theta.shape[:-1])} and {tuple(own)}"
            ) from None
        rows = torch.arange(prod(own), device=x.device).reshape(own).expand(batch).reshape(-1)
        flat = x.reshape(-1, *self.x_shape)
        pairs = theta.expand(*batch, self.dim).reshape(-1, self.dim).to(x.device)
        size = Scorer(self._pairs(flat), 1, prod(self.x_shape), x.device).size
        with evaluating(self.flow):
            found = [self._pairs(flat)(*part) for part in zip(pairs.split(size), rows.split(size), strict=True)]
        return torch.cat(found).double().reshape(batch)

    def _device(self, x: Tensor) -> torch.device:
        """Of the flow; of x if it has no parameters."""
        own = next(iter(self.flow.parameters()), x) if isinstance(self.flow, torch.nn.Module) else x
        return own.device

    def _pairs(self, x: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """``(theta (P, D), rows (P,)) -> log q (P,)`` for observations ``(K, *obs)``."""
        if self.theta == "context":
            return lambda theta, rows: self.flow.log_prob(x[rows], theta)
        # An embedding network sees each observation once.
        return lambda theta, rows: self.flow.log_prob(theta, x, rows)

    def _log_acceptance(self, x: Tensor) -> Tensor:
        if self._last is None or self._last[0].shape != x.shape or not torch.equal(self._last[0], x):
            with evaluating(self.flow):
                drawn = draw(self.flow, x, self.prior, ACCEPTANCE_DRAWS, stream(0, "acceptance", device=x.device))
            self._last = x, drawn.log_acceptance
        return self._last[1]

    # -- draws ------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def sample(
        self,
        x: Tensor,
        count: int,
        *,
        method: str = "auto",
        generator: torch.Generator,
        **options: Any,
    ) -> Inferred:
        """Draw from the posterior of each observation, all of them at once.

        Args:
            x: ``(K, *obs)``, or a single ``(*obs,)``, which a warning says; moved to the flow's device.
            count: draws L of each.
            method: of a likelihood flow ``grid`` (at most 3 parameters), ``mcmc`` or ``importance``; ``auto`` takes the
                grid, mcmc for more parameters, importance for a prior without a density. A posterior flow draws
                directly.
            generator: of the draws; the same seed gives the same.
            options: of the method; see ``grid``, ``importance`` and ``mcmc``.

        Raises:
            ValueError: for observations of another shape, a method that does not fit, a density that is nowhere finite,
                or a posterior flow with next to no mass in the support of the prior.
        """
        chosen = self._method(method)
        if count < 1:
            raise ValueError(f"count must be at least 1 draw; got {count}")
        x, said = observations(x, self.x_shape)
        x = x.to(self._device(x))
        warned = [said] if said else []
        scorer = Scorer(self._pairs(x), len(x), prod(self.x_shape) if self.theta == "context" else self.dim, x.device)
        wanted = max(count, FEWEST)
        with evaluating(self.flow):
            try:
                if chosen == "direct":
                    found = self._drawn(x, wanted, generator, **options)
                else:
                    found = METHODS[chosen](self.prior, scorer, wanted, generator, **options)
            except TypeError as error:
                if "unexpected keyword" not in str(error):
                    raise
                raise ValueError(f"method '{chosen}': {error}") from None
            best = self._best(scorer, found, generator)
        warned += scorer.check() + found.warnings
        if self.prior is not None:
            warned += leaning(self.prior, found.theta)
        return Inferred(
            theta=found.theta[:count].contiguous(),
            log_prob=found.log_prob[:count].contiguous(),
            log_evidence=found.log_evidence,
            best=best,
            method=chosen,
            diagnostics=found.diagnostics,
            warnings=tuple(warned),
        )

    def _method(self, method: str) -> str:
        if method != "auto" and method not in METHODS:
            raise ValueError(f"method must be auto, {', '.join(METHODS)}; got {method!r}")
        if self.theta == "event":
            if method != "auto":
                raise ValueError(f"a posterior flow draws by itself: take method='auto'; got '{method}'")
            return "direct"
        assert self.prior is not None
        if method != "importance" and not self.prior.has_density:
            if method != "auto":
                raise ValueError(
                    f"method '{method}' needs a prior with a density, and this one has none; take 'importance'"
                )
            return "importance"
        if method == "auto":
            return "grid" if self.dim <= 3 else "mcmc"
        return method

    def _posterior_density(self, scorer: Scorer, possible_theta: Tensor) -> Callable[[Tensor], Tensor]:
        """``(K, M, D)`` to ``(K, M)``: log q plus, where there is one, the log prior; ``(K, D)`` in its support."""

        def density(theta: Tensor) -> Tensor:
            if self.prior is None:
                return scorer(theta)
            prior = theta.new_zeros(theta.shape[:-1])
            if self.theta == "context" and self.prior.has_density:
                prior = self.prior.log_prob(theta)
            possible = self.prior.covers(theta) & prior.isfinite()
            # At parameters that cannot be the flow is not asked: of the logarithm of 0 it would be NaN, and that said.
            asked = theta.where(possible[..., None], possible_theta[:, None])
            return torch.where(possible, scorer(asked) + prior, -torch.inf)

        return density

    def _best(self, scorer: Scorer, found: Found, generator: torch.Generator) -> Tensor:
        line = torch.full((self.dim,), math.inf, dtype=torch.float64)
        low, high = (-line, line) if self.prior is None else (self.prior.low, self.prior.high)
        density = self._posterior_density(scorer, found.theta[0])
        return climb(density, found.theta, found.log_prob, low, high, generator)

    def _drawn(self, x: Tensor, count: int, generator: torch.Generator) -> Found:
        """Draws of a posterior flow."""
        made = draw(self.flow, x, self.prior, count, generator)
        said, numbers, share = made.remarks(), {}, torch.zeros(len(x), dtype=torch.float64, device=x.device)
        if self.prior is not None:
            share, numbers = made.log_acceptance, {"leakage": made.leakage}
            self._last = x, share
        return Found(made.theta, made.log_prob - share, torch.zeros_like(share), numbers, said)
