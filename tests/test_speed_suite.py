"""``benchmarks/speed``, ``scaling.py`` and ``make_readme.py`` at toy size: what their files say, and that it is so."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks" / "speed"))
import make_readme
from scaling_parts.fits import fits_of, power_law
from scaling_parts.known import DATA, Known
from seeds import crossing
from timing import Growth, Watch, bytes_per_event

pytestmark = pytest.mark.xdist_group(__name__)  # one worker: what it begins with takes long

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
Line = dict[str, Any]
CPU = torch.device("cpu")


def call(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """A script as a person runs it."""
    command = [sys.executable, str(BENCHMARKS / script), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=200)


def lines_of(path: Path) -> list[Line]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both scripts at toy size, beside a README."""
    made = tmp_path_factory.mktemp("benchmarks")
    (made / "results").mkdir()
    (made / "README.md").write_text("# By hand\n\n<!-- tables:begin -->\n<!-- tables:end -->\n\nThe end.\n")
    for name, script, *more in (("speed", "speed/run.py"), ("scaling", "scaling.py", "--runs", made / "runs")):
        done = call(script, "--toy", "--device", "cpu", "--out", made / "results" / f"{name}.jsonl", *more)
        assert done.returncode == 0, done.stderr
    return made


@pytest.fixture(scope="module")
def speed(folder: Path) -> list[Line]:
    return lines_of(folder / "results" / "speed.jsonl")


@pytest.fixture(scope="module")
def scaling(folder: Path) -> list[Line]:
    return lines_of(folder / "results" / "scaling.jsonl")


def test_the_first_line_says_where_numbers_are_from(speed: list[Line], scaling: list[Line]) -> None:
    for lines, script in ((speed, "benchmarks/speed/run.py"), (scaling, "benchmarks/scaling.py")):
        first = lines[0]
        assert [line["what"] for line in lines].count("header") == 1
        assert first["command"].startswith(f"python {script} --toy")
        assert first["versions"]["torch"] == torch.__version__
        assert (first["device"], first["threads"]) == ("cpu", 1)
        assert first["machine"]


def test_both_of_a_pair_are_the_same_flow(speed: list[Line]) -> None:
    flows = {line["model"]: line for line in speed if line["what"] == "flow"}
    assert {flow["library"] for flow in flows.values()} == {"zuko", "nflows", "normflows"}
    for name, flow in flows.items():
        assert flow["parameters"] == flow["parameters_of_library"] > 1000
        # zuko's SOSPF has a Softclip where ours has an asinh; all others give the same density
        assert (flow["difference_nats"] < 1e-4) is (name != "sospf"), name


def test_each_time_has_its_ratio_to_ours(speed: list[Line]) -> None:
    timed = [line for line in speed if line["what"] in ("step", "log_prob", "sample")]
    ours = {(c["what"], c["model"], c["D"], c["batch"]): c for c in timed if c["library"] == "flowzoo"}
    assert len(ours) == 6 * 3 * 2  # models, kinds, batches
    for line in timed:
        of = ours[line["what"], line["model"], line["D"], line["batch"]]["seconds"]
        assert line["ratio"] == pytest.approx(line["seconds"] / of, rel=1e-3)
    libraries = {line["library"] for line in timed if line["what"] == "step"}
    assert {"zuko", "zuko, resident", "nflows, resident", "normflows"} < libraries


def test_the_flow_beside_galacticforge_is_as_large(speed: list[Line]) -> None:
    ours, *others = [line for line in speed if line["what"] == "galacticforge"]
    assert ours["library"] == "flowzoo"
    assert {"resident" in line["library"] for line in others} == {True, False}
    for line in others:
        assert line["parameters"] == pytest.approx(ours["parameters"], rel=0.01)


def test_seeds_at_once_and_kernels_are_there(speed: list[Line]) -> None:
    steps = [line for line in speed if line["what"] == "together"]
    assert {line["model"] for line in steps} == {"maf", "nsf"}
    assert all(0.5 < line["ratio"] < 50 for line in steps)
    assert [line["n_train"] for line in speed if line["what"] == "together, fit"] == [100]
    (kernel,) = [line for line in speed if line["what"] == "kernel"]
    assert 0 < kernel["share"] <= 1


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([(100, 2.0), (10_000, 8.0)], 1000.0),
        ([(100, 6.0), (200, 7.0)], 100.0),
        ([(100, 1.0), (200, 4.9)], None),
    ],
)
def test_where_five_cost_as_much_as_five_alone(points: list[tuple[int, float]], expected: float | None) -> None:
    assert crossing(points, 5) == (expected if expected is None else pytest.approx(expected))


def test_a_long_call_is_timed_once_and_a_failing_one_says_why() -> None:
    count = {"long": 0, "short": 0}

    def counted(name: str, size: int) -> Callable[[], object]:
        def run() -> None:
            count[name] += 1
            sum(range(size))

        return run

    def fails() -> None:
        raise AssertionError("discriminant")

    calls = {"long": counted("long", 10**6), "short": counted("short", 10), "fails": fails}
    found = Watch(CPU, rounds=3, least=0.0, most=1e-3).side_by_side(calls)
    assert (count["long"], found["long"].rounds) == (1, 1)
    assert (count["short"], found["short"].rounds) == (2 + 3, 3)
    assert found["fails"].error == "AssertionError: discriminant"
    assert math.isnan(found["fails"].seconds)


def test_the_next_batch_is_expected_to_cost_a_constant_and_a_slope() -> None:
    growth = Growth()
    assert growth.expected(1) == 0
    for batch in (1, 10):
        growth.add(batch, 0.5 + 0.1 * batch)
    assert growth.expected(100) == pytest.approx(10.5)


