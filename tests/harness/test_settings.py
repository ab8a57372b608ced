from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import yaml

from flowzoo.config import ConfigError, make
from flowzoo.harness.settings import Settings, dump, read
from flowzoo.registry import DATASETS, MODELS, MissingDependency

# Stand-ins for the zoo, so that what is tested is the grammar and not which models there are today.


@dataclass(frozen=True)
class Maf:
    num_steps: int = 5
    hidden_features: tuple[int, ...] = (64, 64)


@dataclass(frozen=True)
class Cglow:
    num_steps: int = 8
    num_levels: int = 2


@dataclass(frozen=True)
class Gaussian:
    """A model without options, whose name a dataset has too."""


@dataclass(frozen=True)
class Maps:
    family: ClassVar[str] = "not an option"
    root: str = "."
    field: str | None = None


@dataclass(frozen=True)
class Train:
    lr: float = 1e-3
    batch_size: int = 64


@dataclass(frozen=True)
class Bench:
    seeds: tuple[int, ...] = (0,)
    out: str | None = None
    draws: int = 1000


SECTIONS = {"train": Train, "bench": Bench}


@pytest.fixture(autouse=True)
def zoo(monkeypatch: pytest.MonkeyPatch) -> None:
    models = {"maf": Maf, "cglow": Cglow, "galacticflow": Maf, "gaussian": Gaussian}
    datasets = {"maps": Maps, "digits": Gaussian, "moons": Gaussian, "gaussian": Maps}
    for registry, entries, lacking in ((MODELS, models, ["needy"]), (DATASETS, datasets, [])):
        monkeypatch.setattr(registry, "_classes", dict(entries))
        monkeypatch.setattr(registry, "names", lambda names=(*entries, *lacking): sorted(names))
    get = MODELS.get

    def without_package(name: str) -> type:
        if name == "needy":
            raise MissingDependency("model 'needy' needs the package 'torchlack', which is not installed")
        found: type = get(name)
        return found

    monkeypatch.setattr(MODELS, "get", without_package)


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str) -> Path:
        path = tmp_path / "bench.yaml"
        path.write_text(text)
        return path

    return write


def message(*args, **kwargs) -> str:
    """The one line of the error that reading ends in."""
    with pytest.raises(ConfigError) as caught:
        read(*args, **{"sections": SECTIONS} | kwargs)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_file_holds_datasets_models_and_sections(write):
    path = write(
        """
data: {name: maps, root: /somewhere, field: T}
models:
  maf: {num_steps: 8, hidden_features: [128, 128]}
  cglow:
train: {lr: 1e-3}
bench: {seeds: [0, 1], out: here}
"""
    )
    assert read(path, sections=SECTIONS) == Settings(
        datasets=[("maps", {"root": "/somewhere", "field": "T"})],
        models={"maf": {"num_steps": 8, "hidden_features": [128, 128]}, "cglow": {}},
        train={"lr": "1e-3"},  # PyYAML reads text here; `make` reads a number
        bench={"seeds": [0, 1], "out": "here"},
    )


@pytest.mark.parametrize(
    ("text", "datasets"),
    [
        ("data: digits", [("digits", {})]),
        ("data: [digits, moons]", [("digits", {}), ("moons", {})]),
        ("data: [digits, {name: maps, root: x}]", [("digits", {}), ("maps", {"root": "x"})]),
        (
            "data: [{name: maps, root: x}, {name: maps, root: y}]",
            [("maps", {"root": "x"}), ("maps", {"root": "y"})],
        ),
        ("data:", []),
        ("", []),
    ],
)
def test_data_is_a_name_a_mapping_or_a_list(write, text, datasets):
    assert read(write(text)).datasets == datasets


@pytest.mark.parametrize(
    ("text", "datasets"),
    [
        ("{maps: {root: /a}}", [("maps", {"root": "/a"})]),
        ("{maps: {root: /a}, digits: }", [("maps", {"root": "/a"}), ("digits", {})]),
        ("[{maps: {root: /a}}, moons]", [("maps", {"root": "/a"}), ("moons", {})]),
        ("[{maps: {root: /a}}, {name: maps, root: /b}]", [("maps", {"root": "/a"}), ("maps", {"root": "/b"})]),
    ],
)
def test_data_may_be_named_as_models_are(write, text, datasets):
    assert read(write(f"data: {text}\n")).datasets == datasets


@pytest.mark.parametrize("text", ["models: [cglow, maf]", "models: {cglow: {}, maf: }", "models: {cglow: , maf: {}}"])
def test_models_are_a_list_or_a_mapping_in_their_order(write, text):
    assert list(read(write(text)).models.items()) == [("cglow", {}), ("maf", {})]


