from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from flowzoo import config as configs
from flowzoo.config import ConfigError
from flowzoo.data import Data
from flowzoo.harness import BenchConfig, make_plan, open_source
from flowzoo.harness.plan import Cell, default_out
from flowzoo.harness.source import resolve_device
from flowzoo.models.maf import MAF
from flowzoo.registry import MODELS, MissingDependency, UnknownName
from flowzoo.train import FitConfig

Plan = Callable[..., list[Cell]]


def test_plan_crosses_models_and_seeds_and_adds_the_baseline(plan: Plan) -> None:
    cells = plan(["maf", "cnf"], seeds=(3, 5), baseline=True)
    names = [(cell.name, cell.seed) for cell in cells]
    assert names == [(name, seed) for name in ("gaussian", "maf", "galacticflow") for seed in (3, 5)]
    assert len({id(cell.source.splits) for cell in cells}) == 1  # one split, one copy of the data


def test_baseline_that_was_asked_for_is_not_added_twice(plan: Plan) -> None:
    assert [cell.name for cell in plan(["maf", "gaussian"], baseline=True)] == ["maf", "gaussian"]


def test_same_plan_has_the_same_hashes_and_folder(plan: Plan) -> None:
    first, again = plan(["maf", "nice"], seeds=(0, 1)), plan(["maf", "nice"], seeds=(0, 1))
    assert [cell.hash for cell in first] == [cell.hash for cell in again]
    assert default_out(first) == default_out(again)
    assert default_out(first).startswith("runs/two_moons-")


@pytest.mark.parametrize(
    "change",
    [
        {"train": {"steps": 21}},
        {"seeds": (1,)},
        {"split_seed": 1},
        {"fractions": (0.6, 0.2, 0.2)},
        {"draws": 10},
        {"options": {"num_events": 300, "seed": 1}},
        {"models": ("nice",)},
    ],
)
def test_whatever_moves_a_result_changes_the_hash_and_the_folder(plan: Plan, change: dict[str, object]) -> None:
    assert plan()[0].hash != plan(**change)[0].hash
    assert default_out(plan()) != default_out(plan(**change))


def test_what_moves_no_result_leaves_the_hash(plan: Plan) -> None:
    assert plan()[0].hash == plan(out="elsewhere", device="cpu")[0].hash


def test_data_with_one_event_more_has_another_hash(plan: Plan) -> None:
    def cell(count: int) -> Cell:
        x = torch.randn(count, 2, generator=torch.Generator().manual_seed(0))
        source = open_source("data", {}, BenchConfig(), Data(x=x))
        return make_plan([source], {"gaussian": {}}, FitConfig(), BenchConfig())[0]

    assert cell(100).hash == cell(100).hash != cell(101).hash


def test_cell_builds_the_same_weights_every_time_and_others_for_another_seed(plan: Plan) -> None:
    cell, other = plan(seeds=(0, 1))
    before = torch.get_rng_state()
    first, again, different = (c.build().state_dict() for c in (cell, cell, other))
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert any(not torch.equal(first[k], different[k]) for k in first)
    assert torch.equal(before, torch.get_rng_state())


def test_maps_of_a_cell_see_the_training_split_alone(plan: Plan) -> None:
    cell = plan()[0]
    spoiled = {k: replace(getattr(cell.source.splits, k), x=torch.full((60, 2), 1e6)) for k in ("validation", "test")}
    other = replace(cell, source=replace(cell.source, splits=replace(cell.source.splits, **spoiled)))
    x = cell.source.splits.train.x[:5]
    assert torch.equal(cell.build().x_map.to_latent(x)[0], other.build().x_map.to_latent(x)[0])


@pytest.mark.parametrize(
    ("models", "named"),
    [
        ({"maff": {}}, "maf"),
        ({"maf": {"num_stesp": 1}}, "num_steps"),
        ({"maf": {"num_steps": "many"}}, "num_steps"),
        ({"maf": {"hidden_features": -5}}, "hidden_features"),
        ({"normflows-glow": {}}, "needs images"),
        ({}, "galacticflow"),
    ],
)
def test_wrong_model_is_refused_in_one_line_before_anything_trains(models: dict, named: str) -> None:
    bench = BenchConfig(baseline=False)
    source = open_source("two_moons", {"num_events": 300}, bench)
    with pytest.raises((ConfigError, UnknownName), match=named) as caught:
        make_plan([source], models, FitConfig(), bench)
    assert "\n" not in str(caught.value)


def test_every_dataset_is_checked_against_every_model() -> None:
    sources = [open_source(*pair, BenchConfig()) for pair in (("digits", {}), ("two_moons", {"num_events": 300}))]
    with pytest.raises(ConfigError, match=r"dataset 'two_moons': normflows-glow needs images"):
        make_plan(sources, {"normflows-glow": {"num_levels": 1}}, FitConfig(), BenchConfig())


