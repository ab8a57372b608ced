"""``flowzoo bench``, ``fit`` and ``evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flowzoo import preempt
from flowzoo.cli._common import (
    FAILED,
    Cluster,
    Config,
    DataNames,
    Device,
    Executor,
    Minutes,
    Scheduler,
    Sets,
    Steps,
    Storage,
    StudyPrefix,
    Workers,
    print_missing,
    print_table,
    settings_of,
)
from flowzoo.cli._options import Model, Overwrite, Run
from flowzoo.cli.reporting import show
from flowzoo.cli.tuning import report_study, tune_flags


@preempt.heeded()
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
    folds: Annotated[
        int | None, typer.Option(help="Leave out each of so many parts of the groups in turn (bench.folds).")
    ] = None,
    context_gain: Annotated[
        bool, typer.Option("--context-gain", help="Train each without context too (bench.context_gain).")
    ] = False,
    tune: Annotated[
        int | None, typer.Option(help="Tune each model in so many trials, and train the best config too (tune.trials).")
    ] = None,
    storage: Storage = None,
    study: StudyPrefix = None,
    workers: Workers = 1,
    executor: Executor = None,
    scheduler: Scheduler = None,
    cluster: Cluster = None,
    force: Annotated[bool, typer.Option("--force", help="Move what another run left in --out to replaced/.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and its cost; train nothing.")] = False,
) -> None:
    """Train several flows on the same splits and print one comparative table."""
    from rich.console import Console

    from flowzoo.harness import execute
    from flowzoo.harness.executors import choose
    from flowzoo.harness.jobs import plan_of, studies_from

    flags = [] if folds is None else [f"bench.folds={folds}"]
    flags += ["bench.context_gain=true"] if context_gain else []
    flags += tune_flags(tune, None, storage, study)
    settings = settings_of(config, models, data, [*(sets or []), *flags], seeds, steps, minutes, device, out)
    cells = plan_of(settings)
    studies = studies_from(settings, cells) if settings.tune else []
    threads = cells[0].bench.threads
    other = choose(executor, workers=workers, threads=threads, scheduler=scheduler, cluster=cluster)
    console = Console()
    if dry_run:
        able = _show_plan(cells, console)
        if studies:
            trials = "trials" if len(studies) == 1 else f"trials of the {len(studies)} studies"
            console.print(f"the {trials}, and the trainings of what they find, are not counted")
        if not able:
            raise typer.Exit(FAILED)
        return
    for text in dict.fromkeys(c.source.splits.data.introduce(c.source.name) for c in cells):
        typer.echo(text)

    def report(record: Any, known: bool) -> None:
        nll = record.metrics.get("nll_nats")
        took = "known from before" if known else f"{record.metrics.get('train_seconds', 0):.0f} s of training"
        text = f"{nll:.3f} nats" if nll is not None else record.reason or record.missing["nll_nats"]
        fold = "" if record.fold is None else f" fold {record.fold}"
        typer.echo(f"  {record.dataset} {record.model} seed {record.seed}{fold}: {text} ({took})")

    result = execute(
        cells,
        settings.bench.get("out"),
        on_record=report,
        settings=settings,
        executor=other,
        force=force,
        studies=studies,
        on_study=report_study,
    )
    show(result.comparison, result.verdicts, console)
    typer.echo(f"{result.path}/ holds report.html, this table (csv, md, tex), the records and the trained flows.")
    if result.figures:
        typer.echo(f"{result.path}/figures/ holds {', '.join(path.name for path in result.figures)}.")
    if result.failed:
        typer.echo(
            f"{len(result.failed)} of {len(result.records)} cells failed; the same command runs no other cell again.",
            err=True,
        )
        raise typer.Exit(FAILED)


@preempt.heeded()
def fit(
    out: Annotated[Path, typer.Option(help="Where to write the flow: a .safetensors file.")],
    model: Annotated[str | None, typer.Option(help="The model (see `flowzoo models`), or that of --config.")] = None,
    data: DataNames = None,
    config: Config = None,
    sets: Sets = None,
    seed: Annotated[int, typer.Option(help="Of initialisation, order and noise.")] = 0,
    steps: Steps = None,
    minutes: Minutes = None,
    device: Device = None,
    overwrite: Overwrite = False,
) -> None:
    """Train one flow and save it; killed and started again, it goes on where it stopped.

    On several GPUs: torchrun --nproc-per-node 4 -m flowzoo fit ...
    """
    from flowzoo.config import ConfigError
    from flowzoo.distributed import joined
    from flowzoo.harness.jobs import plan_of
    from flowzoo.harness.single import fit_one

    # One flow, on one split: what a config says of folds is for a bench of it.
    sets = [*(sets or []), "bench.baseline=false", "bench.folds=0"]
    with joined() as world:
        settings = settings_of(config, model, data, sets, str(seed), steps, minutes, device)
        if not settings.models:
            raise ConfigError("fit trains one model; give --model, one of `flowzoo models`, or a --config with one")
        cells = plan_of(settings)
        if len(cells) != 1:
            raise ConfigError(f"fit trains one model on one dataset; this is {len(cells)} cells: use bench")
        if not world.rank:
            source = cells[0].source
            typer.echo(source.splits.data.introduce(source.name))
        result = fit_one(cells[0], out, overwrite=overwrite)
    if world.rank:
        return  # a process that fails ends the others: that is for the first, once it has written all
    typer.echo(f"{result.reason}; {result.seconds:.0f} s, validation NLL {result.validation_nll:.4f} nats")
    typer.echo(f"{out}: flowzoo.load('{out}'), or flowzoo evaluate {out}")
    if result.status != "ok":
        raise typer.Exit(FAILED)


def evaluate(
    run: Run,
    data: DataNames = None,
    sets: Sets = None,
    model: Model = None,
    device: Device = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Score a trained flow on the test split of the data it was trained on (or of other data)."""
    import json

    from flowzoo import checkpoint
    from flowzoo.config import ConfigError
    from flowzoo.harness.chosen import find_flow
    from flowzoo.harness.single import evaluate_one

    settings = settings_of(models="gaussian", data=data, sets=sets, device=device)
    if len(settings.datasets) != 1:
        raise ConfigError(f"evaluate takes one dataset; --data names {len(settings.datasets)}")
    if data is None and settings.datasets[0][1]:
        raise ConfigError("evaluate takes options of a dataset only with --data and its name")
    path, note = find_flow(run, model)
    meta = checkpoint.read_meta(path)
    if not as_json:
        print(note, flush=True)  # the rest may take minutes
    found = evaluate_one(path, settings.datasets[0] if data else None, settings.bench)
    tested = found.evaluation
    events, groups = (0, 0) if tested is None else (len(tested.x), len(tested.groups.unique()))
    if as_json:
        about = {"flow": str(path), "test_events": events, "test_groups": groups}
        text = json.dumps({**about, "metrics": found.metrics, "missing": found.missing}, indent=1, sort_keys=True)
        typer.echo(text)
        return
    split = meta.get("split", {})
    fold = "" if split.get("fold") is None else f", fold {split['fold']} of {split['folds']} left out"
    own = f"{meta.get('data', {}).get('name')}, split {split.get('hash')}{fold}, as in training"
    typer.echo(f"{settings.datasets[0][0] if data else own}: {events} test events of {groups} groups")
    for name, value in sorted(found.metrics.items(), key=lambda item: not item[0].startswith("nll_")):
        typer.echo(f"{name:26} {value:.6g}")
    print_missing(found.missing)


