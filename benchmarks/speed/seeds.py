"""Five seeds at once over one seed: a step of each, and whole trainings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from machine import Lines
from peers import gaussian, ours
from timing import Watch

from flowzoo import FitConfig, Splits
from flowzoo.data import configure
from flowzoo.joint import Joint, NotTogether
from flowzoo.stepper import Stepper
from flowzoo.train import fit, fit_together

SEEDS = (0, 1, 2, 3, 4)
VECTORS = ("maf", "nsf", "sospf", "bpf", "naf", "gf", "nice", "realnvp", "galacticflow")


@dataclass(frozen=True)
class Sizes:
    """What is timed: widths of the networks, events of a step, dimensions, training events of whole trainings."""

    models: Sequence[str] = (*VECTORS, "cglow")
    widths: Sequence[int] = (16, 32, 64, 128, 256)
    batches: Sequence[int] = (64, 256, 1024)
    dim: int = 10
    events: Sequence[int] = (1_000, 10_000)
    fits: Sequence[str] = ("maf", "nsf")
    steps: int = 100


def run(sizes: Sizes, watch: Watch, lines: Lines) -> None:
    """Time steps of five and of one, say where five at once cost as much as five alone, and time whole trainings."""
    vectors = gaussian(sizes.dim, 4 * max(sizes.batches), watch.device)
    maps = configure("fields", {"size": 8, "num_contexts": 4 * max(sizes.batches) + 200, "maps_per_context": 1})
    images = Splits.make(maps.load(), device=watch.device) if "cglow" in sizes.models else vectors
    for model in sizes.models:
        splits = images if model == "cglow" else vectors
        try:
            for batch in sizes.batches:
                points = [_steps(model, splits, width, batch, watch, lines) for width in sizes.widths]
                at = {"model": model, "batch": batch, "weights": crossing(points, len(SEEDS))}
                lines.add({"what": "together, as five alone", **at, "from": points[0][0], "to": points[-1][0]})
        except NotTogether as reason:  # at every width and batch
            lines.add({"what": "together", "model": model, "skipped": str(reason)})
    for model in sizes.fits:
        for events in sizes.events:
            _fits(model, gaussian(sizes.dim, events, watch.device), sizes.steps, watch, lines)


def _steps(model: str, splits: Splits, width: int, batch: int, watch: Watch, lines: Lines) -> tuple[int, float]:
    """The weights of a flow, and the ratio; raises ``NotTogether``."""
    config = FitConfig(batch_size=batch, lr=1e-5)
    one, *five = [
        Stepper(ours(model, splits, {"hidden_features": width}, seed), splits.train, config, seed)
        for seed in (0, *SEEDS)
    ]
    weights = sum(p.numel() for p in one.descent.parameters)
    joint = Joint(five)
    joint.step()
    found = watch.side_by_side({"one": one.step, "five": joint.step})
    of = found["five"].seconds / found["one"].seconds
    line = {"what": "together", "model": model, "D": splits.data.event_shape.numel(), "batch": batch, "width": width}
    lines.add({**line, "parameters": weights, "seconds": found["five"].seconds, "ratio": of})
    return weights, of


def _fits(model: str, splits: Splits, steps: int, watch: Watch, lines: Lines) -> None:
    config = FitConfig(steps=steps, evaluate_every=max(1, steps // 2), patience=0)

    def alone() -> None:
        fit(ours(model, splits, {}), splits, config, show=False)

    def five() -> None:
        fit_together([ours(model, splits, {}, seed) for seed in SEEDS], splits, config, seeds=SEEDS, show=False)

    alone()  # what the first call imports
    seconds = {"one": math.inf, "five": math.inf}
    for _ in range(2):
        for name, call in (("one", alone), ("five", five)):
            seconds[name] = min(seconds[name], watch.seconds(call))
    line = {"what": "together, fit", "model": model, "D": splits.data.event_shape.numel(), "steps": steps}
    of = seconds["five"] / seconds["one"]
    lines.add({**line, "n_train": len(splits.train), "seconds": seconds["five"], "ratio": of})


def crossing(points: Sequence[tuple[int, float]], level: float) -> float | None:
    """The weights at which a ratio first reaches a level, between two sizes by the logarithm; None if it never does."""
    (before, low), *rest = points
    if low >= level:
        return float(before)
    for weights, of in rest:
        if of >= level:
            along = (level - low) / (of - low)
            return float(before * (weights / before) ** along)
        before, low = weights, of
    return None
