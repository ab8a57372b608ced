"""zuko's transforms behind ``ConditionalFlow``: its parameters, our inverses (``_zuko_inverse``).

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

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import chain
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
from zuko.transforms import (
    AdditiveTransform,
    BoundedBernsteinTransform,
    CouplingTransform,
    DependentTransform,
    GaussianizationTransform,
    MonotonicAffineTransform,
    SoftclipTransform,
)

from flowzoo.bijectors import Bijector
from flowzoo.flow import ConditionalFlow
from flowzoo.layers.replays import Replays
from flowzoo.models._embeds import Embeds
from flowzoo.models._univariate import AsinhTransform, LogSpaceGaussianization
from flowzoo.models._zuko_bernstein import Bernstein
from flowzoo.models._zuko_inverse import undo
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
        self.replays = Replays()
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
        u, log_det = self.replays(self._invert, (z, c), self._tensors_of_transforms)
        return u, log_det

    def _invert(self, z: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        u, log_det = z.flatten(1), z.new_zeros(len(z))
        given = self._context(c)
        for lazy in reversed(self.transforms):
            u, each = undo(lazy, given, u)
            log_det = log_det + each
        return u.reshape(z.shape), log_det

    def _tensors_of_transforms(self) -> Iterable[Tensor]:
        return chain(self.transforms.parameters(), self.transforms.buffers())

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
