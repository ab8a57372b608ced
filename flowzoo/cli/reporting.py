"""``flowzoo report``, and what a bench says in the end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flowzoo.cli._common import FAILED

if TYPE_CHECKING:
    from rich.console import Console

    from flowzoo.report import Table, Verdict


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run directories; several are put side by side.")],
    out: Annotated[Path | None, typer.Option(help="Where it goes; of one run by default into it.")] = None,
) -> None:
    """Write the tables, the figures and report.html of finished runs anew; nothing is trained."""
    from rich.console import Console

    from flowzoo.harness.reporting import report as write

    found, faults = write(runs, out)
    show(found.table, found.verdicts, Console())
    typer.echo(f"{found.page} has this, the figures and every option.")
    for fault in faults:
        typer.echo(fault, err=True)
    if faults:
        raise typer.Exit(FAILED)


def show(table: Table, verdicts: Sequence[Verdict], console: Console) -> None:
    """Print the tables and what they mean."""
    from rich.text import Text

    from flowzoo.report import to_terminal

    console.print(to_terminal(table))
    for verdict in verdicts:
        head = f"{verdict.dataset}: take {verdict.take}" if verdict.take else verdict.dataset
        console.print(Text(f"\n{head}", style="bold"))
        for line in verdict.lines:
            console.print(Text(f"  - {line}."), soft_wrap=True)
    console.print()
