"""The comparative table: finished cells in, one row per dataset and model out."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from flowzoo import record as records
from flowzoo.record import TUNED, Record, RecordError
from flowzoo.stats import clustered_mean, joint_p

LEADING = (
    *("dataset", "model", "seeds", "nll_nats", "nll_se", "nll_seed_se", "nll_per_dim", "bits_per_dim"),
    *("excess_nll", "delta_nll", "delta_se", "best", "tied"),
)
_TUNING = ("tuning_gain", "tuning_gain_se")  # of tables with tuned configs
TRAILING = ("split_hash", "status", "reason")
# Where records have these they come first and in this order; other metrics follow by name.
_ORDER = (
    *(
        "context_use",
        "sw",
        "sw_floor",
        "sample_seconds_per_1000",
        "posterior_seconds",
        "roundtrip_error",
        "num_parameters",
    ),
    *("train_steps", "train_seconds", "peak_memory_mb"),
)
# A seed without a finite NLL leaves these empty: the mean over its luckier siblings would flatter the model.
_OF_EVERY_SEED = ("nll_nats", "nll_per_dim", "bits_per_dim", "excess_nll")
_GAIN_SEED_SE = "context_gain_seed_se"  # like that of the NLL, of the scatter over seeds
# Reasons that hold by construction, for records that do not spell them out.
_WHY = {
    "bits_per_dim": "bits are counted for dequantised integer data alone",
    "excess_nll": "the exact density is not known",
}
_ONE_GROUP = "one test group does not tell how groups scatter, so no error and no tie is claimed"


class Cell(NamedTuple):
    """A finished cell: its record, and its per-event scores as ``record.load_scores`` gives them."""

    record: Record
    scores: dict[str, Tensor]


class Missing(NamedTuple):
    """A value that the table does not have, or not for every seed, and why."""

    dataset: str
    model: str
    column: str
    reason: str


@dataclass(frozen=True)
class Table:
    """The comparison of models, by dataset.

    Args:
        frame: one row per (dataset, model); see ``make_table`` for its columns.
        missing: why each empty value of a finished model is empty.
    """

    frame: pd.DataFrame
    missing: list[Missing]


@dataclass(frozen=True)
class _Scores:
    """Per-event log p, averaged over seeds, with what must agree for two models to be compared by event."""

    log_prob: Tensor
    groups: Tensor
    weights: Tensor | None
    key: tuple[str, str]

    def mean(self, values: Tensor) -> tuple[float, float]:
        """Of per-event values, with its error over groups."""
        return clustered_mean(values, self.groups, self.weights)


def read_cells(folder: Path) -> tuple[list[Cell], list[RecordError]]:
    """Read every record of a run.

    A record that cannot be read is a failed cell, known by its file's name, and its error is returned too.
    Scores that cannot be read leave the cell's metrics in place and only keep it from being compared.

    Args:
        folder: a run directory, or the ``cells`` folder in it.

    Returns:
        The cells in the order of their files' names, and what could not be read.

    Raises:
        FileNotFoundError: if there is no such folder.
    """
    cells = folder / "cells" if (folder / "cells").is_dir() else folder
    if not cells.is_dir():
        raise FileNotFoundError(f"{folder}: expected the folder of a run, its records in cells/; there is none")
    found: list[Cell] = []
    errors: list[RecordError] = []
    for path in sorted(cells.glob("*.json")):
        try:
            record = records.load(path)
        except RecordError as error:
            errors.append(error)
            name = records.from_stem(path.stem)
            if name:
                found.append(Cell(Record(**name, hash="", status="failed", reason=str(error)), {}))
            continue
        scores: dict[str, Tensor] = {}
        try:
            scores = records.load_scores(path)
        except Exception as error:  # safetensors' own error derives from Exception directly
            text = records.one_line(error)
            errors.append(RecordError(f"{path.with_suffix('.safetensors')}: not the scores of a cell ({text})"))
        found.append(Cell(record, scores))
    return found, errors


def make_table(cells: Sequence[Cell]) -> Table:
    r"""Compare models on each dataset.

    Rows stand in the order in which datasets first appear, then by ``nll_nats``, failed ones last. With
    :math:`\ell_{mi}` the log p of model m at test event i, averaged over seeds, and b the model of the lowest
    ``nll_nats``, ``delta_nll`` is the mean of :math:`\ell_{bi} - \ell_{mi}` over events and ``delta_se`` its
    standard error, clustered by group. Being paired, it is free of the scatter that events have in common,
    which the difference of two error bars counts twice. ``tied``: within two standard errors of the best, as are all
    that are better than it. ``tuning_gain`` of a tuned config is the same difference to its model's default one.

    ``nll_se`` is the error from the finite number of test groups, ``nll_seed_se`` that from the finite number
    of seeds. Metrics are means over seeds, but for p-values: theirs is one that the posteriors of every seed are right.
    A metric that was not computed is NaN, never zero, and ``Table.missing`` says why.

    Args:
        cells: finished cells in any order, failed ones too.

    Raises:
        ValueError: if a (dataset, model, seed) occurs twice, or is one fold of several.
    """
    grouped: dict[str, dict[str, list[Cell]]] = {}
    seen: set[tuple[str, str, int]] = set()
    for cell in (Cell(*pair) for pair in cells):
        if cell.record.fold is not None:
            raise ValueError(f"{cell.record.stem} is one fold; join_folds makes one cell of all of them")
        key = (cell.record.dataset, cell.record.model, cell.record.seed)
        if key in seen:
            name = ".".join(map(str, key))
            raise ValueError(f"two cells are {name} (dataset.model.seed); a table takes one run of each")
        seen.add(key)
        grouped.setdefault(cell.record.dataset, {}).setdefault(cell.record.model, []).append(cell)
    extra = _extra_columns([cell.record for cell in cells])
    rows: list[dict[str, Any]] = []
    missing: list[Missing] = []
    for models in grouped.values():
        pairs = [_row(sorted(found, key=lambda c: c.record.seed), extra, missing) for found in models.values()]
        able = _compare(pairs, missing)
        _gain_of_tuning(able)
        rows += sorted(
            (row for row, _ in pairs),
            key=lambda r: (r["status"] == "failed", math.isnan(r["nll_nats"]), r["nll_nats"]),
        )
    return Table(pd.DataFrame(rows, columns=[*LEADING, *extra, *TRAILING]), missing)


def _extra_columns(found: Sequence[Record]) -> list[str]:
    """The columns that records have beyond those of every table."""
    names = {name for record in found for name in (*record.metrics, *record.missing)} - {*LEADING, *TRAILING}
    names |= {_GAIN_SEED_SE} if "context_gain" in names else set()
    names |= set(_TUNING) if any(record.model.endswith(TUNED) for record in found) else set()
    return [*(n for n in _ORDER if n in names), *sorted(names.difference(_ORDER))]


def _row(cells: list[Cell], extra: list[str], missing: list[Missing]) -> tuple[dict[str, Any], _Scores | str | None]:
    """The row of one model without its comparison, and its scores or the reason why there are none."""
    first = cells[0].record
    done = [cell for cell in cells if cell.record.status == "ok"]
    failed = [cell.record for cell in cells if cell.record.status != "ok"]
    row: dict[str, Any] = dict.fromkeys([*LEADING, *extra, *TRAILING], math.nan)
    row |= {"dataset": first.dataset, "model": first.model, "seeds": len(done), "best": False, "tied": False}
    row["split_hash"] = "; ".join(dict.fromkeys(c.record.split_hash for c in cells if c.record.split_hash))
    row["status"] = "ok" if not failed else "partial" if done else "failed"
    row["reason"] = _by_seed([(r.seed, r.reason or "no reason was recorded") for r in failed], len(cells))
    if not done:
        return row, None

    def empty(column: str, reason: str) -> None:
        missing.append(Missing(first.dataset, first.model, column, reason))

    for column in (*_OF_EVERY_SEED, *(name for name in extra if name not in (_GAIN_SEED_SE, *_TUNING))):
        row[column], reason = _mean([cell.record for cell in done], column)
        if reason:
            empty(column, reason)
    scores = _pool(done)
    if isinstance(scores, str):
        empty("nll_se", scores)
    else:
        row["nll_se"] = scores.mean(scores.log_prob)[1]
        if math.isnan(row["nll_se"]):
            empty("nll_se", _ONE_GROUP)
    nlls = torch.tensor([cell.record.metrics.get("nll_nats", math.nan) for cell in done], dtype=torch.float64)
    if len(nlls) > 1:
        row["nll_seed_se"] = float(nlls.std() / len(nlls) ** 0.5)
        gains = [cell.record.metrics.get("context_gain", math.nan) for cell in done]
        row[_GAIN_SEED_SE] = float(torch.tensor(gains, dtype=torch.float64).std() / len(gains) ** 0.5)
    if math.isnan(row["nll_seed_se"]):
        empty("nll_seed_se", "one seed" if len(nlls) == 1 else "not every seed has an NLL")
    return row, scores


def is_p(column: str) -> bool:
    """Whether a column is of p-values, by its name."""
    return column.endswith("_p")


def _mean(found: list[Record], column: str) -> tuple[float, str]:
    """A metric's mean over the seeds that have it (of p-values the joint one), and why some or all do not."""
    of_seeds, what = (joint_p, "joint p") if is_p(column) else (fmean, "mean")
    values = [r.metrics[column] for r in found if math.isfinite(r.metrics.get(column, math.nan))]
    if len(values) == len(found):
        return of_seeds(values), ""
    default = _WHY.get(column, "not recorded")
    lacking = [r for r in found if not math.isfinite(r.metrics.get(column, math.nan))]
    reason = _by_seed([(r.seed, r.missing.get(column, default)) for r in lacking], len(found))
    if not values or column in _OF_EVERY_SEED:
        return math.nan, reason
    return of_seeds(values), f"{what} over {len(values)} of {len(found)} seeds; {reason}"


