"""``search``: take a trial, run it, tell the study, until the budget is used; any number of workers at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from flowzoo.record import one_line
from flowzoo.tune.space import Space
from flowzoo.tune.storage import Opened, open_storage
from flowzoo.tune.study import StudyError, check_study, open_study, verify
from flowzoo.tune.task import Task
from flowzoo.tune.trial import last_step
from flowzoo.tune.tuned import Tuned

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial


def search(
    task: Task,
    *,
    on_trial: Callable[[FrozenTrial], None] | None = None,
    show: bool | None = None,
) -> Tuned:
    """Tune a model on a dataset, alone or with others that call this with an equal task.

    The study maximises the mean validation log-likelihood of the best validation. Its trial 0 is the config as it
    stands. A call that was killed goes on where it stopped; with one worker on a CPU, to the same trials.

    Args:
        task: what is tuned, and how.
        on_trial: called after every trial of this worker.
        show: force the progress bars on or off.

    Raises:
        ConfigError: for a storage or a sampler that cannot be used.
        StudyError: if the study is of something else, or its storage no longer answers.
        OSError: if the disk is full or cannot be written.
    """
    config, fit = task.config, task.fit
    with _quietly():
        from flowzoo.tune.sampling import Pruner, Sampler
        from flowzoo.tune.worker import Worker

        sampler = Sampler(config.sampler, config.seed, task.space.present)
        with _open(task) as opened:
            pruner = Pruner(config.pruner, last_step(fit), fit.evaluate_every)
            study = open_study(opened, task.study, task.subject, sampler, pruner)
            worker = Worker(study, opened, task)
            for trial, lease in worker.trials():
                if worker.run(trial, lease, show=show) and on_trial is not None:
                    on_trial(opened.storage.get_trial(trial._trial_id))
            verify(study, opened.url)
            return _tuned(study, opened, task.space)


def check(task: Task) -> None:
    """Refuse what ``search`` would, and make nothing.

    Raises:
        ConfigError, StudyError: as ``search``.
    """
    if task.config.storage is None and not (task.folder / "study.db").exists():
        return
    with _quietly(), _open(task) as opened:
        check_study(opened, task.study, task.subject)


@contextmanager
def _open(task: Task) -> Iterator[Opened]:
    """The storage; if it no longer answers inside the block, that is an error of ours."""
    from optuna.exceptions import StorageInternalError

    try:
        with open_storage(task.config.storage, task.folder, heartbeat=task.config.heartbeat) as opened:
            yield opened
    except StorageInternalError as error:
        cause = one_line(error.__cause__ or error)
        raise StudyError(f"the storage of study '{task.study}' does not answer: {cause}") from None


def _tuned(study: Study, opened: Opened, space: Space) -> Tuned:
    from flowzoo.tune.sampling import origin
    from flowzoo.tune.worker import BEYOND, counts

    trials = [t for t in study.get_trials(deepcopy=False) if t.user_attrs.get("reason") != BEYOND]
    complete = [t for t in trials if t.state.name == "COMPLETE" and t.value is not None]
    default = next((t for t in complete if origin(t) == 0), None)
    # The default on equal terms: who changes nothing is right.
    best = max(complete, key=lambda t: (t.value, -origin(t)), default=None)
    as_it_stands = best is None or origin(best) == 0
    model, fit = (space.model, space.fit) if as_it_stands or best is None else space.of_params(best.params)
    kinds = {"complete": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL"}
    found = {kind: sum(counts(t) and t.state.name == state for t in trials) for kind, state in kinds.items()}
    return Tuned(
        study=study.study_name,
        storage=opened.url,
        model=model,
        fit=fit,
        params={} if best is None else dict(best.params),
        number=None if best is None else best.number,
        value=None if best is None else best.value,
        default_value=None if default is None else default.value,
        counts={**found, "lost": sum(t.state.name == "FAIL" and not counts(t) for t in trials)},
        reasons={t.number: t.user_attrs["reason"] for t in trials if t.state.name == "FAIL" and counts(t)},
        # What is asked for may depend on what was drawn before.
        searched=tuple(dict.fromkeys([*space.asked, *([] if best is None else best.params)])),
        given=(*sorted(space.given_model), *(f"train.{name}" for name in sorted(space.given_train))),
    )


@contextmanager
def _quietly() -> Iterator[None]:
    """Inside the block Optuna says what is wrong, and not what it does."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
