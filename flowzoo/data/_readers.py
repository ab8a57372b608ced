"""Table files column by column."""

from __future__ import annotations

import difflib
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from flowzoo.config import ConfigError
from flowzoo.data._fits_files import open_fits
from flowzoo.data._lazy import Lazy
from flowzoo.data._lazy import shape_of as shape_of
from flowzoo.data._numpy_files import load_npy, missing_reader, open_npz, short, unreadable
from flowzoo.registry import MissingDependency


class Source:
    """An open table: columns by name, each array read when it is first asked for.

    A 1-D array is a column. A 2-D array ``mag`` has the columns ``mag[0]``, ``mag[1]``, ...; ``mag`` names
    all of them and ``mag[0:3]`` the first three. The first column asked for says how many rows the table has,
    and an array of another length is not a column of it.
    """

    def __init__(self, path: str, arrays: Mapping[str, Any]) -> None:
        self.path = path
        self._arrays = arrays
        self._read: dict[str, np.ndarray] = {}
        self._rows: tuple[int, str] | None = None

    @property
    def arrays(self) -> Mapping[str, Any]:
        """Every array of the file by its name, read when it is asked for."""
        return self._arrays

    def columns(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        """The named columns in order, 2-D arrays as one entry per column.

        Raises:
            ConfigError: for a name that is no column, with the columns that there are, or a name given twice.
        """
        found: dict[str, np.ndarray] = {}
        for name in names:
            for label, column in self._expand(name):
                if label in found:
                    raise ConfigError(f"{self.path}: column '{label}' is named twice")
                found[label] = column
        return found

    def column(self, name: str) -> np.ndarray:
        """One column."""
        found = self.columns([name])
        if len(found) != 1:
            raise ConfigError(f"{self.path}: '{name}' is {len(found)} columns where one is needed; name one of them")
        return next(iter(found.values()))

    def _expand(self, name: str) -> list[tuple[str, np.ndarray]]:
        """``(label, column)`` for each column that a name stands for."""
        base, first, last = name, None, None
        match = re.fullmatch(r"(.+)\[(\d+)(?::(\d+))?\]", name)
        if name not in self._arrays and match and match[1] in self._arrays:
            base, first = match[1], int(match[2])
            last = int(match[3]) if match[3] else first + 1
        if base not in self._arrays:
            self._refuse(name)
        if base not in self._read:
            self._read[base] = np.asarray(self._arrays[base])
        array = self._read[base]
        rows = len(array) if array.ndim else 1
        if self._rows is None:
            self._rows = rows, name
        if array.ndim not in (1, 2) or rows != self._rows[0] or 0 in array.shape[1:]:
            beside = f" beside '{self._rows[1]}' ({self._rows[0]} rows)" if rows != self._rows[0] else ""
            raise ConfigError(
                f"{self.path}: '{base}' has shape {array.shape}, so it is no column{beside}; "
                f"the columns are {self._listing()}"
            )
        if array.ndim == 1 and first is None:
            return [(name, array)]
        if array.ndim == 1 or (first is not None and not first < (last or 0) <= array.shape[1]):
            self._refuse(name)
        return [(f"{base}[{i}]", array[:, i]) for i in range(first or 0, last or array.shape[1])]

    def _refuse(self, name: str) -> None:
        near = difflib.get_close_matches(name, list(self._arrays), n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise ConfigError(f"{self.path} has no column '{name}': {hint}its columns are {self._listing()}")

    def _listing(self) -> str:
        shapes = {}
        for name in self._arrays:
            shape = shape_of(self._arrays, name)
            if len(shape) in (1, 2) and 0 not in shape[1:]:
                shapes[name] = shape
        counts = Counter(shape[0] for shape in shapes.values())
        rows = self._rows[0] if self._rows else max(counts, key=lambda n: (counts[n], n), default=0)
        own = [n if len(s) == 1 else f"{n}[0:{s[1]}]" for n, s in shapes.items() if s[0] == rows]
        return ", ".join(f'"{name}"' if "," in name else name for name in own) or "none"


def expanded(path: str) -> Path:
    """A path with ``~`` and environment variables such as ``$FLOWZOO_DATA`` put in.

    Raises:
        FileNotFoundError: for a variable that is not set.
    """
    file = os.path.expandvars(path)
    if unset := re.search(r"\$(?:\w+|\{\w+\})", file):
        raise FileNotFoundError(f"no such file: {path}; the environment variable {unset[0].strip('${}')} is not set")
    return Path(file).expanduser()


@contextmanager
def open_table(path: str) -> Iterator[Source]:
    """Open a table by the ending of its name.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for an ending that is not known, or a file that is not what its ending says.
        MissingDependency: if the package that reads this ending is not installed.
    """
    file = expanded(path)
    reader = _READERS.get(file.suffix.lower())
    if reader is None and file.is_dir():
        raise ValueError(f"{path} is a folder; give a file, whose name ends in {', '.join(_READERS)}")
    if reader is None:
        raise ValueError(f"{path}: unknown ending '{file.suffix}'; known are {', '.join(_READERS)}")
    if not file.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    with reader(file) as arrays:
        yield Source(path, _told(path, arrays))


def _told(path: str, arrays: Mapping[str, Any]) -> Lazy:
    """The same arrays; one that cannot be read is an error that names the file and it.

    What a damaged file raises depends on the byte, and on the library that reads it.
    """

    def read(name: str) -> Any:
        try:
            return arrays[name]
        except MissingDependency:
            raise
        except MemoryError:
            shape = shape_of(arrays, name)
            raise ValueError(f"{path}: '{name}' needs more memory than there is; its header says {shape}") from None
        except Exception as error:
            raise ValueError(f"{path}: '{name}' cannot be read ({short(error)})") from None

    return Lazy(list(arrays), read, lambda name: shape_of(arrays, name))


@contextmanager
def _npy(file: Path) -> Iterator[Mapping[str, Any]]:
    """One array without a name, here ``array``; of a structured one, its fields."""
    array = load_npy(file)
    yield Lazy(array.dtype.names, array.__getitem__) if array.dtype.names else {"array": array}


@contextmanager
def _csv(file: Path) -> Iterator[Mapping[str, Any]]:
    """Text with a header: .csv, .tsv, and .ecsv with its lines of YAML in front."""
    import pandas as pd

    try:
        with file.open(encoding="utf-8", errors="replace") as text:
            skipped, header = 0, text.readline()
            while file.suffix.lower() == ".ecsv" and header.startswith("#"):
                skipped, header = skipped + 1, text.readline()
        with warnings.catch_warnings():
            # Rows longer than the header are a warning of pandas, which drops what is too much.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            options: Any = {"skipinitialspace": True, "index_col": False, "low_memory": False, "skiprows": skipped}
            options |= {"sep": _separator(file, header)}
            frame = pd.read_csv(file, **options)
            # pandas calls the second of two columns 'a' a.1.
            written = pd.read_csv(file, header=None, nrows=1, dtype=str, keep_default_na=False, **options)
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: not text in UTF-8 ({short(error)}); save it in that encoding") from None
    except (ValueError, pd.errors.ParserWarning) as error:  # pandas' own errors are ValueErrors
        raise unreadable(file, error) from None
    frame.columns = frame.columns.astype(str)
    names = written.loc[0].tolist() if len(written) else []
    yield Lazy(list(frame.columns), lambda name: _plain(frame[_once(name, names)]), lambda name: (len(frame),))


def _once(name: str, names: Sequence[str]) -> str:
    """The name, if no two columns have it."""
    if names.count(name) > 1:
        raise ValueError(f"the header names it {names.count(name)} times; each column needs its own name")
    return name


def _separator(file: Path, header: str) -> str:
    """What stands between columns: what the ending says, unless the header has more of another."""
    usual = {".tsv": "\t", ".ecsv": " "}.get(file.suffix.lower(), ",")
    return max((usual, ",", ";", "\t"), key=header.count)  # the first of those that are there as often


@contextmanager
def _parquet(file: Path) -> Iterator[Mapping[str, Any]]:
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise missing_reader(file, "pyarrow", "parquet") from None
    import pandas as pd

    flags = {arrow.bool_(): pd.BooleanDtype()}
    try:
        table = parquet.ParquetFile(file)
    except Exception as error:
        raise unreadable(file, error) from None
    with table:
        names, rows = table.schema_arrow.names, table.metadata.num_rows

        def read(name: str) -> np.ndarray:
            column = table.read(columns=[_once(name, names)]).column(0)  # pandas would not find those of its index
            if arrow.types.is_decimal(column.type):
                column = column.cast("float64" if column.type.scale else "int64")
            return _plain(column.to_pandas(types_mapper=flags.get))

        yield Lazy(names, read, lambda name: (rows,))


@contextmanager
def _hdf5(file: Path) -> Iterator[Mapping[str, Any]]:
    try:
        import h5py
    except ImportError:
        raise missing_reader(file, "h5py", "hdf5") from None
    try:
        handle = h5py.File(file, "r")
    except Exception as error:
        raise unreadable(file, error) from None
    with handle:
        found: dict[str, tuple[Any, Any]] = {}

        def visit(name: str | bytes, item: Any) -> None:
            name = name if isinstance(name, str) else name.decode(errors="replace")  # bytes are what is no UTF-8
            if isinstance(item, h5py.Dataset):
                # A compound dataset, as astropy writes its tables, has one column per field.
                fields = item.dtype.names
                found.update({f"{name}/{f}": (item, f) for f in fields} if fields else {name: (item, ())})

        try:
            handle.visititems(visit)
        except Exception as error:  # damaged groups: RuntimeError, KeyError, ...
            raise unreadable(file, error) from None

        def shape(name: str) -> tuple[int, ...]:
            item, field = found[name]
            return (*(item.shape or ()), *(item.dtype[field].shape if field else ()))

        yield Lazy(list(found), lambda name: found[name][0][found[name][1]], shape)


_READERS = {
    **{".npz": open_npz, ".csv": _csv, ".tsv": _csv, ".ecsv": _csv, ".parquet": _parquet},
    **{".h5": _hdf5, ".hdf5": _hdf5, ".fits": open_fits, ".fit": open_fits, ".npy": _npy},
}
ENDINGS = tuple(_READERS)
TABLES = (".csv", ".tsv", ".ecsv", ".parquet")  # files of columns alone, in which there is no 2-D array


def _plain(series: Any) -> np.ndarray:
    """A pandas column as numpy: numbers and flags, as floats with NaN where some are gone; all else is objects."""
    from pandas.api import types

    if not types.is_numeric_dtype(series.dtype):
        # pandas' own NA cannot even be compared.
        na = {} if isinstance(series.dtype, np.dtype) else {"na_value": np.nan}
        values = np.asarray(series.to_numpy(dtype=object, **na))
        gaps = all(cell is None or isinstance(cell, bool | float) for cell in values)  # flags, some of them gone
        return values.astype(np.float64) if gaps else values
    if isinstance(series.dtype, np.dtype):
        return np.asarray(series.to_numpy())
    if not types.is_float_dtype(series.dtype) and not series.isna().any():  # float64 would merge ids beyond 2^53
        return np.asarray(series.to_numpy(dtype=series.dtype.numpy_dtype))
    return np.asarray(series.to_numpy(dtype=float, na_value=np.nan))
