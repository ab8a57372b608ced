"""Arrays of a file by name, read when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np


class Lazy(Mapping[str, Any]):
    """Names that are known, arrays that are read on demand, and their shapes without reading where a file has them."""

    def __init__(
        self, names: Sequence[str], read: Callable[[str], Any], shape: Callable[[str], tuple[int, ...]] | None = None
    ) -> None:
        self._names, self._read = dict.fromkeys(names), read
        self.shape = shape or (lambda name: np.shape(read(name)))

    def __getitem__(self, name: str) -> Any:
        if name not in self._names:
            raise KeyError(name)
        return self._read(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names  # which a Mapping would find out by reading

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def shape_of(arrays: Mapping[str, Any], name: str) -> tuple[int, ...]:
    """The shape of an array, read no further than needed; that of a scalar for what cannot be read."""
    try:
        return arrays.shape(name) if isinstance(arrays, Lazy) else np.shape(arrays[name])
    except Exception:  # what a damaged file raises depends on the byte
        return ()