def test_event_that_a_model_cannot_take_is_refused() -> None:
    source = open_source("linear_gaussian", {"num_events": 300, "dim": 257}, BenchConfig())
    with pytest.raises(ConfigError, match=r"ffjord takes events of at most 256 numbers.*got 257"):
        make_plan([source], {"ffjord": {}}, FitConfig(), BenchConfig())


def test_same_dataset_twice_is_refused() -> None:
    sources = [open_source("two_moons", {"num_events": n}, BenchConfig()) for n in (300, 400)]
    with pytest.raises(ConfigError, match="'two_moons' is in the plan twice"):
        make_plan(sources, {"gaussian": {}}, FitConfig(), BenchConfig())


def test_backend_that_is_missing_only_when_a_model_is_built_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(*args: object, **kwargs: object) -> None:
        raise ModuleNotFoundError("No module named 'zuko'", name="zuko")

    monkeypatch.setattr(MODELS.get("maf"), "build", build)
    source = open_source("two_moons", {"num_events": 300}, BenchConfig())
    with pytest.raises(MissingDependency, match=r"model 'maf' needs the package 'zuko'.*pip install zuko"):
        make_plan([source], {"maf": {}}, FitConfig(), BenchConfig())


@pytest.mark.parametrize("name", ["warp", "gpu", "cuda:x", ""])
def test_device_that_is_none_is_refused_with_those_that_there_are(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_device(name)
    assert str(caught.value) == f"unknown device '{name}': expected cpu, cuda, cuda:1 or auto"


def test_device_that_needs_another_build_of_torch_says_where_it_is_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def zeros(*args: object, **kwargs: object) -> None:
        raise AssertionError("Torch not compiled with CUDA enabled")

    monkeypatch.setattr(torch, "zeros", zeros)
    for version, hint in ((None, True), ("12.8", False)):
        monkeypatch.setattr(torch.version, "cuda", version)
        with pytest.raises(ConfigError, match=r"not compiled with CUDA enabled\); try auto or cpu") as caught:
            resolve_device("cuda")
        assert ("pytorch.org" in str(caught.value)) == hint


@pytest.mark.parametrize("name", ["cuda:99", "meta", "hpu", "mps"])
def test_device_that_cannot_be_used_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be used here") as caught:
        resolve_device(name)
    assert "try auto or cpu" in str(caught.value)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


def test_device_auto_is_one_that_computes() -> None:
    assert float(torch.ones(3, device=resolve_device("auto")).sum()) == 3


def test_missing_file_is_refused_by_its_name(tmp_path: Path) -> None:
    gone = tmp_path / "gone.npz"
    with pytest.raises(ConfigError, match=r"table: .*gone\.npz"):
        open_source("table", {"path": str(gone), "x": "x"}, BenchConfig())


@pytest.mark.parametrize("fractions", [(0.5, 0.5, 0.5), (0.0, 0.5, 0.5), (1.2, -0.1, -0.1)])
def test_fractions_that_leave_no_training_are_refused(fractions: tuple[float, float, float]) -> None:
    with pytest.raises(ConfigError, match=r"two_moons: .*fractions"):
        open_source("two_moons", {"num_events": 30}, BenchConfig(fractions=fractions))


@pytest.mark.parametrize(
    ("options", "words"), [({"seeds": ()}, "seeds"), ({"seeds": (1, 1)}, "seeds"), ({"draws": 0}, "draws")]
)
def test_bench_options_that_make_no_sense_are_refused(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        BenchConfig(**options)


def test_data_without_a_density_is_refused_before_training() -> None:
    x = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
    x[3, 1] = np.nan
    with pytest.raises(ConfigError, match=r"data: column 'x\[1\]': 1 of 100 rows are not finite"):
        open_source("data", {}, BenchConfig(), Data(x=x))


def test_every_default_is_written_into_the_record(plan: Plan) -> None:
    config = plan()[0].config
    assert config["model"].items() >= {"name": "maf", "num_steps": 1, "hidden_features": 16}.items()
    assert config["model"].keys() == {"name", *configs.fields(MAF)}
    assert config["data"] == {"name": "two_moons", "num_events": 300, "seed": 0}
    assert config["train"].keys() == FitConfig.__dataclass_fields__.keys()


def test_baseline_that_nobody_named_is_left_out_where_its_covariance_cannot_be_had(monkeypatch):
    monkeypatch.setattr("flowzoo.harness.plan.BASELINE_DIMS", 8)
    config = BenchConfig()
    wide = open_source("data", {}, config, Data(x=torch.randn(10, 1, 3, 3)))
    few = open_source("few", {}, config, Data(x=torch.randn(10, 2), context=torch.randn(10, 8)))
    cells = make_plan([wide, few], {"maf": {"num_steps": 1, "hidden_features": 2}}, FitConfig(), config)
    assert [cell.name for cell in cells] == ["maf", "maf"]
    cells = make_plan([few], {"gaussian": {}}, FitConfig(), config)
    assert [cell.name for cell in cells] == ["gaussian"]
