"""``search``: take a trial, run it, tell the study, until the budget is used; any number of workers at once."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowzoo import config as configs
from flowzoo.checkpoint import versions
from flowzoo.data import Splits
from flowzoo.flow import ConditionalFlow
from flowzoo.models import ModelConfig
from flowzoo.record import one_line
from flowzoo.registry import MODELS
from flowzoo.train_config import FitConfig
from flowzoo.tune.space import Space
from flowzoo.tune.storage import Opened, open_storage
from flowzoo.tune.study import StudyError, check_study, open_study, verify
from flowzoo.tune.tune_config import TuneConfig, is_name
from flowzoo.tune.tuned import Tuned
from flowzoo.tune.worker import BEYOND, Worker, counts

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial


def search(
    model: ModelConfig,
    fit: FitConfig,
    splits: Splits,
    build: Callable[[ModelConfig], ConditionalFlow],
    config: TuneConfig,
    folder: Path,
    *,
    name: str,
    given_model: Collection[str] = (),
    given_train: Collection[str] = (),
    seed: int = 0,
    depends_on: Mapping[str, Any] | None = None,
    on_trial: Callable[[FrozenTrial], None] | None = None,
    show: bool | None = None,
    say: Callable[[str], None] | None = None,
) -> Tuned:
    """Tune a model on a dataset, alone or with others that call this with the same arguments.

    The study maximises the mean validation log-likelihood of the best validation. Its trial 0 is the config as it
    stands. A call that was killed goes on where it stopped; with one worker on a CPU, to the same trials.

    Args:
        model: the config as it stands, with what the user set.
        fit: the same of the training.
        splits: the data; the test part is not touched.
        build: makes the flow of a config, with its initial weights, on the device of the splits.
        config: how to tune.
        folder: of the run; holds the checkpoints of trials that are on.
        name: of the study, ``<dataset>.<model>[.foldK]``; ``config.study`` is put before it.
        given_model: options of the model that the user set: they are not searched.
        given_train: the same of the training.
        seed: of every training.
        depends_on: what else the value of a trial depends on, as JSON.
        on_trial: called after every trial of this worker.
        show: force the progress bars on or off.
        say: called with a line when there is nothing to do but wait; by default it goes to stderr.

    Raises:
        ConfigError: for a storage or a sampler that cannot be used.
        StudyError: if the study is of something else, or its storage no longer answers.
        OSError: if the disk is full or cannot be written.
    """
    study_name, space, subject = _subject(
        model, fit, splits, build, config, name, given_model, given_train, seed, depends_on
    )
    with _quietly():
        from flowzoo.tune.sampling import Pruner, Sampler

        sampler = Sampler(config.sampler, config.seed, space.present)
        steps = len(fit.noise_levels) * (fit.steps + 1)
        with _open(config, folder, study_name) as opened:
            pruner = Pruner(config.pruner, steps, fit.evaluate_every)
            study = open_study(opened, study_name, subject, sampler, pruner)
            worker = Worker(study, opened, config, space, folder)
            for trial, lease in worker.trials(say or _to_stderr):
                if worker.run(trial, lease, splits, build, seed=seed, show=show) and on_trial is not None:
                    on_trial(opened.storage.get_trial(trial._trial_id))
            verify(study, opened.url)
            return _tuned(study, opened, space)


def check(
    model: ModelConfig,
    fit: FitConfig,
    splits: Splits,
    build: Callable[[ModelConfig], ConditionalFlow],
    config: TuneConfig,
    folder: Path,
    *,
    name: str,
    given_model: Collection[str] = (),
    given_train: Collection[str] = (),
    seed: int = 0,
    depends_on: Mapping[str, Any] | None = None,
) -> None:
    """Refuse what ``search`` would, called with the same arguments, and make nothing.

    Raises:
        ConfigError, StudyError: as ``search``.
    """
    if config.storage is None and not (folder / "study.db").exists():
        return
    study_name, _, subject = _subject(
        model, fit, splits, build, config, name, given_model, given_train, seed, depends_on
    )
    with _quietly(), _open(config, folder, study_name) as opened:
        check_study(opened, study_name, subject)


def _subject(
    model: ModelConfig,
    fit: FitConfig,
    splits: Splits,
    build: Callable[[ModelConfig], ConditionalFlow],
    config: TuneConfig,
    name: str,
    given_model: Collection[str],
    given_train: Collection[str],
    seed: int,
    depends_on: Mapping[str, Any] | None,
) -> tuple[str, Space, dict[str, Any]]:
    """The name of a study, what it searches, and what the value of a trial depends on."""
    study_name = name if config.study is None else f"{config.study}.{name}"
    if not is_name(study_name):
        raise ValueError(f"a study's name must be letters, digits, '_', '-' and single dots; got {study_name!r}")
    trainable = any(p.requires_grad for p in build(model).parameters())
    space = Space(model, fit, frozenset(given_model), frozenset(given_train), config.training and trainable)
    subject = {
        "split": splits.hash,
        "model": {"name": MODELS.name_of(model), **configs.to_dict(model)},
        "train": configs.to_dict(fit),
        "space": {key: str(value) for key, value in sorted(space.asked.items())},
        "seeds": [config.seed, seed],
        "version": versions()["flowzoo"],
        "depends_on": dict(depends_on or {}),
    }
    return study_name, space, subject


@contextmanager
def _open(config: TuneConfig, folder: Path, study_name: str) -> Iterator[Opened]:
    """The storage; if it no longer answers inside the block, that is an error of ours."""
    from optuna.exceptions import StorageInternalError

    try:
        with open_storage(config.storage, folder, heartbeat=config.heartbeat) as opened:
            yield opened
    except StorageInternalError as error:
        cause = one_line(error.__cause__ or error)
        raise StudyError(f"the storage of study '{study_name}' does not answer: {cause}") from None


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


def _tuned(study: Study, opened: Opened, space: Space) -> Tuned:
    from flowzoo.tune.sampling import origin

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
        searched=tuple(space.asked),
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
