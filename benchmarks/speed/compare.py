"""A training step, log q and a draw of our flows beside the libraries' own, as the work grows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from machine import Lines
from peers import Model, Peer, eager_step, gaussian, loaded, ours, peer, resident, shake
from timing import Growth, Timed, Watch, bytes_per_event
from torch import Tensor

from flowzoo import FitConfig, Splits
from flowzoo.flow import ConditionalFlow
from flowzoo.stepper import Stepper

US = "flowzoo"
RESIDENT = ", resident"  # after the name of a library: its eager loop without the loader


@dataclass(frozen=True)
class Grid:
    """What is timed.

    Args:
        dims: of the events.
        batches: events of a call, ascending.
        gib: of memory that a call may take, by an estimate.
        steps: of training before anything is timed.
        engine: of our steps, see ``flowzoo.FitConfig``.
    """

    dims: Sequence[int] = (2, 10, 64, 784)
    batches: Sequence[int] = (1, 10, 100, 1_000, 10_000, 100_000)
    gib: float = 6.0
    steps: int = 20
    engine: str = "eager"


def run(models: Sequence[Model], grid: Grid, watch: Watch, lines: Lines) -> None:
    """Time all models at all dimensions and batches."""
    for dim in grid.dims:
        # The events are there three times: as they were drawn, split, and in network units for the libraries.
        events = int(min(grid.batches[-1], grid.gib * 2**30 / (4 * 4 * dim)))
        splits = gaussian(dim, max(events, 200), watch.device)
        for model in models:
            _one(model, dim, splits, grid, watch, lines)


def _one(model: Model, dim: int, splits: Splits, grid: Grid, watch: Watch, lines: Lines) -> None:
    flow = ours(model.name, splits, model.options(dim))
    shake(flow, splits, grid.steps)
    other = peer(flow)
    x, c = splits.train.x, splits.train.context
    with torch.no_grad():
        c_net = flow.context_map.to_latent(c)[0]
        u, log_slope = flow.x_map.to_latent(x)
        difference = flow.log_prob(x[:64], c[:64]) - other.score(u[:64], c_net[:64]) - log_slope[:64].sum(1)
    count = sum(p.numel() for p in flow.parameters() if p.requires_grad)
    theirs = sum(p.numel() for p in other.parameters() if p.requires_grad)
    about = {"model": model.name, "D": dim}
    lines.add(
        {
            "what": "flow",
            **about,
            "library": model.library,
            "parameters": count,
            "parameters_of_library": theirs,
            "difference_nats": float(difference.abs().max()),
        }
    )
    held = {
        US: bytes_per_event(flow, x[:34], c[:34], flow),
        model.library: bytes_per_event(other.score, u[:34], c_net[:34], other),
    }
    given = _Given(flow, other, splits, u, c_net, grid.engine)
    for what in ("step", "log_prob", "sample"):
        growth: dict[str, Growth] = {}
        for batch in grid.batches:
            calls: dict[str, Callable[[], object]] = {}
            for library in (US, model.library, *([model.library + RESIDENT] if what == "step" else [])):
                line = {"what": what, **about, "library": library, "batch": batch}
                own = growth.setdefault(library, Growth())
                # Without gradients a library needs less than this, and ours goes through a batch in chunks.
                whole = what == "step" or library != US
                need = batch * held[library.removesuffix(RESIDENT)] / 2**30 if whole else 0.0
                if batch > len(x):
                    lines.add({**line, "skipped": f"the events alone would take more than {grid.gib:g} GiB"})
                elif need > grid.gib:
                    lines.add({**line, "skipped": f"up to {need:.1f} GiB, more than {grid.gib:g}"})
                elif own.expected(batch) > watch.most:
                    lines.add({**line, "skipped": f"about {own.expected(batch):.1f} s, more than {watch.most:g}"})
                else:
                    calls[library] = given.call(what, library == US, batch, library.endswith(RESIDENT))
            with torch.set_grad_enabled(what == "step"):
                found = watch.side_by_side(calls)
            for library, timed in found.items():
                if not timed.error:
                    growth[library].add(batch, timed.seconds)
                line = {"what": what, **about, "library": library, "batch": batch, "parameters": count}
                lines.add({**line, **ratio(timed, found.get(US)), **engine_of(calls[library])})


def ratio(timed: Timed, to: Timed | None) -> dict[str, Any]:
    """What a line says of a time: its ratio to ours, where there is one; or why it is none."""
    if timed.error:
        return {"failed": timed.error}
    of = None if to is None or to.error else timed.seconds / to.seconds
    return {"seconds": timed.seconds, "rounds": timed.rounds, "ratio": of}


class Stepped:
    """A training step of ours, as a call that says by which engine."""

    def __init__(self, flow: ConditionalFlow, splits: Splits, config: FitConfig) -> None:
        self.stepper = Stepper(flow, splits.train, config, 0)

    def __call__(self) -> None:
        """Take one."""
        self.stepper.step()


def engine_of(call: object) -> dict[str, str]:
    """What a line says of the engine of a step of ours, once it has been taken."""
    return {"engine": call.stepper.engine.words} if isinstance(call, Stepped) else {}


@dataclass(frozen=True)
class _Given:
    """Both flows, and the data as each takes them: ours in their units, the library in network units."""

    flow: ConditionalFlow
    other: Peer
    splits: Splits
    u: Tensor
    c: Tensor
    engine: str

    def call(self, what: str, us: bool, batch: int, indexed: bool) -> Callable[[], object]:
        """What is timed."""
        x, c = self.splits.train.x[:batch], self.splits.train.contexts[self.splits.train.context_index[:batch]]
        u, c_net = self.u[:batch], self.c[:batch]
        if what == "log_prob":
            return partial(self.flow.log_prob, x, c) if us else partial(self.other.score, u, c_net)
        if what == "sample":
            source = torch.Generator(device=x.device).manual_seed(0)
            return partial(self.flow.sample, c, generator=source) if us else partial(self.other.draw, c_net)
        if us:
            return Stepped(self.flow, self.splits, FitConfig(batch_size=batch, lr=1e-5, engine=self.engine))
        return eager_step(self.other, (resident if indexed else loaded)(self.u, self.c, batch))
