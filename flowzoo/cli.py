"""The command line. Nothing heavy is imported before a command runs, so that ``--help`` answers at once."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from flowzoo.harness.settings import Settings

app = typer.Typer(
    help="Which conditional normalizing flow to trust on your own data.",
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

USAGE, FAILED, INTERRUPTED = 2, 1, 130

Config = Annotated[Path | None, typer.Option("--config", help="YAML: data, models, train, bench.")]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="An option: model.num_steps=8, maf.num_steps=8, train.lr=1e-3."),
]
DataNames = Annotated[str | None, typer.Option("--data", help="Datasets, separated by commas. [default: digits]")]
Steps = Annotated[int | None, typer.Option(help="Training steps at most (train.steps).")]
Minutes = Annotated[float | None, typer.Option(help="Training minutes at most per cell (train.minutes).")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1, ... (bench.device).")]


@app.command()
def bench(
    models: Annotated[str | None, typer.Option(help="Models, separated by commas (see `flowzoo models`).")] = None,
    data: DataNames = None,
    config: Config = None,
    sets: Sets = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds: 0,1,2 or 0..4 (bench.seeds).")] = None,
    steps: Steps = None,
    minutes: Minutes = None,
    device: Device = None,
    out: Annotated[Path | None, typer.Option(help="Run directory (bench.out).")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and its cost; train nothing.")] = False,
) -> None:
    """Train several flows on the same splits and print one comparative table."""
    import shlex

    from rich.console import Console

    from flowzoo.harness import execute
    from flowzoo.report import to_terminal

    settings = _settings(config, models, data, sets, seeds, steps, minutes, device, out)
    cells = _plan(settings)
    console = Console()
    if dry_run:
        _show_plan(cells, console)
        return
    for line in dict.fromkeys(f"{c.source.name}: {c.source.note}" for c in cells):
        typer.echo(line)

    def report(record: Any, known: bool) -> None:
        nll = record.metrics.get("nll_nats")
        took = "known from before" if known else f"{record.metrics.get('train_seconds', 0):.0f} s of training"
        text = f"{nll:.3f} nats" if nll is not None else record.reason or record.missing["nll_nats"]
        typer.echo(f"  {record.dataset} {record.model} seed {record.seed}: {text} ({took})")

    command = shlex.join(["flowzoo", *sys.argv[1:]])
    result = execute(cells, settings.bench.get("out"), command=command, on_record=report)
    console.print(to_terminal(result.comparison))
    typer.echo(f"{result.path}/ holds this table (csv, md, tex), the records and the trained flows.")
    if result.figures:
        typer.echo(f"{result.path}/figures/ holds {', '.join(path.name for path in result.figures)}.")
    if result.failed:
        typer.echo(
            f"{len(result.failed)} of {len(cells)} cells failed; the same command runs no other cell again.", err=True
        )
        raise typer.Exit(FAILED)


@app.command()
def fit(
    model: Annotated[str, typer.Option(help="The model (see `flowzoo models`).")],
    out: Annotated[Path, typer.Option(help="Where to write the flow: a .safetensors file.")],
    data: DataNames = None,
    config: Config = None,
    sets: Sets = None,
    seed: Annotated[int, typer.Option(help="Of initialisation, order and noise.")] = 0,
    steps: Steps = None,
    minutes: Minutes = None,
    device: Device = None,
) -> None:
    """Train one flow and save it; killed and started again, it goes on where it stopped.

    On several GPUs: torchrun --nproc-per-node 4 -m flowzoo fit ...
    """
    from flowzoo.config import ConfigError
    from flowzoo.distributed import joined
    from flowzoo.harness.single import fit_one

    sets = [*(sets or []), "bench.baseline=false"]
    with joined() as world:
        settings = _settings(config, model, data, sets, str(seed), steps, minutes, device, None)
        cells = _plan(settings)
        if len(cells) != 1:
            raise ConfigError(f"fit trains one model on one dataset; this is {len(cells)} cells: use bench")
        result = fit_one(cells[0], out)
    if world.rank:
        return  # a process that fails ends the others: that is for the first, once it has written all
    typer.echo(f"{result.reason}; {result.seconds:.0f} s, validation NLL {result.validation_nll:.4f} nats")
    typer.echo(f"{out}: flowzoo.load('{out}'), or flowzoo evaluate {out}")
    if result.status != "ok":
        raise typer.Exit(FAILED)


@app.command()
def evaluate(
    path: Annotated[Path, typer.Argument(help="A flow that fit or bench wrote.")],
    data: DataNames = None,
    sets: Sets = None,
    device: Device = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Score a trained flow on the test split of the data it was trained on (or of other data)."""
    import json

    from flowzoo.config import ConfigError
    from flowzoo.harness.single import evaluate_one

    settings = _settings(None, "gaussian", data, sets, None, None, None, device, None)
    if len(settings.datasets) != 1:
        raise ConfigError(f"evaluate takes one dataset; --data names {len(settings.datasets)}")
    if data is None and settings.datasets[0][1]:
        raise ConfigError("evaluate takes options of a dataset only with --data and its name")
    found = evaluate_one(path, settings.datasets[0] if data else None, settings.bench)
    if as_json:
        typer.echo(json.dumps({"metrics": found.metrics, "missing": found.missing}, indent=1, sort_keys=True))
        return
    for name, value in found.metrics.items():
        typer.echo(f"{name:26} {value:.6g}")
    for name, reason in found.missing.items():
        typer.echo(f"{name:26} - ({reason})")