def test_names_become_canonical(write):
    assert list(read(models="cnf,MAF", data="Digits").models) == ["galacticflow", "maf"]
    assert read(write("models: {cnf: {num_steps: 2}}")).models == {"galacticflow": {"num_steps": 2}}
    assert read(models="galacticflow", sets=["cnf.num_steps=3"]).models == {"galacticflow": {"num_steps": 3}}


def test_the_command_line_chooses_and_the_file_keeps_its_options(write):
    path = write("data: [digits, {name: maps, root: x}]\nmodels: {maf: {num_steps: 9}, cglow: {num_steps: 1}}\n")
    chosen = read(path, models="galacticflow,maf", data="moons,maps")
    assert list(chosen.models.items()) == [("galacticflow", {}), ("maf", {"num_steps": 9})]
    assert chosen.datasets == [("moons", {}), ("maps", {"root": "x"})]


def test_defaults_stand_in_only_where_nothing_is_named(write):
    path = write("models: [cglow]")
    chosen = read(path, default_models="maf", default_data="digits")
    assert (list(chosen.models), chosen.datasets) == (["cglow"], [("digits", {})])
    assert read(default_data="digits", data="moons").datasets == [("moons", {})]
    assert read(default_data="maps", sets=["data.root=x"]).datasets == [("maps", {"root": "x"})]
    assert read() == Settings()


# --set


def test_set_of_model_reaches_every_model_that_has_the_option():
    chosen = read(models="maf,cglow,gaussian", sets=["model.num_steps=3", "model.num_levels=1"])
    assert chosen.models == {
        "maf": {"num_steps": 3},
        "cglow": {"num_steps": 3, "num_levels": 1},
        "gaussian": {},
    }


def test_set_of_one_model_reaches_that_one():
    assert read(models="maf,cglow", sets=["maf.num_steps=3"]).models == {"maf": {"num_steps": 3}, "cglow": {}}


def test_set_of_data_and_of_a_dataset():
    sets = ["data.root=/d", "maps.field=T"]
    assert read(data="maps,digits", sets=sets).datasets == [
        ("maps", {"root": "/d", "field": "T"}),
        ("digits", {}),
    ]


def test_set_of_a_section():
    chosen = read(sets=["train.lr=1e-3", "bench.seeds=[0, 1]"], sections=SECTIONS)
    assert (chosen.train, chosen.bench) == ({"lr": "1e-3"}, {"seeds": [0, 1]})
    assert make(Train, chosen.train, "train") == Train(lr=0.001)


def test_set_wins_over_the_file_and_the_last_one_over_all(write):
    path = write("models: {maf: {num_steps: 1}}\ntrain: {lr: 1}\n")
    chosen = read(path, sets=["model.num_steps=2", "maf.num_steps=3", "train.lr=2"], sections=SECTIONS)
    assert chosen.models == {"maf": {"num_steps": 3}}
    assert chosen.train == {"lr": 2}
    assert read(path, sets=["maf.num_steps=3", "model.num_steps=2"], sections=SECTIONS).models["maf"] == {
        "num_steps": 2
    }


def test_a_name_that_a_model_and_a_dataset_share_means_the_one_that_is_chosen():
    chosen = read(models="gaussian", data="gaussian", sets=["gaussian.root=x"])
    assert (chosen.models, chosen.datasets) == ({"gaussian": {}}, [("gaussian", {"root": "x"})])
    assert read(models="maf", data="gaussian", sets=["gaussian.root=x"]).datasets == [("gaussian", {"root": "x"})]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("0.5", 0.5),
        ("1e-3", "1e-3"),
        ("true", True),
        ("null", None),
        ("~", None),
        ("[128,128]", [128, 128]),
        ("'3'", "3"),
        ("/a/b c", "/a/b c"),
        ("a=b", "a=b"),
        ("*.npz", "*.npz"),
        ("@home", "@home"),
        ("#3", "#3"),
        ("a: b: c", "a: b: c"),
        ("2024-13-45", "2024-13-45"),
    ],
)
def test_values_are_yaml_or_else_text(text, value):
    assert read(data="maps", sets=[f"data.field={text}"]).datasets == [("maps", {"field": value})]


def test_set_of_two_models_that_share_an_anchor_reaches_one(write):
    path = write("models: {maf: &o {hidden_features: [1]}, galacticflow: *o}\n")
    assert read(path, sets=["maf.num_steps=3"]).models == {
        "maf": {"hidden_features": [1], "num_steps": 3},
        "galacticflow": {"hidden_features": [1]},
    }


