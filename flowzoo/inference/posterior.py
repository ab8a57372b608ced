"""``Posterior``: what a flow and a prior say of the parameters behind an observation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from math import prod
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from flowzoo.arguments import in_tensor
from flowzoo.flow import ConditionalFlow
from flowzoo.inference._best import climb
from flowzoo.inference._checks import leaning
from flowzoo.inference._direct import draw, supported
from flowzoo.inference._grid import check_grid
from flowzoo.inference._inferred import Inferred
from flowzoo.inference._methods import METHODS, Found
from flowzoo.inference._scoring import NoPosterior, Scorer, evaluating, observations
from flowzoo.inference._sides import sides
from flowzoo.inference._tensors import tensors, writes
from flowzoo.inference.priors import Prior
from flowzoo.seeding import generator as stream

FEWEST = 256  # draws are made, and the first of them kept: the search for the best needs to know the scale
ACCEPTANCE_DRAWS = 2000  # for the density of a truncated flow where nothing was drawn before
NAMED = 5  # observations without a posterior that are named


class _Share(NamedTuple):
    """Of observations ``x`` the log of the flow's mass in the support, ``(K,)``, and of which flow and prior it is."""

    x: Tensor
    log: Tensor
    state: list[Any]


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
        names: of the D parameters, for warnings; none by default.

    Raises:
        ValueError: for a likelihood flow without a prior, or a prior of another number of parameters than the flow's.
    """

    def __init__(
        self,
        flow: ConditionalFlow,
        prior: Prior | None = None,
        *,
        theta: Literal["context", "event"] | None = None,
        names: Sequence[str] = (),
    ) -> None:
        self.theta = theta if theta is not None else ("event" if prior is None else "context")
        if self.theta not in ("context", "event"):
            raise ValueError(f"theta must be 'context' or 'event'; got {theta!r}")
        if self.theta == "context" and prior is None:
            raise ValueError("a likelihood flow needs a prior to have a posterior; give one, such as Box(low, high)")
        own, other = sides(self.theta, flow.event_shape, flow.context_shape)
        if len(own) != 1 or own[0] == 0:
            raise ValueError(f"theta, the flow's {self.theta}, must be a vector (D,); the flow has {tuple(own)}")
        if prior is not None and prior.dim != own[0]:
            raise ValueError(
                f"the prior has {prior.dim} parameters and the flow's {self.theta}, which is theta, has {own[0]}"
            )
        if len(names) not in (0, own[0]):
            raise ValueError(f"names must be {own[0]}, one for each parameter; got {len(names)}: {', '.join(names)}")
        self.flow, self.prior, self.dim, self.x_shape = flow, prior, int(own[0]), torch.Size(other)
        self.names = tuple(names)
        self._last: _Share | None = None

    # -- densities --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def log_prob(self, theta: Tensor, x: Tensor) -> Tensor:
        """The log posterior density: of a likelihood flow not normalised, log q(x | theta) + log prior.

        For a truncated posterior flow the share of mass in the support is that of the last ``sample`` if it was of the
        same observations, flow and prior, otherwise it is measured with 2000 draws of a fixed seed.

        Args:
            theta: ``(*B, D)``; batch shapes broadcast.
            x: ``(*B, *obs)``; moved to the flow's device.

        Returns:
            ``(*B,)`` in float64, on the flow's device; minus infinity outside the support of the prior.

        Raises:
            ValueError: if a shape does not fit, a likelihood flow has a prior without a density, or (``NoPosterior``)
                a posterior flow has next to no mass in the support of the prior at some x.
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
        share = self._log_acceptance(x.reshape(prod(batch), *self.x_shape).to(found.device)).reshape(batch)
        return torch.where(supported(self.prior, theta.double()).to(found.device), found - share, -torch.inf)

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
        in_tensor(theta, "theta")
        in_tensor(x, "x")
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
        flat = x.reshape(prod(own), *self.x_shape)
        theta = theta.expand(*batch, self.dim).reshape(-1, self.dim).to(x.device)
        pairs, size = self._pairs(flat), self._scorer(flat).size
        with evaluating(self.flow):
            found = [pairs(*part) for part in zip(theta.split(size), rows.split(size), strict=True)]
        return torch.cat(found).double().reshape(batch)

    def _device(self, x: Tensor) -> torch.device:
        """Of the flow; of x if it has no tensors."""
        return next(iter(tensors(self.flow)), x).device

    def _pairs(self, x: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """``(theta (P, D), rows (P,)) -> log q (P,)`` for observations ``(K, *obs)``."""
        if self.theta == "context":
            return lambda theta, rows: self.flow.log_prob(x[rows], theta)
        # An embedding network sees each observation once.
        return lambda theta, rows: self.flow.log_prob(theta, x, rows)

    def _scorer(self, x: Tensor) -> Scorer:
        """Of observations ``(K, *obs)``."""
        width = prod(self.x_shape) if self.theta == "context" else self.dim
        return Scorer(self._pairs(x), len(x), width, x.device)

    def _log_acceptance(self, x: Tensor) -> Tensor:
        last, state = self._last, self._state()
        if last is None or last.state != state or last.x.shape != x.shape or not torch.equal(last.x, x):
            with evaluating(self.flow):
                drawn = draw(self.flow, x, self.prior, ACCEPTANCE_DRAWS, stream(0, "acceptance", device=x.device))
            last = self._last = _Share(x.clone(), drawn.log_acceptance, state)
        return last.log

    def _state(self) -> list[Any]:
        """What changes when the flow is trained on, or another prior takes the place of this one."""
        return [self.flow, self.prior, *writes(self.flow)]

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

        Where some observations have none that can be found (the density of their data is finite for no theta), their
        draws are NaN and a warning names them; the others are what they are without those.

        Args:
            x: ``(K, *obs)``, or a single ``(*obs,)``, which a warning says; moved to the flow's device.
            count: draws L of each.
            method: of a likelihood flow ``grid`` (at most 3 parameters), ``mcmc`` or ``importance``; ``auto`` takes the
                grid, mcmc for more parameters, importance for a prior without a density. A posterior flow draws
                directly.
            generator: of the draws; the same seed gives the same.
            options: of the method; see ``grid``, ``importance`` and ``mcmc``.

        Raises:
            ValueError: for observations of another shape, a method that does not fit, or (``NoPosterior``) where no
                observation has one: its density is nowhere finite, or a posterior flow has next to no mass in the
                support of the prior.
        """
        chosen = self.method_for(method)
        if count < 1:
            raise ValueError(f"count must be at least 1 draw; got {count}")
        x, said = observations(x, self.x_shape)
        x = x.to(self._device(x))
        warned, rows = [said] if said else [], torch.arange(len(x), device=x.device)
        while True:
            try:
                found, best, remarks = self._found(x[rows], chosen, max(count, FEWEST), generator, options)
                break
            except NoPosterior as error:
                # A proposal may be of all observations, in their order.
                if bool(error.lost.all()) or options.get("proposal") is not None:
                    raise
                warned.append(_without(rows[error.lost], len(x), error))
                rows = rows[~error.lost]
        warned += remarks
        if self.prior is not None:
            warned += leaning(self.prior, found.theta, self.names)

        def of_all(part: Tensor, axis: int) -> Tensor:
            if len(rows) == len(x):
                return part.contiguous()
            size = (*part.shape[:axis], len(x), *part.shape[axis + 1 :])
            return part.new_full(size, math.nan, dtype=torch.float64).index_copy(axis, rows, part.double())

        if found.log_share is not None:
            self._last = _Share(x.clone(), of_all(found.log_share, 0), self._state())
        return Inferred(
            theta=of_all(found.theta[:count], 1),
            log_prob=of_all(found.log_prob[:count], 1),
            log_evidence=None if found.log_evidence is None else of_all(found.log_evidence, 0),
            best=of_all(best, 0),
            method=chosen,
            diagnostics={name: of_all(value, 0) for name, value in found.diagnostics.items()},
            warnings=tuple(warned),
        )

    def _found(
        self, x: Tensor, method: str, count: int, generator: torch.Generator, options: dict[str, Any]
    ) -> tuple[Found, Tensor, list[str]]:
        """Draws, the best of each observation ``(K, D)``, and what to say of both."""
        scorer = self._scorer(x)
        with evaluating(self.flow):
            try:
                if method == "direct":
                    found = self._drawn(x, count, generator, **options)
                else:
                    found = METHODS[method](self.prior, scorer, count, generator, **options)
            except TypeError as error:
                if "unexpected keyword" not in str(error):
                    raise
                raise ValueError(f"method '{method}': {error}") from None
            best = self._best(scorer, found, generator)
        return found, best, scorer.check() + found.warnings

    def method_for(self, method: str = "auto") -> str:
        """The method that ``sample`` takes.

        Args:
            method: as ``sample`` is given it.

        Raises:
            ValueError: for one that does not fit the flow or the prior.
        """
        if method != "auto" and method not in METHODS:
            raise ValueError(f"method must be auto, {', '.join(METHODS)}; got {method!r}")
        if self.theta == "event":
            if method != "auto":
                raise ValueError(f"a posterior flow draws by itself: leave the method out (auto); got '{method}'")
            return "direct"
        assert self.prior is not None
        if method != "importance" and not self.prior.has_density:
            if method != "auto":
                raise ValueError(
                    f"method '{method}' needs a prior with a density, and this one has none; take the method importance"
                )
            return "importance"
        if method == "auto":
            return "grid" if self.dim <= 3 else "mcmc"
        if method == "grid":
            check_grid(self.dim)
        return method

    def _posterior_density(self, scorer: Scorer, possible_theta: Tensor) -> Callable[[Tensor], Tensor]:
        """``(K, M, D)`` to ``(K, M)``: log q plus, where there is one, the log prior; ``(K, D)`` in its support."""

        def density(theta: Tensor) -> Tensor:
            if self.prior is None:
                return scorer(theta)
            possible = supported(self.prior, theta)
            # At parameters that cannot be the flow is not asked: of the logarithm of 0 it would be NaN, and that said.
            asked = theta.where(possible[..., None], possible_theta[:, None])
            found = scorer(asked)
            if self.theta == "context":
                found = found + self.prior.log_prob(asked)
            return torch.where(possible, found, -torch.inf)

        return density

    def _best(self, scorer: Scorer, found: Found, generator: torch.Generator) -> Tensor:
        if self.theta == "context" and self.prior is not None and not self.prior.has_density:
            # The highest likelihood is no substitute: it may lie where there is no draw of the prior.
            return torch.full_like(found.theta[0], math.nan)
        line = torch.full((self.dim,), math.inf, dtype=torch.float64)
        low, high = (-line, line) if self.prior is None else (self.prior.low, self.prior.high)
        density = self._posterior_density(scorer, found.theta[0])
        return climb(density, found.theta, found.log_prob, low, high, generator)

    def _drawn(self, x: Tensor, count: int, generator: torch.Generator) -> Found:
        """Draws of a posterior flow."""
        made = draw(self.flow, x, self.prior, count, generator)
        evidence = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        if self.prior is None:
            return Found(made.theta, made.log_prob, evidence, {}, made.remarks())
        share, numbers = made.log_acceptance, {"leakage": made.leakage}
        return Found(made.theta, made.log_prob - share, evidence, numbers, made.remarks(), share)


def _without(lost: Tensor, total: int, error: NoPosterior) -> str:
    """Which observations have no posterior, ``(n,)`` of them, and why."""
    named = ", ".join(str(k) for k in lost[:NAMED].tolist()) + (", ..." if len(lost) > NAMED else "")
    said = f"{len(lost)} of {total} observations have no posterior ({named}, from 0)"
    return f"{said}, and their draws are NaN: {error.why}; {error.cure}"
