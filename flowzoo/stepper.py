"""One optimiser step after another on resident data; nothing in a step waits for the host."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

from flowzoo.data import Split
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


class Stepper:
    """AdamW on batches by index, with its own order of the events and its own noise.

    An epoch is a permutation of the training events cut into batches of equal size; the remainder waits for another
    epoch. Losses are summed, and the first non-finite one is remembered, by tensors on the device.

    Args:
        flow: on the device of the split.
        split: training data.
        config: see ``StepConfig``.
        seed: of the order and of the noise.
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
        loss = -self.flow(x, context).mean()
        penalty = self.flow.regularization()
        (loss if penalty is None else loss + penalty).backward()
        if self.clip:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.optimizer.step()
        self.count += 1
        # The average forgets its start at first: after n steps it reaches back over about n/9.
        decay = min(self.ema, (1 + self.count) / (10 + self.count)) if self.ema else 0.0
        torch._foreach_lerp_(self.averages, self.weights, 1 - decay)
        seen = loss.detach()
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
                moments.setdefault(int(number), {})[name] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})

    def _next_index(self) -> Tensor:
        position = self.count % self.batches
        if position == 0 or self.permutation is None:
            self.epoch_start = self.order.get_state()
            self.permutation = torch.randperm(len(self.split), generator=self.order, device=self.device)
        return self.permutation[position * self.batch_size : (position + 1) * self.batch_size]
