"""Tables read part by part: .h5 and .parquet in bounded memory, other formats column by column."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flowzoo.config import ConfigError
from flowzoo.data._readers import Source, open_table

Parts = Iterable[Sequence[np.ndarray]]


@dataclass(frozen=True)
class Rows:
    """An open table of a format that has no rows to seek (.npz, .csv): each column is read once, whole."""

    path: Path
    source: Source

    def names(self) -> list[str]:
        """Its columns, for messages; a 2-D array is one name here."""
        return [str(name) for name in self.source.arrays]

    def has(self, name: str) -> bool:
        """Whether this is a column; of a 2-D array ``mag`` the columns are ``mag[0]``, ``mag[1]``, ..."""
        if name in self.source.arrays:
            return True  # of whatever shape: reading it says what is wrong with that
        try:
            return len(self.source.columns([name])) == 1
        except ConfigError:
            return False

    def count(self, names: Sequence[str]) -> int:
        """How many rows these columns have."""
        return len(self._column(names[0]))

    def dtype(self, name: str) -> np.dtype[Any]:
        """Of a column; text is an object, where the format has no width."""
        return self._column(name).dtype

    def parts(self, names: Sequence[str], size: int) -> Iterator[list[np.ndarray]]:
        """These columns, at most so many rows at a time, in order."""
        columns = [self._column(name) for name in names]
        for start in range(0, len(columns[0]), size):
            yield [column[start : start + size] for column in columns]

    def _column(self, name: str) -> np.ndarray:
        try:
            return self.source.column(name)
        except ConfigError:
            raise
        except ValueError as error:  # a damaged member of an archive
            raise ConfigError(str(error)) from None


@contextmanager
def open_rows(path: str | Path) -> Iterator[Rows]:
    """Open a table by the ending of its name.

    Raises:
        FileNotFoundError: if there is no such file.
        ConfigError: for an ending that is not known, or a file that is not what its ending says.
        MissingDependency: if the package that reads this ending is not installed.
    """
    file = Path(path).expanduser()
    with ExitStack() as stack:
        try:
            source = stack.enter_context(open_table(str(file)))
        except ValueError as error:
            raise ConfigError(str(error)) from None
        match file.suffix.lower():
            case ".h5" | ".hdf5":
                import h5py

                yield _Hdf5(file, source, stack.enter_context(h5py.File(file, "r")))
            case ".parquet":
                import pyarrow.parquet as parquet

                yield _Parquet(file, source, stack.enter_context(parquet.ParquetFile(file)))
            case _:
                yield Rows(file, source)


def require(rows: Rows, names: Sequence[str], why: str) -> None:
    """Refuse a table that lacks columns.

    Raises:
        ConfigError: with those that are missing and those that are there.
    """
    missing = [name for name in names if not rows.has(name)]
    if missing:
        columns = "the column" if len(missing) == 1 else "the columns"
        has = ", ".join(rows.names()) or "none"
        raise ConfigError(f"{rows.path} lacks {columns} {', '.join(missing)} ({why}); its columns are {has}")


def same_length(path: Path, lengths: Mapping[str, int]) -> int:
    """The length that all columns of a file have.

    Raises:
        ConfigError: if one has another.
    """
    (first, expected), *others = lengths.items()
    for name, length in others:
        if length != expected:
            raise ConfigError(f"{path}: '{name}' has {length} rows, '{first}' {expected}")
    return expected


def rebatched(parts: Parts, size: int) -> Iterator[list[np.ndarray]]:
    """The same rows, exactly ``size`` at a time but for the last."""
    waiting: list[Sequence[np.ndarray]] = []
    held = 0
    for part in parts:
        waiting.append(part)
        held += len(part[0])
        if held < size:
            continue
        whole = [np.concatenate(column) for column in zip(*waiting, strict=True)]
        full = held // size * size
        for start in range(0, full, size):
            yield [column[start : start + size] for column in whole]
        held -= full
        waiting = [[column[full:].copy() for column in whole]] if held else []
    if held:
        yield [np.concatenate(column) for column in zip(*waiting, strict=True)]


@dataclass(frozen=True)
class _Hdf5(Rows):
    """Slices of the datasets."""

    file: Any

    def _find(self, name: str) -> tuple[Any, Any] | None:
        """The dataset of a column, and what to take of a row of it."""
        import h5py

        if isinstance(found := self.file.get(name), h5py.Dataset) and found.dtype.names is None:
            return (found, ()) if found.ndim == 1 else None
        table, _, field = name.rpartition("/")  # of a compound dataset, as astropy writes its tables
        if table and isinstance(found := self.file.get(table), h5py.Dataset) and field in (found.dtype.names or ()):
            return found, field
        match = re.fullmatch(r"(.+)\[(\d+)\]", name)
        if match and isinstance(found := self.file.get(match[1]), h5py.Dataset) and found.ndim == 2:
            return (found, int(match[2])) if int(match[2]) < found.shape[1] else None
        return None

    def has(self, name: str) -> bool:
        return self._find(name) is not None

    def count(self, names: Sequence[str]) -> int:
        return same_length(self.path, {name: len(self._found(name)[0]) for name in names})

    def dtype(self, name: str) -> np.dtype[Any]:
        found, part = self._found(name)
        return np.dtype(found.dtype[part] if isinstance(part, str) else found.dtype)

    def parts(self, names: Sequence[str], size: int) -> Iterator[list[np.ndarray]]:
        for start in range(0, self.count(names), size):
            yield [self._slice(name, slice(start, start + size)) for name in names]

    def _found(self, name: str) -> tuple[Any, Any]:
        found = self._find(name)
        assert found is not None, name
        return found

    def _slice(self, name: str, rows: slice) -> np.ndarray:
        found, part = self._found(name)
        if isinstance(part, str):
            return np.asarray(found.fields(part)[rows])
        return np.asarray(found[rows] if part == () else found[rows, part])


@dataclass(frozen=True)
class _Parquet(Rows):
    """Batches of the row groups."""

    file: Any

    def has(self, name: str) -> bool:
        return name in self.file.schema_arrow.names

    def count(self, names: Sequence[str]) -> int:
        return int(self.file.metadata.num_rows)

    def dtype(self, name: str) -> np.dtype[Any]:
        try:
            return np.dtype(self.file.schema_arrow.field(name).type.to_pandas_dtype())
        except NotImplementedError:
            return np.dtype(object)

    def parts(self, names: Sequence[str], size: int) -> Iterator[list[np.ndarray]]:
        import pyarrow as pa

        for batch in self.file.iter_batches(batch_size=size, columns=list(names)):
            columns = [batch.column(name) for name in names]
            plain = [c.dictionary_decode() if isinstance(c, pa.DictionaryArray) else c for c in columns]
            yield [column.to_numpy(zero_copy_only=False) for column in plain]
