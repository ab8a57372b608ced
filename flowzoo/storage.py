"""Files that are there whole or not at all, under names that lead nowhere else."""

from __future__ import annotations

import errno
import os
import re
import tempfile
from pathlib import Path

# Faults of the disk and not of a model: full, over the quota, read-only, broken.
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
_MOST = 100  # bytes of a name; a file's name is made of several, and has 255


class UnsafeName(ValueError):
    """A name that would lead out of the folder that it is for."""


def plain_name(text: str, what: str, dots: bool = True) -> str:
    """The text, if it can be a part of the name of a file in a folder, and of nothing else.

    Letters and digits of any language and ``_ . + = @ , -`` and spaces; it begins with one of the first three and
    does not end in a dot or a space. So it is no path, no hidden file, no pattern of ``glob`` and no control sequence.

    Args:
        text: the name.
        what: it is of, for the message.
        dots: whether there may be some, in a name that is not joined to others by a dot.

    Raises:
        UnsafeName: if not.
    """
    fits = isinstance(text, str) and re.fullmatch(r"\w(?:[\w .+=@,-]*[\w+=@,-])?", text)
    if not fits or ".." in text or (not dots and "." in text) or len(text.encode(errors="replace")) > _MOST:
        raise UnsafeName(
            f"{what} {ascii(text)[:80]} cannot be part of a file's name: expected at most {_MOST} letters, digits and "
            f"{'_ . + = @ , -' if dots else '_ + = @ , -'}, a letter or digit first"
        )
    return text


def inside(folder: Path, *names: str) -> Path:
    """``folder / name / ...``, which is below the folder even where some of it is a link.

    Raises:
        UnsafeName: if it is not.
    """
    path = folder.joinpath(*names)
    try:
        real, root = path.resolve(), folder.resolve()
    except (OSError, ValueError, RuntimeError) as error:  # a NUL, or links that go in a circle
        raise UnsafeName(f"{ascii(str(path))[:200]} is no path ({' '.join(str(error).split())})") from None
    if real == root or not real.is_relative_to(root):
        raise UnsafeName(f"{path} leads out of {folder}, to {real}; nothing is written there")
    return path


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all: temporary file, fsync, rename, fsync of the folder."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
