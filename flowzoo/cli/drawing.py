"""``flowzoo sample`` and ``density``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flowzoo.cli._common import print_table
from flowzoo.cli._options import Device, Model, Overwrite, Run, Threads, until_stopped

Chunk = Annotated[int, typer.Option(help="Rows at a time; the result does not depend on it.")]
SHOWN = 30  # contexts whose means are printed
CONTEXTS = ("--contexts", "--galaxies")  # the latter as it was called first, of catalogues


def sample(
    run: Run,
    out: Annotated[
        Path,
        typer.Option(help="File to write: .h5 or .parquet in bounded memory, .csv, .npz (whole); images .h5 or .npz."),
    ],
    galaxies: Annotated[
        Path | None,
        typer.Option(
            *CONTEXTS,
            help="Table with the columns of the context, a row for each (each galaxy, say); of images .npz or .h5.",
            show_default="those of the data that the flow was trained on",
        ),
    ] = None,
    n: Annotated[int | None, typer.Option("--n", help="Events to draw for each context.")] = None,
    count: Annotated[str | None, typer.Option(help="Or the column of --contexts that says how many.")] = None,
    part: Annotated[str, typer.Option(help="Without --contexts: test, validation, train or all.")] = "test",
    model: Model = None,
    id_column: Annotated[
        str | None, typer.Option("--id", help="The column of ids.", show_default="id, or the number of the row")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the noise.")] = 0,
    chunk: Chunk = 2**16,
    device: Device = "auto",
    threads: Threads = 1,
    overwrite: Overwrite = False,
) -> None:
    """Draw events for contexts (particles or maps), of a table or of the training's data, and write them."""
    from flowzoo.harness.drawing import sample_catalogue

    with until_stopped():
        done = sample_catalogue(
            run,
            out,
            galaxies=galaxies,
            n=n,
            count=count,
            part=part,
            model=model,
            id_column=id_column,
            seed=seed,
            chunk=chunk,
            device=device,
            threads=threads,
            overwrite=overwrite,
            warn=_warn,
        )
    typer.echo(done.flow)
    typer.echo(f"{done.path}: {done.rows} events for {done.galaxies} context{'s' * (done.galaxies != 1)}")


def density(
    run: Run,
    file: Annotated[Path, typer.Option(help="Events: .h5, .parquet, .npz or .csv, columns by name; images: array x.")],
    out: Annotated[Path, typer.Option(help="Table to write: .csv, .npz, .h5 or .parquet.")],
    galaxies: Annotated[
        Path | None,
        typer.Option(
            *CONTEXTS, help="Table of contexts, joined by id.", show_default="the contexts are columns of --file"
        ),
    ] = None,
    model: Model = None,
    id_column: Annotated[
        str | None, typer.Option("--id", help="The column of ids.", show_default="id, if there is one")
    ] = None,
    chunk: Chunk = 2**16,
    device: Device = "auto",
    threads: Threads = 1,
    overwrite: Overwrite = False,
) -> None:
    """Write log p of each event of a file, in nats, over the units of its columns."""
    from flowzoo.harness.scoring import score_file

    with until_stopped():
        done = score_file(
            run,
            file,
            out,
            galaxies=galaxies,
            model=model,
            id_column=id_column,
            chunk=chunk,
            device=device,
            threads=threads,
            overwrite=overwrite,
            warn=_warn,
        )
    typer.echo(done.flow)
    if done.galaxies:
        shown = list(done.galaxies.items())[:SHOWN]
        print_table(["context", "events", "mean log p (nats)"], [[k, str(n), f"{m:.4f}"] for k, (n, m) in shown])
        if len(done.galaxies) > SHOWN:
            typer.echo(f"and {len(done.galaxies) - SHOWN} contexts more")
    scored = done.rows - done.missing - done.outside
    typer.echo(f"{done.path}: {done.rows} events; mean log p {done.mean:.4f} nats over {scored} of them")


def _warn(text: str) -> None:
    typer.echo(f"warning: {text}", err=True)
