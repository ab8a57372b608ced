"""One flow: ``flowzoo fit`` and ``flowzoo evaluate``."""

from __future__ import annotations

import json
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


def fit_one(cell: Cell, path: Path, *, overwrite: bool = False) -> train.FitResult:
    """Train the flow of one cell and save it; of several processes (``flowzoo.distributed``) the first saves it.

    A flow that the same command finished there is trained again, and on a CPU comes out the same.

    Args:
        cell: of a plan with one.
        path: the file to write; the state of the training lies beside it until it is done.
        overwrite: whether a file of anything else may be replaced.

    Raises:
        CheckpointError: if a state lies there that another command left.
        ConfigError: if the file is there and of something else, or the folder cannot be written.
        DistributedError: if several processes cannot train together.
    """
    if path.is_dir():
        raise ConfigError(f"--out {path} is a folder; give the file to write, such as {path / 'flow.safetensors'}")
    if path.exists() and not overwrite:
        _check_same(path, cell)
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


def _check_same(path: Path, cell: Cell) -> None:
    """Refuse a file that is not the flow of this cell, as far as it says what it was made of."""
    ways_out = "give another --out, or --overwrite"
    try:
        meta = checkpoint.read_meta(path)
        parts = {"model": {"name": meta["flow"]["model"], **meta["flow"]["config"]}, "data": meta["data"]}
        parts |= {"train": meta["train"]} if "train" in meta else {}
        was = {**_dotted(parts), "seed": meta["seed"], "split hash": meta["split"]["hash"]}
    except (checkpoint.CheckpointError, AttributeError, KeyError, TypeError):
        raise ConfigError(f"{path} exists, and is no flow that fit or bench wrote; {ways_out}") from None
    own = json.loads(json.dumps({part: cell.config[part] for part in parts}))  # which has no tuples
    now = {**_dotted(own), "seed": cell.seed, "split hash": cell.source.splits.hash}
    for key in was:
        if key in now and was[key] != now[key]:  # an option that only one of two versions has is no other command
            change = f"{key} was {was[key]}, now {now[key]}"
            raise ConfigError(f"{path} is a finished flow of something else ({change}); {ways_out}")


def _dotted(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Options by part and name: ``model.num_steps``."""
    return {f"{part}.{name}": value for part, options in parts.items() for name, value in options.items()}


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
