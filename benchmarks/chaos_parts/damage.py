"""Ways to damage a file, by its bytes or by what it holds; each from a seeded source."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np

Bytes = Callable[[bytes, random.Random], bytes]
Arrays = dict[str, np.ndarray]


def _flip(content: bytes, source: random.Random, count: int = 1) -> bytes:
    changed = bytearray(content)
    for _ in range(count):
        changed[source.randrange(len(changed))] ^= 1 << source.randrange(8)
    return bytes(changed)


def _flip_head(content: bytes, source: random.Random) -> bytes:
    """In the first bytes, where headers are."""
    head = min(len(content), 160)
    return _flip(content[:head], source) + content[head:]


def _flip_tail(content: bytes, source: random.Random) -> bytes:
    """In the last bytes, where archives have their list of members."""
    tail = max(0, len(content) - 300)
    return content[:tail] + _flip(content[tail:], source)


def _block(content: bytes, source: random.Random) -> tuple[int, int]:
    start = source.randrange(len(content))
    return start, min(len(content), start + source.choice((1, 7, 64, 512, 4096)))


def _overwrite(content: bytes, source: random.Random) -> bytes:
    start, end = _block(content, source)
    return content[:start] + source.randbytes(end - start) + content[end:]


def _zeros(content: bytes, source: random.Random) -> bytes:
    """A page that the disk never wrote."""
    start, end = _block(content, source)
    return content[:start] + bytes(end - start) + content[end:]


def _cut_out(content: bytes, source: random.Random) -> bytes:
    start, end = _block(content, source)
    return content[:start] + content[end:]


def _twice(content: bytes, source: random.Random) -> bytes:
    start, end = _block(content, source)
    return content[:end] + content[start:]


HEADS = (
    b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (3,), }" + b" " * 60,
    b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (9999999999, 99), }" + b" " * 50,
    b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (3,), }" + b" " * 61,
    b"PK\x03\x04\x14\x00\x00\x00\x00\x00",
    b"\x89HDF\r\n\x1a\n",
    b"PAR1",
    b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
    b"\x80\x02}q\x00(U\x04dataq\x01",
    b"a,b,c\n1,2,3\n",
    b"\x00\x00\x08\x03\xff\xff\xff\xff",
    b"\xef\xbb\xbf",
)

#: by name; each takes the bytes of a good file and gives those of a bad one (or, by chance, of one as good)
BYTES: dict[str, Bytes] = {
    "emptied": lambda content, source: b"",
    "truncated": lambda content, source: content[: source.randrange(len(content))],
    "truncated at its end": lambda content, source: content[: -source.randrange(1, min(len(content), 33))],
    "bit flipped": _flip,
    "bit of its head flipped": _flip_head,
    "bit of its tail flipped": _flip_tail,
    "many bits flipped": lambda content, source: _flip(content, source, max(2, len(content) // 50)),
    "block overwritten": _overwrite,
    "block zeroed": _zeros,
    "block cut out": _cut_out,
    "block twice": _twice,
    "all random": lambda content, source: source.randbytes(len(content)),
    "head of another format": lambda content, source: (head := source.choice(HEADS)) + content[len(head) :],
    "bytes added": lambda content, source: content + source.randbytes(source.randrange(1, 65)),
}


def _chosen(arrays: Arrays, source: random.Random, kinds: str = "f") -> str:
    return source.choice([name for name in arrays if arrays[name].dtype.kind in kinds])


def _put(value: float) -> Callable[[Arrays, random.Random], Arrays]:
    def change(arrays: Arrays, source: random.Random) -> Arrays:
        name = _chosen(arrays, source)
        array = arrays[name].copy()
        array.reshape(-1)[source.randrange(array.size)] = value
        return arrays | {name: array}

    return change


def _as(kind: str) -> Callable[[Arrays, random.Random], Arrays]:
    def change(arrays: Arrays, source: random.Random) -> Arrays:
        name = _chosen(arrays, source)
        array = arrays[name]
        as_text = np.array([f"v{i}" for i in range(array.size)]).reshape(array.shape)
        return arrays | {name: as_text if kind == "U" else array.astype(kind)}

    return change


def _shorter(arrays: Arrays, source: random.Random) -> Arrays:
    name = _chosen(arrays, source, "fiu")
    return arrays | {name: arrays[name][:-1]}


def _flat(arrays: Arrays, source: random.Random) -> Arrays:
    name = _chosen(arrays, source)
    return arrays | {name: np.concatenate([arrays[name].reshape(-1)] * 2)}


def _scalar(arrays: Arrays, source: random.Random) -> Arrays:
    name = _chosen(arrays, source)
    return arrays | {name: arrays[name].reshape(-1)[0].reshape(())}


def _without_rows(arrays: Arrays, source: random.Random) -> Arrays:
    return {name: array[:0] for name, array in arrays.items()}


def _without_array(arrays: Arrays, source: random.Random) -> Arrays:
    return {name: array for name, array in arrays.items() if name != _chosen(arrays, random.Random(0), "fiu")}


#: by name; each takes the arrays of a file. None of these may be loaded as if it were data.
CONTENT: dict[str, Callable[[Arrays, random.Random], Arrays]] = {
    "NaN": _put(np.nan),
    "infinity": _put(np.inf),
    "-infinity": _put(-np.inf),
    "objects": _as("O"),
    "complex numbers": _as("c16"),
    "text": _as("U"),
    "a row short": _shorter,
    "other shape": _flat,
    "scalar": _scalar,
    "no rows": _without_rows,
    "array missing": _without_array,
}


def every_region(content: bytes, regions: int, source: random.Random) -> Iterator[tuple[str, bytes]]:
    """Emptied, cut at the end of each of so many regions, and a bit of each region flipped."""
    yield "emptied", b""
    edges = [len(content) * i // regions for i in range(regions + 1)]
    for start, end in pairwise(edges):
        if end > start:
            yield f"cut at byte {start}", content[:start]
            place = source.randrange(start, end)
            flipped = bytes([content[place] ^ 1 << source.randrange(8)])
            yield f"bit of byte {place} flipped", content[:place] + flipped + content[place + 1 :]
