"""What conditioning is worth: the same config trained without its context, compared event by event."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from flowzoo import train
from flowzoo.harness.plan import Cell
from flowzoo.harness.source import Source
from flowzoo.metrics import Column, NotComputed
from flowzoo.stats import clustered_mean

COLUMNS = (
    Column(
        "context_gain",
        "higher",
        "NLL of the same config trained without context minus NLL, nats per event; negative: conditioning hurts",
    ),
    Column("context_gain_se", "none", "its standard error over test groups, paired by event, nats"),
)


class Gain(NamedTuple):
    """What conditioning is worth: the columns, and the gain ``(N,)`` at each test event."""

    metrics: dict[str, float]
    by_event: Tensor


def context_gain(cell: Cell, scores: Tensor, state: Path, label: str, *, show: bool | None = None) -> Gain:
    """Train the cell's config on the same events without their contexts, and compare the test scores.

    Args:
        cell: trained already.
        scores: ``(N,)``, its log q of the test events.
        state: where the state of the second training is kept until the cell is over.
        label: of the first training, for the progress bar.
        show: force the progress bar on or off.

    Raises:
        NotComputed: where there is no context to leave out, or the second training diverged.
    """
    if prod(cell.source.splits.data.context_shape) == 0:
        raise NotComputed("the data has no context")
    twin = without_context(cell)
    splits, flow = twin.source.splits, twin.build()
    without = f"{label}, no context"
    result = train.fit(flow, splits, twin.fit, seed=twin.seed, checkpoint=state, label=without, show=show)
    if result.status != "ok":
        raise NotComputed(f"without context: {result.reason}")
    with torch.no_grad():
        alone = flow.eval()(splits.test.fixed, splits.test.contexts, splits.test.context_index)
    gain = scores.double().cpu() - alone.double().cpu()
    lost = int((~gain.isfinite()).sum())
    if lost:
        raise NotComputed(f"with or without context log q is not finite at {lost} of {len(gain)} test events")
    weights = splits.test.weights
    mean, error = clustered_mean(gain, splits.test.groups.cpu(), None if weights is None else weights.cpu())
    metrics = {"context_gain": mean, "context_gain_se": error}
    # One group does not tell how groups scatter; of folds joined there are several.
    return Gain({name: value for name, value in metrics.items() if math.isfinite(value)}, gain)


def without_context(cell: Cell) -> Cell:
    """The same model on the same events, split the same way, with a context of no columns."""
    source, model = cell.source, cell.model
    # Options of a context that is not there any more; not every model has them.
    options = {field.name for field in dataclasses.fields(model)} & {"context_image", "embed"}  # type: ignore[arg-type]
    model = replace(model, **dict.fromkeys(options))  # type: ignore[type-var]
    bare = Source(source.name, source.options, source.splits.without_context(), "", source.fold)
    return replace(cell, source=bare, model=model)
