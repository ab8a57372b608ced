"""A progress bar for a person at a terminal, and silence for a log file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Update(Protocol):
    """Called with the step reached and a few words to show beside the bar."""

    def __call__(self, step: int, text: str) -> None:
        """Move the bar."""
        ...


_silent = False


def silence() -> None:
    """Show no bar from now on but one that is forced: processes that share a terminal would draw over one another."""
    global _silent
    _silent = True


@contextmanager
def bar(label: str, total: int, *, shown: bool | None = None) -> Iterator[Update]:
    """Show a bar on stderr while the block runs.

    Args:
        label: what is going on.
        total: number of steps.
        shown: force it on or off; by default it is shown if stderr is a terminal.
    """
    if not (sys.stderr.isatty() and not _silent if shown is None else shown):
        yield lambda step, text: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[text]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(label, total=total, text="")
        yield lambda step, text: progress.update(task, completed=step, text=text)
