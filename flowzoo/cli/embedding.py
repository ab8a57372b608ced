"""``flowzoo embed``: latents of images for the context of a catalogue."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flowzoo.cli._common import Config, DataNames, Device, Sets, settings_of


def embed(
    out: Annotated[Path, typer.Option(help="Where to write the latents: a .csv file, a row for each galaxy and fold.")],
    data: DataNames = None,
    config: Config = None,
    sets: Sets = None,
    latents: Annotated[
        int | None, typer.Option(help="Numbers for each galaxy (embed.latents).", show_default="16")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps at most (embed.steps).")] = None,
    seed: Annotated[int, typer.Option(help="Of initialisation, order and augmentation.")] = 0,
    folds: Annotated[int | None, typer.Option(help="An autoencoder for each of so many folds (bench.folds).")] = None,
    view: Annotated[str, typer.Option(help="Of the images of a galaxy: mean of their latents, or the first.")] = "mean",
    load: Annotated[Path | None, typer.Option(help="Train nothing: encode with this .safetensors of embed.")] = None,
    new: Annotated[bool, typer.Option("--new", help="With --load: no galaxy is one that it was made with.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the files that are there.")] = False,
    device: Device = None,
) -> None:
    """Train an autoencoder of images on training galaxies, and write the latents of all of them as a table.

    Its options are set by --set embed.<option>; those of the split by --set bench.<option>.
    """
    from flowzoo import config as configs
    from flowzoo.autoencoder import AutoencoderConfig
    from flowzoo.config import ConfigError
    from flowzoo.harness._reconstruction import joined
    from flowzoo.harness.bench_config import BenchConfig
    from flowzoo.harness.embed import embed as run
    from flowzoo.harness.embed import embed_with

    for text in sets or []:
        if text.startswith("train."):
            raise ConfigError(f"--set {text}: an autoencoder is trained by the options of embed, such as embed.lr")
    flags = {"embed.latents": latents, "embed.steps": steps, "bench.folds": folds}
    chosen = [*(sets or []), *(f"{key}={value}" for key, value in flags.items() if value is not None)]
    if view not in ("mean", "first"):
        raise ConfigError(f"--view is mean or first; got '{view}'")
    own = {"embed": AutoencoderConfig}
    settings = settings_of(config, data=data, sets=chosen, device=device, sections=own)
    network = configs.make(AutoencoderConfig, settings.embed, "embed")
    if len(settings.datasets) != 1:
        raise ConfigError(f"embed takes one dataset; --data names {len(settings.datasets)}")
    name, options = settings.datasets[0]
    bench = configs.make(BenchConfig, settings.bench, "bench")
    if load is not None:
        if settings.embed or folds is not None or view != "mean":
            raise ConfigError("--load trains nothing: leave out --latents, --steps, --folds, --view and --set embed.*")
        done = embed_with(load, name, options, bench, out, overwrite=overwrite, new=new)
        for text in done.differ:
            typer.echo(f"{load} was made with other options of {name}: {text}", err=True)
        error = f"error of the reconstructions {done.error:.4f} (squared, in network units)"
        typer.echo(f"{out}: latents by {load}; {error}")
        typer.echo(f"{done.recognised} of {done.galaxies} galaxies recognised; every other one is test.")
        return
    if new:
        raise ConfigError("--new is of galaxies that --load encodes; leave it out")

    results: list[Any] = []

    def report(result: Any) -> None:
        results.append(result)
        counts = ", ".join(f"{e.galaxies} {part}" for part, e in result.errors.items())
        typer.echo(f"  fold {result.fold}: {counts} galaxies; {result.trained.reason} ({result.seconds:.0f} s)")
        for part, e in result.errors.items():
            typer.echo(
                f"    {part:10} unexplained {e.unexplained:.4f}, by principal components {e.pca_unexplained:.4f}"
            )

    files = run(name, options, network, bench, out, seed=seed, view=view, overwrite=overwrite, on_fold=report)  # type: ignore[arg-type]
    test = joined([result.errors["test"] for result in results])
    own_error, linear = test["unexplained"], test["pca_unexplained"]
    if len(results) > 1:
        typer.echo(f"  all folds: test unexplained {own_error:.4f}, by principal components {linear:.4f}")
    if own_error > linear:
        typer.echo(
            "The autoencoder is no better than principal components: more --steps, or another embed.lr.", err=True
        )
    typer.echo(f"{out}: {network.latents} latents of each galaxy; --set data.latents={out} adds them to a catalogue.")
    typer.echo(f"Beside it: {', '.join(path.name for path in files[1:])}.")
