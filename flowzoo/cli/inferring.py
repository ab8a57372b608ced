"""``flowzoo infer`` and ``calibrate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flowzoo.cli._common import print_missing, print_table
from flowzoo.cli._options import Device, Model, Overwrite, Run, Threads, until_stopped

SHOWN = 10  # observations whose posteriors are printed
Method = Annotated[
    str, typer.Option(help="auto, grid (up to three parameters), importance or mcmc; a posterior flow is drawn from.")
]
Seed = Annotated[int, typer.Option(help="Of the draws.")]


def infer(
    run: Run,
    out: Annotated[Path, typer.Option(help="Folder for samples.npz, summary.json and corner plots.")],
    x: Annotated[
        Path | None, typer.Option("--x", help="Observations: .npz, .npy, .h5, .csv or .parquet; one or several.")
    ] = None,
    array: Annotated[str | None, typer.Option(help="The array of --x that holds them.", show_default="x")] = None,
    test: Annotated[int, typer.Option(help="Instead of --x: so many test observations, whose truth is known.")] = 0,
    prior: Annotated[
        Path | None, typer.Option(help="YAML of the prior, {Omega_m: 'uniform(0.1, 0.5)'}.", show_default="the data's")
    ] = None,
    method: Method = "auto",
    n: Annotated[int, typer.Option("--n", help="Draws from each posterior.")] = 10_000,
    model: Model = None,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = 1,
    overwrite: Overwrite = False,
) -> None:
    """Say what observations tell of the parameters: draws, intervals and corner plots."""
    from flowzoo.harness._given_prior import read_prior
    from flowzoo.harness.infer import infer_file

    with until_stopped():
        done = infer_file(
            run,
            out,
            x=x,
            array=array,
            test=test,
            prior=None if prior is None else read_prior(prior),
            method=method,
            n=n,
            model=model,
            seed=seed,
            device=device,
            threads=threads,
            overwrite=overwrite,
        )
    typer.echo(f"{done.flow}; {done.found.method}")
    for warning in done.warnings:
        typer.echo(f"warning: {warning}", err=True)
    heads = ["observation", "parameter", "mean", "sd", "68 %", "95 %", "MAP"]
    print_table(heads + (["truth"] if done.truth is not None else []), done.rows(SHOWN))
    if len(done.summary) > SHOWN:
        typer.echo(f"and {len(done.summary) - SHOWN} observations more")
    typer.echo(f"{out}/ holds {', '.join(file.name for file in done.files)}")


def calibrate(
    run: Run,
    out: Annotated[Path, typer.Option(help="Folder for calibration.json and figures/.")],
    data: Annotated[str | None, typer.Option("--data", help="Other data than it was trained on.")] = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="An option of --data: data.seed=1.")
    ] = None,
    x: Annotated[
        Path | None,
        typer.Option("--x", help="Observations to test by themselves.", show_default="those with exact posteriors"),
    ] = None,
    array: Annotated[str | None, typer.Option(help="The array of --x that holds them.", show_default="x")] = None,
    n: Annotated[int, typer.Option("--n", help="Test observations at most, one of each test group.")] = 1000,
    draws: Annotated[int, typer.Option(help="Draws from the posterior of each.")] = 200,
    reference_draws: Annotated[
        int, typer.Option(help="Draws beside those of exact posteriors, at most, for C2ST, which is slow; 0 for none.")
    ] = 10_000,
    method: Method = "auto",
    model: Model = None,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = 1,
    overwrite: Overwrite = False,
) -> None:
    """Test whether the posteriors of a flow can be believed, and say which number is good."""
    from flowzoo.cli._common import settings_of
    from flowzoo.config import ConfigError
    from flowzoo.harness.calibrate import calibrate_flow, rows

    chosen: tuple[str, dict[str, Any]] | None = None
    if data is not None:
        settings = settings_of(models="gaussian", data=data, sets=sets)
        if len(settings.datasets) != 1:
            raise ConfigError(f"calibrate takes one dataset; --data names {len(settings.datasets)}")
        chosen = settings.datasets[0]
    elif sets:
        raise ConfigError("calibrate takes options of a dataset only with --data and its name")
    with until_stopped():
        done = calibrate_flow(
            run,
            out,
            dataset=chosen,
            x=x,
            array=array,
            n=n,
            draws=draws,
            reference_draws=reference_draws,
            method=method,
            model=model,
            seed=seed,
            device=device,
            threads=threads,
            overwrite=overwrite,
        )
    typer.echo(done.flow)
    for note in done.notes:
        typer.echo(note)
    found = rows(done.metrics)
    print_table(
        ["column", "value", "word", "good", "bad", "meaning"],
        [[c.name, f"{v:.4g}", w, _threshold(c.good), _threshold(c.bad), c.meaning] for c, v, w in found],
    )
    if done.local:
        heads = ["observation", "L-C2ST p", "statistic (0 to 0.25)"]
        print_table(heads, [[str(k), f"{p:.3g}", f"{t:.3g}"] for k, (p, t) in enumerate(done.local)])
    print_missing(done.missing)
    typer.echo(f"{out}/ holds {', '.join(str(file.relative_to(out)) for file in done.files)}")


def _threshold(value: float | None) -> str:
    return "" if value is None else f"{value:g}"
