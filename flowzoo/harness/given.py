"""What ``bench`` is given from Python as names and options: by name, in a mapping of options, or configured."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from flowzoo import config as configs
from flowzoo.config import ConfigError
from flowzoo.data import Data, DatasetConfig
from flowzoo.models import ModelConfig
from flowzoo.registry import DATASETS, EMBEDDINGS, METRICS, MODELS, Registry, UnknownName

Options = dict[str, Any]
Models = str | ModelConfig | Iterable[str | ModelConfig | Mapping[str, Any]] | Mapping[str, Any]
Datasets = str | Data | DatasetConfig | Iterable[str | Data | DatasetConfig | Mapping[str, Any]] | Mapping[str, Any]
OWN = "data"  # what data of Python's own are called


class Dataset(NamedTuple):
    """A dataset of a bench; ``own`` where it is no registered one but data, or something that loads them."""

    name: str
    options: Options
    own: Data | DatasetConfig | None = None


def models_of(given: Models) -> dict[str, Options]:
    """Models by registered name, with the options that are set.

    Args:
        given: a name, a configured model (``MAF(num_steps=8)``), a mapping of names to options, or a list of these.

    Raises:
        UnknownName: for a model that is not registered.
        ConfigError: for anything else, and for a model that is named twice.
    """
    found: dict[str, Options] = {}
    for called, value in _pairs(given):
        if isinstance(value, Mapping):
            name, options = MODELS.resolve(str(called)), _plain(value)
        elif called is None and isinstance(value, str):
            name, options = MODELS.resolve(value), {}
        elif hasattr(value, "build"):
            name, options = _configured(MODELS, value)
            if called is not None and MODELS.resolve(called) != name:
                raise ConfigError(f"a model stands under its registered name: '{called}' is given a {name}")
        else:
            raise ConfigError(
                f"expected the name of a model, {{name: {{option: value}}}}, or a configured model; got {_short(value)}"
            )
        if name in found:
            raise ConfigError(f"model '{name}' is named twice; name it once")
        found[name] = options
    return found


def datasets_of(given: Datasets) -> list[Dataset]:
    """Datasets with the options that are set.

    Args:
        given: a name, a ``Data``, a configured dataset (anything with ``load()``), a mapping of names to options or to
            one of these, or a list of any of them.

    Raises:
        UnknownName: for a dataset that is not registered.
        ConfigError: for anything else, and for data under the name of a registered dataset.
    """
    found = []
    for called, value in _pairs(given):
        if isinstance(value, Mapping):
            found.append(Dataset(DATASETS.resolve(str(called)), _plain(value)))
        elif called is None and isinstance(value, str):
            found.append(Dataset(DATASETS.resolve(value), {}))
        elif not isinstance(value, type) and (isinstance(value, Data) or hasattr(value, "load")):
            found.append(_own_dataset(called, value))
        else:
            raise ConfigError(
                f"expected the name of a dataset, {{name: {{option: value}}}}, a flowzoo.Data or what has load(); "
                f"got {_short(value)}. Arrays are given as x and context."
            )
    return found


def refuse_local(models: Mapping[str, Options], datasets: Sequence[str]) -> None:
    """Refuse to send away what other processes do not know.

    Args:
        models: names and options.
        datasets: names.

    Raises:
        ConfigError: for what is registered in this process alone; metrics are computed wherever there are some.
    """
    embeddings = {str(options["embed"]) for options in models.values() if options.get("embed")}
    used: list[tuple[Registry, set[str]]] = [(MODELS, set(models)), (DATASETS, set(datasets)), (EMBEDDINGS, embeddings)]
    for registry, names in (*used, (METRICS, set(METRICS.local()))):
        here = sorted(names.intersection(registry.local()))
        if here:
            raise ConfigError(
                f"{registry.kind} '{here[0]}' is registered in this process alone, and other processes cannot see it: "
                f"make it a package with an entry point in {registry.group}, or leave out workers and executor"
            )


def _pairs(given: Any) -> Iterator[tuple[str | None, Any]]:
    """What is given, with its name if it has one."""
    if isinstance(given, Mapping):
        for name, value in given.items():
            yield name, {} if value is None else value
    elif isinstance(given, Iterable) and not isinstance(given, str) and not hasattr(given, "shape"):
        for item in given:
            yield from _pairs(item)
    else:
        yield None, given


def _configured(registry: Registry, config: Any) -> tuple[str, Options]:
    """The name of a config, and those of its options that are not at their default; of a class none is set."""
    name = registry.name_of(config)
    if isinstance(config, type):
        return name, {}
    defaults: Options = {}
    for field in dataclasses.fields(config):
        if field.default is not dataclasses.MISSING:
            defaults[field.name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            defaults[field.name] = field.default_factory()
    plain = configs.to_dict(config)
    differ = [key for key in plain if key not in defaults or getattr(config, key) != defaults[key]]
    return name, _plain({key: plain[key] for key in differ})


def _plain(options: Mapping[str, Any]) -> Options:
    """Options as a config file would have them: paths as text."""
    return {key: os.fspath(value) if isinstance(value, os.PathLike) else value for key, value in options.items()}


def _own_dataset(called: str | None, value: Any) -> Dataset:
    if not isinstance(value, Data):
        try:
            name, options = _configured(DATASETS, value)
        except UnknownName:  # it need not be registered: it loads itself
            pass
        else:
            if called is not None and DATASETS.resolve(called) != name:
                raise ConfigError(f"a dataset stands under its registered name: '{called}' is given a {name}")
            return Dataset(name, options)
    try:
        known = called is not None and DATASETS.resolve(called)
    except UnknownName:
        known = False
    if known:
        raise ConfigError(f"'{called}' is a registered dataset; call data of your own by another name")
    return Dataset(called or OWN, {}, value)


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) < 80 else f"a {type(value).__name__}"
