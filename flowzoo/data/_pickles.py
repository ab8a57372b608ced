"""Pickles of plain arrays, read without running anything that a file brings with it."""

from __future__ import annotations

import pickle
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from flowzoo.data._numpy_files import short


class RefusedPickle(ValueError):
    """A pickle asks for something that plain arrays do not need."""


# Nothing of numpy's is handed to a pickle: numpy.ndarray would read bytes as pointers if asked to, and the state of a
# real array or dtype can be set to what ends in a segmentation fault. What is handed out are instances without a
# dictionary, so that a pickle can neither make more of them nor set anything on them.


class _Encode:
    """What Python 3 writes bytes with at protocol 2: latin1 and no other codec, some of which unpack archives."""

    __slots__ = ()

    def __call__(self, text: str, encoding: str = "utf-8") -> bytes:
        if encoding != "latin1":
            raise RefusedPickle(f"asks for the codec {encoding!r:.40}, which plain arrays do not need")
        return str.encode(text, "latin1")


class _Ndarray:
    """The class of an array, which a plain one names and never calls."""

    __slots__ = ()

    def __call__(self, *arguments: Any) -> None:
        raise RefusedPickle("calls numpy.ndarray, which plain arrays do not need")


class _Dtype:
    """Kind, size and order of the bytes of numbers."""

    __slots__ = ("name", "order")

    def __init__(self, name: str) -> None:
        self.name, self.order = name, "="

    def __setstate__(self, state: Any) -> None:
        order = _text(state[1]) if isinstance(state, tuple) and len(state) == 8 else None
        if order not in ("<", ">", "|") or (state[0], *state[2:]) != (3, None, None, None, -1, -1, 0):
            raise RefusedPickle("has a dtype in a state that plain numbers do not need")
        self.order = order

    @property
    def itemsize(self) -> int:
        return int(self.name[1:])


class _MakeDtype:
    __slots__ = ()

    def __call__(self, name: Any, *flags: Any) -> _Dtype:
        text = _text(name)
        if text not in NUMBERS:
            raise RefusedPickle(f"asks for the dtype {text!r:.40}; plain arrays are of {', '.join(NUMBERS)}")
        return _Dtype(text)


class _Array:
    """An array to be: its bytes are checked against its shape when they come, and read when all is there."""

    __slots__ = ("_state",)
    __hash__ = None  # type: ignore[assignment]  # as arrays

    def __init__(self) -> None:
        self._state: tuple[tuple[int, ...], _Dtype, bool, bytes] | None = None

    def __setstate__(self, state: Any) -> None:
        version, shape, dtype, fortran, content = state if isinstance(state, tuple) and len(state) == 5 else (None,) * 5
        if (
            type(version) is not int
            or version != 1
            or not isinstance(shape, tuple)
            or len(shape) > 32
            or not all(type(size) is int and size >= 0 for size in shape)
            or not isinstance(dtype, _Dtype)
            or type(fortran) not in (bool, int)
            or type(content) is not bytes
        ):
            raise RefusedPickle("has an array in a state that plain arrays do not have")
        needed = prod(shape) * dtype.itemsize
        if len(content) != needed:
            raise RefusedPickle(f"has an array of shape {shape!s:.80} and {len(content)} bytes; it needs {needed}")
        self._state = shape, dtype, bool(fortran), content

    def array(self) -> np.ndarray:
        """The numbers, in memory of their own."""
        if self._state is None:
            raise RefusedPickle("has an array without its content")
        shape, dtype, fortran, content = self._state
        # A truth value is a byte that is 0 or 1, and a file may have others.
        kind = "u1" if dtype.name == "b1" else dtype.order + dtype.name
        values = np.frombuffer(content, kind).reshape(shape, order="F" if fortran else "C")
        return values.astype(bool) if dtype.name == "b1" else values.copy(order="K")


class _Reconstruct:
    __slots__ = ()

    def __call__(self, kind: Any, *empty: Any) -> _Array:
        if not isinstance(kind, _Ndarray):
            raise RefusedPickle("makes an array of another class than numpy.ndarray")
        return _Array()


NUMBERS = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")

#: stands for everything that an array is pickled with, by either name of numpy's inner module; all else is refused
ALLOWED: dict[tuple[str, str], object] = {
    ("numpy", "ndarray"): _Ndarray(),
    ("numpy", "dtype"): _MakeDtype(),
    ("numpy.core.multiarray", "_reconstruct"): _Reconstruct(),
    ("numpy._core.multiarray", "_reconstruct"): _Reconstruct(),
    ("_codecs", "encode"): _Encode(),
}


def _text(value: Any) -> Any:
    """Text of Python 2 comes as bytes."""
    return value.decode("latin1") if isinstance(value, bytes) else value


def _finished(value: Any, done: dict[int, tuple[Any, Any]]) -> Any:
    """With arrays in place of what was to become them; lists and dictionaries are changed as they are.

    ``done`` maps the id of a container to itself and to what it became: one that stands in several places, or in
    itself, is gone through once.
    """
    if isinstance(value, _Array):
        return value.array()
    if not isinstance(value, (dict, list, tuple)):
        return value
    if id(value) in done:
        return done[id(value)][1]
    done[id(value)] = value, value
    if isinstance(value, dict):
        for key in value:
            value[key] = _finished(value[key], done)
    elif isinstance(value, list):
        value[:] = [_finished(item, done) for item in value]
    else:
        done[id(value)] = value, tuple(_finished(item, done) for item in value)
    return done[id(value)][1]


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            asked = " ".join(f"{module}.{name}".split())[:100]  # a name may have line breaks in it
            raise RefusedPickle(f"asks for {asked}, which plain arrays do not need, and is not read")
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
            return _finished(_Plain(handle, encoding="bytes").load(), {})
        except RefusedPickle as error:
            raise RefusedPickle(f"{file}: {error}") from None
        except Exception as error:  # what a torn pickle raises depends on the byte at which it is torn
            raise ValueError(f"{file}: not a readable pickle ({short(error)})") from None
