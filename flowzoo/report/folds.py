"""The folds of a cross-validation as one cell: every group tested once, scores side by side."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from flowzoo.report.table import Cell, is_p
from flowzoo.stats import clustered_mean, error_of_mean, joint_p

# Means over events: of all folds together they are means over all events.
BY_EVENT = (
    *("nll_nats", "nll_per_dim", "bits_per_dim", "excess_nll", "context_use", "context_gain"),
    *("class_accuracy", "class_log_score", "class_brier"),
)
LARGEST = ("roundtrip_error", "peak_memory_mb")
SUM = ("calibration_observations",)  # that the p of all folds together is of
# Tensors with a row for each test event or test group; of others (pictures) those of the first fold stand.
_ROWS = (
    *("log_prob", "group", "by_event", "by_group", "by_column", "p_by_group"),
    *("to_population", "context_distance"),
)
_GAIN = "context_gain.by_event"


def join_folds(cells: Sequence[Cell]) -> list[Cell]:
    """One cell for each (dataset, model, seed): its folds joined, in their order; cells without folds as they are.

    Means over events are over the events of all folds. Other figures are means over folds, with the standard errors of
    such means; of p-values one is made that all folds are right, and of the round trip's error and the memory it is the
    largest. A fold that failed fails the whole: the mean over the others is of other groups.

    Args:
        cells: finished cells, failed ones too.

    Raises:
        ValueError: for folds of a cell that was run without them too.
    """
    joined: dict[tuple[str, str, int], list[Cell]] = {}
    for cell in cells:
        joined.setdefault((cell.record.dataset, cell.record.model, cell.record.seed), []).append(cell)
    found = []
    for same in joined.values():
        folds = {cell.record.fold for cell in same}
        if None in folds and len(folds) > 1:
            raise ValueError(
                f"{same[0].record.stem}: a run with folds and one without are no one table; read them apart"
            )
        if None not in folds:
            found.append(_joined(sorted(same, key=lambda cell: cell.record.fold or 0)))
        else:
            found += same
    return found


def _joined(folds: list[Cell]) -> Cell:
    records = [fold.record for fold in folds]
    wanted = max((int(r.config.get("bench", {}).get("folds", 0)) for r in records), default=0)
    absent = sorted(set(range(wanted)) - {r.fold for r in records})
    failed = [f"fold {r.fold}: {r.reason or 'no reason was recorded'}" for r in records if r.status != "ok"]
    if absent:
        failed.append(f"folds not run: {', '.join(map(str, absent))}")
    first = records[0]
    common: dict[str, Any] = {
        "fold": None,
        "n_test": sum(r.n_test for r in records),
        "n_train": round(sum(r.n_train for r in records) / len(records)),
        "split_hash": joined_hash([r.split_hash for r in records]),
        "hash": joined_hash([r.hash for r in records]),
        "notes": list(dict.fromkeys(note for r in records for note in r.notes)),
    }
    if failed:
        reason = "; ".join(failed)
        return Cell(replace(first, **common, status="failed", reason=reason, metrics={}, missing={}), {})
    scores = _tensors([fold.scores for fold in folds])
    metrics, missing = _figures(folds)
    if {"log_prob", "group"} <= scores.keys() and "nll_nats" in metrics:
        metrics["nll_se"] = clustered_mean(scores["log_prob"], scores["group"], scores.get("weight"))[1]
        missing.pop("nll_se", None)
        if not math.isfinite(metrics["nll_se"]):
            del metrics["nll_se"]
    if {_GAIN, "group"} <= scores.keys() and "context_gain" in metrics:
        missing.pop("context_gain_se", None)
        metrics["context_gain_se"] = clustered_mean(scores[_GAIN], scores["group"], scores.get("weight"))[1]
    return Cell(replace(first, **common, metrics=metrics, missing=missing), scores)


def _figures(folds: list[Cell]) -> tuple[dict[str, float], dict[str, str]]:
    """The metrics that all folds have, and for each other one why it is not there."""
    metrics: dict[str, float] = {}
    missing: dict[str, str] = {}
    shares = [_share(fold) for fold in folds]
    total = sum(shares)
    for name in dict.fromkeys(n for fold in folds for n in (*fold.record.metrics, *fold.record.missing)):
        values = [fold.record.metrics.get(name, math.nan) for fold in folds]
        if any(math.isnan(value) for value in values):
            reasons: dict[str, list[int | None]] = {}
            for fold in folds:
                if name not in fold.record.metrics:
                    reasons.setdefault(fold.record.missing.get(name, "not recorded"), []).append(fold.record.fold)
            everywhere = len(reasons) == 1 and len(next(iter(reasons.values()))) == len(folds)
            missing[name] = "; ".join(
                reason if everywhere else f"fold {', '.join(map(str, which))}: {reason}"
                for reason, which in reasons.items()
            )
        elif name in BY_EVENT:
            metrics[name] = math.fsum(s * v for s, v in zip(shares, values, strict=True)) / total
        else:
            metrics[name] = _joint(name)(values)
    return metrics, missing


def _joint(name: str) -> Callable[[Sequence[float]], float]:
    """What makes one figure of those of all folds, whose test groups are not the same."""
    if is_p(name):
        return joint_p
    if name.endswith("_se"):
        return error_of_mean
    return max if name in LARGEST else math.fsum if name in SUM else fmean


def _share(fold: Cell) -> float:
    """How much a fold counts: by its events, where groups are balanced by its groups."""
    if "weight" in fold.scores:
        return float(len(torch.unique(fold.scores["group"])))
    return float(fold.record.n_test)


def _tensors(folds: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    found = dict(folds[0])
    for name, value in folds[0].items():
        rows = name.rsplit(".", 1)[-1].removeprefix("real_").removeprefix("floor_") in _ROWS
        parts = [fold[name] for fold in folds if name in fold]
        alike = len(parts) == len(folds) and all(part.shape[1:] == value.shape[1:] for part in parts)
        if rows and alike and not name.startswith("examples."):
            found[name] = torch.cat(parts)
    if "weight" in found:
        _, index, counts = torch.unique(found["group"], return_inverse=True, return_counts=True)
        found["weight"] = (len(index) / len(counts) / counts.double())[index]
    return found


def joined_hash(hashes: Sequence[str]) -> str:
    """Of the folds of one split, what the table shows as its hash."""
    return hashlib.sha256("".join(hashes).encode()).hexdigest()[:16]
