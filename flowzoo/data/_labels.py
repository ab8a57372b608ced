"""Names of columns in a message: runs of one array shortened."""

from __future__ import annotations

import re
from collections.abc import Iterable

_FEWEST = 3  # columns of an array, from which they are shown as from .. to ..
_MOST = 20  # names in a message


def shortened(names: Iterable[str]) -> str:
    """Names for a message; those of one array that follow each other as the first and the last of them.

    >>> shortened(["z", *(f"flux[{i}]" for i in range(32)), "mag[0]", "mag[1]"]), shortened([])
    ('z, flux[0] to flux[31], mag[0], mag[1]', 'none')
    """
    runs: list[list[str]] = []
    last: tuple[str, int] | None = None
    for name in names:
        match = re.fullmatch(r"(.+)\[(\d+)\]", name)
        here = (match[1], int(match[2])) if match else None
        if here is not None and last is not None and here == (last[0], last[1] + 1):
            runs[-1].append(name)
        else:
            runs.append([name])
        last = here
    texts = [text for run in runs for text in ([f"{run[0]} to {run[-1]}"] if len(run) >= _FEWEST else run)]
    more = f" and {len(texts) - _MOST} more" if len(texts) > _MOST else ""
    return (", ".join(texts[:_MOST]) or "none") + more
