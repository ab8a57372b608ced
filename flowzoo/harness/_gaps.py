"""Values that mean "not measured" in the file of a person, as the loader of the training took them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from flowzoo.data._missing import flag_of, is_missing
from flowzoo.data._options import sentinels
from flowzoo.harness._rows import Rows, open_rows
from flowzoo.harness._trained import Trained


def declared(meta: Mapping[str, Any]) -> tuple[float | str, ...]:
    """The values that mean missing in the data that a flow was trained on (``data.missing`` of a table)."""
    data = meta.get("data", {})
    return sentinels(data.get("missing")) if data.get("name") == "table" else ()


def in_words(missing: Sequence[float | str]) -> str:
    """That these count as values that are not finite, for a message; empty of none."""
    values = ", ".join(f"{float(value):g}" for value in missing)
    return f" ({values} counts as such: data.missing of the training)" if values else ""


@dataclass(frozen=True)
class Gaps:
    """Which columns of a table may have gaps, and what they are filled with.

    Args:
        missing: values that mean missing.
        columns: in which they do.
        owners: flag to the column whose gaps it says.
        fills: column to what its gaps are filled with; others hold NaN there.
    """

    missing: tuple[float | str, ...] = ()
    columns: frozenset[str] = frozenset()
    owners: Mapping[str, str] = field(default_factory=dict)
    fills: Mapping[str, float] = field(default_factory=dict)

    def read(self, names: Sequence[str], has: Callable[[str], bool]) -> list[str]:
        """The columns of a file that these are made of; ``has`` says whether it has one."""
        wanted = [part for name in names for part in (name, self.owners.get(name, name))]
        return [name for name in dict.fromkeys(wanted) if name not in self.owners or has(name)]

    def made(self, name: str, found: Mapping[str, np.ndarray]) -> np.ndarray:
        """A column, of those that ``read`` names."""
        owner = self.owners.get(name, name)
        column = np.asarray(found[owner])
        if owner not in self.columns or column.dtype.kind not in "biuf":
            return np.asarray(found[name])
        hole = is_missing(column, self.missing)
        if name in self.owners:
            return np.maximum(hole, found[name]) if name in found else hole.astype(float)
        return np.where(hole, self.fills.get(name, np.nan), column.astype(np.float64))


def gaps_of(meta: Mapping[str, Any], names: Sequence[str]) -> Gaps:
    """The gaps that columns of a file may have, as a flow's file says of them; none where nothing was declared.

    Args:
        meta: of the flow.
        names: of its columns; of those that had gaps in the training, ``<name> missing`` too.
    """
    missing = declared(meta)
    if not missing:
        return Gaps()
    known = meta.get("columns", {}).get("fills", {})
    own = {flag_of(label): label for label in known if label in names and flag_of(label) in names}
    return Gaps(missing, frozenset(names) - own.keys(), own, {label: known[label] for label in own.values()})


@contextmanager
def open_as_trained_on(path: str | Path, trained: Trained) -> Iterator[Rows]:
    """A table whose columns of the flow hold NaN where they are missing.

    A context that had gaps in the training is filled as it was there, and the column ``<name> missing`` that says where
    is made, if the file does not have it.

    Raises:
        FileNotFoundError, ConfigError, MissingDependency: as ``open_rows``.
    """
    with open_rows(path) as rows:
        gaps = gaps_of(trained.meta, (*trained.names, *trained.written_names))
        yield _Filled(rows.path, rows.source, inner=rows, gaps=gaps) if gaps.missing else rows


@dataclass(frozen=True)
class _Filled(Rows):
    """Another table, whose missing values are NaN, or filled and flagged."""

    inner: Rows
    gaps: Gaps

    def names(self) -> list[str]:
        return self.inner.names()

    def has(self, name: str) -> bool:
        return self.inner.has(name) or (name in self.gaps.owners and self.inner.has(self.gaps.owners[name]))

    def count(self, names: Sequence[str]) -> int:
        return self.inner.count(self.gaps.read(names, self.inner.has))

    def dtype(self, name: str) -> np.dtype[Any]:
        return self.inner.dtype(name)

    def parts(self, names: Sequence[str], size: int) -> Iterator[list[np.ndarray]]:
        read = self.gaps.read(names, self.inner.has)
        for part in self.inner.parts(read, size):
            found = dict(zip(read, part, strict=True))
            yield [self.gaps.made(name, found) for name in names]
