"""One study: opened or made, and refused if it is of something else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from flowzoo.record import one_line
from flowzoo.tune.storage import Opened

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.study import Study
    from optuna.trial import FrozenTrial

HASH, SUBJECT = "flowzoo.hash", "flowzoo.subject"
SEAL = "flowzoo.sha256"  # of what a finished trial says; no storage has a checksum of its own


class StudyError(ValueError):
    """A study that is of something else than what was asked for, or a storage that no longer answers."""


def digest(subject: Mapping[str, Any]) -> str:
    """The hash of what the value of a trial depends on."""
    return hashlib.sha256(json.dumps(subject, sort_keys=True).encode()).hexdigest()[:16]


def seal(trial: FrozenTrial, state: str, value: float | None) -> str:
    """The checksum of a trial that ends now: of its parameters, its validations, and what came of it."""
    steps = sorted(trial.intermediate_values.items())
    # A pruned trial has no value of its own: Optuna gives it that of its last validation.
    own = [trial.number, trial.params, steps, state, value if state == "COMPLETE" else None]
    return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()[:16]


def verify(study: Study, url: str) -> None:
    """Refuse a study with a trial that is not as this program left it. Those of other programs are left alone.

    Raises:
        StudyError: with its number.
    """
    for trial in study.get_trials(deepcopy=False):
        said, state = trial.user_attrs.get(SEAL), trial.state.name
        # On another trial it is that of an end that was never told, as its worker was killed.
        if state not in ("COMPLETE", "PRUNED") or (said is None and "home" not in trial.user_attrs):
            continue
        if said != seal(trial, state, trial.value):
            raise StudyError(
                f"trial {trial.number} of study '{study.study_name}' in {url} was altered or damaged: its checksum "
                "does not match; give another --study or --out, or restore it"
            )


@contextmanager
def _readable(name: str, url: str) -> Iterator[None]:
    """What Optuna stumbles over inside the block is damage."""
    try:
        yield
    except StudyError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise StudyError(
            f"study '{name}' in {url} was altered or damaged ({one_line(error)}); give another --study"
        ) from None


def open_study(
    opened: Opened, name: str, subject: Mapping[str, Any], sampler: BaseSampler, pruner: BasePruner
) -> Study:
    """Open a study, or make it.

    Args:
        opened: the storage.
        name: of the study.
        subject: what the value of a trial depends on, as JSON; kept in the study's user attributes with its hash.
        sampler: of Optuna.
        pruner: of Optuna.

    Raises:
        StudyError: if the storage has a study of this name that is of something else; with both hashes.
    """
    import optuna

    with _readable(name, opened.url):
        study = optuna.create_study(
            storage=opened.storage,
            study_name=name,
            direction="maximize",
            load_if_exists=True,
            sampler=sampler,
            pruner=pruner,
        )
        if _is_new(study, opened, subject):
            study.set_user_attr(SUBJECT, json.loads(json.dumps(subject)))
            study.set_user_attr(HASH, digest(subject))
    return study


def check_study(opened: Opened, name: str, subject: Mapping[str, Any]) -> None:
    """Refuse a study of this name that is of something else, and make none.

    Raises:
        StudyError: as ``open_study``.
    """
    import optuna

    with _readable(name, opened.url):
        if name in optuna.get_all_study_names(opened.storage):
            _is_new(optuna.load_study(storage=opened.storage, study_name=name), opened, subject)


def _is_new(study: Study, opened: Opened, subject: Mapping[str, Any]) -> bool:
    """Whether a study has just been made; else it must be of the same."""
    from optuna.study import StudyDirection

    name, own, known = study.study_name, digest(subject), study.user_attrs
    found = known.get(HASH)
    if found is None and not study.get_trials(deepcopy=False) and study.directions == [StudyDirection.MAXIMIZE]:
        return True
    if found is None:
        raise StudyError(f"{opened.url} has a study '{name}' that is not flowzoo's; give another --study")
    if found != own:
        before, now = known.get(SUBJECT) or {}, json.loads(json.dumps(subject))
        changed = [key for key in now if before.get(key) != now[key]]
        raise StudyError(
            f"study '{name}' in {opened.url} is of something else: it has hash {found}, this command {own} "
            f"({', '.join(changed) or 'nothing'} changed); give another --study or --out, or what it was made with"
        )
    verify(study, opened.url)
    return False
