"""Files of a catalogue: the particles of each galaxy, and a table of parameters with a row for each.

A galaxy is called by the text of its id. Whole numbers are the same id however they are written (7, 7.0, 007), as
numbers or as text, because a CSV file forgets how they were.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flowzoo.config import ConfigError
from flowzoo.data._lazy import Lazy, shape_of
from flowzoo.data._readers import ENDINGS, Source, expanded, open_table
from flowzoo.data._values import check_labels, numbers, numeric, texts


class Galaxy(NamedTuple):
    """The particles of one galaxy, as its file has them."""

    id: str
    file: str
    rows: np.ndarray  # (n,) their rows in that file
    labels: tuple[str, ...]  # the columns of the event
    columns: dict[str, np.ndarray]  # (n,) each, these and whatever else was asked for

    @property
    def called(self) -> str:
        """How a message calls it."""
        return _called(self.id, self.file)


# -- ids


def as_ids(column: np.ndarray, name: str) -> list[str]:
    """A column of ids as text; 7.0 is 7.

    Raises:
        ValueError: as ``check_labels``.
    """
    check_labels(column, name)
    whole = column.dtype.kind == "f" and bool((column == np.round(column)).all())
    return texts(column.astype(np.int64) if whole else column)


def key(galaxy: str) -> str:
    """What two ids have in common that mean the same galaxy."""
    return str(_number(galaxy)) if _whole(galaxy) else galaxy


def in_order(galaxies: Sequence[str]) -> list[str]:
    """Sorted: whole numbers by value, then text; the same however the files were found."""
    return sorted(galaxies, key=lambda g: (not _whole(g), _number(g) if _whole(g) else 0, g))


def _whole(text: str) -> bool:
    return re.fullmatch(r"-?[0-9]+(\.0*)?", text) is not None


def _number(whole: str) -> int:
    return int(whole.split(".")[0])


def _called(galaxy: str, path: str) -> str:
    return f"galaxy '{galaxy}' ({path})"


# -- columns with names of their own


@contextmanager
def open_named(path: str, names: Sequence[str]) -> Iterator[Source]:
    """As ``open_table``, with the names of the columns of its 2-D array.

    Args:
        path: the file.
        names: one per column of the only 2-D array that has so many; or the one name of an array of the file that
            holds them. None: the file's own names.

    Raises:
        ConfigError: if there is no such array, or several.
    """
    with open_table(path) as source:
        yield Source(path, _named(source, names)) if names else source


def _named(source: Source, names: Sequence[str]) -> Lazy:
    """The arrays by name, the 2-D one by its columns too; none but the names is read here."""
    names, path, arrays = list(names), source.path, source.arrays
    known = {name: shape_of(arrays, name) for name in arrays}
    if len(names) == 1 and names[0] in known and len(known[names[0]]) < 2:
        names = texts(source.column(names[0]))
    fitting = [name for name, shape in known.items() if len(shape) == 2 and shape[1] == len(names)]
    if len(fitting) != 1:
        shapes = ", ".join(f"{name} {shape}" for name, shape in known.items() if len(shape) == 2) or "none"
        raise ConfigError(
            f"{path}: {len(names)} names of columns ({', '.join(names[:3])}, ...) need one 2-D array with as many "
            f"columns; the 2-D arrays are {shapes}"
        )
    for name in names:
        if name in known or names.count(name) > 1:
            raise ConfigError(f"{path}: '{name}' would be the name of two columns; give another")
    place = {name: i for i, name in enumerate(names)}
    known |= {name: known[fitting[0]][:1] for name in names}
    table = cache(lambda: np.asarray(arrays[fitting[0]]))
    return Lazy(list(known), lambda name: table()[:, place[name]] if name in place else arrays[name], known.__getitem__)


# -- particles


@dataclass(frozen=True)
class Particles:
    """Where the particles are.

    Args:
        path: a folder with a file for each galaxy, called by its id; or one file.
        group: of one file, the column that says which galaxy a row belongs to.
        names: as ``open_named``.
        besides: files in the folder that are no galaxies.
    """

    path: str
    group: str = ""
    names: Sequence[str] = ()
    besides: Sequence[str] = ()

    def read(self, x: Sequence[str], others: Sequence[str]) -> Iterator[Galaxy]:
        """One galaxy after another, in the order of their ids.

        Args:
            x: columns of the event; a 2-D array is as many.
            others: single columns that are needed too.

        Raises:
            FileNotFoundError: if there is no such file or folder, or no galaxy in it.
            ConfigError, ValueError: naming file and galaxy.
        """
        place = expanded(self.path)
        if not place.is_dir():
            return self._of_file(x, others)
        if self.group:
            raise ConfigError(f"group is of one file; in the folder {self.path} every file is a galaxy")
        return self._of_folder(place, x, others)

    def _of_folder(self, folder: Path, x: Sequence[str], others: Sequence[str]) -> Iterator[Galaxy]:
        besides = {expanded(path).resolve() for path in self.besides}
        files: dict[str, Path] = {}
        known: dict[str, Path] = {}
        for file in sorted(folder.iterdir()):
            if file.suffix.lower() not in ENDINGS or file.name.startswith(".") or file.resolve() in besides:
                continue
            if not file.is_file():
                continue
            if (same := known.setdefault(key(file.stem), file)) is not file:
                raise ValueError(f"galaxy '{file.stem}' has two files in {self.path}: {same.name} and {file.name}")
            files[file.stem] = file
        if not files:
            raise FileNotFoundError(f"no galaxy in {self.path}: it has no file that ends in {', '.join(ENDINGS)}")
        first: tuple[str, ...] = ()
        for galaxy in in_order(list(files)):
            path = str(files[galaxy])
            with _about(galaxy, path), open_named(path, self.names) as source:
                labels, columns = _columns(source, x, others)
                count = len(columns[labels[0]])
                if first and labels != first:
                    raise ValueError(f"x has {len(labels)} columns here, and {len(first)} in the first galaxy")
            first = labels
            yield Galaxy(galaxy, path, np.arange(count), labels, columns)

    def _of_file(self, x: Sequence[str], others: Sequence[str]) -> Iterator[Galaxy]:
        with in_file(self.path), open_named(self.path, self.names) as source:
            if not self.group:
                raise ConfigError(
                    f"{self.path} is one file: give `group`, the column that says which galaxy a row belongs to (or "
                    "as path a folder with a file for each galaxy)"
                )
            labels, columns = _columns(source, x, others)
            if not len(columns[labels[0]]):
                raise ValueError("the file has no rows")
            rows = _rows_of(source.column(self.group), self.group)
        for galaxy in in_order(list(rows)):
            chosen = rows[galaxy]
            own = {label: column[chosen] for label, column in columns.items()}
            index = np.arange(chosen.start, chosen.stop) if isinstance(chosen, slice) else chosen
            yield Galaxy(galaxy, self.path, index, labels, own)


def _columns(source: Source, x: Sequence[str], others: Sequence[str]) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """Labels of the event's columns, and all columns by label; numbers every one."""
    event = source.columns(x)
    found = event | {name: source.column(name) for name in others if name not in event}
    return tuple(event), {label: numeric(column, label) for label, column in found.items()}


