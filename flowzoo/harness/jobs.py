"""A job is text: the settings of a run and the name of a part of it. So it goes to another process or machine.

Done twice it does no harm: what is done already is not done again, and a lease keeps others from what is being done.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml

from flowzoo import config as configs
from flowzoo import lease, preempt, record
from flowzoo.config import ConfigError
from flowzoo.harness.bench_config import BenchConfig
from flowzoo.harness.given import refuse_local
from flowzoo.harness.plan import Cell, make_plan
from flowzoo.harness.run import LEASES, cpu_threads, fail_cell, record_path, run_cell
from flowzoo.harness.settings import Settings, dump, read
from flowzoo.harness.source import open_sources
from flowzoo.harness.studies import Study, describe_trial, studies_of
from flowzoo.lease import LeaseLost
from flowzoo.train import FitConfig
from flowzoo.tune import TuneConfig

Part = TypeVar("Part", Cell, Study)
# Of settings, with the class of their options.
SECTIONS = {"train": FitConfig, "bench": BenchConfig, "tune": TuneConfig}
POLL = 0.5  # seconds between two looks at what another process is doing


class JobError(RuntimeError):
    """A job that cannot be done, in one line."""


@dataclass(frozen=True)
class Job:
    """A part of a run.

    Args:
        kind: ``cell`` or ``study``.
        name: the stem of the cell; the name of the study, and which of its workers it is.
        folder: the run directory, as an absolute path: workers share a file system.
        settings: the resolved settings as YAML; empty if they cannot be text, as data were given from Python.
        identity: the hash of the cell or the study, which whoever does the job must find to be the same.
        before: digest of the failed record that this job replaces; any other record means that the job is done.
        cwd: the folder from which relative paths in the settings count.
        tuned: of a tuned cell the options of ``model`` and ``train``.
    """

    kind: str
    name: str
    folder: str
    settings: str
    identity: str
    before: str = ""
    cwd: str = ""
    tuned: dict[str, Any] | None = None


class Kind(NamedTuple):
    """What to do with jobs of a kind; results are values of JSON.

    Args:
        do: does a job. The second argument forces the progress bar on or off.
        fail: makes the result of a job whose process is killed again and again, for this reason.
    """

    do: Callable[[Job, bool | None], dict[str, Any]]
    fail: Callable[[Job, str], dict[str, Any]]


def do(job: Job, show: bool | None = None) -> dict[str, Any]:
    """Do a job, if it is not done yet; wait if another process is at it.

    Raises:
        JobError: if this process has other data or another version of flowzoo.
        Preempted: if the process shall end; then the job goes on from its checkpoint when it is done again.
        OSError: if the disk is full or cannot be written.
    """
    return KINDS[job.kind].do(job, show)


def give_up(job: Job, reason: str) -> dict[str, Any]:
    """The result of a job that nobody manages to do."""
    return KINDS[job.kind].fail(job, reason)


def cell_job(cell: Cell, folder: Path, settings: str = "") -> Job:
    """The job of a cell."""
    path = record_path(cell.stem, folder)
    tuned = {"model": configs.to_dict(cell.model), "train": configs.to_dict(cell.fit)} if cell.tuned else None
    return Job("cell", cell.stem, str(folder.resolve()), settings, cell.hash, _digest(path), os.getcwd(), tuned)


def study_job(study: Study, folder: Path, settings: str = "", worker: int = 0) -> Job:
    """The job of one of the workers on a study."""
    name = study.name if not worker else f"{study.name} worker {worker}"
    return Job("study", name, str(folder.resolve()), settings, study.hash, cwd=os.getcwd())


def plan_of(settings: Settings, device: str | None = None) -> list[Cell]:
    """The cells of resolved settings; ``device`` takes the place of ``bench.device`` if given.

    Raises:
        UnknownName, MissingDependency, ConfigError: in one line.
    """
    bench = configs.make(BenchConfig, settings.bench, "bench")
    bench = bench if device is None else replace(bench, device=device)
    fit = configs.make(FitConfig, settings.train, "train")
    sources = [source for name, options in settings.datasets for source in open_sources(name, options, bench)]
    return make_plan(sources, settings.models, fit, bench)


class _Plan(NamedTuple):
    cells: dict[str, Cell]
    studies: dict[str, Study]


# Of the last settings that this process had to do with: jobs that follow one another have the same data.
_plans: dict[str, _Plan] = {}
_device: str | None = None


def remember(settings: str, cells: Sequence[Cell], studies: Sequence[Study] = ()) -> None:
    """Spare this process to load the data of these settings again."""
    _plans.clear()
    _plans[settings] = _Plan({cell.stem: cell for cell in cells}, {study.name: study for study in studies})


def use_device(name: str | None) -> None:
    """The device of this process's jobs, where settings leave it open (``auto``, or ``cuda`` without a number)."""
    global _device
    _device = name


