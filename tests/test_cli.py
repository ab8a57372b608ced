import errno
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import typer

import flowzoo
from flowzoo import cli, train
from flowzoo.checkpoint import read_meta, save_tensors
from flowzoo.models.maf import MAF
from flowzoo.registry import DATASETS, MODELS

MOONS = ["--data", "two_moons", "--set", "data.num_events=300"]
TINY = ["--steps", "20", "--set", "maf.num_steps=1", "--set", "maf.hidden_features=16"]
FEW = [word for option in ("draws=30", "posteriors=5", "posterior_draws=30") for word in ("--set", f"bench.{option}")]
BENCH = ["bench", "--models", "maf", *MOONS, *TINY, *FEW]


@dataclass
class Done:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """What it said on stderr, which must be one line."""
        assert len(self.err.splitlines()) == 1, self.err
        return self.err.strip()


Run = Callable[..., Done]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command line in this process, through ``main``, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FLOWZOO_TRACEBACK", raising=False)

    def command(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["flowzoo", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capsys.readouterr()
        return Done(int(caught.value.code or 0), out, err)

    return command


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def fit(*args: object, **kwargs: object) -> None:
        raise AssertionError("this must not train")

    monkeypatch.setattr(train, "fit", fit)


def app_commands() -> dict[str, Any]:
    found: dict[str, Any] = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    return found


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=120, check=False)


# -- what a user did wrong


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("command", "named"),
    [
        ("bench --models maff,nsf", "did you mean maf? known models are bpf, cglow, ffjord, galacticflow"),
        ("bench --models maf,", "unknown model ''"),
        ("bench", "no models to compare; give --models, some of bpf, cglow"),
        ("bench --models maf --data digitss", "did you mean digits? known datasets are catalogue, cifar10, digits"),
        ("bench --models maf,maf", "'maf' is named twice"),
        ("bench --models maf --set maf.num_stesp=2", "did you mean 'num_steps'"),
        ("bench --models maf --set nsf.num_steps=2", "nsf is not among the chosen models (maf)"),
        ("bench --models maf --set mfa.num_steps=2", "did you mean 'maf'"),
        ("bench --models maf --set num_steps=2", "expected prefix.option=value"),
        ("bench --models maf --set maf.num_steps=two", "maf.num_steps: Input should be a valid integer"),
        ("bench --models maf --set maf.hidden_features=-5", "maf.hidden_features: counts must be at least 1"),
        ("bench --models maf --set train.lr=-1", "lr and minutes must be positive"),
        ("bench --models maf --set train.rate=1", "its options are steps, minutes"),
        ("bench --models maf --set bench.draws=0", "draws must be at least 1"),
        ("bench --models maf --steps -1", "steps must not be negative"),
        ("bench --models maf --steps many", "--steps"),
        ("bench --models normflows-glow --data two_moons", "needs images, event_shape (C, H, W); got (2,)"),
        ("bench --models ffjord --data linear_gaussian --set data.dim=257", "at most 256 numbers"),
        ("bench --models cglow --data maps --set data.root=maps", "cglow cannot squeeze 9 x 9 pixels"),
        ("bench --models normflows-glow --data maps --set data.root=maps", "height and width that divide by 4"),
        ("bench --models maf --data table --set data.path=gone.npz --set data.x=x", "gone.npz"),
        ("bench --models maf --data table --set data.path=a.npz --set data.x=y", "y"),
        ("bench --models maf --data table", "path"),
        ("bench --models maf --config gone.yaml", "gone.yaml: cannot be read"),
        ("bench --config wrong.yaml", "wrong.yaml:3: maf has no option 'num_stpes'"),
        ("bench --config torn.yaml", "torn.yaml:3: expected"),
        ("bench --models maf --device warp", "unknown device 'warp': expected cpu, cuda"),
        ("bench --models maf --device cuda:99", "device 'cuda:99' cannot be used here"),
        ("bench --models maf --device meta", "try auto or cpu"),
        ("bench --models maf --seeds one", "--seeds takes numbers like 0,1,2 or a range like 0..4; got 'one'"),
        ("bench --models maf --seeds 0,0", "seeds must be different numbers"),
        ("bench --models maf --seeds 3..1", "seeds must be different numbers, at least one"),
        ("bench --models maf --seeds 0..", "got '0..'"),
        ("bench --model maf", "No such option: --model"),
        ("bench --model maf", "there are --models, --data, --config"),
        ("bnech", "there are bench, report, fit, tune, evaluate, infer, calibrate, sample, density, embed, models, "),
        ("bench --models maf --out wrong.yaml", "cannot write to wrong.yaml"),
        ("bench --models maf --out wrong.yaml/run", "cannot write to wrong.yaml/run (Not a directory)"),
        ("bench --models maf --out /dev/null/run", "cannot write to /dev/null/run (Not a directory)"),
        ("fit --out flow.safetensors", "--model"),
        ("fit --model maf", "--out"),
        ("fit --model maf,nsf --out new/flow.safetensors", "fit trains one model on one dataset"),
        ("fit --model maf --data digits,two_moons --out new/flow.safetensors", "this is 2 cells"),
        ("fit --model maff --out new/flow.safetensors", "did you mean maf"),
        ("fit --model maf --out maps", "is a folder"),
        ("fit --model maf --out wrong.yaml/flow.safetensors", "cannot write to wrong.yaml"),
        ("fit --model maf --seed x --out flow.safetensors", "'--seed'"),
        ("evaluate", "Missing argument"),
        ("evaluate gone.safetensors", "no checkpoint at gone.safetensors"),
        ("evaluate torn.npz", "torn.npz: damaged or not a checkpoint"),
        ("evaluate maps", "maps holds no trained flows (checkpoints/*.safetensors); give the directory of a bench"),
        ("evaluate gone.safetensors --data digits,two_moons", "evaluate takes one dataset"),
        ("evaluate gone.safetensors --data digitss", "did you mean digits"),
    ],
)  # fmt: skip
def test_user_error_is_one_line_that_says_what_there_is(run: Run, tmp_path: Path, command: str, named: str) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "a.npz", x=rng.normal(size=(100, 2)))
    (tmp_path / "torn.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:700])
    (tmp_path / "wrong.yaml").write_text("data: digits\nmodels:\n  maf: {num_stpes: 3}\n")
    (tmp_path / "torn.yaml").write_text("data: digits\nmodels: {maf: {num_steps: 3\n")
    (tmp_path / "maps").mkdir()
    np.save(tmp_path / "maps" / "Maps_T_z=0.npy", 1e6 * np.exp(rng.normal(size=(20, 9, 9))).astype("f4"))
    np.savetxt(tmp_path / "maps" / "params_LH.txt", rng.normal(size=(10, 2)))
    before = sorted(tmp_path.rglob("*"))
    done = run(*command.split())
    assert done.status == 2
    assert named in done.line
    assert done.line.startswith("flowzoo: ")
    assert sorted(tmp_path.rglob("*")) == before  # no run directory, no file


def test_entry_point_of_a_process_says_the_same(tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("flowzoo")
    if not script.exists():
        pytest.skip("flowzoo is not installed as a script here")
    found = subprocess.run(
        [script, "bench", "--models", "maff"], capture_output=True, text=True, cwd=tmp_path, timeout=120, check=False
    )
    assert found.returncode == 2
    assert len(found.stderr.splitlines()) == 1
    assert "did you mean maf" in found.stderr
    assert not list(tmp_path.iterdir())


def test_fault_of_ours_is_not_passed_off_as_the_users(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(self: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(DATASETS.get("two_moons"), "load", load)
    with pytest.raises(KeyError, match="a bug"):
        run(*BENCH)


def test_traceback_can_be_asked_for(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWZOO_TRACEBACK", "1")
    with pytest.raises(ValueError, match="unknown model"):
        run("bench", "--models", "maff")


# -- what a run does


def test_bench_prints_the_table_and_where_it_is(run: Run, tmp_path: Path) -> None:
    done = run(*BENCH, "--out", "run")
    assert done.status == 0
    assert done.err == ""
    assert "two_moons: 300 events of 2, given 2 numbers, 300 groups" in done.out
    assert "gaussian" in done.out
    assert "maf" in done.out
    assert "run/ holds report.html, this table" in done.out
    assert re.search(r"^two_moons: take (maf|gaussian)$", done.out, re.MULTILINE)
    assert "has the lowest NLL" in done.out
    readme = (tmp_path / "run" / "README.md").read_text()
    assert f"    flowzoo {' '.join(BENCH)} --out run\n" in readme
    again = run(*BENCH, "--out", "run")
    assert again.out.count("known from before") == 2


def test_report_is_written_anew_without_the_data(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(*BENCH, "--out", "run")
    page = tmp_path / "run" / "report.html"
    before = page.read_text()
    page.unlink()
    monkeypatch.setattr(DATASETS.get("two_moons"), "load", lambda self: pytest.fail("the data were loaded"))
    done = run("report", "run")
    assert done.status == 0
    assert page.read_text() == before
    assert "run/report.html has this" in done.out
    assert run("report", "nowhere").status == 2


def test_default_folder_is_the_same_for_the_same_command_and_another_for_another(run: Run) -> None:
    for options in ([], [], ["--seeds", "1"], []):
        assert run(*BENCH, *options).status == 0
    assert len(list(Path("runs").iterdir())) == 2


def test_failed_cell_ends_in_status_one_and_runs_again_alone(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    real, built = MAF.build, []

    def build(self: MAF, *shapes: object, **maps: object) -> object:
        built.append(1)
        if len(built) == 2:  # the first is that of the plan
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 20 GiB")
        return real(self, *shapes, **maps)

    monkeypatch.setattr(MAF, "build", build)
    done = run(*BENCH, "--out", "run")
    assert done.status == 1
    assert "1 of 2 cells failed" in done.line
    assert "OutOfMemoryError: CUDA out of memory. Tried to allocate 20 GiB" in done.out
    frame = pd.read_csv("run/table.csv").set_index("model")
    assert frame.loc["maf", "status"] == "failed"
    assert "Tried to allocate 20 GiB" in frame.loc["maf", "reason"]
    assert frame.loc["gaussian", "status"] == "ok"
    again = run(*BENCH, "--out", "run")
    assert again.status == 0
    assert "gaussian seed 0" in again.out.split("known from before")[0]
    assert again.out.count("known from before") == 1
    assert set(pd.read_csv("run/table.csv")["status"]) == {"ok"}


def test_other_options_for_a_run_directory_are_refused_naming_the_difference(run: Run) -> None:
    assert run(*BENCH, "--out", "run").status == 0
    done = run(*BENCH, "--out", "run", "--set", "train.lr=0.5")
    assert done.status == 2
    assert re.search(r"train\.lr was .*, now 0\.5\); give another --out", done.line)


def test_full_disk_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    done = run(*BENCH, "--out", "run")
    assert done.status == 2
    assert "cannot write to run (No space left on device)" in done.line
    assert not list(Path("run/cells").iterdir())
    done = run("fit", "--model", "maf", *MOONS, *TINY, "--out", "flow.safetensors")
    assert done.status == 2
    assert "No space left on device" in done.line
    assert not list(Path().glob("*flow*"))


def test_interruption_is_one_line_and_status_130(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fit(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "fit", fit)
    done = run(*BENCH, "--out", "run")
    assert done.status == 130
    assert done.line == "interrupted; the same command goes on from here"


@pytest.mark.usefixtures("no_training")
def test_dry_run_shows_plan_and_cost_and_does_nothing(run: Run, tmp_path: Path) -> None:
    done = run(*BENCH, "--seeds", "0,1", "--dry-run", "--out", "run")
    assert done.status == 0
    assert "4 cells, at most about" in done.out
    assert "nothing was trained" in done.out
    rows = [line.split() for line in done.out.splitlines() if line.startswith("two_moons")]
    assert [(row[1], row[2]) for row in rows] == [("gaussian", "0"), ("gaussian", "1"), ("maf", "0"), ("maf", "1")]
    flow = flowzoo.build("maf", (2,), (2,), num_steps=1, hidden_features=16)
    assert rows[2][3] == str(sum(p.numel() for p in flow.parameters()))
    assert rows[2][5] == "20"
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(("text", "seeds"), [("0,1", [0, 1]), ("0..2", [0, 1, 2]), ("7", [7]), ("5, 3", [5, 3])])
def test_seeds_as_list_and_as_range(run: Run, text: str, seeds: list[int]) -> None:
    done = run("bench", "--models", "gaussian", *MOONS, "--dry-run", "--seeds", text)
    found = [int(line.split()[2]) for line in done.out.splitlines() if line.startswith("two_moons")]
    assert found == seeds


def test_config_file_and_set_which_wins(run: Run) -> None:
    Path("run.yaml").write_text(
        "data: {name: two_moons, num_events: 300}\n"
        "models: {maf: {num_steps: 2, hidden_features: 16}}\n"
        "train: {steps: 50, lr: 1e-4}\n"
        "bench: {seeds: [4], out: from-file, baseline: false}\n"
    )
    assert run("bench", "--config", "run.yaml", "--set", "maf.num_steps=1", "--steps", "10").status == 0
    (record,) = Path("from-file/cells").glob("*.json")
    assert record.name == "two_moons.maf.4.json"
    config = json.loads(record.read_text())["config"]
    assert config["model"].items() >= {"name": "maf", "num_steps": 1, "hidden_features": 16}.items()
    assert (config["train"]["steps"], config["train"]["lr"]) == (10, 1e-4)
    assert config["data"]["num_events"] == 300


def test_two_datasets_give_two_sections(run: Run) -> None:
    done = run("bench", "--models", "gaussian", "--data", "digits,two_moons", "--set", "two_moons.num_events=300")
    assert done.status == 0
    assert done.out.index("digits, split") < done.out.index("two_moons, split")
    assert list(pd.read_csv(next(Path("runs").glob("*/table.csv")))["dataset"]) == ["digits", "two_moons"]


def test_cell_whose_test_events_have_no_density_says_why(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    flow = type(flowzoo.build("gaussian", (2,), (2,)))
    to_latent = flow._to_latent

    def lost(self: object, u: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        z, log_det = to_latent(self, u, c)
        return (z * torch.nan if len(u) == 60 else z), log_det  # the 60 test events

    monkeypatch.setattr(flow, "_to_latent", lost)
    done = run("bench", "--models", "gaussian", *MOONS, "--out", "run")
    assert "gaussian seed 0: log q is not finite at 60 of 60 test events" in done.out
    assert pd.read_csv("run/table.csv")["nll_nats"].isna().all()


# -- fit and evaluate


def test_fit_then_evaluate_is_the_cell_of_the_bench(run: Run) -> None:
    assert run("bench", "--models", "maf", *MOONS, *TINY, "--seeds", "3", "--out", "run").status == 0
    cell = json.loads(Path("run/cells/two_moons.maf.3.json").read_text())
    done = run("fit", "--model", "maf", *MOONS, *TINY, "--seed", "3", "--out", "flow.safetensors")
    assert done.status == 0
    assert "took all 20 steps" in done.out
    found = json.loads(run("evaluate", "flow.safetensors", "--json").out)
    for column in ("nll_nats", "nll_se", "excess_nll", "context_use", "sw", "sw_floor", "roundtrip_error"):
        assert found["metrics"][column] == cell["metrics"][column], column
    assert found["missing"].keys() <= cell["missing"].keys()
    text = run("evaluate", "run/checkpoints/two_moons.maf.3.safetensors").out
    assert f"nll_nats                   {cell['metrics']['nll_nats']:.6g}" in text


def test_evaluate_takes_a_run_directory_and_says_of_what_it_is(run: Run) -> None:
    assert run(*BENCH, "--seeds", "3", "--out", "run").status == 0
    file = "run/checkpoints/two_moons.maf.3.safetensors"
    done, own = run("evaluate", "run", "--model", "maf"), run("evaluate", file)
    which, what, *lines = done.out.splitlines()
    assert which == "maf from two_moons.maf.3.safetensors"
    split = read_meta(file)["split"]["hash"]
    assert what == f"two_moons, split {split}, as in training: 60 test events of 60 groups"
    assert own.out.splitlines()[0] == "maf from two_moons.maf.3.safetensors"
    timed = re.compile("^(sample_seconds|posterior_seconds)")
    assert [x for x in lines if not timed.match(x)] == [x for x in own.out.splitlines()[2:] if not timed.match(x)]
    assert lines[0].startswith("nll_nats ")
    other = run("evaluate", "run", "--model", "gaussian", "--data", "two_moons", "--set", "data.num_events=500").out
    assert other.splitlines()[0].startswith("gaussian from two_moons.gaussian.3.safetensors")
    assert other.splitlines()[1] == "two_moons: 100 test events of 100 groups"
    found = json.loads(run("evaluate", "run", "--model", "maf", "--json").out)
    assert (found["flow"], found["test_events"], found["test_groups"]) == (file, 60, 60)


def test_reason_stands_once_with_all_its_columns(run: Run) -> None:
    run("fit", "--model", "gaussian", *MOONS, "--out", "flow.safetensors")
    lines = [line for line in run("evaluate", "flow.safetensors").out.splitlines() if line.startswith("not measured: ")]
    (images,) = (line for line in lines if "not images" in line)
    assert images.startswith("not measured: bispectrum_error, minkowski_error, peaks_error, pixel_w1, pk_mean_r2,")
    assert images.endswith("(events are (2,), not images (C, H, W))")
    reasons = [line[line.index(" (") :] for line in lines]
    assert len(reasons) == len(set(reasons))
    missing = json.loads(run("evaluate", "flow.safetensors", "--json").out)["missing"]
    named = [name for line in lines for name in line.split(": ", 1)[1].split(" (")[0].split(", ")]
    assert sorted(named) == sorted(name for name in missing if not name.endswith("_floor"))


def test_state_of_a_training_is_no_flow(run: Run) -> None:
    save_tensors(Path("flow.state.safetensors"), {}, {"fit": {}, "state": {}})
    for command in ("evaluate", "infer"):
        done = run(command, "flow.state.safetensors", *([] if command == "evaluate" else ["--test", 1, "--out", "out"]))
        assert done.status == 2
        assert "flow.state.safetensors holds no flow, but the state of a training" in done.line


def test_evaluate_takes_other_data_of_the_same_shape_and_refuses_another(run: Run) -> None:
    run("fit", "--model", "gaussian", *MOONS, "--out", "flow.safetensors")
    done = run("evaluate", "flow.safetensors", "--data", "two_moons", "--set", "data.seed=9", "--json")
    assert done.status == 0
    own = run("evaluate", "flow.safetensors", "--json")
    assert json.loads(done.out)["metrics"]["nll_nats"] != json.loads(own.out)["metrics"]["nll_nats"]
    done = run("evaluate", "flow.safetensors", "--data", "digits")
    assert done.status == 2
    assert "the flow takes events (2,) given (2,); 'digits' has (1, 8, 8) given (10,)" in done.line


def test_evaluate_takes_options_of_the_bench(run: Run) -> None:
    run("fit", "--model", "maf", *MOONS, *TINY, "--out", "flow.safetensors")
    found = json.loads(run("evaluate", "flow.safetensors", "--json", "--set", "bench.max_passes=0").out)
    assert "sw" not in found["metrics"]
    assert "max_passes = 0" in found["missing"]["sw"]
    # Without --data an option of some default dataset would be read as one of the flow's own.
    done = run("evaluate", "flow.safetensors", "--set", "data.seed=9")
    assert done.status == 2
    assert len(done.err.splitlines()) == 1


def test_diverged_fit_ends_in_status_one(run: Run) -> None:
    done = run("fit", "--model", "maf", *MOONS, *TINY, "--set", "train.lr=1e30", "--out", "flow.safetensors")
    assert done.status == 1
    assert "not finite" in done.out or "was nan" in done.out or "was inf" in done.out


# -- lists and help


def test_models_are_listed_whole_with_what_they_take(run: Run) -> None:
    table, hint = run("models").out.split("\n\n")
    assert "flowzoo models NAME says all of one" in hint
    lines = {line.split()[0]: line for line in table.splitlines()}
    assert set(lines) == {"name", *MODELS.names()}
    assert lines["name"].split() == ["name", "family", "backend", "events", "contexts", "inverse", "paper"]
    for name in MODELS.names():
        for field in ("family", "backend", "events", "contexts", "inverse", "paper"):
            assert getattr(MODELS.get(name), field) in lines[name]


@pytest.mark.parametrize("command", ["datasets", "metrics"])
def test_lists_name_what_there_is(run: Run, command: str) -> None:
    found = run(command).out
    names = DATASETS.names() if command == "datasets" else ["nll_nats", "bits_per_dim", "sw_floor", "context_use"]
    assert all(re.search(rf"^{name}\b", found, re.M) for name in names)


def test_model_without_its_backend_is_listed_with_the_reason_and_hinders_no_other() -> None:
    code = """
import sys
for name in ("nflows", "zuko"):
    sys.modules[name] = None
from flowzoo import cli
def run(*arguments):
    sys.argv = ["flowzoo", *arguments]
    try:
        cli.main()
    except SystemExit as end:
        print("status", end.code)
run("models")
run("bench", "--models", "nflows-nsf", "--dry-run")
run("bench", "--models", "maf", "--dry-run")
run("bench", "--models", "gaussian,cglow", "--dry-run")
"""
    found = python("-c", code)
    lines = found.stdout.splitlines()
    listed = {line.split()[0]: line for line in lines if line}
    assert "not available: model 'nflows-nsf' needs the package 'nflows" in listed["nflows-nsf"]
    assert "pip install nflows" in listed["nflows-nsf"]
    assert "needs the package 'zuko'" in listed["ffjord"]
    assert "flowzoo" in listed["cglow"]
    assert "not available" not in listed["cglow"]
    assert "not available" not in listed["normflows-nsf"]
    assert [line for line in lines if line.startswith("status")] == [f"status {n}" for n in (0, 2, 2, 0)]
    errors = found.stderr.splitlines()
    assert len(errors) == 2
    assert "model 'nflows-nsf' needs the package 'nflows" in errors[0]
    assert "model 'maf' needs the package 'zuko'" in errors[1]


@pytest.mark.parametrize("command", [["--help"], ["bench", "--help"], ["-h"], []])
def test_help_imports_nothing_heavy_and_answers_at_once(command: list[str]) -> None:
    took = []
    for _ in range(3):  # the machine may be busy
        started = time.monotonic()
        found = python("-X", "importtime", "-m", "flowzoo.cli", *command)
        took.append(time.monotonic() - started)
        assert found.returncode == 0
        assert "--models" in found.stdout if "bench" in command else "evaluate" in found.stdout
        imported = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in found.stderr.splitlines()}
        assert "typer" in imported  # so the list is what it should be
        assert not imported & {"torch", "numpy", "pandas", "zuko", "nflows", "normflows", "sklearn"}
        if took[-1] < 1.5:
            return
    pytest.fail(f"took {took} s")


def test_no_word_of_help_is_taken_for_markup() -> None:
    """What stands in brackets the terminal would read as the name of a style, and not show."""
    parts = [(name, part) for name, command in app_commands().items() for part in command.params]
    assert [(name, part.name) for name, part in parts if "[" in (getattr(part, "help", None) or "")] == []


def test_help_shows_the_defaults_that_are_no_values(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "150")
    assert "[default: (digits)]" in run("bench", "--help").out
    assert "[default: (those of the data that the flow was trained on)]" in run("sample", "--help").out


def test_help_names_every_command(run: Run) -> None:
    done = run()
    assert done.status == 0
    for name in app_commands():
        assert re.search(rf"^│ {name} ", done.out, re.MULTILINE)


def test_script_is_the_main_that_is_tested_here() -> None:
    points = importlib.metadata.entry_points(group="console_scripts", name="flowzoo")
    assert [point.value for point in points] == ["flowzoo.cli:main"]


def test_fit_takes_the_config_of_a_bench_with_folds_and_trains_on_one_split(run: Run) -> None:
    Path("run.yaml").write_text(
        "data: {name: two_moons, num_events: 300}\nmodels: {maf: {num_steps: 1, hidden_features: 8}}\n"
        "train: {steps: 5}\nbench: {folds: 3}\n"
    )
    done = run("fit", "--config", "run.yaml", "--out", "flow.safetensors")  # which names one model
    assert done.status == 0
    assert read_meta("flow.safetensors")["split"]["fold"] is None


def test_fit_of_no_model_says_what_to_give(run: Run) -> None:
    done = run("fit", *MOONS, "--out", "flow.safetensors")
    assert (done.status, done.err) == (
        2,
        "flowzoo: fit trains one model; give --model, one of `flowzoo models`, or a --config with one\n",
    )
