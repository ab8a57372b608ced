"""What every metric must satisfy: columns as declared, chance by its seed, reasons, and that a wrong flow is worse."""

from __future__ import annotations

import dataclasses
import math
import re
import warnings
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, get_args

import torch
from torch import Tensor

from flowzoo.metrics import NEEDS, Column, Evaluation, MetricConfig, NotComputed
from flowzoo.metrics._metric import Better
from flowzoo.registry import METRICS, MissingDependency
from flowzoo.testing._chance import own_chance
from flowzoo.testing._evaluations import WORLDS, evaluation
from flowzoo.testing._metric_case import REPEATS, Found, MetricCase, called, is_number, metric_case, outcome, worse
from flowzoo.testing._pretended_gpu import pretended_gpu
from flowzoo.testing._spoiling import copied, few, moved, spoilt, tensors, without
from flowzoo.testing._suite import NotApplicable, exemptions, named, run

# -- checks -----------------------------------------------------------------------------------------------------------


def check_declares_its_columns(case: MetricCase) -> None:
    """Columns have names of their own, sides, meanings, floors that exist, and thresholds on the right sides."""
    cls, columns = type(case.metric), case.metric.columns
    if not (dataclasses.is_dataclass(cls) and cls.__dataclass_params__.frozen):
        raise AssertionError(f"{cls.__name__} must be a frozen dataclass: what it computes is told from its options")
    own, others = [column.name for column in columns], _columns_of_others(cls)
    for column in columns:
        _check_column(column)
        owner = others.get(column.name)
        if owner or own.count(column.name) > 1:
            raise AssertionError(f"column '{column.name}' is declared twice, the other time by {owner or 'itself'}")
        if column.floor is not None and column.floor not in own:
            raise AssertionError(f"the floor of '{column.name}', '{column.floor}', is not among its columns")


def check_fills_what_it_declares(case: MetricCase) -> None:
    """It returns floats and reasons for its columns, tensors of other names, and fills each column somewhere."""
    for world in WORLDS:
        for right in (True, False):
            found = case.of(world, right=right)
            _check_values(case.metric, found, f"of {world}")
            lost = [name for name, value in found.items() if type(value) is float and not math.isfinite(value)]
            if right and lost:
                raise AssertionError(f"of {world} and a flow that is right, {lost[0]} is {found[lost[0]]}")
    for column in case.metric.columns:
        if case.world(column) is None:
            said = case.of("vectors").get(column.name)
            raise AssertionError(f"no evaluation fills {column.name}; of vectors it says {said!r}")


def check_looks_at_what_it_needs(case: MetricCase) -> None:
    """What it does not say that it needs makes no difference."""
    for world in case.worlds():
        bare = without(evaluation(world), [need for need in NEEDS if need not in case.metric.needs])
        _same(outcome(case.metric, bare), case.of(world), f"of {world} without what it does not need")


def check_says_what_is_missing(case: MetricCase) -> None:
    """Where all that it needs is missing, it raises NotComputed with one line."""
    if "scores" in case.metric.needs:
        raise NotApplicable("scores are never missing")
    for world in WORLDS:
        lack = f"of {world} without {' and '.join(case.metric.needs)}"
        found = _tried(case.metric, without(evaluation(world), case.metric.needs), lack)
        if not isinstance(found, str):
            raise AssertionError(f"{lack} it returns {sorted(found)}; it should raise NotComputed")
        _check_reason(found, f"of {world}")


def check_seed_repeats(case: MetricCase) -> None:
    """The same seed gives the same bits, and no generator but the evaluation's is drawn from."""
    for world in case.worlds():
        known = case.of(world)
        with own_chance(case.name):
            found = outcome(case.metric, evaluation(world))
        _same(found, known, f"of {world}, asked again")


def check_works_on_a_gpu(case: MetricCase) -> None:
    """Of an evaluation on a GPU, one that is pretended, it says what it says of that on the CPU."""
    for world in case.worlds():
        with pretended_gpu() as gpu:
            try:
                found = outcome(case.metric, moved(evaluation(world), gpu.device))
            except (RuntimeError, TypeError) as error:
                raise AssertionError(f"of {world} on a GPU: {error}") from error
        found = {name: value.cpu() if isinstance(value, Tensor) else value for name, value in found.items()}
        _same(found, case.of(world), f"of {world} on a GPU")


def check_changes_nothing(case: MetricCase) -> None:
    """Other metrics are given the same tensors as before."""
    for world in case.worlds():
        given = copied(evaluation(world))
        with suppress(NotComputed):
            case.metric(given)
        before = tensors(evaluation(world))
        changed = [name for name, tensor in tensors(given).items() if not _equal(tensor, before[name])]
        if changed:
            raise AssertionError(f"it changes {', '.join(changed)} of the evaluation in place")


def check_few_events_do_not_break_it(case: MetricCase) -> None:
    """Of one event or two, and as many draws, or of one group, it gives numbers or reasons, without a warning."""
    for world in WORLDS:
        for what, given in few(evaluation(world)).items():
            with warnings.catch_warnings():
                warnings.simplefilter("error", RuntimeWarning)
                warnings.simplefilter("error", UserWarning)
                found = _tried(case.metric, given, f"of {world} with {what}")
            if not isinstance(found, str):
                _check_values(case.metric, found, f"of {world} with {what}")


