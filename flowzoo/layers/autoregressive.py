r"""Inverse of an autoregressive transform whose parameters a masked network gives: each hidden unit is computed once.

:math:`y_i = f(x_i; \phi_i(x_{<i}))` is inverted feature by feature, and each needs the network on what is known so far.
But a unit that depends on :math:`x_{<k}` alone has its final value once these are known. Sorted by that time, the units
of each layer are computed in its order, so that a whole inverse costs the multiplications of one pass, and not of D.
They are done in blocks of features, as a triangular system is solved: what a block needs of all before it is one matrix
product, and only what its features need of one another goes step by step. Where steps are small, their overhead is what
takes time, and a block is solved as a whole instead, over and over until no bit changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from flowzoo.layers.rounds import until

BLOCK = 32  # steps at a time; of twice or half as many the time is much the same
PASSES = 12  # over a block at most, before it is done in steps: they cost as much by then; trained flows take 4 to 8
READ = 32  # inputs that a product of a step reads in vain at most, as they are not known yet; half as many save nothing
# Multiplications of a pass for each step that passes may save: some ten passes of so many take a CPU's core as long as
# the step. An accelerator waits for launches, and not for these.
WORTHWHILE = 1e5

#: ``(parameters (k, P, N) of the due features, their y (k, N), their index (k,), x (k, N))`` writes x. Events are the
#: last axis, where they lie together.
Solve = Callable[[Tensor, Tensor, Tensor, Tensor], object]


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
        in_order: of the features and by stage of the units, whether they are computed in the order that they have.
        back: ``(D,)``, where among ``features`` each is.
    """

    features: Tensor
    due: list[int]
    units: list[Tensor]
    known: list[list[int]]
    parameters: int
    in_order: list[bool]
    back: Tensor

    @property
    def steps(self) -> int:
        """S: features that do not wait for one another are solved in one."""
        return len(self.due) - 1

    def to(self, device: torch.device) -> Schedule:
        """With its tensors there, so that an inverse need not fetch them, which a CUDA graph could not."""
        units = [each.to(device) for each in self.units]
        return replace(self, features=self.features.to(device), units=units, back=self.back.to(device))


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

    in_order = [torch.equal(each, torch.arange(len(each))) for each in (features, *units)]
    return Schedule(
        features, before(step), units, [before(found) for found in steps], count, in_order, features.argsort()
    )


def invert(
    stages: Sequence[Stage],
    plan: Schedule,
    solve: Solve,
    y: Tensor,
    context: Tensor | None = None,
    at_once: bool = False,
) -> tuple[Tensor, Tensor]:
    """x with y = f(x), and the parameters at it, feature by feature in the order in which they were solved.

    Args:
        stages: the network.
        plan: its schedule, on the device of ``y``.
        solve: the univariate inverse.
        y: ``(N, D)``.
        context: ``(N, C)`` that the first stage sees behind the event, or None.
        at_once: whether ``solve`` is a closed form: without autograd, and so cheap that a block may be solved several
            times over, rather than in steps.

    Returns:
        x ``(D, N)`` and parameters ``(D, P, N)`` of ``plan.features``, without gradient. With ``at_once`` they are
        inference tensors: what is computed from them may enter a graph, they may not.
    """
    # Calls on a few numbers are what takes time, and without autograd's bookkeeping they take a seventh less.
    with torch.inference_mode() if at_once else torch.no_grad():
        return _invert(stages, plan, solve, y, context, at_once)


def _invert(
    stages: Sequence[Stage], plan: Schedule, solve: Solve, y: Tensor, context: Tensor | None, at_once: bool
) -> tuple[Tensor, Tensor]:
    rows, size = y.shape
    units = [plan.features, *plan.units]
    # Features and units are rows, so that those of a step lie together.
    states = [y.new_zeros(size, rows)]

    def part(k: int, rows: slice, columns: slice) -> Tensor:
        """Weights of some units of a stage, in the order in which they are computed."""
        linear = stages[k].linear
        weight, mask = linear.weight[:, columns], linear.mask[:, columns]  # type: ignore[index]
        if plan.in_order[k + 1]:
            weight, mask = weight[rows], mask[rows]
        else:
            own = units[k + 1][rows]
            weight, mask = weight.index_select(0, own), mask.index_select(0, own)
        return weight * mask

    all_of, events, contexts = slice(None), slice(size), slice(size, None)
    for k, (stage, own) in enumerate(zip(stages, units[1:], strict=True)):
        own_bias = stage.linear.bias
        bias = y.new_zeros(len(own), 1) if own_bias is None else own_bias.index_select(0, own)[:, None]
        if stage.source == 0 and context is not None:
            states.append(torch.addmm(bias, part(k, all_of, contexts), context.t()))
        else:
            states.append(bias.expand(-1, rows).contiguous())
    # Where in a state that is added the rows of a stage lie.
    skips = [
        None if stage.skip is None else torch.argsort(units[stage.skip]).index_select(0, own)
        for stage, own in zip(stages, units[1:], strict=True)
    ]
    target = y.t().index_select(0, units[0])
    given = states[-1].view(size, plan.parameters, rows)
    due = units[0]
    room = WORTHWHILE if y.device.type == "cpu" else torch.inf
    for start in range(0, plan.steps, BLOCK):
        stop = min(start + BLOCK, plan.steps)
        layers = []
        for k, stage in enumerate(stages):
            known = plan.known[k]
            first, last = known[start], known[stop]
            inputs = plan.due if stage.source == 0 else plan.known[stage.source - 1]
            # Of the event at the first step of the block, of hidden units before it: the step's own come first.
            old, new = inputs[start], inputs[stop]
            # Made for a block at a time, they stay in the cache.
            weight = part(k, slice(first, last), events if stage.source == 0 else all_of)
            if not plan.in_order[stage.source]:
                weight = weight.index_select(1, units[stage.source][:new])
            if old and last > first:
                states[k + 1][first:last].addmm_(weight[:, :old], states[stage.source][:old])
            # What of the block is not known yet has weight 0 for who comes before it.
            seen = weight[:, old:new]
            index = skips[k]
            skip = None if stage.skip is None or index is None else (states[stage.skip], index[first:last])
            own, inputs_now = states[k + 1][first:last], states[stage.source][old:new]
            sizes, reads = ([b - a for a, b in pairwise(each[start : stop + 1])] for each in (known, inputs))
            layers.append(_Layer(own, seen, inputs_now, _in_place(stage.after), skip, sizes, reads))
        first, last = plan.due[start], plan.due[stop]
        sizes = [b - a for a, b in pairwise(plan.due[start : stop + 1])]
        ends = (given[first:last], target[first:last], due[first:last], states[0][first:last])
        work = rows * sum(layer.seen.numel() for layer in layers)
        if at_once and stop - start > PASSES and work <= room * (stop - start):
            at_once = _all_at_once(layers, solve, ends)
            if at_once:
                continue
        _one_by_one(layers, solve, ends, sizes)
    return states[0], given


