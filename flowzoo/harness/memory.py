"""Peak memory of one stretch of a run."""

from __future__ import annotations

from pathlib import Path

import torch

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
