"""The command line. Nothing heavy is imported before a command runs, so that ``--help`` answers at once."""

from __future__ import annotations

import os
import sys

import typer

from flowzoo import preempt
from flowzoo.cli._common import INTERRUPTED, USAGE
from flowzoo.cli.drawing import density, sample
from flowzoo.cli.embedding import embed
from flowzoo.cli.inferring import calibrate, infer
from flowzoo.cli.lists import datasets, metrics, models, options
from flowzoo.cli.reporting import report
from flowzoo.cli.training import bench, evaluate, fit
from flowzoo.cli.tuning import tune

__all__ = ["app", "complaint", "main"]

app = typer.Typer(
    help="Which conditional normalizing flow to trust on your own data.",
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    *(bench, report, fit, tune, evaluate, infer, calibrate, sample, density, embed),
    *(models, datasets, metrics, options),
):
    app.command()(command)


def main() -> None:
    """Entry point: what a user did wrong is one line on stderr and exit status 2, not a traceback."""
    preempt.ignore_at_exit()
    try:
        status = app(sys.argv[1:] or ["--help"], standalone_mode=False) or 0
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    except preempt.Preempted:
        if os.environ.get("RANK", "0") == "0":  # of the processes that torchrun started the first says it
            typer.echo(f"flowzoo: {preempt.LINE}", err=True)
        sys.exit(preempt.STATUS)
    except Exception as error:
        text = complaint(error)
        if text is None or os.environ.get("FLOWZOO_TRACEBACK"):
            raise
        # Names out of files and of users are in it: what the terminal would act on is shown as a mark.
        line = "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))
        typer.echo(f"flowzoo: {line}", err=True)
        sys.exit(USAGE)
    if status == INTERRUPTED:
        typer.echo("interrupted; the same command goes on from here", err=True)
    sys.exit(status)


def complaint(error: Exception) -> str | None:
    """What to tell a person of an error that is no fault of ours, or None if it is one."""
    if hasattr(error, "format_message"):  # click's own, such as an unknown option
        command = getattr(getattr(error, "ctx", None), "command", None)
        known = getattr(command, "commands", None) or [p.opts[0] for p in getattr(command, "params", [])]
        text = str(error.format_message()).rstrip(".")
        return f"{text}; there are {', '.join(known)}" if text.startswith("No such") else text
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return f"out of memory ({error}); a smaller train.batch_size or model takes less"
    # Errors of options, files and run directories are of classes of ours, or of the operating system.
    if isinstance(error, OSError) or type(error).__module__.startswith("flowzoo."):
        return str(error)
    return None
