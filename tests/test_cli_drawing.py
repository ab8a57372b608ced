import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import flowzoo
from flowzoo import checkpoint, cli
from flowzoo.harness import drawing

HEAVY = {"torch", "numpy", "pandas", "h5py", "pyarrow", "safetensors", "sklearn", "zuko"}


@dataclass
class Done:
    """How a command ended."""

    status: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command line in this process, in a folder with a flow and three galaxies."""
    monkeypatch.chdir(tmp_path)
    flow = flowzoo.build("nsf", (2,), (1,), generator=torch.Generator().manual_seed(0))
    checkpoint.save(flow, "flow.safetensors", columns={"names": ["x", "y"], "context_names": ["mass"]})
    pd.DataFrame({"id": ["a", "b", "c"], "mass": [1.0, 2, 3], "n": [10, 20, 0]}).to_csv("table.csv", index=False)

    def command(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["flowzoo", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capsys.readouterr()
        return Done(int(caught.value.code or 0), out, err)

    return command


def test_sample_and_density_of_the_issue(run: Run) -> None:
    done = run("sample", "flow.safetensors", "--contexts", "table.csv", "--n", 100, "--out", "stars.h5")
    assert (done.status, done.err) == (0, "")
    assert done.out.splitlines() == ["nsf from flow.safetensors", "stars.h5: 300 events for 3 contexts"]
    done = run("density", "flow.safetensors", "--file", "stars.h5", "--out", "density.csv")
    assert (done.status, done.err) == (0, "")
    scores = pd.read_csv("density.csv")
    assert list(scores) == ["id", "log_prob"]
    assert f"mean log p {scores['log_prob'].mean():.4f} nats over 300 of them" in done.out
    for galaxy, mean in scores.groupby("id")["log_prob"].mean().items():
        assert re.search(rf"^{galaxy} +100 +{mean:.4f} *$", done.out, re.MULTILINE)


def test_sample_and_density_of_maps(run: Run) -> None:
    flow = flowzoo.build("maf", (1, 4, 4), (1,), generator=torch.Generator().manual_seed(0))
    checkpoint.save(flow, "maps.safetensors", columns={"names": ["HI"], "units": ["dex"], "context_names": ["mass"]})
    for ending in ("h5", "npz"):
        done = run("sample", "maps.safetensors", "--contexts", "table.csv", "--n", 16, "--out", f"drawn.{ending}")
        assert (done.status, done.err) == (0, "")
        assert done.out.splitlines()[1] == f"drawn.{ending}: 48 events for 3 contexts"
        done = run("density", "maps.safetensors", "--file", f"drawn.{ending}", "--out", f"{ending}.csv")
        assert (done.status, done.err) == (0, "")
        assert pd.read_csv(f"{ending}.csv")["id"].value_counts().to_dict() == {"a": 16, "b": 16, "c": 16}
    done = run("sample", "maps.safetensors", "--contexts", "table.csv", "--n", 16, "--out", "drawn.parquet")
    assert (done.status, len(done.err.splitlines())) == (2, 1)
    assert "take .h5 or .npz" in done.err


def test_contexts_and_galaxies_are_two_names_of_one_option(run: Run) -> None:
    for k, name in enumerate(("--contexts", "--galaxies")):
        assert run("sample", "flow.safetensors", name, "table.csv", "--n", 5, "--out", f"{k}.csv").status == 0
    assert Path("0.csv").read_text() == Path("1.csv").read_text()
    for name in ("--contexts", "--galaxies"):
        done = run("density", "flow.safetensors", "--file", "0.csv", name, "table.csv", "--out", f"{name}.csv")
        assert (done.status, done.err) == (0, "")
        assert re.search(r"^context +events +mean log p", done.out, re.MULTILINE)


def test_every_option_reaches_its_place(run: Run) -> None:
    shared = ("--device", "cpu", "--threads", 1, "--chunk", 7, "--model", "nsf")
    table = ("--galaxies", "table.csv", "--id", "id")
    done = run("sample", "flow.safetensors", *table, "--count", "n", "--seed", 3, "--out", "a.npz", *shared)
    assert (done.status, done.err) == (0, "")
    drawing.sample_catalogue("flow.safetensors", "b.npz", galaxies="table.csv", count="n", seed=3)
    with np.load("a.npz") as a, np.load("b.npz") as b:
        assert all(np.array_equal(a[name], b[name]) for name in ("id", "x", "y", "mass"))
        assert len(a["x"]) == 30
    done = run("density", "flow.safetensors", "--file", "a.npz", *table, "--out", "d.parquet", *shared)
    assert (done.status, done.err) == (0, "")
    first = run("density", "flow.safetensors", "--file", "a.npz", "--out", "d.parquet")
    assert first.status == 2
    assert "--overwrite" in first.err
    assert run("density", "flow.safetensors", "--file", "a.npz", "--out", "d.parquet", "--overwrite").status == 0


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("sample", "Missing argument"),
        ("sample flow.safetensors --n 3", "--out"),
        ("sample flow.safetensors --n 3 --out s.h5", "does not say what it was trained on; give --contexts"),
        ("sample flow.safetensors --contexts gone.csv --n 3 --out s.h5", "no such file: gone.csv"),
        ("sample flow.safetensors --contexts table.txt --n 3 --out s.h5", "unknown ending '.txt'"),
        ("sample flow.safetensors --contexts table.csv --out s.h5", "how many events?"),
        ("sample flow.safetensors --contexts table.csv --n 3 --out s.txt", "unknown ending '.txt'"),
        ("sample flow.safetensors --contexts table.csv --n 3 --out s.h5 --model maf", "is a flow of nsf, not of maf"),
        ("sample flow.safetensors --contexts table.csv --n 3 --out s.h5 --model nfs", "did you mean nsf"),
        ("sample flow.safetensors --contexts table.csv --n 3 --out s.h5 --device warp", "unknown device 'warp'"),
        ("sample gone.safetensors --contexts table.csv --n 3 --out s.h5", "no checkpoint at gone.safetensors"),
        ("sample table.csv --contexts table.csv --n 3 --out s.h5", "not a checkpoint"),
        ("sample . --contexts table.csv --n 3 --out s.h5", "holds no trained flows"),
        ("density flow.safetensors --out d.csv", "--file"),
        ("density flow.safetensors --file table.csv --out d.csv", "lacks the columns x, y"),
        ("density flow.safetensors --file gone.h5 --out d.csv", "no such file: gone.h5"),
    ],
)
def test_user_error_is_one_line(run: Run, tmp_path: Path, command: str, words: str) -> None:
    done = run(*command.split())
    assert done.status == 2
    assert words in done.err
    assert len(done.err.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["flow.safetensors", "table.csv"]


def test_interrupted_command_says_that_nothing_was_written(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(drawing, "sample_catalogue", stop)
    done = run("sample", "flow.safetensors", "--galaxies", "table.csv", "--n", 3, "--out", "s.h5")
    assert (done.status, done.err) == (130, "interrupted; nothing was written\n")


@pytest.mark.parametrize("command", ["sample", "density"])
def test_help_imports_nothing_heavy(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "flowzoo.cli", command, "--help"], capture_output=True, text=True
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    modules = {line.rsplit("|", 1)[1].strip().split(".")[0] for line in lines[1:]}
    assert done.returncode == 0
    assert "flowzoo" in modules
    assert not modules & HEAVY
