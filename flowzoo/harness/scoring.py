"""``flowzoo density``: log p of each particle, or image, of a file, in chunks of bounded memory."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from flowzoo import __version__, progress
from flowzoo.config import ConfigError
from flowzoo.harness._galaxies import (
    Galaxies,
    as_ids,
    as_numbers,
    cast,
    check_contexts,
    far_contexts,
    id_of,
    label,
)
from flowzoo.harness._gaps import declared, in_words, open_as_trained_on
from flowzoo.harness._image_files import WithArrays, check_ending, from_file, rows_together
from flowzoo.harness._reach import Far
from flowzoo.harness._rows import Parts, Rows, rebatched, require
from flowzoo.harness._trained import CONTEXT, Trained, open_trained
from flowzoo.harness._writers import Column, check_target, table_writer
from flowzoo.harness.run import cpu_threads
from flowzoo.harness.source import resolve_device

CHUNK = 2**16
BLOCK = 2**14  # rows that are scored together, whatever the chunk: rounding depends on it
LOG_PROB = "log_prob"


@dataclass(frozen=True)
class Scored:
    """What was scored.

    Args:
        path: the file.
        rows: particles in it.
        missing: of these, with a value that is not finite, or that means missing; they have no score.
        outside: of these, where the flow has no finite density.
        mean: of log p over the others, in nats.
        galaxies: by id, how many have a finite log p, and its mean; empty if there is no id.
        flow: which flow.
    """

    path: Path
    rows: int
    missing: int
    outside: int
    mean: float
    galaxies: dict[str, tuple[int, float]]
    flow: str


def score_file(
    run: str | Path,
    file: str | Path,
    out: str | Path,
    *,
    galaxies: str | Path | None = None,
    model: str | None = None,
    id_column: str | None = None,
    chunk: int = CHUNK,
    device: str = "auto",
    threads: int = 1,
    overwrite: bool = False,
    warn: Callable[[str], None] = warnings.warn,
) -> Scored:
    r"""log q(x | context) of every row of a file, in nats, over the units of its columns.

    Rows are scored in blocks of one size, counted from the first row, so nothing depends on the chunk size. A row with
    a value that is not finite has the score NaN, and so has one with a value that means missing (``data.missing`` of
    the training) in a column that had no gaps then. A context that had some is filled and flagged as it was.

    Args:
        run: a file that ``fit`` or ``bench`` wrote, or the directory of a bench.
        file: .h5, .parquet (read in chunks), .npz or .csv, with the columns of the event by name and, without
            ``galaxies``, those of the context, as ``sample_catalogue`` writes them. Events that are images are an array
            ``x`` ``(rows, C, H, W)`` of .h5 or .npz, and contexts that are or hold images an array ``context``.
        out: .csv, .npz, .h5 or .parquet, with the id, if there is one, and ``log_prob``; rows as in ``file``.
        galaxies: table of contexts (of images: .h5 or .npz with an array), which are then looked up by id.
        model: of a run directory, take a flow of this model; by default of that which its verdict takes.
        id_column: of ``file`` and ``galaxies``; by default ``id``, if there is one.
        chunk: rows that are read and written together; of images fewer, if these are large.
        device: ``auto`` takes the first GPU if there is one.
        threads: of torch on the CPU.
        overwrite: whether a file of that name may be replaced.
        warn: called with a line on far contexts, and one on rows without a score.

    Raises:
        FileNotFoundError: if a file is not there.
        CheckpointError: if the flow's file is damaged.
        ConfigError: for what else is wrong, in one line.
    """
    out = Path(out)
    check_target(out, overwrite=overwrite)
    if chunk < 1:
        raise ConfigError(f"--chunk must be at least 1; got {chunk}")
    trained = open_trained(run, model=model, device=resolve_device(device))
    totals = _Totals()
    arrays = _arrays(trained)
    chunk, together = (rows_together(size, *arrays.values()) for size in (chunk, BLOCK))
    with _open(file, trained, arrays, own=galaxies is None) as rows:
        require(rows, trained.names, f"the events of {trained.path.name}")
        id_name = id_of(rows, id_column, (*trained.names, *trained.written_names))
        if galaxies is None:
            given = (CONTEXT,) if CONTEXT in arrays else trained.written_names
            require(rows, given, f"the context of {trained.path.name}; or give --contexts")
            known = None
        else:
            given = ()
            if id_name is None:
                raise ConfigError(f"{file} has no column 'id' to join with {galaxies}; name it with --id")
            known = from_file(galaxies, trained, id_column=id_name)
            check_contexts(known, trained, warn)
        names = [*trained.names, *given, *([id_name] if id_name else [])]
        count = rows.count(names)
        if not count:
            raise ConfigError(f"{file} has no rows, so there is nothing to score")
        if trained.images and rows.dtype(trained.names[0]).kind in "biu":
            warn(
                f"{file}: the images are of integers, where a flow of levels has the density of a level plus a uniform "
                "number below one step; add that, as the training did"
            )
        score = Column(LOG_PROB, trained.dtype, "nats")
        ids = [Column(id_name, _id_dtype(rows.dtype(id_name)), repeats=True)] if id_name else []
        about = {"flow": trained.path.name, "model": trained.meta["flow"]["model"], "version": __version__}
        context = _Contexts(trained, known, file, galaxies)
        far = far_contexts(trained, place="row") if known is None else None  # those of a table were looked at
        with (
            cpu_threads(threads),
            progress.bar("density", count) as update,
            table_writer(out, [*ids, score], overwrite=overwrite, about=about) as write,
        ):
            blocks = rebatched(_numbers(rows.parts(names, chunk), names, id_name, file), together)
            for part in rebatched(_scores(trained, context, blocks, bool(id_name), totals, far), chunk):
                write(part)
                update(totals.rows, "")
    for line in far.said() if far else ():
        warn(line)
    for number, what in (
        (totals.missing, f"hold a value that is not finite{in_words(declared(trained.meta))}"),
        (totals.outside, "lie where q has no finite value"),
    ):
        if number:
            warn(f"{number} of {totals.rows} rows of {file} {what}; their log_prob is not finite")
    return totals.result(out, trained)


@dataclass
class _Totals:
    """Sums over the rows, in float64."""

    rows: int = 0
    missing: int = 0
    outside: int = 0
    sum: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    sums: Counter[str] = field(default_factory=Counter)

    def add(self, scores: np.ndarray, missing: int, ids: np.ndarray | None) -> None:
        good = np.isfinite(scores)
        values = scores[good].astype(np.float64)
        self.rows += len(scores)
        self.missing += missing
        self.outside += len(scores) - len(values) - missing
        self.sum += float(values.sum())
        if ids is not None:
            codes, labels = pd.factorize(ids)
            own = codes[good]
            counts = np.bincount(own, minlength=len(labels))
            sums = np.bincount(own, weights=values, minlength=len(labels))
            for galaxy, number, total in zip(map(str, labels), counts.tolist(), sums.tolist(), strict=True):
                self.counts[galaxy] += number
                self.sums[galaxy] += total

    def result(self, path: Path, trained: Trained) -> Scored:
        good = self.rows - self.missing - self.outside
        galaxies = {k: (n, self.sums[k] / n if n else math.nan) for k, n in self.counts.items()}
        mean = self.sum / good if good else math.nan
        return Scored(path, self.rows, self.missing, self.outside, mean, galaxies, trained.note)


class _Contexts:
    """The contexts of rows: their own columns, or looked up by id."""

    def __init__(self, trained: Trained, known: Galaxies | None, file: str | Path, table: str | Path | None) -> None:
        self.trained, self.file, self.table = trained, file, table
        self.known = None if known is None else known.contexts.numpy()
        self.index = None if known is None else pd.Index(known.ids.astype(str))

    def __call__(self, columns: Sequence[np.ndarray], ids: np.ndarray | None) -> np.ndarray:
        if self.known is None or self.index is None or ids is None:
            return _joined(columns, self.trained.context_names is None) if columns else np.zeros((0, 0))
        rows = self.index.get_indexer(pd.Index(ids.astype(str)))
        if (rows < 0).any():
            gone = pd.unique(ids[rows < 0])
            raise ConfigError(
                f"{self.file} has events of context {label(gone[0])}, which is not in {self.table}; add its row"
            )
        return self.known[rows]


def _arrays(trained: Trained) -> dict[str, tuple[int, ...]]:
    """What is no column of a table, but an array with rows of these shapes."""
    flow = trained.flow
    found = {trained.names[0]: tuple(flow.event_shape)} if trained.images else {}
    return found if trained.context_names is not None else {**found, CONTEXT: tuple(flow.context_shape)}


@contextmanager
def _open(file: str | Path, trained: Trained, arrays: dict[str, tuple[int, ...]], *, own: bool) -> Iterator[Rows]:
    """The file, with the arrays that it must have; ``own`` contexts are among them."""
    if trained.images:
        check_ending(Path(file), "--file", "images", trained.names[0], trained.flow.event_shape)
    elif CONTEXT in arrays and own:
        check_ending(Path(file), "--file", "contexts", CONTEXT, trained.flow.context_shape)
    with open_as_trained_on(file, trained) as rows:
        yield WithArrays(rows.path, rows.source, rows, arrays) if arrays else rows


def _joined(columns: Sequence[np.ndarray], array: bool) -> np.ndarray:
    """Columns beside one another; an array alone is as it is."""
    return columns[0] if array else np.stack(columns, 1)


def _id_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Of the column of ids in the new file: integers, or text of a width that is known from fixed-width text alone."""
    if dtype.kind in "iu":
        return np.dtype(np.int64)
    return np.dtype(f"U{dtype.itemsize if dtype.kind == 'S' else dtype.itemsize // 4 if dtype.kind == 'U' else 0}")


