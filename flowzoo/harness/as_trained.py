"""The data that a saved flow was trained on, split as then: what its file says of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flowzoo.config import ConfigError
from flowzoo.harness.plan import BenchConfig, Source, open_sources

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
    if name is None or (name == "data" and not options):
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
