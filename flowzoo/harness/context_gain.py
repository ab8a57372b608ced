"""What conditioning is worth: the same config trained without its context, compared event by event."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from flowzoo import train
from flowzoo.harness.plan import Cell, Source
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


def context_gain(cell: Cell, scores: Tensor, state: Path, *, show: bool | None = None) -> dict[str, float]:
    """Train the cell's config on the same events without their contexts, and compare the test scores.

    Args:
        cell: trained already.
        scores: ``(N,)``, its log q of the test events.
        state: where the state of the second training is kept until the cell is over.
        show: force the progress bar on or off.

    Raises:
        NotComputed: where there is no context to leave out, or the second training diverged.
    """
    if prod(cell.source.splits.data.context_shape) == 0:
        raise NotComputed("the data has no context")
    twin = without_context(cell)
    splits, flow = twin.source.splits, twin.build()
    label = f"{cell.source.name} {cell.name} seed {cell.seed}, no context"
    result = train.fit(flow, splits, twin.fit, seed=twin.seed, checkpoint=state, label=label, show=show)
    if result.status != "ok":
        raise NotComputed(f"without context: {result.reason}")
    with torch.no_grad():
        alone = flow.eval()(splits.test.fixed, splits.test.context)
    gain = scores.double().cpu() - alone.double().cpu()
    lost = int((~gain.isfinite()).sum())
    if lost:
        raise NotComputed(f"with or without context log q is not finite at {lost} of {len(gain)} test events")
    mean, error = clustered_mean(gain, splits.test.groups.cpu())
    return {"context_gain": mean, "context_gain_se": error}


def without_context(cell: Cell) -> Cell:
    """The same model on the same events, split the same way, with a context of no columns."""
    source, model = cell.source, cell.model
    if "context_image" in {field.name for field in dataclasses.fields(model)}:  # type: ignore[arg-type]
        model = replace(model, context_image=None)  # type: ignore[type-var]
    return replace(cell, source=Source(source.name, source.options, source.splits.without_context(), ""), model=model)
