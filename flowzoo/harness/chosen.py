"""Which flow is used: that of a file, or of a run directory the one that the run says to take."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowzoo import checkpoint
from flowzoo.config import ConfigError
from flowzoo.registry import MODELS
from flowzoo.report import join_folds, make_table, read_cells, verdicts


@dataclass(frozen=True, order=True)
class _Candidate:
    fold: int
    nll: float  # the lowest of its validation
    model: str
    path: Path


def find_flow(run: str | Path, model: str | None = None) -> tuple[Path, str]:
    """The file of a flow, and in words which it is, of several why this one.

    Args:
        run: the file itself, or the directory of a bench: then a flow of the model that its verdict takes, and while it
            has none of any; of several, seeds say, that with the lowest validation NLL, of the first fold.
        model: take a flow of this model.

    Raises:
        FileNotFoundError: if there is neither.
        CheckpointError: if the file is damaged.
        ConfigError: if there is no such flow.
    """
    run = Path(run)
    wanted = None if model is None else MODELS.resolve(model)
    if run.is_dir():
        return _of_run(run, wanted)
    flow = checkpoint.read_meta(run).get("flow")
    if flow is None:
        raise checkpoint.CheckpointError(f"{run} holds no flow, but the state of a training; give the file of a flow")
    own = flow["model"]
    if wanted not in (None, own):
        raise ConfigError(f"{run} is a flow of {own}, not of {model}; leave --model out")
    return run, f"{own} from {run.name}"


def _of_run(run: Path, wanted: str | None) -> tuple[Path, str]:
    files = [p for p in sorted((run / "checkpoints").glob("*.safetensors")) if ".state." not in p.name]
    if not files:
        raise ConfigError(
            f"{run} holds no trained flows (checkpoints/*.safetensors); give the directory of a bench, or a file of fit"
        )
    held, datasets = [], set()
    for path in files:
        meta = checkpoint.read_meta(path)
        if "flow" in meta and meta.get("fit", {}).get("status", "ok") == "ok":
            fold = meta.get("split", {}).get("fold") or 0
            held.append(_Candidate(fold, _validation(meta), meta["flow"]["model"], path))
            datasets.add(str(meta.get("data", {}).get("name")))
    models = sorted({each.model for each in held})
    if not held or wanted not in (None, *models):
        what = f"no flow of {wanted} whose training ended well" if wanted else "no flow whose training ended well"
        raise ConfigError(f"{run} holds {what}; there are {', '.join(models) or 'none'}")
    if len(datasets) > 1:
        raise ConfigError(
            f"{run} holds flows of {', '.join(sorted(datasets))}, whose NLL do not compare; "
            f"give one file, such as {held[0].path}"
        )
    taken = "" if wanted else _taken(run)
    able = [each for each in held if each.model == (wanted or taken)] or held
    best = min(able)
    reasons = [f"{taken} is what the verdict of the run takes"] if best.model == taken else []
    if len(able) > 1:
        # Other folds are validated on other groups.
        rivals = sum(each.fold == best.fold for each in able)
        which = f"{rivals} flow{'s' if rivals > 1 else ''}" + (f" of fold {best.fold}" if rivals < len(able) else "")
        known = math.isfinite(best.nll)
        reasons.append(f"the lowest validation NLL ({best.nll:.4g} nats) of {which}" if known else f"first of {which}")
    name = f"{best.model} from {best.path.name}"
    return best.path, f"{name}: {'; '.join(reasons)}" if reasons else name


def _taken(run: Path) -> str:
    """The model that the verdict of a run takes, as its report says it; empty if it takes none."""
    try:
        cells = join_folds(read_cells(run)[0])
    except FileNotFoundError:
        return ""
    found = verdicts(make_table(cells), cells)
    return found[0].take if len(found) == 1 else ""


def _validation(meta: dict[str, Any]) -> float:
    """The lowest validation NLL of a training; infinite if it had none."""
    return min((float(row["validation_nll"]) for row in meta.get("fit", {}).get("history", ())), default=math.inf)
