r"""Inverse of an autoregressive transform whose parameters a masked network gives: each hidden unit is computed once.

:math:`y_i = f(x_i; \phi_i(x_{<i}))` is inverted feature by feature, and each needs the network on what is known so far.
But a unit that depends on :math:`x_{<k}` alone has its final value once these are known. Sorted by that time, the units
of each layer are computed in its order, so that a whole inverse costs the multiplications of one pass, and not of D.
They are done in blocks of features, as a triangular system is solved: what a block needs of all before it is one matrix
product, and only what its features need of one another goes step by step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

BLOCK = 32  # steps at a time; of twice or half as many the time is much the same

#: ``(parameters (N, k, P) of the due features, their y (N, k), their index (k,)) -> x (N, k)``
Solve = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Stage:
    """A masked linear layer, what its result goes through, and what is added to that.

    Args:
        linear: whose buffer ``mask`` ``(units, inputs)`` says what each unit may see.
        source: the state that it reads: 0 is the event (and the context beside it), i + 1 the result of stage i.
        after: elementwise, or None.
        skip: the state that is added in the end, or None.
    """

    linear: nn.Linear
    source: int
    after: Callable[[Tensor], Tensor] | None = None
    skip: int | None = None


@dataclass(frozen=True)
class Schedule:
    """When each unit of a network is known.

    Args:
        features: ``(D,)``, in the order in which they are solved.
        due: how many of them are solved before step s, for s = 0 ... S.
        units: by stage, its units in the order in which they are computed.
        known: by stage, how many of these are computed before step s, for s = 0 ... S.
        parameters: P, of each feature.
    """

    features: Tensor
    due: list[int]
    units: list[Tensor]
    known: list[list[int]]
    parameters: int

    @property
    def steps(self) -> int:
        """S: features that do not wait for one another are solved in one."""
        return len(self.due) - 1


def schedule(stages: Sequence[Stage], order: Tensor) -> Schedule:
    """Find out from the masks when each unit is known.

    Args:
        stages: the network. The first reads the event, with a context behind it if there is one; the last gives
            the parameters, feature by feature.
        order: ``(D,)``; a feature depends on features of lower order at most.

    Raises:
        ValueError: if the network lets a feature depend on one that is not before it.
    """
    order, size = order.cpu(), len(order)
    count = stages[-1].linear.out_features // size
    # The time of a unit: the first order that it does not depend on; so a feature is known one after its own.
    times = [order + 1]
    for stage in stages:
        mask: Tensor = stage.linear.mask.cpu()  # type: ignore[assignment]
        mask = mask[:, :size] if stage.source == 0 else mask
        found = torch.where(mask, times[stage.source], 0).amax(1)
        times.append(found if stage.skip is None else torch.maximum(found, times[stage.skip]))
    needs = times[-1].reshape(size, count).amax(1)
    if bool((needs > order).any()):
        raise ValueError("the network lets a feature depend on one that is not before it")
    # A feature is solved once what it needs is known, and not when its turn comes: where hidden units are few, many
    # need the same.
    values, step = torch.unique(needs, return_inverse=True)
    steps = [torch.searchsorted(values, found) for found in times[1:-1]]
    steps.append(step.repeat_interleave(count))
    features = torch.argsort(step, stable=True)
    units = [torch.argsort(found, stable=True) for found in steps[:-1]]
    units.append((features[:, None] * count + torch.arange(count)).flatten())  # those of a feature side by side
    ends = torch.arange(len(values))

    def before(found: Tensor) -> list[int]:
        return [0, *torch.searchsorted(found.sort().values, ends, right=True).tolist()]

    return Schedule(features, before(step), units, [before(found) for found in steps], count)


@torch.no_grad()
def invert(
    stages: Sequence[Stage], plan: Schedule, solve: Solve, y: Tensor, context: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """x with y = f(x), and the parameters at it.

    Args:
        stages: the network.
        plan: its schedule.
        solve: the univariate inverse.
        y: ``(N, D)``.
        context: ``(N, C)`` that the first stage sees behind the event, or None.

    Returns:
        x ``(N, D)`` and parameters ``(N, D, P)``.
    """
    rows, size = y.shape
    units = [plan.features.to(y.device), *(each.to(y.device) for each in plan.units)]
    # Features and units are rows, so that those of a step lie together.
    states = [y.new_zeros(size, rows)]
    weights = []
    for stage, own in zip(stages, units[1:], strict=True):
        linear = stage.linear
        weight = (linear.weight * linear.mask).index_select(0, own)  # type: ignore[operator]
        bias = weight.new_zeros(len(own), 1) if linear.bias is None else linear.bias.index_select(0, own)[:, None]
        if stage.source == 0 and context is not None:
            states.append(torch.addmm(bias, weight[:, size:], context.t()))
            weight = weight[:, :size]
        else:
            states.append(bias.repeat(1, rows))
        weights.append(weight.index_select(1, units[stage.source]))
    # Where in a state that is added the rows of a stage lie.
    skips = [
        None if stage.skip is None else torch.argsort(units[stage.skip]).index_select(0, own)
        for stage, own in zip(stages, units[1:], strict=True)
    ]
    target = y.t().index_select(0, units[0])
    for start in range(0, plan.steps, BLOCK):
        stop = min(start + BLOCK, plan.steps)
        work = []
        for k, stage in enumerate(stages):
            known = plan.known[k]
            first, last = known[start], known[stop]
            inputs = plan.due if stage.source == 0 else plan.known[stage.source - 1]
            # Of the event at the first step of the block, of hidden units before it: the step's own come first.
            old, new = inputs[start], inputs[stop]
            if old and last > first:
                states[k + 1][first:last].addmm_(weights[k][first:last, :old], states[stage.source][:old])
            sizes = [known[s + 1] - known[s] for s in range(start, stop)]
            # What of the block is not known yet has weight 0 for who comes before it.
            seen = weights[k][first:last, old:new].split(sizes) if new > old else [None] * len(sizes)
            index = None if skips[k] is None else skips[k][first:last].split(sizes)  # type: ignore[index]
            work.append((stage, states[k + 1][first:last].split(sizes), seen, states[stage.source][old:new], index))
        sizes = [plan.due[s + 1] - plan.due[s] for s in range(start, stop)]
        first, last = plan.due[start], plan.due[stop]
        values, targets, due = (each[first:last].split(sizes) for each in (states[0], target, units[0]))
        for s, count in enumerate(sizes):
            for stage, own, seen, inputs_now, index in work:
                if own[s].shape[0]:
                    if seen[s] is not None:
                        own[s].addmm_(seen[s], inputs_now)
                    if stage.after is not None:
                        own[s].copy_(stage.after(own[s]))
                    if index is not None:
                        own[s].add_(states[stage.skip].index_select(0, index[s]))  # type: ignore[index]
            parameters = own[s].view(count, plan.parameters, rows).permute(2, 0, 1)
            values[s].copy_(solve(parameters, targets[s].t(), due[s]).t())
    back = torch.argsort(units[0])
    found = states[-1].view(size, plan.parameters, rows).index_select(0, back)
    return states[0].index_select(0, back).t(), found.permute(2, 0, 1)


def attach(
    f: Callable[[Tensor], tuple[Tensor, Tensor]], x: Tensor, y: Tensor, steps: int, tolerance: float = 8.0
) -> Tensor:
    r"""The solution x of f(x) = y, with the first derivatives that it has as such.

    By the implicit function theorem :math:`dx = J^{-1} (dy - df)`, with :math:`J = \partial f / \partial x` at the
    solution and df what the parameters of f change. Backward, :math:`J^T v = g` is solved by iteration on the slopes,
    the diagonal of J: :math:`v \leftarrow v + \mathrm{diag}(J)^{-1} (g - J^T v)`. J is triangular in the order of the
    features, so S iterations are exact; mostly a few do.

    Args:
        f: ``(N, D)`` to y ``(N, D)`` and the logarithms of the slopes ``(N, D)``, differentiable.
        x: the solution ``(N, D)``.
        y: what f shall give.
        steps: S, features that wait for one another.
        tolerance: of the residual, in roundings of the largest gradient.
    """
    leaf = x.detach().requires_grad_()
    with torch.enable_grad():
        value, log_slope = f(leaf)
    inverse_slope = torch.exp(-log_slope.detach())

    def solve(g: Tensor) -> Tensor:
        v = g * inverse_slope
        least = tolerance * torch.finfo(g.dtype).eps * g.abs().amax()
        for _ in range(steps):
            (product,) = torch.autograd.grad(value, leaf, v, retain_graph=True)
            left = g - product
            if bool((left.abs() <= least).all()):
                break
            v = v + left * inverse_slope
        return v

    return _Attached.apply(f(x.detach())[0] - y, x.detach(), solve)


class _Attached(torch.autograd.Function):
    """x, which falls as the residual f(x) - y rises."""

    @staticmethod
    def forward(ctx: Any, residual: Tensor, x: Tensor, solve: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.solve = solve
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return -ctx.solve(grad), None, None