def _rows_of(group: np.ndarray, name: str) -> dict[str, Any]:
    """Rows of each galaxy: a slice where they stand together (and its columns are views), else their numbers."""
    check_labels(group, name)
    starts = np.flatnonzero(np.r_[True, group[1:] != group[:-1]])
    ends = np.r_[starts[1:], len(group)]
    runs = as_ids(group[starts], name)
    codes: dict[str, int] = {}
    code_of_run = np.array([codes.setdefault(run, len(codes)) for run in runs])
    spelt: dict[str, str] = {}
    for galaxy in codes:
        if (other := spelt.setdefault(key(galaxy), galaxy)) != galaxy:
            raise ValueError(f"'{other}' and '{galaxy}' in '{name}' are the same galaxy; write its id one way")
    if len(codes) == len(runs):
        return {run: slice(int(a), int(b)) for run, a, b in zip(runs, starts, ends, strict=True)}
    code = np.repeat(code_of_run, ends - starts)
    order = np.argsort(code, kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(code))[:-1])
    return dict(zip(codes, parts, strict=True))


@contextmanager
def _about(galaxy: str, path: str) -> Iterator[None]:
    """Errors inside say which galaxy they are about, and which file if they do not."""
    try:
        yield
    except ValueError as error:
        what = f"galaxy '{galaxy}'" if path in str(error) else _called(galaxy, path)
        raise type(error)(f"{what}: {error}") from None


@contextmanager
def in_file(path: str) -> Iterator[None]:
    """Errors inside say which file they are about."""
    try:
        yield
    except ValueError as error:
        if path in str(error):
            raise
        raise type(error)(f"{path}: {error}") from None


# -- parameters


def read_parameters(
    path: str, names: Sequence[str], id: str, context: Sequence[str], galaxies: Sequence[tuple[str, str]]
) -> tuple[list[str], np.ndarray, list[str]]:
    """Columns of a table that has a row for each galaxy: their labels, ``(G, C)`` float64, and notes.

    Args:
        path: the table.
        names: as ``open_named``.
        id: column of ids; ``""`` is ``id`` or ``ID`` if there is one, else galaxy i has row i, counted from 0.
        context: columns to read.
        galaxies: id and file of each.

    Raises:
        ConfigError, ValueError: naming file and galaxy, for one that has no row or two, or a value that is no number.
    """
    with in_file(path), open_named(path, names) as source:
        found = source.columns(context)
        rows = len(next(iter(found.values())))
        if not rows:
            raise ValueError("the file has no rows")
        columns = {label: numbers(column, label) for label, column in found.items()}
        ids = id or next((name for name in ("id", "ID") if name in source.arrays), "")
        where = {str(i): i for i in range(rows)}
        if ids:
            keys = [key(galaxy) for galaxy in as_ids(source.column(ids), ids)]
            where = {galaxy: i for i, galaxy in enumerate(keys)}
            twice = next((g for i, g in enumerate(keys) if where[g] != i), None)
            if twice is not None:
                raise ValueError(
                    f"{path}: galaxy '{twice}' has {keys.count(twice)} rows in column '{ids}'; one is needed"
                )
    for galaxy, file in galaxies:
        if key(galaxy) not in where:
            how = f"'{ids}' has none such" if ids else f"{rows} rows, galaxy i in row i; give the column of ids as `id`"
            raise ValueError(f"{path}: no row for {_called(galaxy, file)}: {how}")
    chosen = [where[key(galaxy)] for galaxy, _ in galaxies]
    for label, column in columns.items():
        for (galaxy, file), value in zip(galaxies, column[chosen], strict=True):
            if not np.isfinite(value):
                raise ValueError(
                    f"{path}: '{label}' of {_called(galaxy, file)} is {value:g}; every galaxy needs a number"
                )
    notes = [] if ids else [f"{Path(path).name}: galaxy i has row i, from 0; no column of ids (`id`) was given"]
    return list(columns), np.stack([column[chosen] for column in columns.values()], 1), notes