def test_memory_of_an_event_is_what_its_graph_holds() -> None:
    owner = nn.Linear(7, 5)
    # exp keeps its result, the linear layer its input and its weight, which is no event's
    found = bytes_per_event(lambda x, c: owner(x).exp(), torch.randn(34, 7), torch.zeros(34, 0), owner)
    assert found == 4 * (7 + 5)


def test_excess_is_over_the_same_events_and_falls_as_theory_says(scaling: list[Line]) -> None:
    cells = [line for line in scaling if line["what"] == "cell"]
    assert {(c["dataset"], c["n_test"]) for c in cells} == {("linear_gaussian", 200)}
    found = {c["n_train"]: c for c in cells if c["model"] == "gaussian"}
    assert sorted(found) == [60, 120, 240]
    # The maximum of the likelihood of p numbers is p / 2n above the truth: 4 means of (1 + 3) and 10 covariances.
    for size in (120, 240):
        assert found[size]["excess"] == pytest.approx(26 / (2 * size), abs=3 * found[size]["excess_se"])
    maf = [c for c in cells if c["model"] == "maf"]
    assert {tuple(c["series"]) for c in maf} == {
        ("n_train", "parameters", "seconds"),
        *(("n_train",), ("parameters",), ("seconds",)),
    }
    assert len({c["parameters"] for c in maf if "parameters" in c["series"]}) == 2
    assert sorted(c["train_steps"] for c in maf if "seconds" in c["series"]) == [10, 20]


def test_a_run_that_is_repeated_trains_nothing_again(folder: Path, scaling: list[Line]) -> None:
    out = folder / "again.jsonl"
    done = call("scaling.py", "--toy", "--out", out, "--device", "cpu", "--runs", folder / "runs")
    assert done.returncode == 0, done.stderr
    assert lines_of(out)[1:] == scaling[1:]  # the seconds of the trainings among them


@pytest.mark.parametrize("name", list(DATA))
def test_small_training_sets_lie_within_the_large(name: str) -> None:
    known = Known(name, 100, 50)
    small, large = known.of_size(30), known.of_size(100)
    assert small.given_split is not None
    assert large.given_split is not None
    assert torch.bincount(small.given_split).tolist() == [30, 20, 50]
    for k, count in ((2, 50), (1, 20), (0, 30)):
        same = large.x[large.given_split == k][:count]
        assert torch.equal(small.x[small.given_split == k], same)
    assert len(torch.unique(small.groups)) == 100
    rows = small.context_index[:50]  # type: ignore[index]
    exact = small.true_log_prob(small.x[:50], small.context[rows])  # type: ignore[index, misc]
    assert torch.equal(known.true_scores(), exact.double())
    assert bool(exact.isfinite().all())


def test_a_power_law_is_found_with_an_honest_error() -> None:
    source = np.random.default_rng(0)
    x, pulls, own = np.geomspace(100, 1e5, 6), [], []
    exact = power_law(x, 3 * x**-0.7, 0.01 * x**-0.7)
    assert exact["exponent"] == pytest.approx(0.7)
    assert exact["at_one"] == pytest.approx(3)
    assert exact["scatter"] == 0
    for _ in range(100):
        y = 3 * x**-0.7 * np.exp(0.3 * source.normal(size=6))  # thirty times the stated errors
        found = power_law(x, y, 0.01 * y)
        pulls.append((found["exponent"] - 0.7) / found["error"])
        own.append(found["scatter"])
    assert 0.7 < np.std(pulls) < 1.6
    assert np.median(own) == pytest.approx(0.3, rel=0.3)


def test_what_is_no_more_than_noise_is_not_fitted() -> None:
    def cell(n: int, excess: float) -> Line:
        return {
            "dataset": "d", "model": "m", "series": ["n_train"], "n_train": n, "excess": excess, "excess_se": 0.01,
        }  # fmt: skip

    lines = [cell(100, 0.4), cell(1000, 0.04), cell(10_000, 0.004)]
    assert fits_of(lines) == []  # two points are left
    (fit,) = fits_of([*lines, cell(10, 4.0)])
    assert (fit["low"], fit["high"], fit["points"]) == (10, 1000, 3)
    assert fit["exponent"] == pytest.approx(1)


def test_the_readme_is_made_of_the_files_and_checked(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "benchmarks"
    shutil.copytree(folder, own, ignore=shutil.ignore_patterns("runs"))
    readme = own / "README.md"
    check, write = ["--readme", str(readme), "--check"], ["--readme", str(readme)]
    assert make_readme.main(check) == 1
    assert make_readme.main(write) == 0
    text = readme.read_text()
    assert text.startswith("# By hand\n")
    assert text.endswith("\nThe end.\n")
    assert "| `normflows-nsf` | normflows | 2 |" in text
    for name in ("speed.png", "speed-together.png", "scaling.png"):
        assert f"(results/{name})" in text
        assert (own / "results" / name).stat().st_size < 300_000
    assert make_readme.main(check) == 0
    readme.write_text(text.replace("| `normflows-nsf` | normflows | 2 |", "| `normflows-nsf` | normflows | 3 |"))
    assert make_readme.main(check) == 1
    readme.write_text(text)
    path = own / "results" / "scaling.jsonl"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))  # stands in no table, but the figure is of it
    capsys.readouterr()
    assert make_readme.main(check) == 1
    assert "scaling.png" in capsys.readouterr().err
    readme.write_text("no markers")
    with pytest.raises(SystemExit, match="must have one line <!-- tables:begin -->"):
        make_readme.main(check)


def test_the_readme_of_the_benchmarks_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert make_readme.main(["--check"]) == 0, capsys.readouterr().err
