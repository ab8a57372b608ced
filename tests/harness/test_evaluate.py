"""A metric of somebody else: its faults are its own, and it moves no other number."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from flowzoo import record
from flowzoo.config import ConfigError
from flowzoo.harness import execute
from flowzoo.harness.plan import Cell
from flowzoo.harness.run import run_cell
from flowzoo.metrics import Column, Evaluation, NotComputed, configure
from flowzoo.registry import METRICS

Plan = Callable[..., list[Cell]]
pytestmark = pytest.mark.usefixtures("forgotten")
TIMING = {"train_seconds", "sample_seconds_per_1000", "posterior_seconds", "peak_memory_mb"}


def register(name: str, act: Callable[[Evaluation], Any], **attributes: Any) -> None:
    """A metric of a script that fills ``<name>_x`` and ``<name>_y``."""

    @dataclass(frozen=True)
    class Metric:
        needs: ClassVar[tuple[str, ...]] = ("scores",)
        columns: ClassVar[tuple[Column, ...]] = (
            Column(f"{name}_x", "lower", "something"),
            Column(f"{name}_y", "none", "something else"),
        )

        def __call__(self, evaluation: Evaluation) -> Mapping[str, Any]:
            found: Mapping[str, Any] = act(evaluation)
            return found

    for key, value in attributes.items():
        setattr(Metric, key, value)
    METRICS.register(name=name)(Metric)


def fail(error: Exception) -> Callable[[Evaluation], Any]:
    def act(evaluation: Evaluation) -> Any:
        torch.randn(3, generator=evaluation.generator)
        raise error

    return act


def test_a_metric_that_fails_leaves_its_columns_empty_and_no_other(plan: Plan, tmp_path: Path) -> None:
    plain = run_cell(plan()[0], tmp_path / "plain")
    register("broken", fail(ZeroDivisionError("float division\n by zero")))
    register("worse", fail(torch.OutOfMemoryError("no room")))
    done = run_cell(plan()[0], tmp_path / "broken")
    assert (done.status, done.hash) == ("ok", plain.hash)
    why = "metric 'broken' failed (ZeroDivisionError: float division by zero)"
    assert done.missing["broken_x"] == done.missing["broken_y"] == why
    assert done.missing["worse_x"] == "metric 'worse' failed (OutOfMemoryError: no room)"
    # Not even by what they drew: all other numbers are those without them.
    assert {k: v for k, v in done.metrics.items() if k not in TIMING} == {
        k: v for k, v in plain.metrics.items() if k not in TIMING
    }


def test_the_reason_stands_in_the_table(plan: Plan, tmp_path: Path) -> None:
    register("broken", fail(KeyError("mass")))
    done = execute(plan(["gaussian"]), tmp_path)
    assert done.failed == []
    assert {m.reason for m in done.comparison.missing if m.column == "broken_x"} == {
        "metric 'broken' failed (KeyError: 'mass')"
    }


@pytest.mark.parametrize(
    ("returned", "reason"),
    [
        ({"odd_x": None}, "metric 'odd' failed (TypeError: "),
        ({"odd_x": [1.0, 2.0]}, "metric 'odd' failed (TypeError: "),
        ({"odd_x": torch.zeros(2)}, "metric 'odd' failed (only one element tensors can be converted"),
        ({"odd_z": 1.0}, "metric 'odd' failed (TypeError: 'odd_z' is none of its columns odd_x, odd_y; got 1.0"),
        (3.0, "metric 'odd' failed (AttributeError: "),
    ],
)
def test_what_is_no_number_is_a_reason_and_no_lost_training(
    plan: Plan, tmp_path: Path, returned: Any, reason: str
) -> None:
    register("odd", lambda evaluation: returned)
    done = run_cell(plan(["gaussian"])[0], tmp_path)
    assert done.status == "ok"
    assert done.missing["odd_x"].startswith(reason)
    assert "nll_nats" in done.metrics


def test_numbers_of_numpy_and_torch_are_numbers_and_curves_are_kept(plan: Plan, tmp_path: Path) -> None:
    register("mine", lambda e: {"mine_x": np.float32(0.5), "mine_y": torch.tensor(2), "curve": torch.arange(3)})
    done = run_cell(plan(["gaussian"])[0], tmp_path)
    assert (done.metrics["mine_x"], done.metrics["mine_y"]) == (0.5, 2.0)
    scores = record.load_scores(tmp_path / "cells" / "two_moons.gaussian.0.json")
    assert scores["mine.curve"].tolist() == [0, 1, 2]


def test_a_metric_that_declines_gives_its_own_reason(plan: Plan, tmp_path: Path) -> None:
    register("shy", fail(NotComputed("nothing to tell")))
    assert run_cell(plan(["gaussian"])[0], tmp_path).missing["shy_x"] == "nothing to tell"


@pytest.mark.parametrize("needs", [("sample",), ("scores", "draws"), (), "samples", None])
def test_word_in_needs_that_means_nothing_is_refused_before_training(plan: Plan, needs: Any) -> None:
    register("odd", lambda e: {}, needs=needs)
    words = r"metric 'odd': needs must be a tuple of scores, samples, clouds, ensembles, posteriors, references; got"
    with pytest.raises(ConfigError, match=words):
        plan(["gaussian"])
    with pytest.raises(ConfigError, match=words):
        configure("odd", {})


@pytest.mark.parametrize("columns", [(), ("x",), None])
def test_columns_that_are_none_are_refused_before_training(plan: Plan, columns: Any) -> None:
    register("odd", lambda e: {}, columns=columns)
    with pytest.raises(ConfigError, match=r"metric 'odd': columns must be a tuple of metrics\.Column; got"):
        plan(["gaussian"])


def test_column_of_another_metric_is_refused_before_training(plan: Plan) -> None:
    register("odd", lambda e: {}, columns=(Column("sw", "lower", "something"),))
    with pytest.raises(ConfigError, match="column 'sw' is filled by two metrics, odd and sw"):
        plan(["gaussian"])
