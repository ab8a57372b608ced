"""Rectified Adam by the fused kernel of AdamW: one pass over the weights instead of a dozen."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class RAdam(torch.optim.AdamW):
    r"""Liu et al. 2020, arXiv:1908.03265, with weight decay apart from the gradient; as ``torch.optim.RAdam``.

    A rectified step is one of AdamW with the rate :math:`r_t\,\eta` and the decay :math:`\lambda/r_t`; so
    :math:`\epsilon` is added to the root of the corrected second moment, where torch adds it to that of the moment
    itself. The first five steps, before there is a rectification, are along the mean gradient. The state has the names
    that torch's has. All parameters must have gradients in every step or in none.

    Args:
        parameters: to train.
        lr: the rate; on a GPU a tensor of it, if steps are to be captured.
        weight_decay: of the weights, in units of the rate.
        capturable: whether steps may be captured in a CUDA graph.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float | Tensor,
        weight_decay: float = 0.0,
        capturable: bool = False,
    ) -> None:
        super().__init__(parameters, lr=lr, weight_decay=weight_decay, fused=True, capturable=capturable)
        self.taken = 0  # on the host: the kernel's own count is on the device

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Change the weights."""
        self.taken += 1
        for group in self.param_groups:
            moved = [p for p in group["params"] if p.grad is not None]
            if not moved:
                continue
            lr, decay, capturable = group["lr"], group["weight_decay"], group["capturable"]
            factors = _factors(self._on_the_device(moved[0]) if capturable else self.taken, *group["betas"])
            # Kernels read no numbers of another precision than float32 from a GPU.
            rectified, plain = (lr * (factor.float() if capturable else factor) for factor in factors)
            if decay:
                torch._foreach_mul_(moved, 1 - lr * decay)
            group.update(lr=rectified, weight_decay=0.0)
            try:
                super().step()
            finally:
                group.update(lr=lr, weight_decay=decay)
            if capturable or plain:  # a capture is of all steps
                torch._foreach_sub_(moved, torch._foreach_mul([self.state[p]["exp_avg"] for p in moved], plain))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As every optimiser's."""
        super().load_state_dict(state_dict)
        counts = [state["step"] for state in self.state.values()]
        self.taken = int(counts[0]) if counts else 0

    def _on_the_device(self, parameter: nn.Parameter) -> Tensor:
        """The number of this step."""
        state = self.state.get(parameter)
        taken = state["step"].double() if state else torch.zeros((), dtype=torch.float64, device=parameter.device)
        return taken + 1


def _factors(t: Any, beta1: float, beta2: float) -> tuple[Any, Any]:
    """Of the rate in step ``t``, numbers or tensors: for AdamW, and along the mean gradient; one of them is 0."""
    longest, left = 2 / (1 - beta2) - 1, beta2**t
    length = longest - 2 * t * left / (1 - left)
    squared = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
    return ((length > 5) * squared) ** 0.5, (length <= 5) / (1 - beta1**t)
