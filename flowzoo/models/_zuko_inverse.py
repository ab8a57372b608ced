"""Inverses of zuko's transforms, each with its log|det|."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Transform

from flowzoo.models import _quiet_zuko  # noqa: F401

# isort: split
from zuko.flows.autoregressive import MaskedAutoregressiveTransform
from zuko.flows.coupling import GeneralCouplingTransform
from zuko.flows.gaussianization import ElementWiseTransform
from zuko.lazy import LazyTransform
from zuko.nn import MaskedLinear, MaskedMLP, Residual
from zuko.transforms import ComposedTransform, CouplingTransform, MonotonicAffineTransform, MonotonicTransform
from zuko.utils import unpack

from flowzoo.layers.autoregressive import Stage, invert, schedule
from flowzoo.layers.implicit import attach
from flowzoo.layers.monotone import inverse
from flowzoo.layers.rounds import until
from flowzoo.models._zuko_neural import MonotoneNetworks


def undo(lazy: LazyTransform, c: Tensor | None, y: Tensor) -> tuple[Tensor, Tensor]:
    """Invert one lazy transform; the log|det| is that of the inverse."""
    if isinstance(lazy, MaskedAutoregressiveTransform) and lazy.order is not None:
        return _undo_autoregressive(lazy, c, y)
    if isinstance(lazy, GeneralCouplingTransform):
        return _undo_coupling(lazy(c), y)
    if isinstance(lazy, ElementWiseTransform):
        x = _undo_univariate(lazy(c).base, y)
        return x, -lazy(c).call_and_ladj(x)[1]
    return lazy(c).inv.call_and_ladj(y)


def _undo_coupling(transform: CouplingTransform, y: Tensor) -> tuple[Tensor, Tensor]:
    """With the log|det|, for which zuko runs the network a second time."""
    kept, moved = transform.split(y)
    univariate = transform.meta(kept)
    found = univariate.inv(moved)
    return transform.merge(kept, found, y.shape), -univariate.log_abs_det_jacobian(found, moved)


def _undo_autoregressive(lazy: MaskedAutoregressiveTransform, c: Tensor | None, y: Tensor) -> tuple[Tensor, Tensor]:
    stages = _stages(lazy.hyper)
    if not hasattr(lazy, "schedules"):  # of the masks alone, which never change; one for each device
        lazy.schedules = {}
    plan = lazy.schedules.get(y.device)
    if plan is None:
        plan = lazy.schedules[y.device] = schedule(stages, lazy.order).to(y.device)
    affine = lazy.univariate is MonotonicAffineTransform

    def solve(phi: Tensor, y: Tensor, due: Tensor, x: Tensor) -> None:
        transform = _narrow(lazy.univariate, due)(*unpack(phi.permute(2, 0, 1), lazy.shapes))
        x.copy_(_undo_univariate(transform, y.t()).t())

    found, phi = invert(stages, plan, _undo_affine if affine else solve, y, c, at_once=affine)
    x = found.index_select(0, plan.back).t()
    if not torch.is_grad_enabled():
        if affine:
            return x, _affine_rate(phi[:, 1]).sum(0)
        transform = _narrow(lazy.univariate, plan.features)(*unpack(phi.permute(2, 0, 1), lazy.shapes))
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
    _affine_rate(scale, out=x).exp_().mul_(y - shift)


def _affine_rate(scale: Tensor, out: Tensor | None = None) -> Tensor:
    """The logarithm of the slope of that inverse, which zuko bounds softly."""
    out = torch.sub(_MINUS_ONE, torch.abs(scale, out=out), alpha=_SOFT, out=out)
    return torch.div(scale, out, out=out)


_SOFT = 1 / abs(math.log(1e-3))
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
    return x if until(1)(~lost.any()) else torch.where(lost, inverse(transform, y), x)


def _narrow(univariate: Any, due: Tensor) -> Callable[..., Any]:
    """The univariate constructor for some features only: NAF keeps a stack of networks, one per feature."""
    return partial(univariate.forward, due=due) if isinstance(univariate, MonotoneNetworks) else univariate
