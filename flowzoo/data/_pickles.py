"""Pickles of plain arrays, read without running anything that a file brings with it."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


class RefusedPickle(ValueError):
    """A pickle asks for something that plain arrays do not need."""


def _encode(text: str, encoding: str = "utf-8") -> bytes:
    """What Python 3 writes bytes with at protocol 2: latin1 and no other codec, some of which unpack archives."""
    if encoding != "latin1":
        raise RefusedPickle(f"asks for the codec '{encoding}', which plain arrays do not need")
    return text.encode("latin1")


# Taken from an array, because the module that it lives in has another name from numpy 2 on.
_reconstruct = np.zeros(0).__reduce__()[0]

#: everything that an array is pickled with, by either name of numpy's inner module; all else is refused
ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,  # type: ignore[dict-item]
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,  # type: ignore[dict-item]
    ("_codecs", "encode"): _encode,
}


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise RefusedPickle(f"asks for {module}.{name}, which plain arrays do not need, and is not read")
        return ALLOWED[module, name]


def read_pickle(file: Path) -> Any:
    """Containers, numbers, text and numpy arrays from a pickle of Python 2 or 3; text of Python 2 comes as bytes.

    The list of what may be called is the documentation's advice for data that is not trusted
    (docs.python.org/3/library/pickle.html, "Restricting Globals").

    Raises:
        FileNotFoundError: if there is no such file.
        RefusedPickle: if it asks for anything else, by name, before anything of it has run.
        ValueError: if it is no pickle, or a torn one.
    """
    with file.open("rb") as handle:
        try:
            return _Plain(handle, encoding="bytes").load()
        except RefusedPickle as error:
            raise RefusedPickle(f"{file}: {error}") from None
        except Exception as error:  # what a torn pickle raises depends on the byte at which it is torn
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise ValueError(f"{file}: not a readable pickle ({reason})") from None