def test_merge_keys_are_the_safe_loaders(write):
    path = write("models:\n  maf: &o {num_steps: 1, hidden_features: 2}\n  cnf:\n    <<: *o\n    num_steps: 3\n")
    assert read(path).models["galacticflow"] == {"num_steps": 3, "hidden_features": 2}


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (
            "train.lr",
            [
                "--set train.lr: expected prefix.option=value",
                "prefixes are data, model, train, bench, digits, maf",
            ],
        ),
        ("lr=1", ["--set lr=1: expected prefix.option=value", "prefixes are data, model, train"]),
        ("train.lr=", ["expected prefix.option=value (null for none)"]),
        ("trian.lr=1", ["unknown prefix 'trian': did you mean 'train'?", "prefixes are data, model, train"]),
        ("tune.trials=5", ["unknown prefix 'tune'"]),
        ("cglow.num_steps=1", ["cglow is not among the chosen models (maf)"]),
        ("maps.root=x", ["maps is not among the chosen datasets (digits)"]),
        (
            "maf.num_step=1",
            ["maf has no option 'num_step': did you mean 'num_steps'?", "num_steps, hidden_features"],
        ),
        ("model.num_bins=1", ["maf has no option 'num_bins'"]),
        ("data.root=x", ["digits has no option 'root': its options are none"]),
        ("train.rate=1", ["train has no option 'rate'", "its options are lr, batch_size"]),
        ("maf.num_steps=[1", ["--set maf.num_steps=[1: expected"]),
        (
            "maf.num_steps=!!python/object/apply:os.system [ls]",
            ["python/object/apply:os.system", "only plain YAML"],
        ),
    ],
)
def test_a_set_that_means_nothing_says_what_there_is(text, parts):
    said = message(models="maf", data="digits", sets=[text])
    for part in parts:
        assert part in said


def test_an_option_that_no_chosen_model_has_is_refused_for_all():
    said = message(models="maf,cglow", sets=["model.num_bin=1"])
    assert "maf and cglow have no option 'num_bin'" in said
    assert "num_steps, hidden_features, num_levels" in said


def test_set_of_nothing_chosen_says_so():
    assert "no model is chosen" in message(sets=["model.num_steps=1"])


# Errors that name the file and the line


@pytest.mark.parametrize(
    ("text", "line", "parts"),
    [
        (
            "data: digits\nmodel: {maf: {}}\n",
            2,
            ["has no key 'model': did you mean 'models'?", "data, models, train, bench"],
        ),
        ("data: digits\ntune: {trials: 1}\n", 2, ["has no key 'tune'"]),
        (
            "models:\n  maf:\n    num_steps: 1\n    num_bins: 3\n",
            4,
            ["maf has no option 'num_bins'", "num_steps"],
        ),
        ("models:\n  mfa: {}\n", 2, ["unknown model 'mfa'", "did you mean maf"]),
        ("models:\n - maf\n - glow\n", 3, ["unknown model 'glow'"]),
        (
            "data:\n - digits\n - name: maps\n   rot: x\n",
            4,
            ["maps has no option 'rot': did you mean 'root'?"],
        ),
        ("data:\n - digits\n - mops\n", 3, ["unknown dataset 'mops'"]),
        ("data:\n  name: maps\n  family: x\n", 3, ["maps has no option 'family'"]),
        ("data:\n  root: x\n", 1, ["expected the name of a dataset, or {name: ..., options} or {dataset: {options}}"]),
        ("data:\n  digits:\n  maps:\n    rot: x\n", 4, ["maps has no option 'rot': did you mean 'root'?"]),
        ("data:\n  maps: {}\n  mops: {}\n", 3, ["unknown dataset 'mops': did you mean maps"]),
        ("data:\n  maps: 8\n", 1, ["expected the name of a dataset", "got {'maps': 8}"]),
        ("data: {}\n", 1, ["expected the name of a dataset", "got {}"]),
        ("data:\n - 3\n", 2, ["expected the name of a dataset", "got 3"]),
        ("\nmodels:\n - maf: {num_steps: 1}\n", 3, ["all of them as {name: {options}, ...}"]),
        ("models:\n  maf: 8\n", 2, ["expected maf: {option: value, ...}; got 8"]),
        ("train:\n - lr\n", 1, ["expected train: {option: value, ...}; got ['lr']"]),
        ("train:\n  batch_size: 3\n  learning_rate: 1\n", 3, ["train has no option 'learning_rate'"]),
        ("train:\n  1: 2\n", 2, ["train has no option '1'"]),
        ("data: digits\nmodels: [maf]\ndata: moons\n", 3, ["'data' is given twice, first in line 1"]),
        (
            "models:\n  maf: {num_steps: 1}\n  cglow: {}\n  maf: {}\n",
            4,
            ["'maf' is given twice, first in line 2"],
        ),
        ("bench:\n  out: a\n  'out': b\n", 3, ["'out' is given twice, first in line 2"]),
        ("models: {maf: {hidden_features: [{a: 1,\n a: 2}]}}\n", 2, ["'a' is given twice, first in line 1"]),
        ("models:\n  cnf: {}\n  galacticflow: {}\n", 3, ["model 'galacticflow' is named twice"]),
        ("models:\n - maf\n - MAF\n", 3, ["model 'maf' is named twice"]),
        ("models:\n  maf: !!python/object:os.system {}\n", 2, ["python/object", "only plain YAML is read"]),
        ("models:\n  maf: [1\ndata: x\n", 3, ["expected ',' or ']'"]),
        ("data: digits\n\tmodels: maf\n", 2, ["cannot start any token"]),
        ("- a\n- b\n", 1, ["expected a mapping with data, models"]),
    ],
)
def test_errors_of_a_file_name_its_line(write, text, line, parts):
    path = write(text)
    said = message(path)
    assert said.startswith(f"{path}:{line}: ")
    for part in parts:
        assert part in said


