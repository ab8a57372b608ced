"""Arrays in ``.npy`` and ``.npz`` files, of which numpy alone would say too little where they are damaged."""

from __future__ import annotations

import math
import os
import struct
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from flowzoo.data._lazy import Lazy
from flowzoo.registry import MissingDependency

Header = tuple[tuple[int, ...], bool, np.dtype]  # shape, order and dtype


def short(error: BaseException) -> str:
    """What an error of a library says, in part of a line."""
    return " ".join(str(error).split()).rstrip(".")[:200] or type(error).__name__


def unreadable(file: Path, error: BaseException) -> ValueError:
    """That a file is not what its ending says."""
    return ValueError(f"{file}: not a readable {file.suffix} file ({short(error)})")


def missing_reader(file: Path, package: str, extra: str) -> MissingDependency:
    """That the package which reads such a file is not there."""
    return MissingDependency(
        f"reading {file.suffix} files needs {package}, which is not installed: pip install 'flowzoo[{extra}]'"
    )


def load_npy(file: Path) -> np.ndarray:
    """The array of an ``.npy`` file, left on disk until it is asked for.

    Raises:
        ValueError: if it is none, or one of objects, which only pickle could read.
    """
    with file.open("rb") as handle:
        magic = handle.read(len(np.lib.format.MAGIC_PREFIX))
    if magic != np.lib.format.MAGIC_PREFIX:  # else numpy takes it for a pickle, and says how to load that
        raise ValueError(f"{file}: not a readable .npy file ({'it does not begin as one' if magic else 'it is empty'})")
    try:
        with file.open("rb") as handle:
            _no_objects(_npy_header(handle))
        array: np.ndarray = np.load(file, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # a damaged header is read as Python, and raises what that raises
        raise unreadable(file, error) from None
    return array


@contextmanager
def open_npz(file: Path) -> Iterator[Mapping[str, Any]]:
    """The members of an archive; those of objects, which only pickle could read, are refused when they are read.

    Raises:
        ValueError: if it is none, or its list of members is damaged.
    """
    # Opened here, because numpy leaves its own handle open when the archive turns out to be torn.
    with file.open("rb") as handle:
        magic = handle.read(len(np.lib.format.MAGIC_PREFIX))
        if magic == np.lib.format.MAGIC_PREFIX:
            raise ValueError(f"{file}: a single array (.npy), where an .npz archive of named arrays is needed")
        if magic[:2] != b"PK":  # else numpy takes it for a pickle, and says how to load that
            raise ValueError(f"{file}: not a readable .npz file ({'it begins as none' if magic else 'it is empty'})")
        handle.seek(0)
        try:
            archive = np.load(handle, allow_pickle=False)
            _check_members(archive.zip, handle)
        except Exception as error:
            raise unreadable(file, error) from None
        with archive:
            yield Lazy(archive.files, lambda name: _npz_array(archive, name), lambda name: _npz_shape(archive, name))


def _check_members(archive: zipfile.ZipFile, handle: BinaryIO) -> None:
    """Refuse a damaged list of members, of which one that is optional would not be missed."""
    members = archive.infolist()
    handle.seek(-22, os.SEEK_END)
    signature, count = struct.unpack("<4s6xH10x", handle.read(22))  # of the last record, if no comment follows it
    if signature == b"PK\5\6" and count not in (len(members), 0xFFFF):  # which means that it stands elsewhere
        raise ValueError(f"it says that it has {count} arrays, and {len(members)} are found")
    for member in members:
        archive.open(member).close()  # which compares its name with that in front of its bytes


def _npz_array(archive: Any, name: str) -> Any:
    """A member, if its header says as many bytes as it has: numpy makes room for all of them before it reads one."""
    info = archive.zip.NameToInfo.get(f"{name}.npy")
    if info is not None:
        with archive.zip.open(info) as member:
            if header := _no_objects(_npy_header(member)):
                shape, _, dtype = header
                needed = math.prod(shape) * dtype.itemsize
                if needed != (left := info.file_size - member.tell()):
                    raise ValueError(f"its header says {shape} of {dtype}, {needed} bytes; it has {left}")
    return archive[name]


def _no_objects(header: Header | None) -> Header | None:
    """The header, if it is not one of Python's objects, which only pickle could read."""
    if header and header[2].hasobject:
        raise ValueError("it holds Python objects; save numbers or text, as by array.astype(float) or astype(str)")
    return header


def _npy_header(member: Any) -> Header | None:
    """Shape, order and dtype; None of a version that is not known here."""
    headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    read = headers.get(np.lib.format.read_magic(member))
    return read(member) if read else None


def _npz_shape(archive: Any, name: str) -> tuple[int, ...]:
    """From the header of a member; arrays of objects, which only pickle could read, have none."""
    if f"{name}.npy" in archive.zip.NameToInfo:
        with archive.zip.open(f"{name}.npy") as member:
            if header := _npy_header(member):
                shape, _, dtype = header
                return () if dtype.hasobject else tuple(shape)
    return np.shape(archive[name])