def check_what_is_not_finite_is_not_good(case: MetricCase) -> None:
    """A few draws or scores that are NaN or infinite give a reason or a bad value, never a good one in silence."""
    columns = case.metric.columns
    sided = [column for column in columns if column.better != "none"] or list(columns)
    for world in case.worlds():
        for what, given in spoilt(evaluation(world), case.metric.needs).items():
            found, clean = outcome(case.metric, given), case.of(world)
            for column in sided:
                value = found.get(column.name)
                if not is_number(value) or value == clean.get(column.name):  # a reason, or it was not looked at
                    continue
                known = [case.of(world, seed).get(column.name) for seed in range(REPEATS)]
                if not all(worse(column, value, one) for one in known if is_number(one)):
                    raise AssertionError(
                        f"of {world} with {what}, {column.name} is {value:.4g}, and without {clean.get(column.name)}: "
                        "expected a reason, or a value worse than that of any flow that is right"
                    )


def check_truth_is_not_bad(case: MetricCase) -> None:
    """Of draws and scores of the true density, no column with thresholds is bad."""
    marked = [(column, column.bad) for column in case.metric.columns if column.bad is not None]
    if not marked:
        raise NotApplicable("its columns have no thresholds")
    for column, bad in marked:
        for value in case.repeated(column, right=True):
            if not worse(column, bad, value):
                raise AssertionError(f"of the truth {column.name} is {value:.4g}; from {bad:g} on it is bad")


def check_wrong_flow_is_worse(case: MetricCase) -> None:
    """A flow that is off in place, width and shape is worse in every column that has a side, beyond all chance."""
    sided = [column for column in case.metric.columns if column.better != "none"]
    if not sided:
        raise NotApplicable("its columns have no side")
    for column in sided:
        right, wrong = (case.repeated(column, right=side) for side in (True, False))
        if not all(worse(column, bad, good) for bad in wrong for good in right):
            shown = " and ".join(", ".join(f"{value:.4g}" for value in values) for values in (right, wrong))
            raise AssertionError(f"{column.name} is better if {column.better}; of right and of wrong flows: {shown}")


#: every check of a metric by name, in the order in which they are worth running
METRIC_CHECKS = named(globals())


def check_metric(name: str, **options: Any) -> dict[str, str]:
    """Run every check on a registered metric.

    Args:
        name: registered, by a file of the zoo, by an entry point or by its decorator.
        options: of the metric; small, so that the suite is quick.

    Returns:
        The checks that say nothing of the metric, because it declares that it cannot pass them (a class attribute
        ``exempt`` of check to reason) or because they do not apply to it, with the reasons.

    Raises:
        AssertionError: with the check and the figure that failed.
        ValueError: if the metric is exempt from a check that does not exist.
    """
    return run(METRIC_CHECKS, metric_case(name, **options), name, exemptions(METRICS.get(name)))


# -- helpers ----------------------------------------------------------------------------------------------------------


def _columns_of_others(cls: type) -> dict[str, str]:
    """Columns of every other metric that can be imported, to the metric."""
    found: dict[str, str] = {}
    for name in METRICS.names():
        try:
            other = METRICS.get(name)
        except MissingDependency:
            continue
        if other is not cls:
            found |= {column.name: name for column in other.columns}
    return found


def _tried(metric: MetricConfig, given: Evaluation, where: str) -> Found | str:
    """As ``called``; any other exception than NotComputed is a fault."""
    try:
        return called(metric, given)
    except Exception as error:
        raise AssertionError(f"{where} it raises {type(error).__name__} ({error}), and not NotComputed") from error


def _check_column(column: Column) -> None:
    name = column.name
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise AssertionError(f"column '{name}' must be of lower-case letters, digits and _")
    if column.better not in get_args(Better):
        raise AssertionError(f"'{name}' must be better at one of {', '.join(get_args(Better))}; got {column.better!r}")
    _check_reason(column.meaning, f"meaning of '{name}'")
    good, bad = column.good, column.bad
    if good is None and bad is None:
        return
    if good is None or bad is None or column.better == "none":
        raise AssertionError(f"'{name}' must have both good and bad, and a side, or neither; got {good} and {bad}")
    if not worse(column, bad, good) or (column.better == "zero" and min(good, bad) < 0):
        raise AssertionError(f"'{name}' is better if {column.better}, but good is {good} and bad {bad}")


def _check_values(metric: MetricConfig, found: Mapping[str, Any], where: str) -> None:
    """Floats and reasons of its columns, tensors of other names."""
    names = {column.name for column in metric.columns}
    for key, value in found.items():
        if type(key) is not str or isinstance(value, Tensor) == (key in names):
            kind, known = type(value).__name__, ", ".join(sorted(names))
            raise AssertionError(f"{where}: {key} is a {kind}; its columns, numbers or reasons, are {known}")
        if isinstance(value, str):
            _check_reason(value, f"{where}, {key}")
        elif not isinstance(value, Tensor) and type(value) is not float:
            raise AssertionError(f"{where}: {key} must be a float, a reason or a tensor; got {type(value).__name__}")


def _check_reason(reason: str, where: str) -> None:
    if not reason.strip() or len(reason.splitlines()) != 1:
        raise AssertionError(f"{where}: expected a reason in one line; got {reason!r}")


def _same(found: Found, expected: Found, where: str) -> None:
    different = [name for name in expected | found if not _equal(found.get(name), expected.get(name))]
    if different:
        name = different[0]
        raise AssertionError(f"{where}, {name} differs: {_shown(found.get(name))} and {_shown(expected.get(name))}")


def _equal(a: Any, b: Any) -> bool:
    """Bit by bit."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.nan_to_num(0), b.nan_to_num(0))
    return type(a) is type(b) and (a == b or (a != a and b != b))


def _shown(value: Any) -> str:
    return f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
