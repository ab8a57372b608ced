"""How a step is taken: as the flow is written, compiled, or replayed from a CUDA graph."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from flowzoo import distributed
from flowzoo.cuda_graph import Gradients, NoGraph, Steps
from flowzoo.descent import Descent
from flowzoo.flow import ConditionalFlow

Name = Literal["auto", "eager", "compile", "graph"]


class EngineError(RuntimeError):
    """A flow or a machine cannot have the engine that it was asked to have."""


class Engine(Protocol):
    """Called with the arguments of a flow, it takes a step down its mean NLL and its own penalty.

    Gradients are averaged over the processes. ``words`` says what it is, and why it is not what was asked for.
    """

    @property
    def words(self) -> str:
        """What it is, for the record."""
        ...

    def __call__(self, *batch: Tensor) -> None:
        """``(N, *event)``, the contexts, and their index if there is one."""
        ...


def choose(name: Name, flow: ConditionalFlow, descent: Descent, batch: int) -> Engine:
    """An engine by its name, for steps of so many events.

    ``auto`` is ``graph`` on a GPU where that is possible, else ``eager``. What ``compile`` makes of a flow is captured
    as a graph too, where that is possible.

    Raises:
        EngineError: in one line, if it cannot be had here.
    """
    if name == "eager":
        return Eager(flow, descent)
    obstacle = _no_graph(flow, descent.device, batch)
    if name == "compile":
        compiled = Compiled(flow, descent)
        return compiled if obstacle else Graph(compiled, fall_back=True)
    if not obstacle:
        return Graph(Eager(flow, descent), fall_back=name == "auto")
    if name == "graph":
        raise EngineError(f"train.engine: graph cannot be had here ({obstacle}); take eager")
    return Eager(flow, descent, f"eager ({obstacle})" if descent.device.type == "cuda" else "eager")


class Eager:
    """One operation after another."""

    def __init__(self, flow: ConditionalFlow, descent: Descent, words: str = "eager") -> None:
        self.flow, self.descent, self.words, self.score = flow, descent, words, _shared(flow)

    def __call__(self, *batch: Tensor) -> None:
        """See ``Engine``."""
        self.descent(self.differentiate(*batch))

    def differentiate(self, *batch: Tensor) -> Tensor:
        """Leave gradients in the parameters; the mean NLL."""
        self.descent.optimizer.zero_grad(set_to_none=True)
        loss = -self.score(*batch).mean()
        penalty = self.flow.regularization()
        (loss if penalty is None else loss + penalty).backward()
        return loss.detach()


class Compiled(Eager):
    """The forward pass compiled by torch, at the first call.

    Raises:
        EngineError: if torch cannot compile here, at once or then.
    """

    def __init__(self, flow: ConditionalFlow, descent: Descent) -> None:
        super().__init__(flow, descent, "compile")
        # All flows share one `forward`, and torch compiles one function for so many modules only: forget the others.
        torch.compiler.reset()
        try:
            self.score = torch.compile(self.score)
        except RuntimeError as error:  # a Python or a system for which there is no compiler at all
            raise EngineError(_no_compile(error)) from error

    def differentiate(self, *batch: Tensor) -> Tensor:
        """As of ``Eager``."""
        try:
            return super().differentiate(*batch)
        except Exception as error:
            if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise EngineError(_no_compile(error)) from error
            raise


class Graph:
    """A whole step captured once as a CUDA graph for each shape of the batch, and replayed: one launch.

    Args:
        engine: what is captured, of a flow on a GPU. Its parameters stay the tensors that they are.
        fall_back: go on with that if the capture fails, and say why in ``words``, rather than raise.

    Raises:
        EngineError: if the capture fails.
    """

    def __init__(self, engine: Eager, fall_back: bool) -> None:
        self.engine = engine
        # Functions, not methods of this: a graph holds the memory of a step, and shall go when this goes.
        self.steps = Steps(
            partial(_differentiate, engine), partial(_finish, engine), engine.descent.changed, fall_back=fall_back
        )

    @property
    def words(self) -> str:
        """See ``Engine``."""
        return words_of(self.steps, self.engine.words)

    def __call__(self, *batch: Tensor) -> None:
        """See ``Engine``."""
        try:
            self.steps(*batch)
        except NoGraph as error:
            raise EngineError(
                f"train.engine: graph cannot be had here (the capture failed: {error}); take eager"
            ) from error


def _differentiate(engine: Eager, *batch: Tensor) -> Gradients:
    return engine.differentiate(*batch), *(parameter.grad for parameter in engine.descent.parameters)


def _finish(engine: Eager, seen: Tensor, *gradients: Tensor | None) -> None:
    for parameter, gradient in zip(engine.descent.parameters, gradients, strict=True):
        parameter.grad = gradient
    engine.descent(seen)


def words_of(steps: Steps, written: str) -> str:
    """What is done where there should be graphs: of what is written so, or that itself and why."""
    if steps.trouble:
        return f"{written} (the capture failed: {steps.trouble})"
    return "graph" if written == "eager" else f"{written}, graph"


def _no_graph(flow: ConditionalFlow, device: torch.device, batch: int) -> str:
    """Why the steps of a flow cannot be one graph, or nothing."""
    if device.type != "cuda":
        return "a CUDA graph needs a GPU"
    if distributed.world().size > 1:
        return "several processes exchange their gradients between the operations"
    if flow.prepares(batch):
        return "the flow measures between its steps what the next ones do"
    return ""


def _shared(flow: ConditionalFlow) -> Callable[..., Tensor]:
    """The flow; of several processes one whose backward pass averages the gradients. Weights keep their own names."""
    if distributed.world().size == 1:
        return flow
    # A flow changes no buffer in training, so none is sent; its graph is the same in every step, which lets
    # parameters be there that the loss does not depend on.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the option has another name from torch 2.13 on
        return DistributedDataParallel(flow, broadcast_buffers=False, static_graph=True)


def _no_compile(error: Exception) -> str:
    """The reason in one line; torch's own goes on with advice for its developers."""
    return f"train.engine: torch cannot compile this flow here ({str(error).strip().splitlines()[0]}); take eager"
