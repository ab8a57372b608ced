"""The record of one cell (dataset, model, seed): one JSON, and a small file of per-event scores beside it.

A record is written once, atomically, when the cell is over; a cell that failed has one too, with its reason. A
metric that was not computed is absent from ``metrics`` and has its reason in ``missing``: never zero, never NaN.

In the file are two more keys, ``sha256`` of all the others and ``scores_sha256`` of the file beside it: a digit that
the disk or a hand has changed is an error, and no number.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from flowzoo.storage import inside, plain_name, write_atomic

SCHEMA = 2
BASELINE = "gaussian"  # the model that a flow has to beat
TUNED = "-tuned"  # after the name of a model: its best config of a study
_SUM, _SCORES = "sha256", "scores_sha256"


class RecordError(ValueError):
    """A record that cannot be read."""


@dataclass(frozen=True)
class Record:
    """What is known of a finished cell.

    Args:
        dataset: registered name.
        model: registered name; of a tuned config with ``TUNED`` after it.
        seed: of initialisation, order and noise.
        hash: of everything that determines the result (options, split, seed, code version).
        fold: which part of the groups was left out, in a cross-validation; None for one split, and for all joined.
        status: ``"ok"`` or ``"failed"``.
        reason: why it failed, in one line.
        metrics: column name to value.
        missing: column name to the reason why there is no value.
        n_train: number of training events.
        n_test: number of test events.
        split_hash: of the data and the split.
        config: every option of dataset, model and training.
        notes: what the loader did to the data, and what the run did otherwise than asked (fewer draws, say).
        run: device, versions, commit, time: where the numbers come from.
        labels: names and units of events and context, for figures: ``names``, ``units``, ``context_names``,
            ``context_units``, ``theta_names``, ``theta_units``, ``side`` (length and unit), ``levels`` (low, step,
            count); what the data do not say is absent.
    """

    dataset: str
    model: str
    seed: int
    hash: str
    status: str
    reason: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    n_train: int = 0
    n_test: int = 0
    split_hash: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    run: dict[str, Any] = field(default_factory=dict)
    labels: dict[str, list[str]] = field(default_factory=dict)
    fold: int | None = None
    schema: int = SCHEMA

    @property
    def stem(self) -> str:
        """File name of the cell, without its ending."""
        return stem(self.dataset, self.model, self.seed, self.fold)


def stem(dataset: str, model: str, seed: int, fold: int | None = None) -> str:
    """File name of a cell, without its ending: ``digits.maf.0``, ``galaxies.maf.0.fold2``.

    Raises:
        UnsafeName: if the name of the dataset or of the model, which may be a third party's, would lead elsewhere.
    """
    plain_name(dataset, "the dataset")
    plain_name(model, "the model", dots=False)
    return f"{dataset}.{model}.{int(seed)}" + ("" if fold is None else f".fold{int(fold)}")


def from_stem(name: str) -> dict[str, Any]:
    """What ``stem`` made a file name of, as options of a ``Record``; empty if it is no such name."""
    match = re.fullmatch(r"(?P<dataset>.+?)\.(?P<model>[^.]+)\.(?P<seed>\d+)(?:\.fold(?P<fold>\d+))?", name)
    if match is None:
        return {}
    fold = match["fold"]
    return {
        "dataset": match["dataset"],
        "model": match["model"],
        "seed": int(match["seed"]),
        "fold": None if fold is None else int(fold),
    }


def save(record: Record, folder: Path, scores: dict[str, Tensor] | None = None) -> Path:
    """Write a record, its per-event scores first, so that a record's presence means that both are whole.

    Args:
        record: the finished cell.
        folder: the ``cells`` folder of a run directory.
        scores: ``log_prob`` ``(n_test,)`` in nats and ``group`` ``(n_test,)``, in the order of the test split; and what
            figures are drawn from, as ``<metric>.<name>``. Of balanced data also ``weight`` ``(n_test,)``.

    Raises:
        UnsafeName: if the name of the cell, or a link in place of the folder, leads out of the run directory.
    """
    inside(folder.parent, folder.name)
    folder.mkdir(parents=True, exist_ok=True)
    values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(record), allow_nan=False))
    if scores is not None:
        from safetensors.torch import save as to_bytes

        # clones: safetensors refuses tensors that share memory
        own = {key: value.detach().clone().contiguous() for key, value in scores.items()}
        content = to_bytes(own)
        values[_SCORES] = hashlib.sha256(content).hexdigest()
        write_atomic(folder / f"{record.stem}.safetensors", content)
    path = folder / f"{record.stem}.json"
    text = json.dumps({**values, _SUM: _digest(values)}, indent=1, sort_keys=True)
    write_atomic(path, text.encode())
    return path


def load(path: Path) -> Record:
    """Read a record.

    Raises:
        RecordError: if the file is not a whole record of a schema that this version knows, or was altered.
    """
    return _load(path)[0]


def load_scores(path: Path) -> dict[str, Tensor]:
    """The per-event scores beside a record's JSON (``log_prob`` and ``group``); empty if the cell failed.

    Raises:
        RecordError: if one of the two files is missing, was altered, or is of another run.
    """
    wanted = _load(path)[1]
    if wanted is None:
        return {}
    file = path.with_suffix(".safetensors")
    try:
        content = file.read_bytes()
    except OSError as error:
        raise RecordError(f"{file}: the scores of a cell cannot be read ({error.strerror}); {_AGAIN}") from None
    if hashlib.sha256(content).hexdigest() != wanted:
        raise RecordError(f"{file}: not the scores that {path.name} was written with (its checksum differs); {_AGAIN}")
    from safetensors.torch import load as from_bytes

    return from_bytes(content)


_AGAIN = "delete both to run the cell again"


def _load(path: Path) -> tuple[Record, str | None]:
    """A record, and the checksum of its scores if it has any."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        names = {f.name for f in dataclasses.fields(Record)}
        record = Record(**{k: v for k, v in values.items() if k in names})
        kinds = {"metrics": dict, "missing": dict, "config": dict, "notes": list, "seed": int, "labels": dict}
        for field_, kind in kinds.items():
            if not isinstance(getattr(record, field_), kind):
                raise TypeError(f"{field_} is no {kind.__name__}")
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise RecordError(f"{path}: not a record of a cell ({error}); delete it to run the cell again") from None
    if record.schema != SCHEMA:
        raise RecordError(f"{path}: schema {record.schema}; this version of flowzoo reads {SCHEMA}")
    if values.pop(_SUM, None) != _digest(values):
        raise RecordError(f"{path}: its checksum does not match: it was altered or damaged; {_AGAIN}")
    return record, values.get(_SCORES)


def _digest(values: dict[str, Any]) -> str:
    """Of what JSON gives back, so that it does not depend on how the text is laid out."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def one_line(error: BaseException) -> str:
    """An exception as one readable line."""
    text = re.sub(r"\s+", " ", str(error)).strip()
    return text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}".rstrip(": ")
