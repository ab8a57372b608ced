"""Values that mean "not measured" in a file that is scored or drawn at, as the loader of the training took them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flowzoo.data._missing import flag_of, is_missing
from flowzoo.data._options import sentinels
from flowzoo.harness._rows import Rows, open_rows
from flowzoo.harness._trained import Trained


def declared(trained: Trained) -> tuple[float | str, ...]:
    """The values that mean missing in the data that a flow was trained on (``data.missing`` of a table)."""
    data = trained.meta.get("data", {})
    return sentinels(data.get("missing")) if data.get("name") == "table" else ()


def in_words(trained: Trained) -> str:
    """What counts as a value that is not finite, for a message; empty where nothing was declared."""
    values = ", ".join(f"{float(value):g}" for value in declared(trained))
    return f" ({values} counts as such: data.missing of the training)" if values else ""


@contextmanager
def open_as_trained_on(path: str | Path, trained: Trained) -> Iterator[Rows]:
    """A table whose columns of the flow hold NaN where they are missing.

    A context that had gaps in the training is filled as it was there, and the column ``<name> missing`` that says where
    is made, if the file does not have it.

    Raises:
        FileNotFoundError, ConfigError, MissingDependency: as ``open_rows``.
    """
    with open_rows(path) as rows:
        missing = declared(trained)
        names = trained.written_names
        known = trained.meta.get("columns", {}).get("fills", {})
        own = {flag_of(label): label for label in known if label in names and flag_of(label) in names}
        yield (
            _Gaps(
                rows.path,
                rows.source,
                inner=rows,
                missing=missing,
                columns=frozenset((*trained.names, *names)) - own.keys(),
                owners=own,
                fills={label: known[label] for label in own.values()},
            )
            if missing
            else rows
        )


@dataclass(frozen=True)
class _Gaps(Rows):
    """Another table, whose missing values are NaN, or filled and flagged.

    Args:
        inner: the table.
        missing: values that mean missing.
        columns: in which they do.
        owners: flag to the column whose gaps it says.
        fills: column to what its gaps are filled with.
    """

    inner: Rows
    missing: tuple[float | str, ...]
    columns: frozenset[str]
    owners: Mapping[str, str]
    fills: Mapping[str, float]

    def names(self) -> list[str]:
        return self.inner.names()

    def has(self, name: str) -> bool:
        return self.inner.has(name) or (name in self.owners and self.inner.has(self.owners[name]))

    def count(self, names: Sequence[str]) -> int:
        return self.inner.count(self._read(names))

    def dtype(self, name: str) -> np.dtype[Any]:
        return self.inner.dtype(name)

    def parts(self, names: Sequence[str], size: int) -> Iterator[list[np.ndarray]]:
        read = self._read(names)
        for part in self.inner.parts(read, size):
            found = dict(zip(read, part, strict=True))
            yield [self._made(name, found) for name in names]

    def _read(self, names: Sequence[str]) -> list[str]:
        """The columns of the file that these are made of."""
        wanted = [part for name in names for part in (name, self.owners.get(name, name))]
        return [name for name in dict.fromkeys(wanted) if name not in self.owners or self.inner.has(name)]

    def _made(self, name: str, found: Mapping[str, np.ndarray]) -> np.ndarray:
        owner = self.owners.get(name, name)
        column = np.asarray(found[owner])
        if owner not in self.columns or column.dtype.kind not in "biuf":
            return np.asarray(found[name])
        hole = is_missing(column, self.missing)
        if name in self.owners:
            return np.maximum(hole, found[name]) if name in found else hole.astype(float)
        return np.where(hole, self.fills.get(name, np.nan), column.astype(np.float64))
