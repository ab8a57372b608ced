"""Which source a number comes from: digests of the files that define a model, and of those that define the metrics."""

from __future__ import annotations

import hashlib
import inspect
import secrets
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import flowzoo
from flowzoo.models import ModelConfig
from flowzoo.registry import EMBEDDINGS, METRICS

ROOT = Path(flowzoo.__file__).parent


def code_digest(model: ModelConfig) -> str:
    """A digest of the files that define a model: whoever edits one of them means another model."""
    return _of_model(type(model), getattr(model, "embed", None))


def metric_digests() -> dict[str, str]:
    """The same of each metric, by name. They are no part of a cell's hash: who edits one need not train again."""
    return {name: _of_metric(METRICS.get(name)) for name in METRICS.names()}


# Once a process: what runs is what was loaded, whatever is edited meanwhile.


@lru_cache
def _of_model(kind: type, embed: str | None) -> str:
    own = ["flow.py", "arguments.py", "base.py", "nets.py", "bijectors/*.py", "models/_*.py", "layers/*.py"]
    return _digest([kind, *([] if embed is None else [EMBEDDINGS.get(embed)])], own if _is_ours(kind) else [])


@lru_cache
def _of_metric(kind: type) -> str:
    return _digest([kind], ["metrics/_*.py"] if _is_ours(kind) else [])[:8]


def _is_ours(kind: type) -> bool:
    return kind.__module__.startswith("flowzoo.")


def _digest(kinds: Iterable[type], patterns: Iterable[str]) -> str:
    """Of the files of some classes, and of files of ours."""
    files = {path for pattern in patterns for path in ROOT.glob(pattern)}
    digest = hashlib.sha256()
    for kind in kinds:
        path = _file(kind)
        if path is None:
            # Nothing tells the class of one kernel from that of the next, so each is a class of its own.
            digest.update(secrets.token_bytes(16))
        else:
            files.add(path)
    for path in sorted(files):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _file(kind: type) -> Path | None:
    """Where a class is defined; None in a notebook."""
    try:
        path = Path(inspect.getfile(kind))
    except (TypeError, OSError):
        return None
    return path if path.is_file() else None
