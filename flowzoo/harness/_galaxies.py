"""Galaxies to draw for: ids, contexts and counts, from a table or from the data that a flow was trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from flowzoo import config as configs
from flowzoo.bijectors import Identity
from flowzoo.config import ConfigError
from flowzoo.harness._gaps import declared, in_words, open_as_trained_on
from flowzoo.harness._reach import Far, reach_in
from flowzoo.harness._rows import Rows, require
from flowzoo.harness._trained import Trained
from flowzoo.harness.as_trained import check_unchanged, dataset_of, open_as_trained, split_options
from flowzoo.harness.bench_config import BenchConfig
from flowzoo.harness.source import Source

PARTS = ("test", "validation", "train", "all")


@dataclass(frozen=True)
class Galaxies:
    """What is drawn for.

    Args:
        ids: ``(G,)``, all different, integers or text.
        contexts: ``(G, *context)``, as the flow takes them.
        counts: ``(G,)`` events of each.
        id_name: what the column of ids is called.
    """

    ids: np.ndarray
    contexts: Tensor
    counts: np.ndarray
    id_name: str = "id"


def from_table(
    path: str | Path,
    trained: Trained,
    *,
    id_column: str | None = None,
    n: int | None = None,
    count: str | None = None,
) -> Galaxies:
    """One galaxy per row of a table with the columns of the context; other columns are ignored.

    Args:
        path: .csv, .npz, .h5 or .parquet.
        trained: whose context it is.
        id_column: of the galaxies' ids; by default ``id`` if there is one, else the row, from 0.
        n: events of each galaxy.
        count: or the column that says how many; with neither, 0.

    Raises:
        FileNotFoundError: if there is no such file.
        ConfigError: for columns that are missing or hold no numbers, ids that are missing or there twice, contexts
            that are not finite; in one line.
    """
    names = trained.given_names()
    with open_as_trained_on(path, trained) as rows:
        why = f"the context of {trained.path.name}"
        columns, ids, counts, id_name = read_rows(rows, names, why, id_column=id_column, n=n, count=count)
    context = np.zeros((len(ids), 0))
    if names:
        context = np.stack([as_numbers(column, name, path) for column, name in zip(columns, names, strict=True)], 1)
    contexts = cast(context, np.float32)
    lost = ~np.isfinite(contexts)
    if lost.any():
        row, column = (int(k[0]) for k in np.nonzero(lost))
        count_lost, words = int(lost.any(1).sum()), in_words(declared(trained.meta))
        raise ConfigError(
            f"{path}: context {label(ids[row])} has {names[column]} = {context[row, column]:g}; {count_lost} of "
            f"{len(ids)} contexts are not finite in float32{words}: leave them out, or fill them"
        )
    return Galaxies(ids, torch.from_numpy(contexts), counts, id_name)


def read_rows(
    rows: Rows, names: Sequence[str], why: str, *, id_column: str | None, n: int | None, count: str | None
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray, str]:
    """What a file says of contexts: these columns or arrays, the ids, how many events of each, the name of the ids.

    Raises:
        ConfigError: as ``from_table``.
    """
    for wanted, whose in ((names, why), ([id_column], "--id"), ([count], "--count")):
        require(rows, [name for name in wanted if name is not None], whose)
    id_name = id_column or ("id" if rows.has("id") and "id" not in names else None)
    every = [name for name in (*names, id_name, count) if name is not None]
    if not every:
        raise ConfigError(f"{rows.path}: the flow has no context, so each row needs an id; name its column with --id")
    total = rows.count(every)
    if not total:
        raise ConfigError(f"{rows.path} has no rows; give a row for each context")
    found = dict(zip(every, next(rows.parts(every, total)), strict=True))
    ids = unique_ids(found[id_name], f"{rows.path}, column '{id_name}'") if id_name else np.arange(total)
    return [found[name] for name in names], ids, how_many(ids, n, count, found, rows.path), id_name or "id"


def from_training_data(trained: Trained, *, part: str = "test", n: int | None = None, id_name: str = "id") -> Galaxies:
    """The galaxies of the data that a flow was trained on, split as then, each with the events that it has there.

    Args:
        trained: its metadata says which data.
        part: ``test``, ``validation``, ``train`` or ``all``.
        n: events of each galaxy, instead of its own number.
        id_name: what the column of ids shall be called.

    Raises:
        ConfigError: if the data is not known, is gone or has changed, or a galaxy has several contexts.
    """
    if part not in PARTS:
        raise ConfigError(f"--part must be one of {', '.join(PARTS)}; got '{part}'")
    splits = source_of(trained).splits
    chosen = [getattr(splits, name) for name in PARTS[:3] if part in (name, "all")]
    groups = torch.cat([split.groups for split in chosen])
    index = torch.cat([split.context_index for split in chosen])
    labels, inverse, counts = torch.unique(groups, return_inverse=True, return_counts=True)
    contexts = chosen[0].contexts
    # Each row of contexts that a galaxy points to, once: there may be millions of events.
    pairs = torch.unique(inverse * len(contexts) + index)
    owner, row = pairs // len(contexts), pairs % len(contexts)
    first = torch.empty(len(labels), dtype=torch.long)
    first[owner] = row
    torn = (contexts[first[owner]] != contexts[row]).flatten(1).any(1)
    names = splits.data.group_names
    ids = _as_numbers(np.array([str(names[int(k)]) for k in labels])) if len(names) else labels.numpy()
    if bool(torn.any()):
        galaxy = ids[int(owner[torn.nonzero()[0, 0]])]
        raise ConfigError(
            f"{source_name(trained)}: group {label(galaxy)} has events of several contexts; "
            "give --contexts, a table with one row for each context"
        )
    return Galaxies(ids, contexts[first], counts.numpy() if n is None else np.full(len(ids), n), id_name)


def _as_numbers(labels: np.ndarray) -> np.ndarray:
    """Labels that are whole numbers as such, as a table of theirs would have them; others as they are."""
    try:
        numbers = labels.astype(np.int64)
    except (ValueError, OverflowError):
        return labels
    return numbers if (numbers.astype(str) == labels).all() else labels


def source_of(trained: Trained) -> Source:
    """The data that a flow was trained on, split as then, on the host.

    Raises:
        ConfigError: if they are not known, gone or changed.
    """
    name, options = dataset_of(trained.meta, trained.path, "give --contexts, a table of them")
    bench = configs.make(BenchConfig, {**split_options(trained.meta), "device": "cpu"}, "bench")
    source = open_as_trained(name, options, bench, trained.meta)
    check_unchanged(source, trained.path, trained.meta, "give --contexts, a table of them")
    shape = source.splits.data.context_shape
    if shape != trained.flow.context_shape:
        raise ConfigError(f"{name}: contexts are {tuple(shape)}; the flow takes {tuple(trained.flow.context_shape)}")
    return source


def source_name(trained: Trained) -> str:
    """What the data were called."""
    return str(trained.meta.get("data", {}).get("name"))


def check_contexts(galaxies: Galaxies, trained: Trained, warn: Callable[[str], None]) -> None:
    """Refuse contexts that the fixed map cannot take, and warn of those far from the training's.

    Raises:
        ConfigError: naming a galaxy.
    """
    flow, far, start = trained.flow, far_contexts(trained, show=label), 0
    if not flow.context_shape.numel():
        return
    lost = []
    # Images in parts: a catalogue of them is larger than a device.
    for part in galaxies.contexts.split(max(1, 2**24 // flow.context_shape.numel())):
        if not isinstance(flow.context_map, Identity):
            with torch.no_grad():
                mapped = flow.context_map.to_latent(trained.on_device(part))[0].flatten(1)
            lost += [start + k for k in (~mapped.isfinite().all(1)).nonzero().flatten().tolist()]
        far.add(part, galaxies.ids[start : start + len(part)])
        start += len(part)
    if lost:
        raise ConfigError(
            f"{len(lost)} of {start} contexts, the first {label(galaxies.ids[lost[0]])}, are such that "
            "the flow cannot take them (a logarithm of what is not positive, or beyond float32); leave them out"
        )
    for line in far.said():
        warn(line)


def far_contexts(trained: Trained, **called: Any) -> Far:
    """Counts contexts far outside of those of the training; ``called`` is how ``Far`` names them."""
    names = trained.context_names or ()
    return Far(reach_in(trained.meta, "context"), names, trained.flow.context_map, noun="context", **called)


def as_numbers(column: np.ndarray, name: str, path: object) -> np.ndarray:
    """A column as float64.

    Raises:
        ConfigError: if it holds no numbers.
    """
    if column.dtype.kind not in "biuf":
        example = f", for example {column[0]!r}" if len(column) else ""
        raise ConfigError(f"{path}: column '{name}' holds {column.dtype}{example}, where numbers are needed")
    return column.astype(np.float64)


def cast(values: np.ndarray, dtype: Any) -> np.ndarray:
    """Numbers as the flow takes them; what is too large becomes infinite, for the caller to refuse or count."""
    with np.errstate(over="ignore"):
        return np.asarray(values.astype(dtype))


def how_many(
    ids: np.ndarray, n: int | None, name: str | None, columns: Mapping[str, np.ndarray], path: str | Path
) -> np.ndarray:
    """Events of each context: n of all, or what a column says.

    Raises:
        ConfigError: naming a context whose number is none.
    """
    if name is None:
        return np.full(len(ids), n or 0)
    column, where = as_numbers(columns[name], name, path), f"{path}, column '{name}'"
    bad = ~(np.isfinite(column) & (column >= 0) & (column == np.round(column)))
    if bad.any():
        k = int(bad.nonzero()[0][0])
        raise ConfigError(
            f"{where}: context {label(ids[k])} has {column[k]:g}, where a whole number of events is needed"
        )
    return column.astype(np.int64)


def as_ids(column: np.ndarray) -> np.ndarray:
    """Ids as integers or text; those of a float column that are whole numbers read like integers."""
    if column.dtype.kind in "iu":
        return column.astype(np.int64)
    if column.dtype.kind == "f":
        whole = np.isfinite(column) & (column == np.round(column))
        if whole.all():
            return column.astype(np.int64)
        return np.where(whole, np.where(whole, column, 0).astype(np.int64).astype(str), column.astype(str))
    if column.dtype.kind == "S":
        return np.char.decode(column, "utf-8")
    if column.dtype.kind == "O" and len(column) and isinstance(column[0], bytes):
        return pd.Series(column).str.decode("utf-8").to_numpy(dtype=str)
    return column.astype(str)


def unique_ids(column: np.ndarray, where: str) -> np.ndarray:
    """Ids of galaxies.

    Raises:
        ConfigError: if one is missing or there twice.
    """
    gone = np.flatnonzero(pd.isna(column))
    if len(gone):
        raise ConfigError(f"{where}: {len(gone)} of {len(column)} rows have no id, the first is row {gone[0]}")
    ids = as_ids(column)
    twice = np.flatnonzero(pd.Series(ids).duplicated())
    if len(twice):
        rows = np.flatnonzero(ids == ids[twice[0]])
        raise ConfigError(
            f"{where}: id {label(ids[twice[0]])} is there {len(rows)} times, in rows {rows[0]} and {rows[1]}"
        )
    return ids


def label(galaxy: Any) -> str:
    """An id in a message."""
    return f"'{galaxy}'"


def id_of(rows: Rows, asked: str | None, others: Sequence[str]) -> str | None:
    """The column of ids of a file: the one asked for, else ``id`` if it is there and no column of the flow."""
    if asked is not None:
        require(rows, [asked], "--id")
        return asked
    return "id" if "id" not in others and rows.has("id") else None
