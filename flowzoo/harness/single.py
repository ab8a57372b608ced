"""One flow: ``flowzoo fit`` and ``flowzoo evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flowzoo import checkpoint, train
from flowzoo.config import ConfigError
from flowzoo.harness.plan import BenchConfig, Cell, open_source
from flowzoo.harness.run import Evaluated, evaluate_flow, save_flow


def fit_one(cell: Cell, path: Path) -> train.FitResult:
    """Train the flow of one cell and save it.

    Args:
        cell: of a plan with one.
        path: the file to write; the state of the training lies beside it until it is done.

    Raises:
        CheckpointError: if a state lies there that another command left.
        ConfigError: if the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot write to {path.parent} ({error.strerror}); give another --out") from None
    state = path.with_suffix(".state.safetensors")
    flow = cell.build()
    result = train.fit(flow, cell.source.splits, cell.fit, seed=cell.seed, checkpoint=state, label=f"{cell.name}")
    save_flow(flow, path, cell, result)
    state.unlink(missing_ok=True)
    return result


def evaluate_one(path: Path, dataset: tuple[str, dict[str, Any]] | None, device: str = "auto") -> Evaluated:
    """Every metric of a saved flow on the test split.

    Args:
        path: what ``fit`` or ``bench`` wrote.
        dataset: name and options; None takes what it was trained on, split as then.
        device: where to compute.

    Raises:
        CheckpointError: if the file is damaged.
        ConfigError: if the data does not fit the flow, or is not the data that it was trained on any more.
    """
    meta = checkpoint.read_meta(path)
    if "data" not in meta:
        raise ConfigError(f"{path} does not say what it was trained on; give --data")
    known = dict(meta["data"])
    name, options = dataset if dataset is not None else (known.pop("name"), known)
    split = meta["split"]
    bench = BenchConfig(split_seed=split["seed"], fractions=tuple(split["fractions"]), device=device)
    if dataset is None and not options and name == "data":
        raise ConfigError(f"{path} was trained on arrays given in Python; give --data to evaluate it")
    source = open_source(name, options, bench)
    if dataset is None and source.splits.hash != split["hash"]:
        raise ConfigError(
            f"the data or its split changed since {path} was trained ({split['hash']}, now {source.splits.hash}), "
            "so its test events may have been trained on; name the data with --data to evaluate all the same"
        )
    flow = checkpoint.load(path, device=source.splits.train.x.device)
    shapes = source.splits.data.event_shape, source.splits.data.context_shape
    if shapes != (flow.event_shape, flow.context_shape):
        raise ConfigError(
            f"the flow takes events {tuple(flow.event_shape)} given {tuple(flow.context_shape)}; "
            f"'{name}' has {tuple(shapes[0])} given {tuple(shapes[1])}"
        )
    return evaluate_flow(flow, source.splits, int(meta.get("seed", 0)), bench)
