"""``tune``: go through the studies of a plan, and write the best config of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowzoo.config import ConfigError
from flowzoo.harness.executors import Executor, size
from flowzoo.harness.folder import CONFIGS, set_studies_aside
from flowzoo.harness.jobs import Job, study_job
from flowzoo.harness.settings import Settings, dump
from flowzoo.harness.studies import Study
from flowzoo.storage import inside, write_atomic
from flowzoo.tune import StudyError, Tuned, check

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


def run_studies(
    studies: Sequence[Study],
    folder: Path,
    *,
    settings: Settings | None = None,
    text: str = "",
    executor: Executor | None = None,
    show: bool | None = None,
    on_study: Callable[[Study, Tuned | str, Path | None], None] | None = None,
    on_trial: Callable[[FrozenTrial], None] | None = None,
) -> dict[str, Tuned | str]:
    """Go through studies, and write the best config of each into ``<folder>/tuned``.

    Args:
        studies: of a plan.
        folder: the run directory, which is there.
        settings: of the run, for the options of the dataset; None if data were given from Python.
        text: the same as text, for other processes; empty if this one does it.
        executor: other processes that get it done, several of them at one study; by default this one does, one study
            after another.
        show: force the progress bars on or off.
        on_study: called when one is over, with what it found and its config file; or with why there is nothing.
        on_trial: called after every trial of this process.

    Returns:
        What was found, by name of the study, or why nothing was.
    """
    found: dict[str, Tuned | str] = {}

    def keep(study: Study, best: Tuned | str) -> None:
        if isinstance(best, Tuned) and best.value is None:
            best = best.summary()
        found[study.name] = best
        path = write_config(study, best, settings, folder) if isinstance(best, Tuned) else None
        if on_study is not None:
            on_study(study, best, path)

    if executor is None:
        for study in studies:
            keep(study, study.run(folder, show=show, on_trial=on_trial))
        return found
    left = {study.name: study for study in studies}

    def on_done(job: Job, result: dict[str, Any]) -> None:
        study = left.pop(job.name.split(" ")[0], None)
        if study is not None:  # else it was another worker on the same study, which is over
            keep(study, result["failed"] if "failed" in result else Tuned.from_json(result))

    # All workers join every study in turn, so that none is idle while a long one is left.
    jobs = [
        study_job(study, folder, text, worker)
        for worker in range(size(executor))
        for study in studies
        if worker < study.config.trials or study.config.minutes is not None
    ]
    executor(jobs, on_done)
    return found


def check_studies(studies: Sequence[Study], folder: Path, *, force: bool = False) -> None:
    """Refuse studies that are of something else, and a storage that cannot be read, before anything trains.

    Args:
        studies: of a plan.
        folder: the run directory.
        force: move the studies of the run directory to its folder ``replaced`` instead, all of them: they are one file.
            A storage that the user named is others' too, and stays as it is.

    Raises:
        StudyError, ConfigError: in one line.
    """
    for study in studies:
        try:
            check(study.task(folder))
        except (StudyError, ConfigError) as error:
            if study.config.storage is not None:
                raise
            if not force:
                raise type(error)(f"{error}, or add --force, which moves it to replaced/") from None
            set_studies_aside(folder)
            return


def write_config(study: Study, found: Tuned, settings: Settings | None, folder: Path) -> Path:
    """Write the best config of a study in the form of ``configs/``, which ``flowzoo fit --config`` takes.

    Args:
        study: that is over.
        found: by it.
        settings: of the run, for the options of the dataset; None if data were given from Python.
        folder: the run directory.
    """
    path = inside(folder, CONFIGS, f"{study.name}.yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    sections = found.to_settings()
    datasets = [] if settings is None else [d for d in settings.datasets if d[0] == study.cell.source.name]
    body = dump(Settings(datasets, sections["models"], sections.get("train", {})))
    if not datasets:
        body = "".join(line for line in body.splitlines(True) if not line.startswith("data:"))
    write_atomic(path, f"# {found.summary()}\n# study '{found.study}' in {found.storage}\n{body}".encode())
    return path
