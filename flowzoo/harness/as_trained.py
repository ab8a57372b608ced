"""The data that a saved flow was trained on, split as then: what its file says of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowzoo import checkpoint
from flowzoo import config as configs
from flowzoo.config import ConfigError
from flowzoo.flow import ConditionalFlow
from flowzoo.harness.bench_config import BenchConfig
from flowzoo.harness.source import Source, open_sources
from flowzoo.registry import DATASETS

Meta = Mapping[str, Any]


def dataset_of(meta: Meta, path: object, cure: str) -> tuple[str, dict[str, Any]]:
    """Name and options of the dataset.

    Args:
        meta: of the flow's file.
        path: that file, for the message.
        cure: what to give instead, where the file does not say.

    Raises:
        ConfigError: if the file does not say, or the data were given in Python.
    """
    options = dict(meta.get("data", {}))
    name = options.pop("name", None)
    if name is None or (not options and name not in DATASETS.names()):
        what = "does not say what it was trained on" if name is None else "was trained on data given in Python"
        raise ConfigError(f"{path} {what}; {cure}")
    return name, options


def split_options(meta: Meta) -> dict[str, Any]:
    """The options of ``BenchConfig`` by which the data are split as they were in training."""
    split = meta.get("split", {})
    known = {"split_seed": "seed", "fractions": "fractions", "folds": "folds"}
    return {option: split[key] for option, key in known.items() if split.get(key) is not None}


def open_as_trained(name: str, options: Mapping[str, Any], bench: BenchConfig, meta: Meta) -> Source:
    """The fold that the flow left out; of other folds than those of its training the first."""
    if not bench.folds:
        return open_sources(name, options, bench)[0]
    split = meta.get("split", {})
    fold = split.get("fold") if bench.folds == split.get("folds") else 0
    return open_sources(name, options, bench, only=fold or 0)[0]


def check_unchanged(source: Source, path: Path, meta: Meta, cure: str) -> None:
    """Refuse data that are not what the flow was trained on any more.

    Raises:
        ConfigError: if the data or their split changed, so that test events may have been trained on.
    """
    expected = meta.get("split", {}).get("hash")
    if expected not in (None, source.splits.hash):
        raise ConfigError(
            f"the data or its split changed since {path} was trained ({expected}, now {source.splits.hash}), "
            f"so its test events may have been trained on; {cure}"
        )


def open_to_test(
    path: Path, meta: Meta, dataset: tuple[str, dict[str, Any]] | None, options: Mapping[str, Any]
) -> tuple[ConditionalFlow, Source, BenchConfig]:
    """A saved flow and the data whose test part it is to be tested on: its own, split as then, unless others are named.

    Args:
        path: the flow's file.
        meta: of it.
        dataset: name and options; None takes what it was trained on.
        options: of ``BenchConfig``, beyond how the data are split.

    Raises:
        CheckpointError: if the file is damaged.
        ConfigError: if the data changed since, so that test events may have been trained on; or do not fit the flow.
    """
    bench = configs.make(BenchConfig, {**split_options(meta), **options}, "bench")
    name, chosen = dataset or dataset_of(meta, path, "give --data")
    source = open_as_trained(name, chosen, bench, meta)
    if dataset is None:
        check_unchanged(source, path, meta, "name the data with --data to evaluate all the same")
    flow = checkpoint.load(path, device=source.splits.train.x.device)
    shapes = source.splits.data.event_shape, source.splits.data.context_shape
    if shapes != (flow.event_shape, flow.context_shape):
        raise ConfigError(
            f"the flow takes events {tuple(flow.event_shape)} given {tuple(flow.context_shape)}; "
            f"'{name}' has {tuple(shapes[0])} given {tuple(shapes[1])}"
        )
    return flow, source, bench
