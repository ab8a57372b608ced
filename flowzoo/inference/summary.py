"""What was inferred, in numbers that a file of JSON holds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flowzoo.inference._inferred import Inferred

LEVELS = (0.68, 0.95)


def summarise(inferred: Inferred, names: Sequence[str], truth: Tensor | None = None) -> list[dict[str, Any]]:
    """A mapping for each observation: its parameters, the evidence, the diagnostics, the warnings.

    Of each parameter: ``mean``, ``sd``, ``median``, ``map``, and intervals ``[low, high]`` at 68 and 95 %, equal-tailed
    (``interval_68``) and highest-density (``hdi_68``); with a truth, it and whether the equal-tailed intervals hold it
    (``inside_68``). A number that is not finite is None, as JSON has none; of an observation without a
    posterior all are. Warnings are of all observations together.

    Args:
        inferred: of K observations.
        names: of the D parameters.
        truth: ``(K, D)``.

    Raises:
        ValueError: if names or truth do not fit.
    """
    count, dim = inferred.best.shape
    if len(names) != dim:
        raise ValueError(f"names must be {dim}, one for each parameter; got {len(names)}: {', '.join(names)}")
    if truth is not None and truth.shape != (count, dim):
        raise ValueError(f"truth must be {(count, dim)}, a row for each observation; got {tuple(truth.shape)}")
    columns = {
        "mean": inferred.mean,
        "sd": inferred.std,
        "median": inferred.quantile([0.5])[0],
        "map": inferred.best,
    }
    for level in LEVELS:
        columns[f"interval_{level * 100:.0f}"] = inferred.interval(level)
        columns[f"hdi_{level * 100:.0f}"] = inferred.hdi(level)
    if truth is not None:
        truth = truth.to(inferred.best)
        columns["truth"] = truth
        for level in LEVELS:
            low, high = columns[f"interval_{level * 100:.0f}"].unbind(-1)
            columns[f"inside_{level * 100:.0f}"] = (low <= truth) & (truth <= high)
    lists = {key: _plain(value) for key, value in columns.items()}
    for k in inferred.mean.isnan().any(1).nonzero()[:, 0].tolist():  # an observation without a posterior
        for key in lists:
            lists[key][k] = lists[key][k] if key == "truth" else [None] * dim
    evidence = None if inferred.log_evidence is None else _plain(inferred.log_evidence)
    numbers = {key: _plain(value) for key, value in inferred.diagnostics.items()}
    return [
        {
            "parameters": {name: {key: lists[key][k][d] for key in lists} for d, name in enumerate(names)},
            "log_evidence": None if evidence is None else evidence[k],
            "method": inferred.method,
            "diagnostics": {key: numbers[key][k] for key in numbers},
            "warnings": list(inferred.warnings),
        }
        for k in range(count)
    ]


def _plain(value: Tensor | Any) -> Any:
    if isinstance(value, torch.Tensor):
        value = value.tolist()
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
