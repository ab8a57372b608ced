"""A function of tensors as one CUDA graph: one launch in the place of hundreds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor

WARM_UP = 3  # runs before a capture, in which libraries choose their kernels and make their workspaces

T = TypeVar("T")


class Captured(Generic[T]):
    """What a function does on a GPU, recorded once and replayed on other values of the same shapes.

    The function must not wait for the host, nor take anything from it that changes. What else it reads (weights) is
    read where it was at the capture.

    Args:
        run: of tensors; what it returns are the tensors that every replay writes.
        inputs: an example on the GPU.
        before: called before each run, the capture's too, and in no replay.

    Raises:
        RuntimeError: if the function cannot be captured.
    """

    def __init__(
        self, run: Callable[..., T], inputs: Sequence[Tensor], before: Callable[[], object] = lambda: None
    ) -> None:
        self.inputs = [part.clone() for part in inputs]
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                before()
                run(*self.inputs)
        torch.cuda.current_stream().wait_stream(aside)
        before()
        self.graph = torch.cuda.CUDAGraph()
        # Other threads of the process may go on with theirs.
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            self.outputs = run(*self.inputs)

    def __call__(self, *inputs: Tensor) -> T:
        """Replay; the next one writes over what this returns."""
        for own, part in zip(self.inputs, inputs, strict=True):
            own.copy_(part)
        self.graph.replay()
        return self.outputs