REFERENCES = (
    "Evaluation takes minutes a cell besides: C2ST trains a classifier against each reference posterior; "
    "--set bench.reference_draws=1000 is quicker, 0 leaves it out"
)


def _show_plan(cells: list[Any], console: Any) -> bool:
    """Print what each cell costs; whether each can take a step."""
    from flowzoo.harness.cost import LONG, estimate
    from flowzoo.harness.together import by_seed
    from flowzoo.record import one_line

    rows, costs, failed = [], [], 0
    for part in by_seed(cells):
        try:  # seeds of one config cost the same, and to build a flow may take half a minute
            cost, reason = estimate(part[0]), ""
        except Exception as error:
            cost, reason = None, f"cannot take a step: {one_line(error)}"
        for cell in part:
            fold = "" if cell.source.fold is None else f" fold {cell.source.fold}"
            row = [cell.source.name, cell.name, f"{cell.seed}{fold}"]
            if cost is None:
                failed += 1
                rows.append([*row, "-", "-", "-", "-", "-", reason])
                continue
            costs.append(cost)
            about, more = "~" if cost.extrapolated else "", "" if cost.fits else "!"
            rows.append(
                [
                    *row,
                    f"{cost.parameters:,}",
                    f"{about}{1000 * cost.step_seconds:.1f}",
                    str(cost.steps),
                    f"{about}{cost.seconds:.0f}",
                    f"{more}{cost.memory / 1e9:.2f}",
                    "",
                ]
            )
    heads = ["dataset", "model", "seed", "parameters", "ms/step", "steps at most", "s at most", "GB at least", ""]
    width = len(heads) if failed else len(heads) - 1
    print_table(heads[:width], [row[:width] for row in rows])
    if any(cost.extrapolated for cost in costs):
        console.print(
            f"~ from steps of a few events, in a straight line: a whole step takes more than {LONG:g} s or the memory",
            soft_wrap=True,
        )
    least = min((cost.free for cost in costs if cost.free is not None and not cost.fits), default=None)
    if least is not None:
        text = f"! more than the {least / 1e9:.2f} GB that are free here: take a smaller train.batch_size"
        console.print(text, soft_wrap=True)
    total = sum(cost.seconds for cost in costs)
    console.print(f"{len(cells)} cells, at most about {total:.0f} s of training here; nothing was trained")
    if failed:
        typer.echo(f"{failed} of {len(cells)} cells cannot take a step, and are not counted.", err=True)
    if any(cell.source.splits.data.reference_posteriors and cell.bench.reference_draws for cell in cells):
        console.print(REFERENCES)
    return not failed
