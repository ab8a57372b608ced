"""Calculations with loops on a GPU, from a CUDA graph for each shape."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from flowzoo.cuda_graph import Captured, agree
from flowzoo.layers.rounds import Rounds

KEPT = 4  # graphs: each holds the memory that its calculation takes
TRIES = 8  # captures for one shape, each with as many rounds as any batch before has taken
SWITCH = "FLOWZOO_CUDA_GRAPHS"

Run = Callable[..., tuple[Tensor, ...]]


class Replays:
    """Runs a function of tensors, from the second time for a shape on as a graph, where that can be.

    Its loops are counted (``flowzoo.layers.rounds``), and what a replay found in too few rounds is found again as the
    function is written. A graph whose first replay does not give what the function gives is not used.

    On a GPU, without gradient, and if the environment says ``FLOWZOO_CUDA_GRAPHS=1``; else the function is called.
    A copy of this, or of what owns it, begins anew.
    """

    def __init__(self) -> None:
        self._kept: dict[Any, _Shape] = {}

    def __reduce__(self) -> tuple[type[Replays], tuple[()]]:
        return Replays, ()

    def __call__(
        self, run: Run, inputs: tuple[Tensor, ...], weights: Callable[[], Iterable[Tensor]]
    ) -> tuple[Tensor, ...]:
        """``run(*inputs)``.

        Args:
            run: reads nothing else that changes, but for the values of the weights.
            inputs: all on one device.
            weights: gives the tensors that a graph reads where they are; of others there is another graph.
        """
        if not _allowed(inputs):
            return run(*inputs)
        key = (tuple((part.shape, part.dtype, part.device) for part in inputs), tuple(w.data_ptr() for w in weights()))
        shape = self._kept.pop(key, None) or _Shape()
        if len(self._kept) == KEPT:
            del self._kept[next(iter(self._kept))]
        self._kept[key] = shape  # the last used one is the last to go
        return shape(run, inputs)


class _Shape:
    """The rounds that one shape takes, and its graph once there is one."""

    def __init__(self) -> None:
        self.rounds, self.seen, self.tries = Rounds(), False, TRIES
        self.graph: Captured[tuple[tuple[Tensor, ...], list[Tensor]]] | None = None

    def __call__(self, run: Run, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if self.graph is not None:
            found, flags = self.graph(*inputs)
            if _all_true(flags):
                return tuple(part.clone() for part in found)
            self.graph = None  # the next one has more rounds
        with self.rounds.counted():
            known = run(*inputs)
        if self.seen and self.tries and self.rounds.all_ended:
            self.tries -= 1
            self._capture(run, inputs, known)
        self.seen = True
        return known

    def _capture(self, run: Run, inputs: tuple[Tensor, ...], known: tuple[Tensor, ...]) -> None:
        """Have a graph, if it gives what the function gave."""

        def again(*inputs: Tensor) -> tuple[tuple[Tensor, ...], list[Tensor]]:
            with self.rounds.repeated() as flags:
                return run(*inputs), flags

        try:
            graph = Captured(again, inputs)
            found, flags = graph(*inputs)
            if not _all_true(flags) or not all(map(agree, found, known)):
                raise RuntimeError("its first replay gave other numbers")
        except RuntimeError as error:
            self.tries = 0
            reason = str(error).strip().splitlines()[0]
            warnings.warn(f"no CUDA graph of a flow's inverse, which goes on without: {reason}", stacklevel=2)
        else:
            self.graph = graph


def _all_true(flags: list[Tensor]) -> bool:
    return not flags or bool(torch.stack(flags).all())


def _allowed(inputs: tuple[Tensor, ...]) -> bool:
    return (
        os.environ.get(SWITCH) == "1"
        and inputs[0].is_cuda
        and not torch.is_grad_enabled()
        and not torch.is_inference_mode_enabled()
        and not torch.is_autocast_enabled("cuda")
    )
