"""A table of your own: columns of an .npz, .csv, .parquet or .h5 file, by the names that you give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from flowzoo.bijectors import Bijector, Columns, Compose, Log, Standardize
from flowzoo.config import ConfigError
from flowzoo.data._context import default_context_map
from flowzoo.data._data import Data
from flowzoo.data._readers import Amounts, Labels, Sentinels, Source, Words, open_table, sentinels, words
from flowzoo.registry import DATASETS
from flowzoo.seeding import generator

_PARTS = {"0": 0, "1": 1, "2": 2, "train": 0, "validation": 1, "val": 1, "valid": 1, "test": 2}


@DATASETS.register
@dataclass(frozen=True)
class Table:
    """The density of some columns of a table given others.

    Columns are named as the file names them: keys of an ``.npz`` (a 2-D array ``mag`` of shape ``(N, 6)`` has
    the columns ``mag[0]`` to ``mag[5]``; ``mag`` names all of them, ``mag[0:3]`` the first three), headers of
    a ``.csv`` or ``.parquet``, datasets of an ``.h5`` (``group/name`` where they are nested). On the command
    line several are separated by commas. Values are kept in the units of the file, as float32.

    Args:
        path: the file.
        x: columns that the density is over.
        context: columns that it is conditioned on; none for an unconditional density.
        group: column of numbers or text that says which rows belong together (a galaxy, a patient): no split
            tears them apart.
        split: column with the official split: 0, 1, 2 or train, validation, test.
        missing: values that mean "not measured", such as 99, -1 or nan. Declared, never guessed. Rows where a
            column of x is missing are left out. In the context they are filled with the median of the rest,
            and a column ``<name> missing`` of 0 and 1 is appended for each column that has gaps.
        noise: column of x to f: adds f * U(0, 1), for columns that are rounded or have exact zeros. The
            density is then that of the noisy column.
        log: columns of x whose logarithm the network sees; the density stays that of the column itself.
        context_log: the same for columns of the context.
        units: column to unit, for tables and figures.
        seed: of the noise.
    """

    path: str
    x: Words
    context: Words = ()
    group: str | None = None
    split: str | None = None
    missing: Sentinels = ()
    noise: Amounts = field(default_factory=dict)
    log: Words = ()
    context_log: Words = ()
    units: Labels = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        # In Python a single column may be given as its name, as on the command line.
        for name in ("x", "context", "log", "context_log"):
            object.__setattr__(self, name, words(getattr(self, name)))
        object.__setattr__(self, "missing", sentinels(self.missing))

    def load(self) -> Data:
        """Read the columns.

        Raises:
            FileNotFoundError: if there is no such file.
            MissingDependency: if the package that reads this kind of file is not installed.
            ValueError: for columns that do not exist or do not fit what is said of them, in one line.
        """
        with open_table(self.path) as source:
            return self._build(source)

    def _build(self, source: Source) -> Data:
        notes: list[str] = []
        if not self.x:
            raise ConfigError("x names no column; name at least one that the density is over")
        found = source.columns(self.x)
        given = source.columns(self.context)
        both = [label for label in given if label in found]
        if both:
            raise ConfigError(f"column '{both[0]}' is both in x and in context; given itself it has no density")
        for name in self.units:
            source.columns([name])  # the unit of a column that does not exist is a misspelling
        rows = len(next(iter(found.values())))
        if rows == 0:
            raise ValueError(f"{self.path} has no rows")

        raw = {label: _numbers(column, label) for label, column in (found | given).items()}
        gone = {label: self._is_missing(column) for label, column in (found | given).items()}
        keep = np.ones(rows, dtype=bool)
        for label in found:
            if gone[label].any():
                keep &= ~gone[label]
                notes.append(f"left out the {gone[label].sum()} of {rows} rows in which '{label}' is missing")
        if not keep.any():
            raise ValueError(f"{self.path}: x is missing in all {rows} rows, so no event is left")

        x = np.stack([raw[label][keep] for label in found], 1)
        x = self._with_noise(source, list(found), x, notes)
        context, flags = self._filled(list(given), raw, gone, keep, notes)
        x_log = _positions(source, "log", self.log, list(found), "x")
        context_log = _positions(source, "context_log", self.context_log, list(given), "context")
        _positive(x, list(found), x_log)
        _positive(context, list(given), context_log)

        groups = None if self.group is None else _factorise(source.column(self.group)[keep], self.group)
        columns = [*given, *flags]
        contexts, index = _once(torch.from_numpy(_single(context, columns)), groups)
        return Data(
            x=torch.from_numpy(_single(x, list(found))),
            context=contexts if given else None,
            context_index=index if given else None,
            groups=groups,
            names=tuple(found),
            units=self._units([*found]),
            context_names=tuple(columns),
            context_units=(*self._units([*given]), *("" for _ in flags)),
            x_map=_map(Standardize((len(found),)), len(found), len(found), x_log),
            context_map=_map(default_context_map((len(given),), len(contexts)), len(given), len(columns), context_log)
            if given
            else None,
            given_split=None if self.split is None else _parts(source.column(self.split)[keep], self.split),
            notes=tuple(notes),
        )

    def _is_missing(self, column: np.ndarray) -> np.ndarray:
        gone = np.zeros(len(column), dtype=bool)
        for value in map(float, self.missing):
            if np.isnan(value):
                gone |= np.isnan(column) if column.dtype.kind == "f" else False
            else:
                # -99.9 stored as float32 is equal to float32(-99.9), not to -99.9.
                gone |= column == (column.dtype.type(value) if column.dtype.kind == "f" else value)
        return gone

    def _filled(
        self,
        labels: list[str],
        raw: Mapping[str, np.ndarray],
        gone: Mapping[str, np.ndarray],
        keep: np.ndarray,
        notes: list[str],
    ) -> tuple[np.ndarray, list[str]]:
        """The context with gaps filled and their indicator columns appended, and the names of these."""
        columns, indicators, flags = [], [], []
        for label in labels:
            column, hole = raw[label][keep], gone[label][keep]
            if hole.all():
                raise ValueError(f"column '{label}': all {len(hole)} rows are missing; leave it out of the context")
            if hole.any():
                median = float(np.median(column[~hole]))
                column = np.where(hole, median, column)
                indicators.append(hole.astype(float))
                flags.append(f"{label} missing")
                notes.append(
                    f"'{label}' is missing in {hole.sum()} of {len(hole)} rows: filled with the median of "
                    f"the others, {median:.6g}, and flagged in '{label} missing'"
                )
            columns.append(column)
        return np.stack([*columns, *indicators], 1) if columns else np.zeros((int(keep.sum()), 0)), flags

    def _with_noise(self, source: Source, labels: list[str], x: np.ndarray, notes: list[str]) -> np.ndarray:
        for name, f in self.noise.items():
            if not (np.isfinite(f) and f > 0):
                raise ConfigError(f"noise of '{name}' must be positive, in the units of the column; got {f}")
            for i in _positions(source, "noise", [name], labels, "x"):
                values, counts = np.unique(x[:, i], return_counts=True)
                top = values[counts.argmax()]
                # With fewer than some hundred values to land on, an atom stays an atom.
                least = 1000 * float(np.spacing(np.float32(abs(top))))
                if f < least:
                    raise ConfigError(
                        f"noise of '{labels[i]}' is {f:g}, which float32 cannot resolve beside its most "
                        f"frequent value {top:g}: give {least:.2g} or more, or subtract an offset"
                    )
                source_of_noise = generator(self.seed, "noise", labels[i])
                x[:, i] += f * torch.rand(len(x), generator=source_of_noise, dtype=torch.float64).numpy()
                notes.append(f"added {f:g} * U(0, 1) to '{labels[i]}', seed {self.seed}")
        return x

    def _units(self, labels: Sequence[str]) -> tuple[str, ...]:
        """The unit of each column; ``mag`` gives that of ``mag[0]``, ``mag[1]``, ..."""
        bases = [label.split("[")[0] for label in labels]
        return tuple(self.units.get(n, self.units.get(b, "")) for n, b in zip(labels, bases, strict=True))


def _numbers(column: np.ndarray, label: str) -> np.ndarray:
    """A column as float64."""
    if column.dtype.kind not in "biuf":
        what = "text" if column.dtype.kind in "OSUT" else f"{column.dtype}"
        example = f", for example {column[0]!r}" if len(column) else ""
        raise ConfigError(
            f"column '{label}' holds {what}{example}; columns of x and context must be numbers "
            "(only those of `group` and `split` may be text)"
        )
    return column.astype(np.float64)


def _single(values: np.ndarray, labels: Sequence[str]) -> np.ndarray:
    """float64 to float32, refusing a column that float32 cannot resolve (Julian dates, large ids)."""
    for i, label in enumerate(labels):
        column = values[:, i][np.isfinite(values[:, i])]
        largest = float(np.abs(column).max(initial=0.0))
        if largest > float(np.finfo(np.float32).max):
            raise ValueError(f"column '{label}': {largest:g} is beyond float32; rescale the column")
        spread = float(column.std()) if len(column) else 0.0
        step = float(np.spacing(np.float32(largest)))
        if spread > 0 and step > 1e-2 * spread:
            raise ValueError(
                f"column '{label}': near {largest:g} float32 goes in steps of {step:.2g}, and the standard "
                f"deviation of the column is {spread:.2g}; subtract an offset from it"
            )
    return np.ascontiguousarray(values, dtype=np.float32)


def _positions(source: Source, option: str, names: Sequence[str], labels: list[str], owner: str) -> list[int]:
    """Where the columns that an option names stand among ``labels``."""
    chosen = list(source.columns(names))
    for label in chosen:
        if label not in labels:
            has = ", ".join(labels) or "no columns"
            raise ConfigError(f"{option} names '{label}', which is not in {owner}; {owner} has {has}")
    return [labels.index(label) for label in chosen]


def _positive(values: np.ndarray, labels: list[str], positions: list[int]) -> None:
    """Refuse a logarithm of what has none, over all rows: ``Log.fit`` sees the training rows alone."""
    for i in positions:
        bad = int((values[:, i] <= 0).sum())
        if bad:
            raise ValueError(
                f"column '{labels[i]}': {bad} of {len(values)} rows are <= 0, which has no logarithm. "
                "Declare the value that means missing, add noise to exact zeros, or take no log of it."
            )


def _map(scale: Bijector, count: int, total: int, logs: list[int]) -> Bijector:
    """Log of some of the first ``count`` columns, then the scale of all of these; the rest (flags) stay."""
    if total > count:
        scale = Columns(range(count), scale)
    return Compose(Columns(logs, Log()), scale) if logs else scale


def _text(column: np.ndarray) -> list[str]:
    """Text as str, whether the file holds str or bytes (HDF5)."""
    return [v.decode() if isinstance(v, bytes) else str(v) for v in column.tolist()]


def _factorise(column: np.ndarray, name: str) -> Tensor:
    """Labels as 0, 1, ..., in sorted order, so that a split does not depend on the order of the rows."""
    import pandas as pd

    empty = int(pd.isna(column).sum())
    if empty:
        raise ValueError(f"group column '{name}': {empty} of {len(column)} rows have no value")
    labels = column if column.dtype.kind in "biuf" else np.array(_text(column))
    return torch.from_numpy(np.unique(labels, return_inverse=True)[1]).long()


def _parts(column: np.ndarray, name: str) -> Tensor:
    """The official split as 0, 1, 2."""
    if column.dtype.kind in "biuf":
        texts = [f"{value:g}" for value in column.astype(float).tolist()]
    else:
        texts = [text.strip().lower() for text in _text(column)]
    unknown = sorted(set(texts) - set(_PARTS))
    if unknown:
        raise ValueError(
            f"split column '{name}' must hold 0, 1, 2 or train, validation, test; it also has {', '.join(unknown[:5])}"
        )
    return torch.tensor([_PARTS[text] for text in texts])


def _once(context: Tensor, groups: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """A context that is the same in all rows of a group, stored once per group, and its index.

    So a map that is fitted to it counts each galaxy once, however many rows it has.
    """
    if groups is None:
        return context, None
    first = torch.from_numpy(np.unique(groups.numpy(), return_index=True)[1])
    if bool((context[first][groups] == context).all()):
        return context[first], groups
    return context, None
