"""Several flows of one architecture take their steps at once: all gradients by one pass of ``torch.func.vmap``.

A small flow leaves a GPU idle: each of its kernels is over before the next one is launched. S flows at once launch as
many as one does, and each does S times the work.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from flowzoo.cuda_graph import Gradients, Steps
from flowzoo.engine import Graph, words_of
from flowzoo.flow import ConditionalFlow
from flowzoo.stepper import Stepper


class NotTogether(Exception):
    """Why several flows cannot be trained at once, in one line."""


class Joint:
    """Steps of several steppers at once, each with its own batch, optimiser and average.

    Their weights become parts of common tensors, and each its own again by ``release``.

    Args:
        steppers: of flows with one architecture, on one device.

    Raises:
        NotTogether: if the flows differ in more than the values of their tensors.
    """

    def __init__(self, steppers: Sequence[Stepper]) -> None:
        self.steppers, self.tried = steppers, False
        losses = [_Loss(stepper.flow) for stepper in steppers]
        self.loss = losses[0]
        weights, buffers = (
            [dict(kind(loss)) for loss in losses] for kind in (nn.Module.named_parameters, nn.Module.named_buffers)
        )
        for one, other in (*pairwise(weights), *pairwise(buffers)):
            if {name: t.shape for name, t in one.items()} != {name: t.shape for name, t in other.items()}:
                raise NotTogether("they are of different architectures")
        self.parts = weights
        self.stacked: dict[str, Tensor] = {}
        for name, first in weights[0].items():
            stack = torch.stack([own[name].detach() for own in weights]).contiguous()
            for own, part in zip(weights, stack, strict=True):
                own[name].data = part
            self.stacked[name] = stack.requires_grad_(first.requires_grad)
        # A mask is mostly the same for all; what differs, a permutation drawn at random say, goes with the weights.
        equal = {name for name in buffers[0] if all(torch.equal(buffers[0][name], own[name]) for own in buffers[1:])}
        self.common = {name: buffers[0][name] for name in equal}
        self.own = {name: torch.stack([own[name] for own in buffers]) for name in buffers[0] if name not in equal}
        self.trained = [name for name, weight in self.stacked.items() if weight.requires_grad]
        engine = steppers[0].engine
        self.graphs = (
            Steps(self._differentiate, self._finish, self._changed, fall_back=engine.steps.fall_back)
            if isinstance(engine, Graph)
            else None
        )

    @property
    def words(self) -> str:
        """By which engine, as ``flowzoo.engine`` says it."""
        return "eager" if self.graphs is None else words_of(self.graphs, "eager")

    def step(self) -> None:
        """Take one step of each.

        Raises:
            NotTogether: if the flow has an operation that vmap cannot do, or all at once do not fit into the memory.
        """
        batches = [stepper.take() for stepper in self.steppers]
        stacked = [torch.stack(parts) for parts in zip(*batches, strict=True)]
        try:
            # Only once: it changes what all threads of the process do with warnings.
            with nullcontext() if self.tried else _slow_is_an_error():
                if self.graphs is None:
                    self._finish(*self._differentiate(*stacked))
                else:
                    self.graphs(*stacked)
        except Exception as error:
            raise NotTogether(f"{type(error).__name__}: {str(error).strip().splitlines()[0]}") from error
        self.tried = True
        for stepper in self.steppers:
            stepper.count += 1

    def release(self) -> None:
        """Give each flow tensors of its own, and the device the memory of a step."""
        self.graphs = None
        for weights in self.parts:
            for weight in weights.values():
                weight.data = weight.data.clone()

    def _differentiate(self, *batch: Tensor) -> Gradients:
        """The mean NLL of each, and all gradients, of batches side by side."""
        totals, seen = vmap(self._losses)(self.stacked, self.own, *batch)
        weights = [self.stacked[name] for name in self.trained]
        gradients = torch.autograd.grad(totals.sum(), weights, allow_unused=True)
        # In the memory layout of the weights: a fused optimiser pairs the two by place, not by index.
        return seen.detach(), *(None if gradient is None else gradient.contiguous() for gradient in gradients)

    def _finish(self, seen: Tensor | None, *gradients: Tensor | None) -> None:
        assert seen is not None
        for i, (stepper, weights) in enumerate(zip(self.steppers, self.parts, strict=True)):
            for name, gradient in zip(self.trained, gradients, strict=True):
                weights[name].grad = None if gradient is None else gradient[i]
            stepper.descent(seen[i])

    def _changed(self) -> list[Tensor]:
        return [tensor for stepper in self.steppers for tensor in stepper.descent.changed()]

    def _losses(self, weights: dict[str, Tensor], own: dict[str, Tensor], *batch: Tensor) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = functional_call(self.loss, {**weights, **own, **self.common}, batch)
        return found


class _Loss(nn.Module):
    """What a step minimises, and the mean NLL, which is a part of it."""

    def __init__(self, flow: ConditionalFlow) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, x: Tensor, *given: Tensor) -> tuple[Tensor, Tensor]:
        nll = -self.flow(x, *given).mean()
        penalty = self.flow.regularization()
        return nll if penalty is None else nll + penalty, nll


@contextmanager
def _slow_is_an_error() -> Iterator[None]:
    """Where vmap has no rule for an operation it does it one by one, and warns: that is slower than alone."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "There is a performance drop", UserWarning)
        try:
            yield
        except UserWarning as warning:
            found = re.search(r"batching rule for (\S+?)\.? ", str(warning))
            operation = found.group(1) if found else "an operation"
            raise RuntimeError(f"vmap would go through {operation} one by one") from None
