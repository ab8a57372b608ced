"""What a step does with the gradients: clip, optimiser, average of the weights, and the books, all on the device."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from flowzoo import distributed
from flowzoo.radam import RAdam
from flowzoo.train_config import FitConfig


class Descent:
    """An optimiser with all that belongs to its steps.

    Called with a loss it takes a step by the gradients that the parameters have. It then changes the values of the
    tensors in ``changed`` and nothing else, and takes nothing from the host that changes, so that on a GPU a step can
    be captured in a CUDA graph. Losses are summed, and the first non-finite one is remembered, on the device.

    Args:
        parameters: to train, all on one device.
        config: how to train.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], config: FitConfig) -> None:
        self.parameters, self.clip, self.ema = parameters, config.clip, config.ema
        self.device = parameters[0].device
        self.optimizer = _optimizer(parameters, config)
        self.averages = [w.clone() for w in self.weights] if self.ema else []
        self.rate = config.lr
        self.count: int | Tensor = 0
        if _replayed(self.device):  # on the device, as a count of the host's would be said once
            self.count = torch.zeros((), dtype=torch.long, device=self.device)
        self.first_bad = torch.full((), -1, dtype=torch.long, device=self.device)
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)

    def __call__(self, seen: Tensor) -> None:
        """Take a step; ``seen`` is the loss."""
        if self.clip:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.optimizer.step()
        self.count += 1
        if self.ema:
            self._average()
        bad = (self.first_bad < 0) & ~torch.isfinite(seen)
        self.first_bad.copy_(torch.where(bad, self.count, self.first_bad))
        self.loss_sum += seen

    def changed(self) -> list[Tensor]:
        """Every tensor that a step changes; there are more after the first one, which makes the optimiser's state."""
        moments = [value for state in self.optimizer.state.values() for value in state.values()]
        counts = [self.count] if isinstance(self.count, Tensor) else []
        return [*self.weights, *self.averages, *moments, *counts, self.first_bad, self.loss_sum]

    @property
    def weights(self) -> list[Tensor]:
        """The parameters without their gradients, for in-place arithmetic; a flow may have given one another tensor."""
        return [p.detach() for p in self.parameters]

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside the block the flow has the averaged weights; without an average its own."""
        if not self.ema:
            yield
            return
        own = [w.clone() for w in self.weights]
        torch._foreach_copy_(self.weights, self.averages)
        try:
            yield
        finally:
            torch._foreach_copy_(self.weights, own)

    def restart_average(self) -> None:
        """Begin the average at the present weights, after a data-dependent initialisation."""
        if self.ema:
            torch._foreach_copy_(self.averages, self.weights)

    def set_rate(self, rate: float) -> None:
        """Change the learning rate."""
        self.rate = rate
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
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
        self.first_bad.copy_(torch.where(first_bad == never, -1, first_bad))
        distributed.take_mean(self.loss_sum)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that the next steps depend on, the weights apart."""
        held = {"count": torch.as_tensor(self.count), "first_bad": self.first_bad, "loss_sum": self.loss_sum}
        held |= {f"average.{i}": average for i, average in enumerate(self.averages)}
        for number, moments in self.optimizer.state_dict()["state"].items():
            held |= {f"optimizer.{number}.{key}": torch.as_tensor(value) for key, value in moments.items()}
        return held

    def restore(self, held: dict[str, Tensor]) -> None:
        """Take up what ``tensors`` gave."""
        if isinstance(self.count, Tensor):
            self.count.copy_(held["count"])
        else:
            self.count = int(held["count"])
        self.first_bad.copy_(held["first_bad"])
        self.loss_sum.copy_(held["loss_sum"])
        for i, average in enumerate(self.averages):
            average.copy_(held[f"average.{i}"])
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

    def _average(self) -> None:
        # The average forgets its start at first: after n steps it reaches back over about n/9.
        decay = (1 + self.count) / (10 + self.count)
        if isinstance(decay, Tensor):
            change = torch._foreach_sub(self.weights, self.averages)  # lerp would have its factor from the host
            torch._foreach_mul_(change, 1 - decay.clamp(max=self.ema))
            torch._foreach_add_(self.averages, change)
        else:
            torch._foreach_lerp_(self.averages, self.weights, 1 - min(self.ema, decay))


def _replayed(device: torch.device) -> bool:
    """Whether a step there may be replayed by a CUDA graph, which does what Python said once."""
    return device.type != "cpu"


def _optimizer(parameters: Sequence[nn.Parameter], config: FitConfig) -> torch.optim.AdamW:
    """As the config says; both with weight decay apart from the gradient, and fit for a CUDA graph on a GPU."""
    device = parameters[0].device
    replayed = _replayed(device)
    lr = torch.tensor(config.lr, dtype=torch.float32, device=device) if replayed else config.lr
    if config.optimizer == "radam":
        made: torch.optim.AdamW = RAdam(parameters, lr, config.weight_decay, capturable=replayed)
    else:
        made = torch.optim.AdamW(parameters, lr=lr, weight_decay=config.weight_decay, fused=True, capturable=replayed)
    if replayed:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*capturable=True")  # torch says so once, of a step outside of a capture
            made.zero_grad()
            torch.optim.AdamW.step(made)  # without gradients: nothing
    return made
