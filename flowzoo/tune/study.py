"""One study: opened or made, and refused if it is of something else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flowzoo.tune.storage import Opened

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.study import Study

HASH, SUBJECT = "flowzoo.hash", "flowzoo.subject"


class StudyError(ValueError):
    """A study that is of something else than what was asked for, or a storage that no longer answers."""


def digest(subject: Mapping[str, Any]) -> str:
    """The hash of what the value of a trial depends on."""
    return hashlib.sha256(json.dumps(subject, sort_keys=True).encode()).hexdigest()[:16]


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
    from optuna.study import StudyDirection

    study = optuna.create_study(
        storage=opened.storage,
        study_name=name,
        direction="maximize",
        load_if_exists=True,
        sampler=sampler,
        pruner=pruner,
    )
    own, known = digest(subject), study.user_attrs
    found = known.get(HASH)
    if found is None and not study.get_trials(deepcopy=False) and study.directions == [StudyDirection.MAXIMIZE]:
        study.set_user_attr(SUBJECT, json.loads(json.dumps(subject)))
        study.set_user_attr(HASH, own)
    elif found is None:
        raise StudyError(f"{opened.url} has a study '{name}' that is not flowzoo's; give another --study")
    elif found != own:
        before, now = known.get(SUBJECT) or {}, json.loads(json.dumps(subject))
        changed = [key for key in now if before.get(key) != now[key]]
        raise StudyError(
            f"study '{name}' in {opened.url} is of something else: it has hash {found}, this command {own} "
            f"({', '.join(changed) or 'nothing'} changed); give another --study or --out, or what it was made with"
        )
    return study
