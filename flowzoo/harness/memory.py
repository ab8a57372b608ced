"""Memory: the peak of one stretch of a run, and what a step keeps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from flowzoo.flow import ConditionalFlow

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class PeakMemory:
    """Peak memory since ``start``, in MB (10^6 bytes): of the GPU's allocator, else resident in this process.

    The operating system's own figure never falls, so on a CPU the kernel's high-water mark is reset at the start;
    where that cannot be done (other systems than Linux) there is no figure rather than a wrong one.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.known = True

    def start(self) -> None:
        """Forget the peak so far."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            return
        try:
            _CLEAR.write_text("5")  # resets VmHWM, see proc(5)
        except OSError:
            self.known = False

    def read(self) -> float | None:
        """The peak since ``start``, or None where it cannot be told."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 1e6
        if not self.known:
            return None
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
        return None


def kept_of(flow: ConditionalFlow, batch: Sequence[Tensor]) -> list[int]:
    """Bytes of each tensor that autograd keeps of a step, the weights apart."""
    kept: dict[int, int] = {}

    def look(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor.detach()  # itself, it would hold the graph that holds it

    with torch.autograd.graph.saved_tensors_hooks(look, lambda tensor: tensor):
        scores = flow(*batch)  # held, as the memory of a graph that is gone has other tensors
    held = {t.untyped_storage().data_ptr() for t in (*flow.parameters(), *flow.buffers())}
    return [size for place, size in kept.items() if place not in held] if scores.requires_grad else []
