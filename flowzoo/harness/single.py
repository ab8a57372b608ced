"""One flow: ``flowzoo fit`` and ``flowzoo evaluate``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowzoo import checkpoint, train
from flowzoo.config import ConfigError
from flowzoo.distributed import world
from flowzoo.harness.as_trained import open_to_test
from flowzoo.harness.evaluate import Evaluated, evaluate_flow
from flowzoo.harness.folder import make_writable
from flowzoo.harness.plan import Cell
from flowzoo.harness.run import cpu_threads, label_of, save_flow
from flowzoo.storage import DISK


def fit_one(cell: Cell, path: Path) -> train.FitResult:
    """Train the flow of one cell and save it; of several processes (``flowzoo.distributed``) the first saves it.

    Args:
        cell: of a plan with one.
        path: the file to write; the state of the training lies beside it until it is done.

    Raises:
        CheckpointError: if a state lies there that another command left.
        ConfigError: if the folder cannot be written.
        DistributedError: if several processes cannot train together.
    """
    if path.is_dir():
        raise ConfigError(f"--out {path} is a folder; give the file to write, such as {path / 'flow.safetensors'}")
    make_writable(path.parent)
    state = path.with_suffix(".state.safetensors")
    try:
        with cpu_threads(cell.bench.threads):
            flow = cell.build()
            splits, label = cell.source.splits, label_of(cell)
            result = train.fit(flow, splits, cell.fit, seed=cell.seed, checkpoint=state, label=label)
        if world().rank == 0:
            save_flow(flow, path, cell, result)
    except OSError as error:
        if error.errno not in DISK:
            raise
        raise ConfigError(
            f"cannot write to {path.parent} ({error.strerror}); make room, and the same command goes on"
        ) from error
    if world().rank == 0:
        for left in (state, *(train.level_path(state, i) for i in range(len(cell.fit.noise_levels)))):
            left.unlink(missing_ok=True)
    return result


def evaluate_one(
    path: Path, dataset: tuple[str, dict[str, Any]] | None = None, options: Mapping[str, Any] | None = None
) -> Evaluated:
    """Every metric of a saved flow on the test split.

    Args:
        path: what ``fit`` or ``bench`` wrote.
        dataset: name and options; None takes what it was trained on, split as then.
        options: of ``BenchConfig``; by default it is split as it was in training.

    Raises:
        CheckpointError: if the file is damaged.
        ConfigError: if the data does not fit the flow, or is not the data that it was trained on any more.
    """
    meta = checkpoint.read_meta(path)
    flow, source, bench = open_to_test(path, meta, dataset, options or {})
    with cpu_threads(bench.threads):
        return evaluate_flow(flow, source, int(meta.get("seed", 0)), bench)