def test_a_merged_mistake_names_a_line_of_the_model(write):
    path = write("models:\n  maf: {num_steps: 1}\n  cglow:\n    <<: {bins: 3}\n")
    assert message(path).startswith(f"{path}:3: cglow has no option 'bins'")


def test_a_file_that_is_not_there_or_not_text(tmp_path):
    assert "none.yaml: cannot be read (No such file" in message(tmp_path / "none.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    assert "bytes.yaml: " in message(tmp_path / "bytes.yaml")


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        ({"models": "maf,glow"}, "--models maf,glow: unknown model 'glow'"),
        ({"models": "cnf,galacticflow"}, "--models cnf,galacticflow: model 'galacticflow' is named twice"),
        ({"models": ""}, "unknown model ''"),
        ({"data": "digts"}, "--data digts: unknown dataset 'digts': did you mean digits"),
        ({"data": "digits,digits"}, "dataset 'digits' is named twice"),
    ],
)
def test_errors_of_the_command_line_name_the_flag(flags, part):
    assert part in message(**flags)


def test_a_dataset_may_recur_with_other_options_only(write):
    path = write("data: [{name: maps, root: x}, {name: maps, root: y}]\n")
    assert len(read(path, data="maps").datasets) == 2
    assert "'maps' is chosen twice with the same options" in message(path, sets=["data.root=z"])


def test_a_missing_package_stops_the_model_that_needs_it_only(write):
    path = write("models: {maf: {num_steps: 2}, needy: {solver: x}}\n")
    with pytest.raises(MissingDependency, match="torchlack"):
        read(path)
    assert read(path, models="maf").models == {"maf": {"num_steps": 2}}
    with pytest.raises(MissingDependency, match="torchlack"):
        read(models="needy", sets=["needy.solver=x"])


# dump


def test_a_dump_reads_back_to_equal_settings(tmp_path):
    sets = [
        *("data.root=/a b", "data.field=null", "model.num_steps=3", "maf.hidden_features=[128, 128]"),
        *("train.lr=1e-3", "train.batch_size='3'", "bench.seeds=[0, 1]", "bench.out=yes: no"),
    ]
    settings = read(models="cnf,maf,gaussian", data="maps,digits", sets=sets, sections=SECTIONS)
    path = tmp_path / "resolved.yaml"
    path.write_text(dump(settings))
    assert read(path, sections=SECTIONS) == settings
    assert list(read(path, sections=SECTIONS).models) == ["galacticflow", "maf", "gaussian"]


def test_a_dump_is_plain_yaml_without_anchors():
    shared = (128, 128)
    settings = Settings([], {"maf": {"hidden_features": shared}, "galacticflow": {"hidden_features": shared}})
    settings.bench["out"] = Path("runs") / "one"
    text = dump(settings)
    assert "&" not in text
    assert yaml.safe_load(text)["models"]["galacticflow"] == {"hidden_features": [128, 128]}
    assert yaml.safe_load(text)["bench"] == {"out": "runs/one"}