def _by_seed(reasons: list[tuple[int, str]], total: int) -> str:
    """Reasons with the seeds that they hold for; the bare reason if it holds for all."""
    seeds: dict[str, list[int]] = {}
    for seed, reason in reasons:
        seeds.setdefault(reason, []).append(seed)
    if len(seeds) == 1 and len(reasons) == total:
        return next(iter(seeds))
    return "; ".join(
        f"seed{'s' * (len(which) > 1)} {', '.join(map(str, which))}: {reason}" for reason, which in seeds.items()
    )


def _pool(done: list[Cell]) -> _Scores | str:
    """Per-event scores averaged over seeds, or the reason why that cannot be."""
    bare = [cell.record.seed for cell in done if not {"log_prob", "group"} <= cell.scores.keys()]
    if bare:
        return _by_seed([(seed, "its per-event scores are not there") for seed in bare], len(done))
    groups = done[0].scores["group"].long().cpu()
    alike = all(
        cell.record.split_hash == done[0].record.split_hash and torch.equal(cell.scores["group"].long().cpu(), groups)
        for cell in done
    )
    if not alike:
        return "its seeds were tested on splits that differ; run them again on one split"
    values = torch.stack([cell.scores["log_prob"].double().cpu() for cell in done]).mean(0)
    lost = int((~values.isfinite()).sum())
    if lost:
        return f"log q is not finite at {lost} of {len(values)} test events"
    digest = hashlib.sha256(groups.contiguous().numpy().tobytes()).hexdigest()
    return _Scores(values, groups, done[0].scores.get("weight"), (done[0].record.split_hash, digest))


