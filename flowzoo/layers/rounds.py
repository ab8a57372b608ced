"""Loops that end when a tensor says so, and the same loops again without asking it.

To ask a tensor makes a GPU's host wait, and a CUDA graph cannot. But the loops of an inverse take about as many rounds
for one batch as for the next. So they are counted once, and repeated with some rounds to spare; in the end flags say
whether that was enough.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

SPARE = 2  # rounds more than were counted: another batch has other extremes


def until(most: int) -> Callable[[Tensor], bool]:
    """What a loop of at most so many rounds asks in each whether it may end, by a flag ``()`` that must say yes.

    A round more than needed must do no harm.
    """
    rounds = _ACTIVE.get()
    return bool if rounds is None else rounds._loop(most)


class Rounds:
    """How many rounds the loops of a calculation took, one after another.

    Args:
        counts: of each loop, filled by ``counted``.
    """

    def __init__(self) -> None:
        self.counts: list[int] = []
        self._ended: list[bool] = []
        self._flags: list[Tensor] | None = None
        self._next = 0

    @property
    def all_ended(self) -> bool:
        """Whether every loop ended because its flag said so: only then can they be repeated."""
        return all(self._ended)

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Loops inside are counted; what was counted before is a lower bound."""
        before, self.counts, self._ended, self._flags = self.counts, [], [], None
        with self._active():
            yield
        if len(before) == len(self.counts):
            self.counts = [max(pair) for pair in zip(before, self.counts, strict=True)]

    @contextmanager
    def repeated(self) -> Iterator[list[Tensor]]:
        """Loops inside take their counted rounds and some to spare; the list fills with what each said in the end."""
        self._next, self._flags = 0, []
        with self._active():
            yield self._flags

    @contextmanager
    def _active(self) -> Iterator[None]:
        token = _ACTIVE.set(self)
        try:
            yield
        finally:
            _ACTIVE.reset(token)

    def _loop(self, most: int) -> Callable[[Tensor], bool]:
        if self._flags is not None:
            return self._again(most, self._flags)
        own = len(self.counts)
        self.counts.append(0)
        self._ended.append(False)

        def ask(flag: Tensor) -> bool:
            self.counts[own] += 1
            self._ended[own] = bool(flag)
            return self._ended[own]

        return ask

    def _again(self, most: int, flags: list[Tensor]) -> Callable[[Tensor], bool]:
        left = min(self.counts[self._next] + SPARE, most)
        self._next += 1

        def ask(flag: Tensor) -> bool:
            nonlocal left
            left -= 1
            if left:
                return False
            flags.append(flag)
            return True

        return ask


_ACTIVE: ContextVar[Rounds | None] = ContextVar("rounds", default=None)
