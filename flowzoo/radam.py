"""Rectified Adam by the fused kernel of AdamW: one pass over the weights instead of a dozen."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


class RAdam(torch.optim.AdamW):
    r"""Liu et al. 2020, arXiv:1908.03265, with weight decay apart from the gradient; as ``torch.optim.RAdam``.

    A rectified step is one of AdamW with the rate :math:`r_t\,\eta`, :math:`\epsilon/\sqrt{1-\beta_2^t}` and the decay
    :math:`\lambda/r_t`. The first five steps, before there is a rectification, are along the mean gradient.
    The state has the names that torch's has. All parameters must have gradients in every step or in none.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.0) -> None:
        super().__init__(parameters, lr=lr, weight_decay=weight_decay, fused=True)
        self.taken = 0  # on the host: the kernel's own count is on the device

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Change the weights."""
        self.taken += 1
        for group in self.param_groups:
            lr, eps, decay = group["lr"], group["eps"], group["weight_decay"]
            (beta1, beta2), longest = group["betas"], 2 / (1 - group["betas"][1]) - 1
            left = 1 - beta2**self.taken
            length = longest - 2 * self.taken * beta2**self.taken / left
            if length > 5:
                rect = math.sqrt((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length))
                group.update(lr=lr * rect, eps=eps / math.sqrt(left), weight_decay=decay / rect)
                plain = 0.0
            else:
                group.update(lr=0.0)  # moments only
                plain = lr / (1 - beta1**self.taken)
            try:
                super().step()
            finally:
                group.update(lr=lr, eps=eps, weight_decay=decay)
            if plain:
                moved = [p for p in group["params"] if p.grad is not None]
                torch._foreach_mul_(moved, 1 - lr * decay)
                torch._foreach_add_(moved, [self.state[p]["exp_avg"] for p in moved], alpha=-plain)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As every optimiser's."""
        super().load_state_dict(state_dict)
        counts = [state["step"] for state in self.state.values()]
        self.taken = int(counts[0]) if counts else 0
