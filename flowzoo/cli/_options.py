"""Options of commands that take a trained flow, and how these end when they are stopped."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from flowzoo.cli._common import INTERRUPTED

Run = Annotated[Path, typer.Argument(help="A flow that fit or bench wrote, or the directory of a bench.")]
Model = Annotated[
    str | None, typer.Option(help="Of a directory, the flow of this model.", show_default="that of its verdict")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
Threads = Annotated[int, typer.Option(help="Of torch on the CPU.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")]


@contextmanager
def until_stopped() -> Iterator[None]:
    """Ctrl-C ends the command with nothing written: unlike a bench, it does not go on from there."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("interrupted; nothing was written", err=True)
        sys.exit(INTERRUPTED)
