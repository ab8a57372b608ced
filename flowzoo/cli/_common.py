"""The options that commands share, and what they do with them first."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from flowzoo.harness.settings import Settings

USAGE, FAILED, INTERRUPTED = 2, 1, 130

Config = Annotated[Path | None, typer.Option("--config", help="YAML: data, models, train, bench, tune.")]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="An option: maf.num_steps=8, train.lr=1e-3 (see `flowzoo options`)."
    ),
]
DataNames = Annotated[
    str | None,
    typer.Option("--data", help="Datasets, separated by commas (see `flowzoo datasets`).", show_default="digits"),
]
Steps = Annotated[int | None, typer.Option(help="Training steps at most (train.steps).")]
Minutes = Annotated[float | None, typer.Option(help="Training minutes at most per cell (train.minutes).")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1, ... (bench.device).")]
Workers = Annotated[int, typer.Option(help="Processes of this machine that share the work.")]
Executor = Annotated[str | None, typer.Option(help="here, local or dask.", show_default="what the rest says")]
Scheduler = Annotated[str | None, typer.Option(help="Address of a Dask scheduler: tcp://host:8786.")]
Cluster = Annotated[Path | None, typer.Option(help="YAML: a batch system to start Dask workers on.")]
Storage = Annotated[
    str | None,
    typer.Option(
        help="Of the studies: sqlite:///FILE, postgresql+psycopg://HOST/DATABASE, journal:FILE (tune.storage)."
    ),
]
StudyPrefix = Annotated[str | None, typer.Option("--study", help="Before the names of the studies (tune.study).")]


def settings_of(
    config: Path | None = None,
    models: str | None = None,
    data: str | None = None,
    sets: list[str] | None = None,
    seeds: str | None = None,
    steps: int | None = None,
    minutes: float | None = None,
    device: str | None = None,
    out: Path | None = None,
    sections: Mapping[str, type] | None = None,
) -> Settings:
    """What the options of a command ask for; ``sections`` there are beside those of every command."""
    from flowzoo.harness.jobs import SECTIONS
    from flowzoo.harness.settings import read

    # The named flags are short for `--set`, and win over it.
    flags = {"train.steps": steps, "train.minutes": minutes, "bench.device": device}
    extra = [f"{key}={value}" for key, value in flags.items() if value is not None]
    if seeds is not None:
        extra.append(f"bench.seeds=[{','.join(map(str, _seeds(seeds)))}]")
    settings = read(
        config,
        models=models,
        data=data,
        sets=[*(sets or []), *extra],
        sections={**SECTIONS, **(sections or {})},
        default_data="digits",
    )
    if out is not None:
        settings.bench["out"] = str(out)
    return settings


def _seeds(text: str) -> list[int]:
    from flowzoo.config import ConfigError

    try:
        if ".." in text:
            first, last = text.split("..")
            return list(range(int(first), int(last) + 1))
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--seeds takes numbers like 0,1,2 or a range like 0..4; got '{text}'") from None


def print_table(heads: list[str], rows: list[list[str]], widths: Sequence[int | None] = ()) -> None:
    """Columns under their heads; ``widths`` are the most that the first of them may take in a terminal."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table, terminal = Table(box=None, pad_edge=False), sys.stdout.isatty()
    for head, width in zip_longest(heads, widths):
        most = width if terminal else None
        table.add_column(head, no_wrap=head == heads[0], overflow="fold", max_width=most)
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    console = Console(width=None if terminal else 10_000)
    with console.capture() as printed:
        console.print(table)
    # A file or a pipe has no width to fit in: there each row is a line, without what fills it up.
    typer.echo("\n".join(line if terminal else line.rstrip() for line in printed.get().splitlines()))


def print_missing(missing: Mapping[str, str]) -> None:
    """Reasons why columns are empty, each once with all its columns; that a floor is empty goes without saying."""
    alike: dict[str, list[str]] = {}
    for name, reason in missing.items():
        if not (name.endswith("_floor") and name.removesuffix("_floor") in missing):
            alike.setdefault(reason, []).append(name)
    for reason, names in alike.items():
        typer.echo(f"not measured: {', '.join(names)} ({reason})")
