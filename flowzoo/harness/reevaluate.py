"""Finished cells whose metrics are of other code than this: said, and on request evaluated again without training."""

from __future__ import annotations

import datetime
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from flowzoo import checkpoint, record
from flowzoo.harness import context_gain
from flowzoo.harness.digests import metric_digests
from flowzoo.harness.evaluate import evaluate_flow
from flowzoo.harness.plan import Cell
from flowzoo.harness.run import flow_path, record_path
from flowzoo.record import Record

# What a cell is not asked for again: it is told by the training alone.
_COLUMNS = ("num_parameters", "train_steps", "train_seconds", "validation_nll", "peak_memory_mb")
_SCORES = ("context_gain.", "training.")


def with_metrics_of_now(cells: Sequence[Cell], finished: Mapping[str, Record], folder: Path) -> dict[str, Record]:
    """The records of finished cells, those of other metrics evaluated again where ``bench.reevaluate`` says so.

    Else a warning counts them. A hash that metrics were part of would train again for every edit of one.

    Args:
        cells: the plan.
        finished: by stem, what ``finished_cells`` found of it.
        folder: the run directory.
    """
    now, found = metric_digests(), dict(finished)
    stale: dict[str, list[str]] = {}
    for stem, known in finished.items():
        before = known.run.get("metrics")
        changed = [name for name in now if before is not None and before.get(name) != now[name]]
        if changed:
            stale[stem] = changed
    wanted = {cell.stem: cell for cell in cells if cell.stem in stale and cell.bench.reevaluate}
    for stem, cell in wanted.items():
        found[stem] = evaluate_again(cell, found[stem], folder, stale[stem])
    left = stale.keys() - wanted.keys()
    if left:
        names = ", ".join(sorted({name for stem in left for name in stale[stem]}))
        warnings.warn(
            f"{len(left)} of {len(finished)} finished cells have metrics of other code than this ({names}); --set "
            "bench.reevaluate=true (in Python reevaluate=True) takes them again, without training",
            stacklevel=2,
        )
    return found


def evaluate_again(cell: Cell, known: Record, folder: Path, changed: Sequence[str]) -> Record:
    """Evaluate the trained flow of a finished cell, and write its record anew; what the training told stays.

    Raises:
        FileNotFoundError, CheckpointError: if the flow is not there, or damaged.
    """
    path = record_path(cell.stem, folder)
    device = cell.source.splits.train.x.device
    flow = checkpoint.load(flow_path(cell.stem, folder), device=device)
    found = evaluate_flow(flow, cell.source, cell.seed, cell.bench)
    kept = {*_COLUMNS, *(column.name for column in context_gain.COLUMNS)}
    note = f"metrics evaluated again, without training, because of {', '.join(changed)}"
    today = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    done = replace(
        known,
        metrics={k: v for k, v in known.metrics.items() if k in kept} | found.metrics,
        missing={k: v for k, v in known.missing.items() if k in kept} | found.missing,
        notes=[*known.notes, *(text for text in (*found.notes, note) if text not in known.notes)],
        run={**known.run, "metrics": metric_digests(), "evaluated": today},
    )
    scores = {k: v for k, v in record.load_scores(path).items() if k.startswith(_SCORES)} | found.scores
    path.unlink()  # killed between its two files, a record is gone rather than damaged
    record.save(done, folder / "cells", scores)
    return done
