"""Every registered metric passes the conformance suite: a metric is tested by existing."""

from __future__ import annotations

import functools

import pytest

from flowzoo.registry import METRICS
from flowzoo.testing import METRIC_CHECKS, NotApplicable, metric_case

SLOW = {"c2st"}  # half a minute: it trains a classifier for each number

case_of = functools.cache(metric_case)  # what a metric says of an evaluation is computed once for all checks


def marks(name: str) -> list[pytest.MarkDecorator]:
    alone = pytest.mark.xdist_group(f"metric {name}")  # one worker, which computes it once
    return [alone, pytest.mark.slow] if name in SLOW else [alone]


@pytest.mark.parametrize("check", METRIC_CHECKS)
@pytest.mark.parametrize("name", [pytest.param(name, marks=marks(name)) for name in METRICS.names()])
def test_metric_conforms(name: str, check: str) -> None:
    excused = getattr(METRICS.get(name), "exempt", {})
    if check in excused:
        pytest.skip(f"{name} declares: {excused[check]}")
    try:
        METRIC_CHECKS[check](case_of(name))
    except NotApplicable as reason:
        pytest.skip(f"{name}: {reason}")


@pytest.mark.parametrize("name", METRICS.names())
def test_exemptions_name_checks_that_exist(name: str) -> None:
    assert set(getattr(METRICS.get(name), "exempt", {})) <= set(METRIC_CHECKS)
