"""What ``bench`` takes from Python: names, options, configured models and datasets, data, tables."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import torch

import flowzoo
from flowzoo import checkpoint
from flowzoo.config import ConfigError
from flowzoo.data import Data, Levels
from flowzoo.data.table import Table
from flowzoo.data.two_moons import TwoMoons
from flowzoo.flow import ConditionalFlow
from flowzoo.harness import BenchConfig, open_source
from flowzoo.harness.arrays import data_from_arrays
from flowzoo.harness.given import Dataset, datasets_of, models_of
from flowzoo.harness.settings import Settings
from flowzoo.models.maf import MAF
from flowzoo.models.nsf import NSF
from flowzoo.registry import DATASETS, METRICS, MODELS, UnknownName

FEW = {"train": {"steps": 5}, "baseline": False, "draws": 20}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgotten: None) -> None:
    monkeypatch.chdir(tmp_path)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


@dataclass(frozen=True)
class Shift:
    """A model of a script; ``hidden`` is an option that does nothing."""

    family: ClassVar[str] = "additive"
    backend: ClassVar[str] = "here"
    events: ClassVar[str] = "vectors"
    contexts: ClassVar[str] = "any"
    inverse: ClassVar[str] = "closed form"
    paper: ClassVar[str] = "none"

    hidden: int = 2

    def build(self, event_shape: Any, context_shape: Any, **maps: Any) -> ConditionalFlow:
        return Moved(event_shape, context_shape, **maps)

    @classmethod
    def suggest(cls, trial: Any) -> "Shift":
        return cls()


class Moved(ConditionalFlow):
    def __init__(self, *args: Any, **maps: Any) -> None:
        super().__init__(*args, **maps)
        self.shift = torch.nn.Parameter(torch.zeros(self.event_shape))

    def _to_latent(self, u: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return u + self.shift, u.new_zeros(len(u))

    def _to_data(self, z: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return z - self.shift, z.new_zeros(len(z))


@dataclass(frozen=True)
class Mine:
    """A dataset that nobody registers."""

    count: int = 100

    def load(self) -> Data:
        if self.count < 0:
            raise FileNotFoundError("mine.npz: gone")
        return Data(x=torch.from_numpy(normal(self.count, 2)).float())


# -- models


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("maf", {"maf": {}}),
        (["maf", "cnf"], {"maf": {}, "galacticflow": {}}),
        ({"maf": {"num_steps": 8}, "nsf": None}, {"maf": {"num_steps": 8}, "nsf": {}}),
        (MAF(num_steps=8), {"maf": {"num_steps": 8}}),
        ([MAF(), "nsf"], {"maf": {}, "nsf": {}}),
        ([{"maf": {"num_steps": 8}}, NSF(num_bins=4)], {"maf": {"num_steps": 8}, "nsf": {"num_bins": 4}}),
        ({"maf": MAF(num_steps=8)}, {"maf": {"num_steps": 8}}),
        ([MAF], {"maf": {}}),
        ({"maf": {}, "nsf": {}}.keys(), {"maf": {}, "nsf": {}}),
    ],
)
def test_models_by_name_by_options_and_configured(given: Any, found: dict[str, Any]) -> None:
    # What is at its default was not asked for, and a study may search it.
    assert models_of(given) == found


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["maf", "MAF"], "model 'maf' is named twice"),
        ([Shift()], r"Shift is no registered model: decorate the class with MODELS\.register"),
        ({"nsf": MAF()}, "a model stands under its registered name: 'nsf' is given a maf"),
        ({"mine": MAF()}, "unknown model 'mine'"),
        ({"maf": 8}, "expected the name of a model.*got 8"),
        (3, "expected the name of a model.*got 3"),
        (["mfa"], "did you mean maf"),
    ],
)
def test_models_that_are_none_are_refused_in_one_line(given: Any, words: str) -> None:
    with pytest.raises((ConfigError, UnknownName), match=words) as caught:
        models_of(given)
    assert "\n" not in str(caught.value)


def test_model_of_a_script_is_benched_by_name_and_configured() -> None:
    MODELS.register(Shift)
    done = flowzoo.bench(["shift"], x=normal(100, 2), **FEW)
    assert list(done.table["model"]) == ["shift"]
    assert done.failed == []
    assert isinstance(done.flows["shift"], Moved)
    again = flowzoo.bench([Shift(hidden=3)], x=normal(100, 2), **FEW)
    assert again.records[0].config["model"] == {"name": "shift", "hidden": 3}
    assert again.path != done.path


def test_flow_of_a_script_says_in_another_process_that_it_must_be_imported() -> None:
    MODELS.register(Shift)
    flowzoo.save(flowzoo.build("shift", (2,)), "flow.safetensors")
    code = "import flowzoo\ntry:\n flowzoo.load('flow.safetensors')\nexcept ValueError as error:\n print(error)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "unknown model 'shift'" in said
    assert "import the module that registers it first" in said
    assert said.count("\n") == 1


def test_other_processes_are_not_sent_what_this_one_alone_knows(tmp_path: Path) -> None:
    MODELS.register(Shift)
    message = "model 'shift' is registered in this process alone.*an entry point in flowzoo.models"
    with pytest.raises(ConfigError, match=message):
        flowzoo.bench(["gaussian", "shift"], data={"two_moons": {"num_events": 100}}, workers=2, out="run", **FEW)
    DATASETS.register(name="mine")(Mine)
    with pytest.raises(ConfigError, match=r"dataset 'mine' is registered in this process alone"):
        flowzoo.bench("gaussian", data="mine", workers=2, **FEW)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_nor_what_lacks_a_metric_that_this_one_has() -> None:
    from flowzoo.harness.jobs import as_text
    from flowzoo.metrics.nll import NLL

    assert "gaussian" in as_text(Settings([("digits", {})], {"gaussian": {}}))
    METRICS.register(name="mine")(type("Mine", (NLL,), {"__module__": "script"}))
    with pytest.raises(ConfigError, match="metric 'mine' is registered in this process alone"):
        as_text(Settings([("digits", {})], {"gaussian": {}}))


# -- datasets


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "table.npz"
    np.savez(path, a=normal(100), b=normal(100, seed=1))
    return path


@pytest.mark.parametrize(
    "given",
    [
        lambda path: {"table": {"path": str(path), "x": "a", "context": "b"}},
        lambda path: {"table": {"path": path, "x": ("a",), "context": ["b"]}},
        lambda path: Table(path=str(path), x="a", context="b"),
        lambda path: [Table(path=path, x="a", context="b")],
        lambda path: {"table": Table(path=str(path), x="a", context="b")},
    ],
)
def test_options_of_a_dataset_and_a_configured_one_are_the_same(given: Callable[[Path], Any], table: Path) -> None:
    done = flowzoo.bench("gaussian", data=given(table), out="run", **FEW)
    data = done.records[0].config["data"]
    assert data["name"] == "table"
    assert (data["path"], list(data["x"]), list(data["context"])) == (str(table), ["a"], ["b"])
    # The first, and then known: all of them are the same cell.
    same = flowzoo.bench("gaussian", data={"table": {"path": str(table), "x": "a", "context": "b"}}, out="run", **FEW)
    assert same.records[0].hash == done.records[0].hash


def test_several_datasets_of_all_kinds_stand_in_one_table(table: Path) -> None:
    own = Data(x=torch.from_numpy(normal(100, 2)).float())
    given = [{"two_moons": {"num_events": 100}, "table": Table(path=str(table), x="a")}, Mine(), {"mine": own}]
    done = flowzoo.bench("gaussian", data=given, posteriors=0, **FEW)
    assert list(done.table["dataset"]) == ["two_moons", "table", "data", "mine"]
    assert done.failed == []
    evaluated = done.path / "checkpoints" / "mine.gaussian.0.safetensors"
    assert checkpoint.read_meta(evaluated)["data"] == {"name": "mine"}
    from flowzoo.harness.single import evaluate_one

    with pytest.raises(ConfigError, match="was trained on data given in Python; give --data"):
        evaluate_one(evaluated)


def test_configured_dataset_keeps_what_was_set() -> None:
    assert datasets_of(TwoMoons(num_events=300)) == [Dataset("two_moons", {"num_events": 300})]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("digts", "did you mean digits"),
        ({"two_moons": {"number": 3}}, "two_moons has no option 'number'"),
        ({"two_moons": 3}, "expected the name of a dataset.*got 3"),
        ({"digits": Mine()}, "'digits' is a registered dataset; call data of your own by another name"),
        ({"digits": TwoMoons()}, "a dataset stands under its registered name: 'digits' is given a two_moons"),
        (Mine(count=-1), "data: mine.npz: gone"),
        (np.zeros((3, 2)), "Arrays are given as x and context"),
        (pd.DataFrame({"a": [1.0]}), "Arrays are given as x and context"),
        (Mine, "expected the name of a dataset"),
        ([Mine(), Mine()], "dataset 'data' is in the plan twice"),
    ],
)
def test_datasets_that_are_none_are_refused_in_one_line(given: Any, words: str) -> None:
    with pytest.raises((ConfigError, UnknownName), match=words) as caught:
        flowzoo.bench("gaussian", data=given, **FEW)
    assert "\n" not in str(caught.value)


def test_load_that_returns_something_else_is_refused() -> None:
    broken = type("Broken", (), {"load": lambda self: np.zeros(3)})()
    with pytest.raises(ConfigError, match=r"load\(\) must return a flowzoo.Data; got ndarray"):
        flowzoo.bench("gaussian", data=broken, **FEW)


def test_context_without_events_is_refused() -> None:
    with pytest.raises(ConfigError, match="context, groups and prior belong to events of your own; give them as x"):
        flowzoo.bench("gaussian", context=normal(100))


# -- arrays


def test_columns_of_tables_keep_their_names() -> None:
    frame = pd.DataFrame(normal(50, 3), columns=["a", "b", "c"])
    found = data_from_arrays(frame[["a", "b"]], frame[["c"]])
    assert (found.names, found.context_names) == (("a", "b"), ("c",))
    found = data_from_arrays(frame["a"], frame["c"])
    assert (found.names, found.context_names) == (("a",), ("c",))
    record = flowzoo.bench("gaussian", x=frame[["a", "b"]], context=frame["c"], **FEW).records[0]
    assert (record.labels["names"], record.labels["context_names"]) == (["a", "b"], ["c"])


def test_columns_that_are_numbered_have_no_names() -> None:
    found = data_from_arrays(pd.DataFrame(normal(50, 3)), pd.Series(normal(50)))
    assert (found.names, found.context_names) == ((), ())


@pytest.mark.parametrize("labels", [lambda g: g, lambda g: 10 * g + 3, lambda g: [f"sim {n}" for n in 7 - g]])
def test_context_that_a_group_shares_is_stored_once(labels: Callable[[np.ndarray], Any]) -> None:
    groups, theta = np.arange(48) // 6, normal(8, 2).astype(np.float32)
    given = data_from_arrays(normal(48, 1, 16, 16), theta[groups], labels(groups))
    data = open_source("data", {}, BenchConfig(), given).splits.data
    assert data.context is not None
    assert data.context_index is not None
    assert data.context.shape == (8, 2)
    assert torch.equal(data.context[data.context_index], torch.from_numpy(theta[groups]))


@pytest.mark.usefixtures("figures")
def test_field_statistics_of_arrays_whose_simulations_share_a_context() -> None:
    groups = np.arange(120) // 6
    images = np.cumsum(normal(120, 1, 16, 16), -1)
    done = flowzoo.bench("gaussian", x=images, context=normal(20, 2)[groups], groups=groups, ensemble_draws=20, **FEW)
    assert "pixel_w1" in done.records[0].metrics
    assert any("test events at each of" in note for note in done.records[0].notes)
    assert [path for path in done.figures if "maps" in path.name]


@pytest.mark.parametrize("case", ["events of one group differ", "no groups", "shared already"])
def test_other_contexts_stay_as_they_are(case: str) -> None:
    groups, context = torch.arange(48) // 6, torch.from_numpy(normal(48, 2)).float()
    x = torch.from_numpy(normal(48, 2)).float()
    if case == "shared already":
        given = Data(x=x, context=context[:3], context_index=torch.arange(48) % 3, groups=groups)
    elif case == "no groups":
        given = Data(x=x, context=context[groups])
    else:
        context[1:6] = context[0]
        given = Data(x=x, context=context, groups=groups)
    assert open_source("data", {}, BenchConfig(), given).splits.data is given


def test_integers_with_levels_are_events_too() -> None:
    x = torch.randint(0, 4, (48, 2), generator=torch.Generator().manual_seed(0))
    groups = torch.arange(48) // 6
    given = Data(x=x, levels=Levels(0, 1, 4), context=torch.from_numpy(normal(8, 2)).float()[groups], groups=groups)
    data = open_source("data", {}, BenchConfig(), given).splits.data
    assert data.context is not None
    assert (data.x is x, len(data.context)) == (True, 8)


# -- the result


def test_result_is_shown_in_a_few_lines() -> None:
    done = flowzoo.bench(["gaussian", "maf"], x=normal(100, 2), **FEW)
    text = repr(done)
    assert str(done) == text
    assert text.startswith(f"2 cells, 0 failed, in {done.path}/\n")
    assert len(text.splitlines()) == 4
    assert f"{done.table['nll_nats'][0]:.4g}" in text


def test_frames_with_a_prior_are_judged_by_their_posteriors(tmp_path):
    theta = pd.DataFrame({"H0": np.random.default_rng(0).uniform(60, 80, 400)})
    x = pd.DataFrame({"d": theta["H0"] + np.random.default_rng(1).normal(size=400)})
    given = {"seeds": (0,), "train": {"steps": 20}, "posteriors": 20, "show": False, "baseline": False}
    prior = {"H0": "uniform(60, 80)"}
    for name, own in (("likelihood", {"x": x, "context": theta}), ("posterior", {"x": theta, "context": x})):
        done = flowzoo.bench("maf", **own, prior=prior, out=tmp_path / name, **given)
        assert np.isfinite(done.table["log_posterior_truth"]).all()
    with pytest.raises(ConfigError, match="prior must have a text for each column of x"):
        flowzoo.bench("maf", x=x, context=theta, prior={"H1": "uniform(60, 80)"})
    with pytest.raises(ConfigError, match="a prior is by name: give the parameters as a DataFrame"):
        flowzoo.bench("maf", x=x.to_numpy(), context=theta.to_numpy(), prior=prior)


def test_frames_whose_parameters_are_of_another_prior_are_said_to_be():
    theta = pd.DataFrame({"H0": np.random.default_rng(0).uniform(60, 80, 400)})
    found = data_from_arrays(theta.rename(columns={"H0": "d"}), theta, prior={"H0": "uniform(0, 200)"})
    assert found.notes[0].startswith("the simulations' 'H0' runs from 60")
