"""Metrics that are of other code now: a finished cell says so, and is evaluated again without training."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pytest

from flowzoo import record
from flowzoo.harness import digests, execute
from flowzoo.harness.folder import scores_of
from flowzoo.harness.plan import Cell
from flowzoo.metrics import Column, Evaluation
from flowzoo.models import configure
from flowzoo.registry import METRICS

Plan = Callable[..., list[Cell]]
pytestmark = pytest.mark.usefixtures("forgotten")
STALE = r"1 of 1 finished cells have metrics of other code than this \({}\); --set bench.reevaluate=true"


@dataclass(frozen=True)
class Spread:
    """A metric of a script; ``factor`` is what is edited."""

    factor: ClassVar[float] = 1.0
    needs: ClassVar[tuple[str, ...]] = ("scores",)
    columns: ClassVar[tuple[Column, ...]] = (Column("spread", "none", "standard deviation of log q, nats"),)

    def __call__(self, evaluation: Evaluation) -> dict[str, float]:
        return {"spread": self.factor * float(evaluation.scores.std())}


@pytest.fixture
def edit(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Another edition of the metric, as a process that is started later has it."""

    def edited() -> None:
        monkeypatch.setattr(Spread, "factor", 2.0)
        real = digests.metric_digests()
        for module in ("reevaluate", "run"):
            monkeypatch.setattr(f"flowzoo.harness.{module}.metric_digests", lambda: {**real, "spread": "edited"})

    return edited


def test_edited_metric_is_said_and_nothing_is_changed(plan: Plan, tmp_path: Path, edit: Callable[[], None]) -> None:
    METRICS.register(Spread)
    first = execute(plan(), tmp_path)
    before = {path: path.read_bytes() for path in (tmp_path / "cells").iterdir()}
    assert set(first.records[0].run["metrics"]) == set(METRICS.names())
    execute(plan(), tmp_path)  # a warning would be an error
    edit()
    with pytest.warns(UserWarning, match=STALE.format("spread")):
        again = execute(plan(), tmp_path)
    assert again.records == first.records
    assert {path: path.read_bytes() for path in (tmp_path / "cells").iterdir()} == before


def test_edited_metric_is_taken_again_without_training(
    plan: Plan, tmp_path: Path, edit: Callable[[], None], fits: list[str]
) -> None:
    METRICS.register(Spread)
    first = execute(plan(context_gain=True), tmp_path)
    trained = list(fits)
    flow = (tmp_path / "checkpoints" / "two_moons.maf.0.safetensors").read_bytes()
    edit()
    again = execute(plan(context_gain=True, reevaluate=True), tmp_path)
    assert fits == trained
    assert (tmp_path / "checkpoints" / "two_moons.maf.0.safetensors").read_bytes() == flow
    old, new = first.records[0].metrics, again.records[0].metrics
    assert new["spread"] == pytest.approx(2 * old["spread"], rel=1e-6)
    assert new.keys() == old.keys()
    measured = {"spread", "sample_seconds_per_1000", "posterior_seconds"}
    for column in old.keys() - measured:  # the same flow, data and seeds; what the training told, to the last bit
        assert new[column] == pytest.approx(old[column], rel=1e-5, abs=1e-7), column
    assert new["train_seconds"] == old["train_seconds"]
    path = tmp_path / "cells" / "two_moons.maf.0.json"
    assert record.load(path) == again.records[0]
    assert scores_of(again.records[0], path).keys() >= {"context_gain.by_event", "training.history"}
    assert "metrics evaluated again, without training, because of spread" in again.records[0].notes
    execute(plan(context_gain=True), tmp_path)  # and now it is of this code


def test_new_metric_fills_its_column_in_a_finished_run(plan: Plan, tmp_path: Path, fits: list[str]) -> None:
    execute(plan(), tmp_path)
    METRICS.register(Spread)
    with pytest.warns(UserWarning, match=STALE.format("spread")):
        assert "spread" not in execute(plan(), tmp_path).table
    done = execute(plan(reevaluate=True), tmp_path)
    assert bool(done.table["spread"].notna().all())
    assert len(fits) == 1


def test_record_of_before_says_nothing_of_its_metrics(plan: Plan, tmp_path: Path) -> None:
    done = execute(plan(["gaussian"]), tmp_path)
    path = tmp_path / "cells" / "two_moons.gaussian.0.json"
    known, scores = record.load(path), record.load_scores(path)
    del known.run["metrics"]
    record.save(known, tmp_path / "cells", scores)
    pd.testing.assert_frame_equal(execute(plan(["gaussian"]), tmp_path).table, done.table)


# -- digests


def test_digest_is_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, found = tmp_path / "script.py", []
    monkeypatch.setattr(digests, "_file", lambda kind: path)
    for text in ("one", "one", "two"):
        path.write_text(text)
        digests._of_metric.cache_clear()  # as another process
        found.append(digests._of_metric(Spread))
    digests._of_metric.cache_clear()
    assert found[0] == found[1] != found[2]


def test_model_of_no_file_is_one_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    source = "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass Mine: pass"
    kinds = []
    for _ in range(2):
        space: dict[str, Any] = {"__name__": "notebook"}
        exec(source, space)
        kinds.append(space["Mine"])
    first, second = (digests.code_digest(kind()) for kind in kinds)
    assert first == digests.code_digest(kinds[0]())
    assert first != second  # another kernel, whose class may be another


def test_embedding_is_part_of_the_model() -> None:
    assert digests.code_digest(configure("maf", {})) != digests.code_digest(configure("maf", {"embed": "mlp"}))
