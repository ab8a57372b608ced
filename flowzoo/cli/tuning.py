"""``flowzoo tune``, and what tuning inside a bench has in common with it."""

from __future__ import annotations

import json
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
    Scheduler,
    Sets,
    Steps,
    Storage,
    StudyPrefix,
    Workers,
    settings_of,
)


@preempt.heeded()
def tune(
    models: Annotated[str | None, typer.Option(help="Models, separated by commas (see `flowzoo models`).")] = None,
    data: DataNames = None,
    config: Config = None,
    sets: Sets = None,
    trials: Annotated[int | None, typer.Option(help="Of each study (tune.trials).", show_default="20")] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Minutes of training of each study, instead of trials (tune.minutes).")
    ] = None,
    storage: Storage = None,
    study: StudyPrefix = None,
    seed: Annotated[int, typer.Option(help="Of initialisation, order and noise, the same in all trials.")] = 0,
    steps: Steps = None,
    device: Device = None,
    out: Annotated[Path | None, typer.Option(help="Run directory (bench.out).")] = None,
    workers: Workers = 1,
    executor: Executor = None,
    scheduler: Scheduler = None,
    cluster: Cluster = None,
) -> None:
    """Search the options of each model by Optuna, on the validation split; the same command elsewhere joins in.

    An option that is set is not searched. The best config is written in the form of a config file.
    """
    from flowzoo.config import ConfigError
    from flowzoo.harness.executors import choose
    from flowzoo.harness.folder import make_writable
    from flowzoo.harness.jobs import as_text, plan_of, remember, studies_from
    from flowzoo.harness.plan import default_out
    from flowzoo.harness.studies import describe_trial
    from flowzoo.harness.tuning import run_studies

    sets = [*(sets or []), "bench.baseline=false", *tune_flags(trials, minutes, storage, study)]
    settings = settings_of(config, models, data, sets, str(seed), steps, device=device, out=out)
    cells = plan_of(settings)
    studies = studies_from(settings, cells)
    if not studies:
        raise ConfigError("none of these models has anything to train, so there is nothing to tune")
    folder = Path(settings.bench.get("out") or default_out(cells))
    other = choose(executor, workers=workers, threads=cells[0].bench.threads, scheduler=scheduler, cluster=cluster)
    make_writable(folder)
    text = "" if other is None else as_text(settings)
    remember(text, cells, studies)
    found = run_studies(
        studies,
        folder,
        settings=settings,
        text=text,
        executor=other,
        on_study=report_study,
        on_trial=lambda trial: typer.echo(f"  {describe_trial(trial)}"),
    )
    if any(isinstance(best, str) for best in found.values()):
        raise typer.Exit(FAILED)


def tune_flags(trials: int | None, minutes: float | None, storage: str | None, study: str | None) -> list[str]:
    """Flags as ``--set`` takes them.

    Raises:
        ConfigError: for two budgets.
    """
    from flowzoo.config import ConfigError

    if trials is not None and minutes is not None:
        raise ConfigError(f"--trials {trials} and --minutes {minutes:g} are two budgets; give one")
    flags = {"trials": trials, "minutes": minutes, "storage": storage, "study": study}
    found = [f"tune.{name}={json.dumps(value)}" for name, value in flags.items() if value is not None]
    return found if trials is None else [*found, "tune.minutes=null"]  # which a config file may have set


def report_study(_study: Any, found: Any, path: Path | None) -> None:
    """Say what a study found, or why nothing; either begins with its name."""
    typer.echo(f"  {found if isinstance(found, str) else found.summary()}")
    if path is not None:
        typer.echo(f"  {path}")
