"""``bench``: run what is not there yet, and compare."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from flowzoo import checkpoint
from flowzoo import config as configs
from flowzoo.data import Data
from flowzoo.flow import ConditionalFlow
from flowzoo.harness.arrays import data_from_arrays
from flowzoo.harness.bench_config import BenchConfig
from flowzoo.harness.executors import Executor, choose, here
from flowzoo.harness.folder import finished_cells, held, scores_of, write_readme
from flowzoo.harness.given import OWN, Dataset, Datasets, Models, datasets_of, models_of
from flowzoo.harness.jobs import as_text, cell_job, remember, studies_from
from flowzoo.harness.plan import Cell, default_out, make_plan
from flowzoo.harness.reevaluate import with_metrics_of_now
from flowzoo.harness.reporting import write_report
from flowzoo.harness.run import fail_cell, flow_path, record_path, take_twin
from flowzoo.harness.settings import Settings
from flowzoo.harness.source import open_sources
from flowzoo.harness.studies import Study, tuned_cells
from flowzoo.harness.together import by_seed, train_together
from flowzoo.harness.tuning import check_studies, run_studies
from flowzoo.record import Record
from flowzoo.report import Cell as Finished
from flowzoo.report import Table, Verdict
from flowzoo.train import FitConfig
from flowzoo.tune import Tuned


@dataclass(frozen=True)
class BenchResult:
    """What a bench found.

    Args:
        comparison: the table with its footnotes (``flowzoo.report.to_markdown`` and the like render it).
        path: the run directory.
        records: one per cell, in the order of the plan.
        figures: the files in ``figures/``.
        verdicts: what the table means, by dataset.
    """

    comparison: Table
    path: Path
    records: list[Record]
    figures: list[Path] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)

    def __repr__(self) -> str:
        columns = ["dataset", "model", "nll_nats", "nll_se", "delta_nll", "delta_se", "status"]
        rows = self.table[columns].to_string(index=False, float_format="{:.4g}".format, na_rep="")
        return f"{len(self.records)} cells, {len(self.failed)} failed, in {self.path}/\n{rows}"

    @property
    def failed(self) -> list[Record]:
        """The records of failed cells."""
        return [known for known in self.records if known.status != "ok"]

    @property
    def table(self) -> pd.DataFrame:
        """One row per dataset and model."""
        return self.comparison.frame

    @property
    def flows(self) -> dict[str, ConditionalFlow]:
        """By model name, the flow of the seed with the best validation, of the first dataset and its first fold."""
        best: dict[str, tuple[float, Path]] = {}
        for known in self.records:
            if known.status != "ok" or known.dataset != self.records[0].dataset or known.fold:
                continue
            file = flow_path(known.stem, self.path)
            nll = min((h["validation_nll"] for h in checkpoint.read_meta(file)["fit"]["history"]), default=0.0)
            if known.model not in best or nll < best[known.model][0]:
                best[known.model] = (nll, file)
        return {name: checkpoint.load(file) for name, (_, file) in best.items()}


def bench(
    models: Models,
    data: Datasets = "digits",
    *,
    x: Any = None,
    context: Any = None,
    groups: Any = None,
    prior: Mapping[str, str] | None = None,
    seeds: Sequence[int] = (0,),
    out: str | Path | None = None,
    train: Mapping[str, Any] | None = None,
    show: bool | None = None,
    workers: int = 1,
    executor: str | None = None,
    scheduler: str | None = None,
    cluster: str | Path | None = None,
    force: bool = False,
    tune: int | Mapping[str, Any] | None = None,
    **options: Any,
) -> BenchResult:
    """Train several conditional flows on the same splits and compare them.

    Args:
        models: a name, names with options (``{"maf": {"num_steps": 8}}``), a configured model, or a list of these.
        data: the same of datasets (``{"table": {"path": "a.npz", "x": "mag"}}``); and a ``flowzoo.Data`` or anything
            else with ``load()``, by a name of your own in a mapping where there are several. Ignored if ``x`` is given.
        x: ``(N, *event)`` events of your own, in their units: a tensor, or what numpy makes an array of.
            ``(N,)`` are N events of one number. Columns of a DataFrame, and a Series, keep their names.
        context: ``(N, *context)`` for them; ``(N,)`` is one number each.
        groups: ``(N,)`` numbers or text: what the split may not tear apart; errors are taken over these.
        prior: ``{"H0": "uniform(60, 80)", ...}``, a distribution for each column of a DataFrame ``context``, for a
            likelihood, or ``x``, for a posterior: they are parameters then, and posteriors are judged too.
        seeds: one cell per dataset, model and seed.
        out: run directory; the same arguments go on where a killed run stopped.
        train: options of ``FitConfig``.
        show: force the progress bar on or off.
        workers: processes of this machine that share the cells; data must then be registered datasets.
        executor: ``here``, ``local`` or ``dask``; by default what the other options ask for.
        scheduler: address of a Dask scheduler, whose workers share the cells and a file system.
        cluster: config file of a cluster on which to start such workers.
        force: move what another run left in ``out`` to its folder ``replaced``, rather than refuse it.
        tune: trials of a study for each model, or options of ``flowzoo.tune.TuneConfig``; then the best config is
            trained on the seeds too, and stands in the table beside the default one.
        **options: further options of ``BenchConfig``.

    Raises:
        UnknownName, MissingDependency, ConfigError: before anything trains, in one line.
        RunDirectoryError: if ``out`` is in use or holds another run.
    """
    own = {"x": x, "context": context, "groups": groups, "prior": prior}
    command = _call(models=models, data=data, **own, seeds=seeds, train=train, **options)
    config = configs.make(BenchConfig, {"seeds": tuple(seeds), **options}, "bench")
    chosen = models_of(models)
    if x is not None:
        datasets = [Dataset(OWN, {}, data_from_arrays(**own))]
    elif any(value is not None for value in own.values()):
        raise configs.ConfigError("context, groups and prior belong to events of your own; give them as x")
    else:
        datasets = datasets_of(data)
    sources = [source for each in datasets for source in open_sources(each.name, each.options, config, each.own)]
    settings = Settings(
        [(each.name, each.options) for each in datasets],
        chosen,
        dict(train or {}),
        {"trials": tune} if isinstance(tune, int) else dict(tune or {}),
        bench={"seeds": tuple(seeds), **options},
    )
    cells = make_plan(sources, chosen, configs.make(FitConfig, train or {}, "train"), config)
    studies = [] if tune is None else studies_from(settings, cells)
    other = choose(executor, workers=workers, threads=config.threads, scheduler=scheduler, cluster=cluster)
    return execute(
        cells,
        out,
        command=command,
        show=show,
        settings=settings if all(each.own is None for each in datasets) else None,
        executor=other,
        force=force,
        studies=studies,
    )


def execute(
    cells: Sequence[Cell],
    out: str | Path | None = None,
    *,
    command: str | None = None,
    show: bool | None = None,
    on_record: Callable[[Record, bool], None] | None = None,
    settings: Settings | None = None,
    executor: Executor | None = None,
    force: bool = False,
    studies: Sequence[Study] = (),
    on_study: Callable[[Study, Tuned | str, Path | None], None] | None = None,
) -> BenchResult:
    """Run the cells of a plan that have no record yet, tune, and write the tables and figures.

    Args:
        cells: the plan.
        out: run directory.
        command: what made it, for its README; by default this process's command line.
        show: force the progress bar on or off.
        on_record: called with each cell's record, and whether it was there already: first those that were.
        settings: what the plan was made of, which other processes need; None if data were given from Python.
        executor: other processes that get the cells run; by default this one does, one after another.
        force: move what does not fit the plan to ``<out>/replaced``, rather than refuse it.
        studies: of the models of the plan; the best config of each is then a cell of every seed too.
        on_study: see ``run_studies``.

    Raises:
        RunDirectoryError: if the directory cannot be written, is in use by another process, holds the same cell
            with other options, or a damaged file.
        ConfigError: if other processes shall run cells whose data were given from Python.
        JobError: if other processes cannot.
        StudyError: if a study in the storage is of something else.
        Preempted: on SIGTERM, inside ``flowzoo.preempt.heeded``.
    """
    folder = Path(out or default_out(cells))
    text = "" if executor is None else as_text(settings)
    with held(folder):
        records: dict[str, Record] = {}

        def keep(record: Record, known: bool) -> None:
            records[record.stem] = record
            if on_record is not None:
                on_record(record, known)

        def run(wanted: Sequence[Cell], finished: Mapping[str, Record]) -> None:
            finished = with_metrics_of_now(wanted, finished, folder)
            for known in finished.values():
                keep(known, True)
            left: list[Cell] = []
            for cell in (cell for cell in wanted if cell.stem not in finished):
                twin = records.get(replace(cell, tuned=False).stem)
                if cell.tuned and twin is not None and twin.status == "ok" and twin.hash == cell.hash:
                    keep(take_twin(cell, twin, folder), False)
                else:
                    left.append(cell)
            for part in [left] if executor else by_seed(left):
                if executor is None:
                    train_together(part, folder, show=show)
                jobs = [cell_job(cell, folder, text) for cell in part]
                (executor or partial(here, show=show))(jobs, lambda job, result: keep(Record(**result), False))

        check_studies(studies, folder, force=force)
        finished = finished_cells(cells, folder, force=force)  # refused before anything is written
        remember(text, cells, studies)
        command = command or shlex.join(["flowzoo", *sys.argv[1:]])
        write_readme(folder, command, cells)
        run(cells, finished)
        found = run_studies(
            studies, folder, settings=settings, text=text, executor=executor, show=show, on_study=on_study
        )
        more = tuned_cells(cells, studies, found)
        run(more, finished_cells(more, folder, force=force))
        for study in studies:
            reason = found[study.name]
            if isinstance(reason, str):
                for cell in study.own(cells):
                    more.append(replace(cell, tuned=True))
                    keep(fail_cell(more[-1], folder, f"tuning: {reason}"), False)
        return _conclude([records[cell.stem] for cell in (*cells, *more)], folder, command)


def _conclude(done: list[Record], folder: Path, command: str) -> BenchResult:
    finished = [
        Finished(known, scores_of(known, record_path(known.stem, folder)) if known.status == "ok" else {})
        for known in done
    ]
    flows = {known.stem: flow_path(known.stem, folder) for known in done}
    written = write_report(finished, folder, flows, command)
    return BenchResult(written.table, folder, done, written.figures, written.verdicts)


def _call(**arguments: Any) -> str:
    """The call of ``bench`` that a person can repeat, without the values of arrays."""

    def text(value: Any) -> str:
        if isinstance(value, str | Sequence | Mapping):
            return repr(value) if len(repr(value)) < 200 else f"<{type(value).__name__} of {len(value)}>"
        if isinstance(value, Data):
            return f"<{value.describe()}>"
        shape = getattr(value, "shape", None)
        return repr(value) if shape is None else f"<{type(value).__name__} of {'x'.join(map(str, shape))}>"

    if arguments["x"] is not None:
        del arguments["data"]
    return f"flowzoo.bench({', '.join(f'{k}={text(v)}' for k, v in arguments.items() if v is not None)})"
