"""Arrays of images beside the columns of a file: events of a flow over images, and contexts that are images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flowzoo.config import ConfigError
from flowzoo.data._readers import shape_of
from flowzoo.harness._galaxies import Galaxies, as_numbers, cast, from_table, label, read_rows
from flowzoo.harness._rows import Rows, _Hdf5, open_rows, same_length
from flowzoo.harness._trained import CONTEXT, Trained

ENDINGS = (".npz", ".h5", ".hdf5")  # that hold arrays of more axes than a table has
NUMBERS = 2**22  # of images that are held, written or scored together


def rows_together(rows: int, *shapes: Sequence[int]) -> int:
    """At most so many rows of arrays of these shapes, and at least one."""
    return max(1, min(rows, NUMBERS // max((prod(shape) for shape in shapes), default=1)))


@dataclass(frozen=True)
class WithArrays(Rows):
    """A table with arrays ``(rows, *shape)`` beside its columns; those of .h5 are read in parts.

    Args:
        inner: the table.
        shapes: of a row of each array; a first axis of length 1 may be missing in the file.
    """

    inner: Rows
    shapes: Mapping[str, tuple[int, ...]]

    def names(self) -> list[str]:
        return self.inner.names()

    def has(self, name: str) -> bool:
        return name in self.source.arrays if name in self.shapes else self.inner.has(name)

    def count(self, names: Sequence[str]) -> int:
        return same_length(
            self.path,
            {name: self._length(name) if name in self.shapes else self.inner.count([name]) for name in names},
        )

    def dtype(self, name: str) -> np.dtype[Any]:
        return np.dtype(self._array(name).dtype) if name in self.shapes else self.inner.dtype(name)

    def parts(self, names: Sequence[str], size: int) -> Iterator[list[np.ndarray]]:
        total, plain = self.count(names), [name for name in names if name not in self.shapes]
        arrays = {name: self._array(name) for name in names if name in self.shapes}
        columns = self.inner.parts(plain, size) if plain else iter(())
        for start in range(0, total, size):
            found = dict(zip(plain, next(iter(columns)) if plain else (), strict=True))
            for name, array in arrays.items():
                part = self._told(name, lambda array=array: np.asarray(array[start : start + size]))  # noqa: B023
                found[name] = part.reshape(len(part), *self.shapes[name])
            yield [found[name] for name in names]

    def _array(self, name: str) -> Any:
        """The dataset of .h5, which stays on disk, or the array."""
        if isinstance(self.inner, _Hdf5):
            found = self.inner.file[name]
        else:
            found = self._told(name, lambda: self.source.arrays[name])
        if found.dtype.kind not in "biuf":
            raise ConfigError(f"{self.path}: '{name}' holds {found.dtype}, where numbers are needed")
        return found

    def _told(self, name: str, read: Any) -> Any:
        try:
            return read()
        except (OSError, ValueError) as error:
            said = " ".join(str(error).split())
            raise ConfigError(said if str(self.path) in said else f"{self.path}: '{name}': {said}") from None

    def _length(self, name: str) -> int:
        shape, found = self.shapes[name], shape_of(self.source.arrays, name)
        fits = [shape] + ([shape[1:]] if len(shape) > 1 and shape[0] == 1 else [])
        if not any(found[1:] == one and len(found) == len(one) + 1 for one in fits):
            expected = ", ".join(["rows", *map(str, shape)])
            raise ConfigError(f"{self.path}: '{name}' is {found}; expected an array ({expected})")
        return found[0]


def check_ending(path: Path, option: str, what: str, name: str, shape: Sequence[int]) -> None:
    """Refuse a file that holds no arrays of images.

    Raises:
        ConfigError: with those that do.
    """
    if path.suffix.lower() not in ENDINGS:
        raise ConfigError(
            f"{option} {path}: {what} are {tuple(shape)}, which are no rows of a table; take .h5 or .npz, "
            f"with an array '{name}' ({', '.join(['rows', *map(str, shape)])})"
        )


def from_file(
    path: str | Path, trained: Trained, *, id_column: str | None = None, n: int | None = None, count: str | None = None
) -> Galaxies:
    """Contexts: rows of a table (``from_table``), or if they are or hold images, of the array ``context`` of a file.

    Args:
        path: of the array, .npz or .h5, with one ``(rows, *context)`` in the units of the training's contexts.
        trained: whose context it is.
        id_column: of the ids; by default ``id`` if there is one, else the row, from 0. Of an array without a column
            ``id`` the rows are the ids, as they are in what was drawn for it.
        n: events of each.
        count: or the column that says how many; with neither, 0.

    Raises:
        FileNotFoundError: if there is no such file.
        ConfigError: as ``from_table``.
    """
    if trained.context_names is not None:
        _check_classes(path, trained.context_names)
        return from_table(path, trained, id_column=id_column, n=n, count=count)
    if Path(path).suffix.lower() not in ENDINGS:
        trained.given_names()
    shape = tuple(trained.flow.context_shape)
    with open_rows(path) as inner:
        rows = WithArrays(inner.path, inner.source, inner, {CONTEXT: shape})
        id_column = None if id_column == "id" and not rows.has("id") else id_column
        why = f"the context {shape} of {trained.path.name}"
        [images], ids, counts, id_name = read_rows(rows, [CONTEXT], why, id_column=id_column, n=n, count=count)
    contexts = cast(as_numbers(images, CONTEXT, path), np.float32)
    lost = np.flatnonzero(~np.isfinite(contexts.reshape(len(ids), -1)).all(1))
    if len(lost):
        raise ConfigError(
            f"{path}: {len(lost)} of {len(ids)} contexts hold a value that is not finite in float32, the first is "
            f"{label(ids[lost[0]])}; leave them out, or fill them"
        )
    return Galaxies(ids, torch.from_numpy(contexts), counts, id_name)


def _check_classes(path: str | Path, names: Sequence[str]) -> None:
    """Say how classes are given, of a table that has them in one column: which number is which, nothing here knows."""
    with open_rows(path) as rows:
        if len(names) > 1 and rows.has("class") and not any(rows.has(name) for name in names):
            raise ConfigError(
                f"{path}: a column 'class' is not read; give the columns {names[0]} to {names[-1]} of the context, of "
                "classes 1 in a row's own and 0 in the others"
            )
