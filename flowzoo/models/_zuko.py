"""zuko's transforms behind ``ConditionalFlow``: its parameters, our inverses.

zuko maps data to latent in its forward direction. What differs from plain zuko:

- Autoregressive inverses compute each hidden unit once (zuko runs the network once for each feature) and solve only the
  features that are due; iterated ones grow their bracket until it holds (zuko bisects on [-10, 10] and clips silently
  outside).
- The Softclip between the transforms of SOSPF and NAF is replaced by an asinh, which is onto: every base draw has a
  preimage, and no mass is lost.
- SOSPF's polynomial is expanded once, not integrated by quadrature at every evaluation; BPF's is not made of Beta
  densities, and NAF's networks carry their slopes along: no autograd in the forward pass, which vmap cannot, and slopes
  for the inverse.
- GF is evaluated in log space, because in float32 its erf saturates a few standard deviations out.
- Coupling masks are indices made once, because zuko's ``nonzero`` in every forward pass waits for the GPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Transform

from flowzoo.models import _quiet_zuko  # noqa: F401

# isort: split
from zuko import flows
from zuko.flows.autoregressive import MaskedAutoregressiveTransform
from zuko.flows.coupling import GeneralCouplingTransform
from zuko.flows.gaussianization import ElementWiseTransform
from zuko.flows.neural import MNN
from zuko.flows.polynomial import ShiftedSOSPTransform
from zuko.lazy import LazyTransform, UnconditionalTransform
from zuko.nn import MaskedLinear, MaskedMLP, Residual
from zuko.transforms import (
    AdditiveTransform,
    BoundedBernsteinTransform,
    ComposedTransform,
    CouplingTransform,
    DependentTransform,
    GaussianizationTransform,
    MonotonicAffineTransform,
    MonotonicTransform,
    SoftclipTransform,
)
from zuko.utils import unpack

from flowzoo.bijectors import Bijector
from flowzoo.flow import ConditionalFlow
from flowzoo.layers.autoregressive import Stage, invert, schedule
from flowzoo.layers.implicit import attach
from flowzoo.layers.monotone import inverse
from flowzoo.models._embeds import Embeds
from flowzoo.models._univariate import AsinhTransform, LogSpaceGaussianization
from flowzoo.models._zuko_bernstein import Bernstein
from flowzoo.models._zuko_neural import MonotoneNetworks
from flowzoo.models._zuko_squares import SumsOfSquares

__all__ = ["AdditiveTransform", "DiagonalScale", "ZukoFlow", "ZukoModel", "coupling", "flows"]


class ZukoFlow(ConditionalFlow):
    """A flow made of zuko's lazy transforms, on flattened events and contexts.

    Args:
        event_shape: see ``ConditionalFlow``.
        context_shape: see ``ConditionalFlow``.
        make: ``make(D, C)`` gives a zuko flow, or a list of lazy transforms.
        x_map: see ``ConditionalFlow``.
        context_map: see ``ConditionalFlow``.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        context_shape: Sequence[int],
        make: Callable[..., Any],
        *,
        x_map: Bijector | None = None,
        context_map: Bijector | None = None,
    ) -> None:
        super().__init__(event_shape, context_shape, x_map=x_map, context_map=context_map)
        made = make(self.event_shape.numel(), self.context_shape.numel())
        if isinstance(made, flows.Flow):
            transform = made.transform
            made = getattr(transform, "transforms", [transform])
        self.transforms = nn.ModuleList(_repaired(t) for t in made)
        self.sequential_passes = len(self.transforms)  # an autoregressive one, in D steps, costs a pass too
        self.train(self.training)

    def train(self, mode: bool = True) -> ZukoFlow:
        """As usual, but zuko's own modules stay in training mode.

        They have no dropout and no batch statistics; to them ``eval`` means "no gradient to the parameters".
        """
        super().train(mode)
        self.transforms.train(True)
        return self

    def _to_latent(self, u: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        z, log_det = u.flatten(1), u.new_zeros(len(u))
        given = self._context(c)
        for lazy in self.transforms:
            z, each = lazy(given).call_and_ladj(z)
            log_det = log_det + each
        return z.reshape(u.shape), log_det

    def _to_data(self, z: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        u, log_det = z.flatten(1), z.new_zeros(len(z))
        given = self._context(c)
        for lazy in reversed(self.transforms):
            u, each = _undo(lazy, given, u)
            log_det = log_det + each
        return u.reshape(z.shape), log_det

    def _context(self, c: Tensor) -> Tensor | None:
        return c.flatten(1) if self.context_shape.numel() else None


class ZukoModel(Embeds):
    """What the configs of zuko's models share; each says with ``make`` which transforms it is."""

    backend: ClassVar[str] = "zuko"
    events: ClassVar[str] = "any (flattened)"
    contexts: ClassVar[str] = "any (flattened)"
    flow_class: ClassVar[type[ZukoFlow]] = ZukoFlow

    def make(self, features: int, context: int) -> Any:
        """A zuko flow, or a list of lazy transforms, over ``features`` numbers given ``context`` numbers."""
        raise NotImplementedError

    def build(
        self,
        event_shape: Sequence[int],
        context_shape: Sequence[int],
        *,
        x_map: Bijector | None = None,
        context_map: Bijector | None = None,
    ) -> ConditionalFlow:
        """See ``flowzoo.models.ModelConfig``."""
        return self.flow_class(event_shape, context_shape, self.make, x_map=x_map, context_map=context_map)


def _undo(lazy: LazyTransform, c: Tensor | None, y: Tensor) -> tuple[Tensor, Tensor]:
    """Invert one lazy transform; the log|det| is that of the inverse."""
    if isinstance(lazy, MaskedAutoregressiveTransform) and lazy.order is not None:
        return _undo_autoregressive(lazy, c, y)
    if isinstance(lazy, ElementWiseTransform):
        x = _undo_univariate(lazy(c).base, y)
        return x, -lazy(c).call_and_ladj(x)[1]
    return lazy(c).inv.call_and_ladj(y)


def _undo_autoregressive(lazy: MaskedAutoregressiveTransform, c: Tensor | None, y: Tensor) -> tuple[Tensor, Tensor]:
    stages = _stages(lazy.hyper)
    if not hasattr(lazy, "schedule"):  # of the masks alone, which never change
        lazy.schedule = schedule(stages, lazy.order)

    plan = lazy.schedule
    affine = lazy.univariate is MonotonicAffineTransform

    def solve(phi: Tensor, y: Tensor, due: Tensor, x: Tensor) -> None:
        transform = _narrow(lazy.univariate, due)(*unpack(phi.permute(2, 0, 1), lazy.shapes))
        x.copy_(_undo_univariate(transform, y.t()).t())

    found, phi = invert(stages, plan, _undo_affine if affine else solve, y, c, at_once=affine)
    x = found.index_select(0, plan.back.to(y.device)).t()
    if not torch.is_grad_enabled():
        if affine:
            return x, _affine_rate(phi[:, 1]).sum(0)
        transform = _narrow(lazy.univariate, plan.features.to(y.device))(*unpack(phi.permute(2, 0, 1), lazy.shapes))
        return x, -transform.call_and_ladj(found.t())[1].sum(-1)

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        given = lazy.hyper(x if c is None else torch.cat([x, c], -1)).unflatten(-1, (-1, lazy.total))
        value, log_slope = lazy.univariate(*unpack(given, lazy.shapes)).call_and_ladj(x)
        return value, log_slope

    x = attach(forward, x, y, plan.steps)
    return x, -forward(x)[1].sum(-1)


def _undo_affine(phi: Tensor, y: Tensor, due: Tensor, x: Tensor) -> None:
    """The inverse of ``MonotonicAffineTransform`` in few operations: there is one such call for each feature."""
    shift, scale = phi.unbind(1)
    torch.mul(_affine_rate(scale).exp_(), y - shift, out=x)


def _affine_rate(scale: Tensor) -> Tensor:
    """The logarithm of the slope of that inverse, which zuko bounds softly."""
    return torch.div(scale, torch.sub(_MINUS_ONE, torch.abs(scale), alpha=1 / abs(math.log(1e-3))))


_MINUS_ONE = torch.tensor(-1.0)  # made once: of a plain number torch makes a tensor at each call


def _stages(network: MaskedMLP) -> list[Stage]:
    """zuko's masked network as its linear layers and what is between them."""
    found: list[Stage] = []
    for layer in network:
        if isinstance(layer, MaskedLinear):
            found.append(Stage(layer, len(found)))
        elif isinstance(layer, Residual):
            first, after, second = layer
            found += [Stage(first, len(found), after), Stage(second, len(found) + 1, skip=len(found))]
        else:
            found[-1] = replace(found[-1], after=layer)
    return found


def _undo_univariate(transform: Transform, y: Tensor) -> Tensor:
    if isinstance(transform, ComposedTransform):
        for part in reversed(transform.transforms):
            y = _undo_univariate(part, y)
        return y
    if isinstance(transform, MonotonicTransform):
        known = transform.solve(y.detach()) if hasattr(transform, "solve") else None
        return inverse(transform.f, y, getattr(transform, "f_and_g", None), known)
    x = transform.inv(y)
    # zuko's spline takes the root of a discriminant that rounding can push below zero.
    lost = x.isnan() & y.isfinite()
    return torch.where(lost, inverse(transform, y), x) if bool(lost.any()) else x


def _narrow(univariate: Any, due: Tensor) -> Callable[..., Any]:
    """The univariate constructor for some features only: NAF keeps a stack of networks, one per feature."""
    return partial(univariate.forward, due=due) if isinstance(univariate, MonotoneNetworks) else univariate


class IndexedCoupling(GeneralCouplingTransform):
    """zuko's coupling with the positions of its mask found once, not by a ``nonzero`` in every pass."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.register_buffer("idx_a", self.mask.nonzero().squeeze(-1), persistent=False)
        self.register_buffer("idx_b", (~self.mask).nonzero().squeeze(-1), persistent=False)

    def forward(self, c: Tensor | None = None) -> Transform:
        """The coupling given a context."""
        transform = CouplingTransform.__new__(CouplingTransform)
        Transform.__init__(transform)
        transform.meta = partial(self.meta, c)
        transform.idx_a, transform.idx_b = self.idx_a, self.idx_b
        return transform


class DiagonalScale(LazyTransform):
    """One learned positive scale per feature, the same for every context."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(features))

    def forward(self, c: Tensor | None = None) -> Transform:
        """The scaling; ``c`` is not used."""
        return DependentTransform(MonotonicAffineTransform(torch.zeros_like(self.log_scale), self.log_scale), 1)


def coupling(features: int, context: int, steps: int, **kwargs: Any) -> list[LazyTransform]:
    """Couplings with alternating masks; one feature has nothing to split and is transformed given the context."""
    if features == 1:
        return [ElementWiseTransform(features, context, **kwargs) for _ in range(steps)]
    masks: Iterable[Tensor] = (torch.arange(features) % 2 == i % 2 for i in range(steps))
    return [IndexedCoupling(features, context, mask=mask, **kwargs) for mask in masks]


def _repaired(lazy: LazyTransform) -> LazyTransform:
    if isinstance(lazy, UnconditionalTransform) and lazy.f is SoftclipTransform:
        return UnconditionalTransform(DependentTransform, AsinhTransform(lazy.bound), 1)
    if isinstance(lazy, ElementWiseTransform) and hasattr(lazy, "phi"):
        # Without a context zuko draws the parameters from N(0, 1): several of those make a wild flow to start from.
        with torch.no_grad():
            for phi in lazy.phi:
                phi.mul_(0.1)
    if isinstance(lazy, ElementWiseTransform | MaskedAutoregressiveTransform):
        univariate = lazy.univariate
        if univariate is GaussianizationTransform:
            lazy.univariate = LogSpaceGaussianization
        elif univariate is BoundedBernsteinTransform:
            lazy.univariate = Bernstein(lazy.total)
        elif isinstance(univariate, MNN):
            univariate.__class__ = MonotoneNetworks
        elif isinstance(univariate, partial) and univariate.func is ShiftedSOSPTransform:
            lazy.univariate = SumsOfSquares(*lazy.shapes[0], **univariate.keywords)
    return lazy