def _numbers(parts: Parts, names: Sequence[str], id_name: str | None, file: str | Path) -> Iterator[list[np.ndarray]]:
    """Columns as float64 and, last, ids."""
    width = len(names) - (id_name is not None)
    for part in parts:
        found = [as_numbers(column, name, file) for column, name in zip(part[:width], names[:width], strict=True)]
        yield [*found, *(as_ids(column) for column in part[width:])]


def _scores(
    trained: Trained,
    context: _Contexts,
    blocks: Iterator[list[np.ndarray]],
    has_id: bool,
    totals: _Totals,
    far: Far | None,
) -> Iterator[list[np.ndarray]]:
    """Ids, if there are any, and log p, block by block."""
    width = len(trained.names)
    for block in blocks:
        ids = block.pop() if has_id else None
        x, c = _joined(block[:width], trained.images), context(block[width:], ids)
        c = c if len(c) else np.zeros((len(x), 0))
        x, c = cast(x, trained.dtype), cast(c, trained.dtype)
        known = np.isfinite(x.reshape(len(x), -1)).all(1) & np.isfinite(c.reshape(len(x), -1)).all(1)
        scores = np.full(len(x), np.nan, trained.dtype)
        if known.any():
            scores[known] = _log_prob(trained, x[known], c[known])
            if far is not None and c.shape[1]:
                far.add(torch.from_numpy(c[known]), totals.rows + np.flatnonzero(known))
        totals.add(scores, int((~known).sum()), ids)
        yield [scores] if ids is None else [ids, scores]


@torch.no_grad()
def _log_prob(trained: Trained, x: np.ndarray, context: np.ndarray) -> np.ndarray:
    given: list[Tensor] = [trained.on_device(torch.from_numpy(array)) for array in (x, context)]
    return trained.flow.log_prob(*given).cpu().numpy()
