"""One flow: ``flowzoo fit`` and ``flowzoo evaluate``."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowzoo import checkpoint, train
from flowzoo import config as configs
from flowzoo.config import ConfigError
from flowzoo.distributed import world
from flowzoo.harness.evaluate import Evaluated, evaluate_flow
from flowzoo.harness.plan import BenchConfig, Cell, open_sources
from flowzoo.harness.run import cpu_threads, label_of, save_flow


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
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise ConfigError(f"cannot write to {path.parent} ({error.strerror}); give another --out") from None
    state = path.with_suffix(".state.safetensors")
    with cpu_threads(cell.bench.threads):
        flow = cell.build()
        result = train.fit(flow, cell.source.splits, cell.fit, seed=cell.seed, checkpoint=state, label=label_of(cell))
    if world().rank == 0:
        save_flow(flow, path, cell, result)
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
    split = meta.get("split", {})
    as_trained = {"split_seed": split["seed"], "fractions": split["fractions"]} if split else {}
    if split.get("folds"):
        as_trained["folds"] = split["folds"]
    bench = configs.make(BenchConfig, as_trained | dict(options or {}), "bench")
    expected = None
    if dataset is None:
        known = dict(meta.get("data", {}))
        name = known.pop("name", None)
        if name is None or (name == "data" and not known):
            what = "does not say what it was trained on" if name is None else "was trained on data given in Python"
            raise ConfigError(f"{path} {what}; give --data")
        dataset, expected = (name, known), split.get("hash")
    name, chosen = dataset
    # The fold that the flow left out; of other folds than those of its training the first.
    fold = split.get("fold") if bench.folds == split.get("folds", 0) else 0
    (source,) = open_sources(name, chosen, bench, only=fold if bench.folds else None)
    if expected not in (None, source.splits.hash):
        raise ConfigError(
            f"the data or its split changed since {path} was trained ({expected}, now {source.splits.hash}), "
            "so its test events may have been trained on; name the data with --data to evaluate all the same"
        )
    flow = checkpoint.load(path, device=source.splits.train.x.device)
    shapes = source.splits.data.event_shape, source.splits.data.context_shape
    if shapes != (flow.event_shape, flow.context_shape):
        raise ConfigError(
            f"the flow takes events {tuple(flow.event_shape)} given {tuple(flow.context_shape)}; "
            f"'{name}' has {tuple(shapes[0])} given {tuple(shapes[1])}"
        )
    with cpu_threads(bench.threads):
        return evaluate_flow(flow, source, int(meta.get("seed", 0)), bench)
