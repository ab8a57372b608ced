"""Evaluations changed: copied, moved, with a part missing, with a number spoilt, or with nearly nothing in them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from flowzoo.metrics import Evaluation

EVERY = 101  # which number is spoilt; a prime, so that all columns have some

#: what a flow made, of each thing that a metric may need
_FROM_THE_FLOW = {
    "scores": ("scores", "log_prob"),
    "samples": ("samples",),
    "clouds": ("clouds.drawn",),
    "ensembles": ("ensembles.drawn",),
    "posteriors": tuple(
        f"posteriors.{name}"
        for name in ("draws", "log_prob", "truth_log_prob", "log_likelihood", "truth_log_likelihood")
    ),
    "references": ("references.drawn",),
}


def tensors(given: Any, prefix: str = "") -> dict[str, Tensor]:
    """Every tensor of a dataclass and of the dataclasses in it, by the names that lead there."""
    found: dict[str, Tensor] = {}
    for part in dataclasses.fields(given):
        value = getattr(given, part.name)
        if isinstance(value, Tensor):
            found[prefix + part.name] = value
        elif dataclasses.is_dataclass(value):
            found |= tensors(value, f"{prefix}{part.name}.")
    return found


def moved(given: Evaluation, device: torch.device) -> Evaluation:
    """The same numbers on a device, the generator at its beginning and, as in the harness, on the CPU."""

    def log_prob(*args: Tensor) -> Tensor:
        return given.log_prob(*(part.cpu() for part in args)).to(device)

    return replace(copied(given, device), log_prob=log_prob)


def copied(given: Evaluation, device: torch.device | None = None) -> Evaluation:
    """The same numbers in other memory, and the generator at its beginning."""
    copies = {name: tensor.to(device, copy=True) for name, tensor in tensors(given).items()}
    source = torch.Generator(given.generator.device).manual_seed(given.generator.initial_seed())
    return replace(_filled(given, copies), generator=source)


def _filled(given: Any, values: Mapping[str, Tensor], prefix: str = "") -> Any:
    changes: dict[str, Any] = {}
    for part in dataclasses.fields(given):
        value, name = getattr(given, part.name), prefix + part.name
        if name in values:
            changes[part.name] = values[name]
        elif dataclasses.is_dataclass(value):
            changes[part.name] = _filled(value, values, f"{name}.")
    return replace(given, **changes)


def without(given: Evaluation, needs: Iterable[str]) -> Evaluation:
    """The evaluation with some parts missing, and said to be."""
    changes: dict[str, Any] = {}
    for need in needs:
        if need == "scores":
            changes |= {"scores": torch.full_like(given.scores, math.nan), "log_prob": _unasked, "true_scores": None}
            continue
        changes[need] = None
        if hasattr(given, f"{need}_missing"):
            changes[f"{need}_missing"] = f"there are no {need}"
    return replace(given, **changes)


def _unasked(*_: Any) -> Tensor:
    raise AssertionError("log_prob is called by a metric that does not say that it needs scores")


def spoilt(given: Evaluation, needs: Iterable[str]) -> dict[str, Evaluation]:
    """A hundredth of what a flow made NaN, or infinite, in each part that a metric needs; by what was done."""
    found = {}
    for place in (place for need in needs for place in _FROM_THE_FLOW.get(need, ())):
        for value in (math.nan, math.inf):
            changed = _spoil(given, place, value)
            if changed is not None:
                found[f"{value} in {place}"] = changed
    return found


def _spoil(given: Evaluation, place: str, value: float) -> Evaluation | None:
    """None if there is no such part."""
    if place == "log_prob":
        return replace(given, log_prob=lambda *args: _with(given.log_prob(*args), value))
    part, _, name = place.partition(".")
    whole: Any = getattr(given, part)
    tensor = getattr(whole, name, None) if name else whole
    if tensor is None:
        return None
    changed: Any = replace(whole, **{name: _with(tensor, value)}) if name else _with(tensor, value)
    return replace(given, **{part: changed})


def _with(tensor: Tensor, value: float) -> Tensor:
    """A copy with a few numbers replaced, so that who looks at a part of it meets some."""
    tensor = tensor.clone(memory_format=torch.contiguous_format)
    tensor.view(-1)[1 % tensor.numel() :: EVERY] = value
    return tensor


def few(given: Evaluation) -> dict[str, Evaluation]:
    """The evaluation with one of everything, with two, and with all events in one group; by what it is."""
    return {
        "one of everything": _cut(given, 1, 1),
        "two of everything": _cut(given, 2, 4),
        "one group": replace(given, groups=torch.zeros_like(given.groups), weights=None),
    }


def _cut(given: Evaluation, count: int, maps: int) -> Evaluation:
    """So many events, points of half a cloud, drawn maps and draws of a posterior; and real maps."""
    changes: dict[str, Any] = {
        name: None if (tensor := getattr(given, name)) is None else tensor[:count]
        for name in ("x", "context_index", "groups", "scores", "samples", "true_scores")
    }
    if given.rows is not None:
        changes["rows"] = torch.arange(count)
    if given.weights is not None:
        changes["weights"] = torch.ones(count, dtype=torch.float64)
    if (clouds := given.clouds) is not None:
        changes["clouds"] = replace(clouds, real=clouds.real[:, :, :count], drawn=clouds.drawn[:, :, :count])
    if (fields := given.ensembles) is not None:
        real, drawn = fields.real[:count, :maps], fields.drawn[:count, :count]
        changes["ensembles"] = replace(fields, context=fields.context[:count], real=real, drawn=drawn)
    if (posteriors := given.posteriors) is not None:
        names = [name for name in ("draws", "log_prob", "log_likelihood") if getattr(posteriors, name) is not None]
        changes["posteriors"] = replace(posteriors, **{name: getattr(posteriors, name)[:count] for name in names})
    if (known := given.references) is not None:
        changes["references"] = replace(known, drawn=known.drawn[:, :count], reference=known.reference[:, :count])
    return replace(given, **changes)