@app.command()
def models() -> None:
    """List the zoo: name, family, backend, what it takes, cost of the inverse, paper."""
    from flowzoo.registry import MODELS

    _list(MODELS, ("family", "backend", "events", "contexts", "inverse", "paper"))


@app.command()
def datasets() -> None:
    """List the datasets and their options."""
    from flowzoo.registry import DATASETS

    _list(DATASETS, ())


@app.command()
def metrics() -> None:
    """List the columns that the metrics fill."""
    from flowzoo.harness.context_gain import COLUMNS
    from flowzoo.metrics import columns

    rows = [[c.name, c.better, c.meaning] for c in (*columns().values(), *COLUMNS)]
    _table(["column", "better", "meaning"], rows)


def main() -> None:
    """Entry point: what a user did wrong is one line on stderr and exit status 2, not a traceback."""
    try:
        status = app(sys.argv[1:] or ["--help"], standalone_mode=False) or 0
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    except Exception as error:
        text = _complaint(error)
        if text is None or os.environ.get("FLOWZOO_TRACEBACK"):
            raise
        typer.echo(f"flowzoo: {' '.join(text.split())}", err=True)
        sys.exit(USAGE)
    if status == INTERRUPTED:
        typer.echo("interrupted; the same command goes on from here", err=True)
    sys.exit(status)


def _complaint(error: Exception) -> str | None:
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


def _settings(
    config: Path | None,
    models: str | None,
    data: str | None,
    sets: list[str] | None,
    seeds: str | None,
    steps: int | None,
    minutes: float | None,
    device: str | None,
    out: Path | None,
) -> Settings:
    from flowzoo.harness.plan import BenchConfig
    from flowzoo.harness.settings import read
    from flowzoo.train import FitConfig

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
        sections={"train": FitConfig, "bench": BenchConfig},
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


def _plan(settings: Settings) -> list[Any]:
    from flowzoo import config as configs
    from flowzoo.harness.plan import BenchConfig, make_plan, open_source
    from flowzoo.train import FitConfig

    bench = configs.make(BenchConfig, settings.bench, "bench")
    fit = configs.make(FitConfig, settings.train, "train")
    sources = [open_source(name, options, bench) for name, options in settings.datasets]
    return make_plan(sources, settings.models, fit, bench)


def _show_plan(cells: list[Any], console: Any) -> None:
    from flowzoo.config import ConfigError
    from flowzoo.harness.cost import estimate
    from flowzoo.record import one_line

    rows, total = [], 0.0
    for cell in cells:
        try:
            cost = estimate(cell)
        except Exception as error:
            raise ConfigError(f"{cell.stem} (dataset.model.seed) cannot take a step: {one_line(error)}") from error
        total += cost.seconds
        rows.append(
            [
                cell.source.name,
                cell.name,
                str(cell.seed),
                f"{cost.parameters:,}",
                f"{1000 * cost.step_seconds:.1f}",
                str(cost.steps),
                f"{cost.seconds:.0f}",
            ]
        )
    _table(["dataset", "model", "seed", "parameters", "ms/step", "steps at most", "s at most"], rows)
    console.print(f"{len(cells)} cells, at most about {total:.0f} s of training here; nothing was trained")


def _list(registry: Any, attributes: tuple[str, ...]) -> None:
    from flowzoo.config import fields
    from flowzoo.registry import MissingDependency

    rows = []
    for name in registry.names():
        try:
            cls = registry.get(name)
        except MissingDependency as error:
            rows.append([name, f"not available: {error}", *("" for _ in attributes[1:])])
            continue
        summary = (cls.__doc__ or "").strip().splitlines()[0]
        rows.append([name, *([getattr(cls, a) for a in attributes] or [", ".join(fields(cls)), summary])])
    _table(["name", *(attributes or ("options", "what it is"))], rows)


def _table(heads: list[str], rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for head in heads:
        table.add_column(head, no_wrap=head == heads[0], overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    # A file or a pipe has no width to fit in: there each row is a line.
    Console(width=None if sys.stdout.isatty() else 10_000).print(table)


if __name__ == "__main__":
    main()
