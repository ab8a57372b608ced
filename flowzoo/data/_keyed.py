"""An array of a file by one text: ``maps.npy``, ``data.npz``, or ``data.npz:maps`` for one of several."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flowzoo.config import ConfigError
from flowzoo.data._lazy import shape_of
from flowzoo.data._numpy_files import load_npy, open_npz, short
from flowzoo.data._readers import expanded


class Keyed(NamedTuple):
    """A file, and the key of an array in it, empty where it needs none."""

    path: Path
    key: str = ""

    @classmethod
    def of(cls, text: str) -> Keyed:
        """Read a text.

        >>> Keyed.of("sky.npz:maps").key, Keyed.of("a:b.npy").path.name
        ('maps', 'a:b.npy')
        """
        match = re.fullmatch(r"(.+\.npz):([^/\\]+)", text)
        path, key = (match[1], match[2]) if match and not expanded(text).is_file() else (text, "")
        return cls(expanded(path), key)

    def read(self, ndim: int) -> np.ndarray:
        """The array; that of an ``.npy`` stays on disk until it is asked for. Without a key, the only one of ``ndim``.

        Raises:
            ConfigError: if there is no such array, or the choice is open.
            ValueError: if the file cannot be read.
        """
        if self.path.suffix.lower() != ".npz":
            return load_npy(self.path)
        with open_npz(self.path) as arrays:
            key = self.key or self._only(arrays, ndim)
            if key not in arrays:
                raise ConfigError(f"{self.path} has no array '{key}'; it has {', '.join(arrays) or 'none'}")
            try:
                return np.asarray(arrays[key])
            except Exception as error:  # what a damaged file raises depends on the byte
                raise ValueError(f"{self.path}: '{key}' cannot be read ({short(error)})") from None

    def _only(self, arrays: Mapping[str, Any], ndim: int) -> str:
        fitting = [name for name in arrays if len(shape_of(arrays, name)) == ndim]
        if len(fitting) != 1:
            listing = ", ".join(f"{name} {shape_of(arrays, name)}" for name in arrays) or "none"
            raise ConfigError(f"{self.path}: say which array, as {self.path.name}:NAME; it has {listing}")
        return fitting[0]
