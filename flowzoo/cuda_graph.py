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


Outputs = tuple[Tensor | None, ...]


class NoGraph(RuntimeError):
    """A function cannot be captured, or its graph gives other numbers; in one line."""


class Graphs:
    """Runs a function of tensors from a graph for each shape, as long as that gives what the function gives.

    Args:
        run: as of ``Captured``.
        before: as of ``Captured``.
        fall_back: run the function itself from then on if there can be no graph, rather than raise.

    Raises:
        NoGraph: if the function cannot be captured, or a first replay gives other numbers.
    """

    def __init__(
        self, run: Callable[..., Outputs], before: Callable[[], object] = lambda: None, *, fall_back: bool
    ) -> None:
        self.run, self.before, self.fall_back = run, before, fall_back
        self.trouble = ""  # why there are no graphs, in one line
        self.captured: dict[tuple[torch.Size, ...], Captured[Outputs]] = {}

    def __call__(self, *inputs: Tensor) -> Outputs:
        """As the function; the next call may write over what this returns."""
        shapes = tuple(part.shape for part in inputs)
        if shapes in self.captured:
            return self.captured[shapes](*inputs)
        self.before()
        known = self.run(*inputs)  # outside what follows: its own fault is not one of a capture
        if self.trouble:
            return known
        try:
            graph = Captured(self.run, inputs, self.before)
            found = graph(*inputs)
            if not all(map(agree, found, known)):
                raise RuntimeError("its first replay gave other numbers")
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            if not self.fall_back:
                raise NoGraph(reason) from error
            self.trouble = reason
            self.captured.clear()
            return known
        self.captured[shapes] = graph
        return found


def agree(found: Tensor | None, known: Tensor | None) -> bool:
    """Whether two calculations of a tensor differ by no more than the order of their sums."""
    if found is None or known is None or not known.numel():
        return found is known or (found is not None and known is not None and found.shape == known.shape)
    largest = float(known.detach().abs().nan_to_num(0.0, 0.0, 0.0).max())
    return torch.allclose(found, known, rtol=1e-3, atol=1e-3 * largest + 1e-6, equal_nan=True)
