"""A function of tensors as one CUDA graph: one launch in the place of hundreds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
        changed: tensors that the function changes, which are left as they are by the capture.

    Raises:
        RuntimeError: if the function cannot be captured.
    """

    def __init__(self, run: Callable[..., T], inputs: Sequence[Tensor], changed: Sequence[Tensor] = ()) -> None:
        self.inputs = [part.clone() for part in inputs]
        with _kept(changed):
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(WARM_UP):
                    run(*self.inputs)
            torch.cuda.current_stream().wait_stream(aside)
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


Gradients = tuple[Tensor | None, ...]


class NoGraph(RuntimeError):
    """Steps cannot be captured, or their graph does other things; in one line."""


class Steps:
    """Takes training steps from a CUDA graph for each shape, as long as that does what the functions do.

    The first step of a shape is taken as it is written: optimisers make their state then. So is the second, which is
    taken again by a graph, from where it began. The graph is used from then on if it came by the same gradients, and if
    it did with them what the functions do.

    Args:
        differentiate: of a batch, gives the loss and the gradients.
        finish: of the loss and the gradients, changes the weights.
        changed: gives all tensors that ``finish`` changes.
        fall_back: go on as it is written if there can be no graph, rather than raise.

    Raises:
        NoGraph: if there can be none; the step has been taken.
    """

    def __init__(
        self,
        differentiate: Callable[..., Gradients],
        finish: Callable[..., None],
        changed: Callable[[], list[Tensor]],
        *,
        fall_back: bool,
    ) -> None:
        self.differentiate, self.finish, self.changed, self.fall_back = differentiate, finish, changed, fall_back
        self.trouble = ""  # why there are no graphs, in one line
        self.captured: dict[tuple[torch.Size, ...], Captured[Gradients] | None] = {}

    def __call__(self, *batch: Tensor) -> None:
        """Take a step."""
        shapes = tuple(part.shape for part in batch)
        graph = self.captured.get(shapes)
        if graph is not None:
            graph(*batch)
            return
        began = _clones(self.changed()) if shapes in self.captured and not self.trouble else []
        known = self._as_written(*batch)
        if not began:
            self.captured[shapes] = None
            return
        try:
            self.captured[shapes] = self._capture(batch, began, known)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            if not self.fall_back:
                raise NoGraph(reason) from error
            self.trouble = reason
            self.captured.clear()

    def _as_written(self, *batch: Tensor) -> Gradients:
        gradients = self.differentiate(*batch)
        self.finish(*gradients)
        return gradients

    def _capture(self, batch: Sequence[Tensor], began: Sequence[Tensor], known: Gradients) -> Captured[Gradients]:
        """A graph that takes a step as it was taken.

        Args:
            batch: of that step.
            began: what it began with.
            known: its loss and gradients.

        Raises:
            RuntimeError: if there is none.
        """
        changed = self.changed()
        with _kept(changed):
            _copy(changed, began)
            graph = Captured(self._as_written, batch, changed)
            found = graph(*batch)
            if not all(map(agree, found, known)):
                raise RuntimeError("its first replay gave other gradients")
            ended = _clones(changed)
            _copy(changed, began)
            self.finish(*found)
            if not all(map(agree, ended, changed)):
                raise RuntimeError("its first replay made other weights of the same gradients")
        return graph


@contextmanager
def _kept(tensors: Sequence[Tensor]) -> Iterator[None]:
    """After the block they have the values that they had before."""
    held = _clones(tensors)
    try:
        yield
    finally:
        _copy(tensors, held)


def _clones(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [part.clone() for part in tensors]


def _copy(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for tensor, value in zip(tensors, values, strict=True):
        tensor.copy_(value)


def agree(found: Tensor | None, known: Tensor | None) -> bool:
    """Whether two calculations of a tensor differ by no more than the order of their sums."""
    if found is None or known is None or not known.numel():
        return found is known or (found is not None and known is not None and found.shape == known.shape)
    largest = float(known.detach().abs().nan_to_num(0.0, 0.0, 0.0).max())
    return torch.allclose(found, known, rtol=1e-3, atol=1e-3 * largest + 1e-6, equal_nan=True)