def _compare(
    pairs: list[tuple[dict[str, Any], _Scores | str | None]], missing: list[Missing]
) -> list[tuple[dict[str, Any], _Scores]]:
    """Fill delta, best and tied of the models of one dataset that were tested on the same events, and give these."""

    def empty(row: dict[str, Any], column: str, reason: str) -> None:
        missing.append(Missing(row["dataset"], row["model"], column, reason))

    able: list[tuple[dict[str, Any], _Scores]] = []
    for row, scores in pairs:
        if isinstance(scores, _Scores) and math.isfinite(row["nll_nats"]):
            able.append((row, scores))
        elif scores is not None:
            empty(row, "delta_nll", scores if isinstance(scores, str) else "it has no NLL")
    # An NLL on other events says nothing here. The split of most models stands; without a majority, none.
    counts = Counter(scores.key for _, scores in able).most_common()
    if len(counts) > 1:
        clear = counts[0][1] > counts[1][1]
        short = {key: f"{key[0][:8] or 'without hash'}/{key[1][:4]}" for key, _ in counts}
        listed = "; ".join(
            f"{', '.join(r['model'] for r, s in able if s.key == key)} on {short[key]}" for key, _ in counts
        )
        for row, scores in able:
            if not clear or scores.key != counts[0][0]:
                empty(
                    row,
                    "delta_nll",
                    f"the splits differ (split/groups: {listed}); run the cells on one split",
                )
        able = [(row, scores) for row, scores in able if clear and scores.key == counts[0][0]]
    if not able:
        return able
    best, best_scores = min(able, key=lambda pair: pair[0]["nll_nats"])
    best["best"] = True
    among = True
    for row, scores in sorted(able, key=lambda pair: pair[0]["nll_nats"]):
        row["delta_nll"], row["delta_se"] = scores.mean(best_scores.log_prob - scores.log_prob)
        # False for the NaN error of a single group. Below one that is not tied nobody is: a model with a few events of
        # density nearly zero has an error as large as its NLL, and that is no reason to trust it.
        among = among and (row is best or abs(row["delta_nll"]) <= 2 * row["delta_se"])
        row["tied"] = among
        if math.isnan(row["delta_se"]):
            empty(row, "delta_se", _ONE_GROUP)
    return able


def _gain_of_tuning(able: list[tuple[dict[str, Any], _Scores]]) -> None:
    """The NLL of a model's default config less that of its tuned one, paired by event."""
    default = {row["model"]: scores for row, scores in able}
    for row, scores in able:
        name = row["model"].removesuffix(TUNED)
        if name != row["model"] and name in default:
            row["tuning_gain"], row["tuning_gain_se"] = scores.mean(scores.log_prob - default[name].log_prob)