@dataclass(frozen=True)
class _Layer:
    """What of a stage is in a block.

    Args:
        own: its units ``(k, N)``, of which all from before the block is there already.
        seen: their weights of what is in the block ``(k, i)``.
        inputs: that, ``(i, N)``.
        after: what they go through, in place, or None.
        skip: a state of which rows are added, and which ones, or None.
        sizes: of the k, those of each step.
        reads: of the i, those that each step adds.
    """

    own: Tensor
    seen: Tensor
    inputs: Tensor
    after: Callable[[Tensor], object] | None
    skip: tuple[Tensor, Tensor] | None
    sizes: list[int]
    reads: list[int]


#: Of the features of a block parameters, y, index and x.
_Ends = tuple[Tensor, Tensor, Tensor, Tensor]


def _one_by_one(layers: list[_Layer], solve: Solve, ends: _Ends, sizes: list[int]) -> None:
    # Views that are made here and not in a step; what is empty there is None.
    work = []
    for layer in layers:
        state, index = layer.skip or (None, None)
        own = [now if count else None for now, count in zip(layer.own.split(layer.sizes), layer.sizes, strict=True)]
        parts = (None,) * len(sizes) if index is None else index.split(layer.sizes)
        # Some steps share their inputs: cut for each of them, these would take longer than products with zeros.
        few = max(1, READ * len(sizes) // max(1, len(layer.inputs)))
        seen: list[Tensor] = []
        inputs: list[Tensor | None] = []
        first = read = 0
        for s in range(0, len(sizes), few):
            counts = layer.sizes[s : s + few]
            last, read = first + sum(counts), read + sum(layer.reads[s : s + few])
            seen += layer.seen[first:last, :read].split(counts)
            inputs += [layer.inputs[:read] if read else None] * len(counts)
            first = last
        work.append((list(zip(own, seen, inputs, parts, strict=True)), layer.after, state))
    for s, due in enumerate(zip(*(end.split(sizes) for end in ends), strict=True)):
        for steps, after, state in work:
            now, weight, known, part = steps[s]
            if now is None:
                continue
            if known is not None:
                now.addmm_(weight, known)
            if after is not None:
                after(now)
            if state is not None:
                now.add_(state.index_select(0, part))
        solve(*due)


def _all_at_once(layers: list[_Layer], solve: Solve, ends: _Ends) -> bool:
    """Each feature from the others of the pass before, until no bit changes; whether that came about.

    Then each has been solved given the others, as by steps. A feature is right one pass after those that it needs, so
    that as many passes as steps always do; but mostly it needs those far before it little.
    """
    phi, target, due, x = ends
    before, found = [layer.own.clone() for layer in layers], torch.empty_like(x)
    enough = until(PASSES)
    for _ in range(PASSES):
        for layer, base in zip(layers, before, strict=True):
            torch.addmm(base, layer.seen, layer.inputs, out=layer.own)
            if layer.after is not None:
                layer.after(layer.own)
            if layer.skip is not None:
                layer.own.add_(layer.skip[0].index_select(0, layer.skip[1]))
        solve(phi, target, due, found)
        if enough((found == x).all()):
            return True
        x.copy_(found)
    x.zero_()  # what is not known yet counts with weight 0, unless it is not finite
    for layer, base in zip(layers, before, strict=True):
        layer.own.copy_(base)
    return False


def _in_place(after: Callable[[Tensor], Tensor] | None) -> Callable[[Tensor], object] | None:
    """An activation on its own place: a copy of a few units, and the call of a module, take longer than the work."""
    if isinstance(after, nn.ReLU):
        return torch.relu_
    if isinstance(after, nn.SiLU):
        return partial(functional.silu, inplace=True)
    if isinstance(after, nn.ELU):
        return partial(functional.elu_, alpha=after.alpha)
    return None if after is None else lambda x: x.copy_(after(x))