def settings_from(text: str) -> Settings:
    """What ``harness.settings.dump`` made text of."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "settings.yaml"
        path.write_text(text, encoding="utf-8")
        return read(path, sections=SECTIONS)


def as_text(settings: Settings | None) -> str:
    """Settings as text, for other processes.

    Raises:
        ConfigError: if they cannot be that, or name what is registered in this process alone.
    """
    if settings is None:
        raise ConfigError(
            "data given from Python cannot go to other processes; write a file and name it (--data table), "
            "or leave out workers and executor"
        )
    refuse_local(settings.models, [name for name, _ in settings.datasets])
    try:
        return dump(settings)
    except yaml.representer.RepresenterError as error:
        raise ConfigError(f"other processes need options that YAML can hold; got {error.args[-1]!r}") from None


def studies_from(settings: Settings, cells: Sequence[Cell]) -> list[Study]:
    """The studies of resolved settings.

    Raises:
        ConfigError: for an option of ``tune`` that does not fit, in one line.
    """
    config = configs.make(TuneConfig, settings.tune, "tune")
    return studies_of(cells, settings.models, settings.train, config)


def _plan(job: Job) -> _Plan:
    if job.settings not in _plans:
        if not job.settings:
            raise JobError(f"{job.name}: data given from Python are in the process that has them, and only there")
        try:
            os.chdir(job.cwd)
        except OSError as error:
            raise JobError(f"{job.cwd}: {error.strerror} here; workers need a file system in common") from None
        settings = settings_from(job.settings)
        free = settings.bench.get("device", "auto") in ("auto", "cuda")
        cells = plan_of(settings, _device if free else None)
        remember(job.settings, cells, studies_from(settings, cells) if settings.tune or job.kind == "study" else ())
    return _plans[job.settings]


def _same(job: Job, found: Part | None) -> Part:
    """The part of the plan that has the name of a job; one that is something else is refused."""
    own = "nothing of that name" if found is None else f"hash {found.hash}"
    if found is None or found.hash != job.identity:
        raise JobError(
            f"{job.name} is something else here ({own}, and {job.identity} where the job comes from): "
            "this worker has other data or another version of flowzoo"
        )
    return found


def _cell_of(job: Job) -> Cell:
    cells = _plan(job).cells
    if job.tuned is None:
        cell = cells.get(job.name)
    else:
        base = next((c for c in cells.values() if replace(c, tuned=True).stem == job.name), None)
        cell = base and replace(
            base,
            model=configs.make(type(base.model), job.tuned["model"], base.name),
            fit=configs.make(FitConfig, job.tuned["train"], "train"),
            tuned=True,
        )
    return _same(job, cell)


def _do_cell(job: Job, show: bool | None) -> dict[str, Any]:
    cell, folder = _cell_of(job), Path(job.folder)
    path = record_path(cell.stem, folder)
    while not preempt.asked():
        held = lease.take(folder / LEASES / job.name)
        if held is None:
            time.sleep(POLL)
            continue
        with held:
            if path.exists() and _digest(path) != job.before:
                known = record.load(path)
                if known.hash == cell.hash:
                    return dataclasses.asdict(known)
            try:
                with cpu_threads(cell.bench.threads):
                    return dataclasses.asdict(run_cell(cell, folder, show=show, lease=held))
            except LeaseLost:  # suspended for long; what the other makes of it is as good
                continue
    raise preempt.Preempted


def _fail_cell(job: Job, reason: str) -> dict[str, Any]:
    return dataclasses.asdict(fail_cell(_cell_of(job), Path(job.folder), reason))


def _do_study(job: Job, show: bool | None) -> dict[str, Any]:
    study = _same(job, _plan(job).studies.get(job.name.split(" ")[0]))
    # A study takes hours, and its worker's only answer is the end of it.
    found = study.run(
        Path(job.folder),
        show=show,
        on_trial=lambda trial: print(f"  {study.name} {describe_trial(trial)}", file=sys.stderr),
    )
    return found.to_json()


def _fail_study(job: Job, reason: str) -> dict[str, Any]:
    return {"failed": f"{job.name}: {reason}"}


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.exists() else ""


KINDS = {"cell": Kind(_do_cell, _fail_cell), "study": Kind(_do_study, _fail_study)}
