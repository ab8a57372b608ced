"""Tables written part by part: .h5, .parquet and .csv in bounded memory, .npz whole; there whole or not at all.

Beside its columns a table may have arrays of images, in .h5 and .npz.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flowzoo.config import ConfigError
from flowzoo.harness.folder import make_writable
from flowzoo.registry import MissingDependency

Write = Callable[[Sequence[np.ndarray]], None]
ABOUT = "flowzoo"  # what is said of a table, where it is written


@dataclass(frozen=True)
class Column:
    """A column of the table.

    Args:
        name: in the file.
        dtype: of numpy; text is a ``U``, with a width where that is known and ``U0`` where it is not.
        unit: kept where the format has a place for it (.h5, .parquet).
        repeats: whether neighbours are mostly equal, so that it shrinks to nothing when compressed.
        shape: of a row, where that is an image, which .h5 and .npz can hold.
    """

    name: str
    dtype: np.dtype[Any]
    unit: str = ""
    repeats: bool = False
    shape: tuple[int, ...] = ()


def check_target(path: Path, *, overwrite: bool) -> None:
    """Refuse, before any work is done, what could not be written at its end.

    Raises:
        ConfigError: for an unknown ending, a file that is there, or a folder that cannot be written to.
        MissingDependency: if the package that writes this ending is not installed.
    """
    if path.suffix.lower() not in _WRITERS:
        raise ConfigError(f"--out {path}: unknown ending '{path.suffix}'; known are {', '.join(_WRITERS)}")
    if path.is_dir():
        raise ConfigError(f"--out {path} is a folder; give the file to write")
    if path.exists() and not overwrite:
        raise ConfigError(f"--out {path} exists already; give another, or --overwrite")
    package, extra = _NEEDS.get(path.suffix.lower(), ("numpy", ""))
    try:
        __import__(package)
    except ImportError:
        raise MissingDependency(
            f"writing {path.suffix} files needs {package}, which is not installed: pip install 'flowzoo[{extra}]'"
        ) from None
    make_writable(path.parent)


@contextmanager
def table_writer(
    path: Path, columns: Sequence[Column], *, overwrite: bool = False, about: Mapping[str, Any] | None = None
) -> Iterator[Write]:
    """A function that appends rows, one array per column; the file has its name when the block has ended well.

    Args:
        path: whose ending says the format.
        columns: in their order.
        overwrite: whether a file of that name may be replaced.
        about: JSON-able, what made the table; kept where the format has a place for it (.h5, .parquet), and beside
            images in .npz as the text ``flowzoo``.

    Raises:
        ConfigError: as ``check_target``, or if two columns have one name.
    """
    check_target(path, overwrite=overwrite)
    names = [column.name for column in columns]
    twice = [name for i, name in enumerate(names) if name in names[:i]]
    if twice:
        raise ConfigError(f"{path}: two columns would be called '{twice[0]}'; rename one of them")
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    part = Path(name)
    try:
        with _WRITERS[path.suffix.lower()](part, columns, json.dumps(dict(about or {}))) as write:
            yield write
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.chmod(0o644)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _csv(file: Path, columns: Sequence[Column], about: str) -> Iterator[Write]:
    import pandas as pd

    names = [column.name for column in columns]
    with file.open("w", newline="") as handle:
        pd.DataFrame(columns=names).to_csv(handle, index=False)

        def write(arrays: Sequence[np.ndarray]) -> None:
            # numpy writes the shortest text that reads back as the same float32 or float64.
            pd.DataFrame(dict(zip(names, arrays, strict=True))).to_csv(handle, index=False, header=False)

        yield write


@contextmanager
def _npz(file: Path, columns: Sequence[Column], about: str) -> Iterator[Write]:
    parts: list[list[np.ndarray]] = [[] for _ in columns]

    def write(arrays: Sequence[np.ndarray]) -> None:
        for known, array in zip(parts, arrays, strict=True):
            known.append(array.copy())

    def put(archive: zipfile.ZipFile, name: str, whole: np.ndarray) -> None:
        with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array(member, whole, allow_pickle=False)

    yield write
    # Not np.savez: a column called `file` would be its argument, and all columns would be in memory twice.
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for column, known in zip(columns, parts, strict=True):
            whole = np.concatenate(known) if known else np.zeros((0, *column.shape), column.dtype)
            known.clear()
            put(archive, column.name, whole)
        if any(column.shape for column in columns) and ABOUT not in [column.name for column in columns]:
            put(archive, ABOUT, np.array(about))


@contextmanager
def _hdf5(file: Path, columns: Sequence[Column], about: str) -> Iterator[Write]:
    import h5py

    def kind(dtype: np.dtype[Any]) -> Any:
        if dtype.kind != "U":
            return dtype
        # Text of one width can be compressed; four bytes is the longest that UTF-8 needs for a letter.
        return h5py.string_dtype("utf-8", dtype.itemsize if dtype.itemsize else None)

    # Rows come in whole chunks, so that a cache of them would only hold on to memory: 150 MB for 17 columns. Beside
    # images they come in fewer, and a chunk of a column would be packed anew for each.
    cache = {} if any(column.shape for column in columns) else {"rdcc_nbytes": 0}
    with h5py.File(file, "w", **cache) as handle:
        handle.attrs[ABOUT] = about
        datasets = []
        for column in columns:
            packed = {"compression": "gzip", "compression_opts": 1, "shuffle": True} if column.repeats else {}
            rows = max(1, 2**14 // math.prod(column.shape))
            made = handle.create_dataset(
                column.name, (0, *column.shape), kind(column.dtype), maxshape=(None, *column.shape),
                chunks=(rows, *column.shape), **packed,
            )  # fmt: skip
            if column.unit:
                made.attrs["units"] = column.unit
            datasets.append(made)

        def write(arrays: Sequence[np.ndarray]) -> None:
            for made, array in zip(datasets, arrays, strict=True):
                start = len(made)
                made.resize(start + len(array), axis=0)
                if array.dtype.kind == "U":
                    fixed = h5py.check_string_dtype(made.dtype).length is not None
                    array = np.char.encode(array, "utf-8").astype(made.dtype) if fixed else array.astype(object)
                made[start:] = array

        yield write


@contextmanager
def _parquet(file: Path, columns: Sequence[Column], about: str) -> Iterator[Write]:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    def kind(dtype: np.dtype[Any]) -> Any:
        return pa.string() if dtype.kind == "U" else pa.from_numpy_dtype(dtype)

    fields = [pa.field(c.name, kind(c.dtype), metadata={"units": c.unit} if c.unit else None) for c in columns]
    schema = pa.schema(fields, metadata={ABOUT: about})
    repeating = [column.name for column in columns if column.repeats]
    with parquet.ParquetWriter(file, schema, use_dictionary=repeating) as writer:

        def write(arrays: Sequence[np.ndarray]) -> None:
            values = [pa.array(array, field.type) for array, field in zip(arrays, fields, strict=True)]
            writer.write_table(pa.table(values, schema=schema), row_group_size=max(1, len(arrays[0])))

        yield write


_WRITERS: dict[str, Callable[..., Any]] = {
    ".h5": _hdf5,
    ".hdf5": _hdf5,
    ".parquet": _parquet,
    ".npz": _npz,
    ".csv": _csv,
}
_NEEDS = {".h5": ("h5py", "hdf5"), ".hdf5": ("h5py", "hdf5"), ".parquet": ("pyarrow", "parquet")}
