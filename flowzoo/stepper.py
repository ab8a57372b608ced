"""One optimiser step after another on resident data; nothing in a step waits for the host."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from flowzoo import distributed
from flowzoo.data import Split
from flowzoo.distributed import DistributedError
from flowzoo.flow import ConditionalFlow
from flowzoo.seeding import generator


class StepConfig(Protocol):
    """The options that a step needs; ``flowzoo.train.FitConfig`` has them."""

    @property
    def batch_size(self) -> int:
        """Events per step."""
        ...

    @property
    def lr(self) -> float:
        """Learning rate, until the caller sets another one."""
        ...

    @property
    def weight_decay(self) -> float:
        """Of AdamW."""
        ...

    @property
    def clip(self) -> float:
        """Largest norm of the gradient; 0 does not clip."""
        ...

    @property
    def ema(self) -> float:
        """Decay per step of the average of the weights; 0 for none."""
        ...

    @property
    def compile(self) -> bool:
        """Whether the forward pass of a step is compiled."""
        ...


class CompileError(RuntimeError):
    """The forward pass of a step cannot be compiled."""


class Stepper:
    """AdamW on batches by index, with its own order of the events and its own noise.

    An epoch is a permutation of the training events cut into batches of equal size; the remainder waits for another
    epoch. Losses are summed, and the first non-finite one is remembered, by tensors on the device.

    Of several processes (``flowzoo.distributed``) each draws the whole batch with its noise and takes its own part of
    it, so that together they take the steps that one process would, up to rounding.

    Args:
        flow: on the device of the split.
        split: training data.
        config: see ``StepConfig``.
        seed: of the order and of the noise.

    Raises:
        DistributedError: if a batch cannot be cut into equal parts for the processes.
        CompileError: if torch cannot compile here.
    """

    def __init__(self, flow: ConditionalFlow, split: Split, config: StepConfig, seed: int) -> None:
        self.flow, self.split, self.clip, self.ema = flow, split, config.clip, config.ema
        self.device = split.x.device
        self.parameters = [p for p in flow.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=config.lr, weight_decay=config.weight_decay, fused=True)
        self.order = generator(seed, "order", device=self.device)
        self.noise = generator(seed, "noise", device=self.device)
        self.batch_size = min(config.batch_size, len(split))
        self.batches = len(split) // self.batch_size
        processes = distributed.world().size
        if self.batch_size % processes:
            raise DistributedError(
                f"train.batch_size must be a multiple of the number of processes, {processes}, and no larger than the "
                f"{len(split)} training events; it is {config.batch_size}"
            )
        self.own = distributed.share_of(self.batch_size)
        self.score = _forward(flow, config.compile)
        # the same tensors, without their gradients: for in-place arithmetic
        self.weights = [p.detach() for p in self.parameters]
        self.averages = [w.clone() for w in self.weights]
        self.rate = config.lr
        self.count = 0
        self.epoch_start = self.order.get_state()
        self.permutation: Tensor | None = None
        self.first_bad = torch.full((), -1, dtype=torch.long, device=self.device)
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)

    def step(self) -> None:
        """Take one step."""
        x, context = self.split.batch(self._next_index(), self.noise)
        self.optimizer.zero_grad(set_to_none=True)
        try:
            seen = self._differentiate(x[self.own], context[self.own])
        except Exception as error:
            if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise CompileError(_no_compile(error)) from error
            raise
        if self.clip:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.optimizer.step()
        self.count += 1
        # The average forgets its start at first: after n steps it reaches back over about n/9.
        decay = min(self.ema, (1 + self.count) / (10 + self.count)) if self.ema else 0.0
        torch._foreach_lerp_(self.averages, self.weights, 1 - decay)
        bad = (self.first_bad < 0) & ~torch.isfinite(seen)
        self.first_bad = torch.where(bad, self.count, self.first_bad)
        self.loss_sum += seen

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside the block the flow has the averaged weights."""
        own = [w.clone() for w in self.weights]
        torch._foreach_copy_(self.weights, self.averages)
        try:
            yield
        finally:
            torch._foreach_copy_(self.weights, own)

    def restart_average(self) -> None:
        """Begin the average at the present weights, after a data-dependent initialisation."""
        torch._foreach_copy_(self.averages, self.weights)

    def set_rate(self, rate: float) -> None:
        """Change the learning rate."""
        self.rate = rate
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def take_loss(self) -> float:
        """The sum of the losses since the last call; waits for the device."""
        total = float(self.loss_sum)
        self.loss_sum.zero_()
        return total

    def pool(self) -> None:
        """Make the sum of the losses and the first bad step those of all processes; all must call it."""
        never = torch.iinfo(torch.long).max
        first_bad = torch.where(self.first_bad < 0, never, self.first_bad)
        distributed.take_least(first_bad)
        self.first_bad = torch.where(first_bad == never, -1, first_bad)
        distributed.take_mean(self.loss_sum)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that the next steps depend on, the flow's weights apart."""
        held = {
            "epoch_start": self.epoch_start,
            "order": self.order.get_state(),
            "noise": self.noise.get_state(),
            "count": torch.tensor(self.count),
            "first_bad": self.first_bad,
            "loss_sum": self.loss_sum,
        }
        held |= {f"average.{i}": average for i, average in enumerate(self.averages)}
        for number, moments in self.optimizer.state_dict()["state"].items():
            held |= {f"optimizer.{number}.{key}": torch.as_tensor(value) for key, value in moments.items()}
        return held

    def restore(self, held: dict[str, Tensor]) -> None:
        """Take up what ``tensors`` gave."""
        self.count = int(held["count"])
        self.first_bad = held["first_bad"].to(self.device)
        self.loss_sum = held["loss_sum"].to(self.device)
        self.noise.set_state(held["noise"])
        self.epoch_start = held["epoch_start"]
        self.order.set_state(held["order"])
        # The permutation is not stored (35 million rows would be 280 MB): it is drawn again from its own state.
        if self.count % self.batches:
            self.order.set_state(self.epoch_start)
            self.permutation = torch.randperm(len(self.split), generator=self.order, device=self.device)
        torch._foreach_copy_(self.averages, [held[f"average.{i}"].to(self.device) for i in range(len(self.averages))])
        moments: dict[int, dict[str, Any]] = {}
        for key, value in held.items():
            if key.startswith("optimizer."):
                _, number, name = key.split(".", 2)
                weight = self.parameters[int(number)]
                if value.shape == weight.shape:
                    # In the memory layout of the parameter: a fused step pairs the two by place, not by index.
                    value = torch.empty_like(weight, dtype=value.dtype).copy_(value)
                moments.setdefault(int(number), {})[name] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})

    def _differentiate(self, x: Tensor, context: Tensor) -> Tensor:
        """The mean NLL of this process's part of the batch; leaves the gradients of the whole in the parameters."""
        loss = -self.score(x, context).mean()
        penalty = self.flow.regularization()
        (loss if penalty is None else loss + penalty).backward()
        return loss.detach()

    def _next_index(self) -> Tensor:
        position = self.count % self.batches
        if position == 0 or self.permutation is None:
            self.epoch_start = self.order.get_state()
            self.permutation = torch.randperm(len(self.split), generator=self.order, device=self.device)
        return self.permutation[position * self.batch_size : (position + 1) * self.batch_size]


def _forward(flow: ConditionalFlow, compiled: bool) -> Callable[[Tensor, Tensor], Tensor]:
    """What a step calls to score a batch; its weights are the flow's own, by their own names."""
    score: nn.Module = flow
    if distributed.world().size > 1:
        # Averages the gradients during the backward pass. A flow changes no buffer in training, so none is sent; its
        # graph is the same in every step, which lets parameters be there that the loss does not depend on.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # the option has another name from torch 2.13 on
            score = DistributedDataParallel(flow, broadcast_buffers=False, static_graph=True)
    if not compiled:
        return score
    # All flows share one `forward`, and torch compiles one function for so many modules only: it forgets the others.
    torch.compiler.reset()
    try:
        return torch.compile(score)
    except RuntimeError as error:  # a Python or a system for which there is no compiler at all
        raise CompileError(_no_compile(error)) from error


def _no_compile(error: Exception) -> str:
    """The reason in one line; torch's own goes on with advice for its developers."""
    return f"train.compile: torch cannot compile this flow here ({str(error).strip().splitlines()[0]}); leave it out"
