"""``flowzoo infer`` and ``calibrate`` from a saved flow: what they write, and what they refuse."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from flowzoo import cli
from flowzoo.config import ConfigError
from flowzoo.harness.calibrate import calibrate_flow
from flowzoo.harness.infer import infer_file
from flowzoo.harness.single import fit_one

LINEAR = {"num_events": 2000, "context_dim": 2, "dim": 3}


@pytest.fixture(scope="module")
def flow(plan: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The baseline on a linear Gaussian model, whose density it has in closed form: nearly exact."""
    path = tmp_path_factory.mktemp("flows") / "gaussian.safetensors"
    fit_one(plan(["gaussian"], data="linear_gaussian", options=LINEAR, train={"steps": 0})[0], path)
    return path


def test_test_observations_and_what_is_written(flow: Path, tmp_path: Path):
    done = infer_file(flow, tmp_path, test=3, n=500)
    samples = np.load(tmp_path / "samples.npz")
    assert samples["theta"].shape == (3, 500, 2)
    assert samples["log_prob"].shape == (3, 500)
    assert samples["names"].tolist() == ["theta1", "theta2"] == list(done.names)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["draws"] == 500
    assert len(summary["observations"]) == 3
    assert {file.name for file in done.files} == {
        *("samples.npz", "summary.json", "corner-0.png", "corner-1.png", "corner-2.png")
    }
    # The truth is a draw of the posterior: of six parameters none is five deviations away.
    z = (samples["theta"].mean(1) - samples["truth"]) / samples["theta"].std(1)
    assert np.abs(z).max() < 5


def test_file_of_observations_and_a_prior_of_ones_own(flow: Path, tmp_path: Path):
    np.save(tmp_path / "x.npy", np.zeros(3, np.float32))
    wide = infer_file(flow, tmp_path / "wide", x=tmp_path / "x.npy", n=2000)
    assert wide.truth is None
    assert wide.found.theta.shape == (2000, 1, 2)
    narrow = {"kind": "gaussian", "mean": [0.0, 0.0], "covariance": [1e-4, 1e-4]}
    done = infer_file(flow, tmp_path / "narrow", x=tmp_path / "x.npy", n=2000, prior=narrow)
    # A prior much narrower than the likelihood is the posterior.
    assert torch.allclose(done.found.std, torch.full((1, 2), 0.01, dtype=torch.float64), rtol=0.1)


def test_refused(flow: Path, tmp_path: Path):
    np.save(tmp_path / "x.npy", np.zeros((2, 5), np.float32))
    with pytest.raises(ConfigError, match=r"takes observations \(3,\)"):
        infer_file(flow, tmp_path / "a", x=tmp_path / "x.npy")
    with pytest.raises(ConfigError, match="--x FILE, or --test K"):
        infer_file(flow, tmp_path / "a")
    with pytest.raises(ConfigError, match="the prior has 1 parameters"):
        infer_file(flow, tmp_path / "a", test=1, prior={"a": "uniform(0, 1)"})
    with pytest.raises(ConfigError, match="no continuous distribution 'gauss'"):
        infer_file(flow, tmp_path / "a", test=1, prior={"a": "gauss(0, 1)", "b": "norm(0, 1)"})
    infer_file(flow, tmp_path / "b", test=1, n=10)
    with pytest.raises(ConfigError, match=r"samples\.npz exists; give another --out, or --overwrite"):
        infer_file(flow, tmp_path / "b", test=1, n=10)


def test_truth_outside_the_prior_is_named(flow: Path, tmp_path: Path):
    np.savez(tmp_path / "x.npz", x=np.zeros((1, 3)), theta=np.array([[0.5, 7.0]]))
    prior = {"theta1": "uniform(-1, 1)", "theta2": "uniform(-1, 1)"}
    done = infer_file(flow, tmp_path / "a", x=tmp_path / "x.npz", n=10, prior=prior)
    assert any("theta2" in text and "7" in text for text in done.warnings)


def test_context_that_is_no_parameter_needs_a_prior(plan: Callable, tmp_path: Path):
    path = tmp_path / "digits.safetensors"
    fit_one(plan(["gaussian"], data="galaxies", options={"num_galaxies": 20}, train={"steps": 0})[0], path)
    with pytest.raises(ConfigError, match="trained without a prior"):
        infer_file(path, tmp_path / "a", test=1)


def test_calibration_of_a_flow_that_is_right(flow: Path, tmp_path: Path):
    done = calibrate_flow(flow, tmp_path, n=400, draws=100)
    found = json.loads((tmp_path / "calibration.json").read_text())
    assert found["columns"]["calibration_p"]["word"] in ("good", "doubtful")
    assert done.metrics["calibration_p"] == found["columns"]["calibration_p"]["value"]
    assert found["columns"]["calibration_p"]["good"] == 0.05
    assert any(path.suffix == ".png" for path in done.files)


def test_calibrate_needs_a_prior(plan: Callable, tmp_path: Path):
    path = tmp_path / "galaxies.safetensors"
    fit_one(plan(["gaussian"], data="galaxies", options={"num_galaxies": 20}, train={"steps": 0})[0], path)
    with pytest.raises(ConfigError, match="no prior"):
        calibrate_flow(path, tmp_path)


def test_command_lines(flow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["flowzoo", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return int(caught.value.code or 0), *capsys.readouterr()

    (tmp_path / "prior.yaml").write_text("theta1: norm(0, 1)\ntheta2: uniform(-3, 3)\n")
    status, out, err = run(
        "infer", flow, "--test", 2, "--n", 50, "--prior", tmp_path / "prior.yaml", "--out", tmp_path / "i"
    )
    assert (status, err) == (0, "")
    assert "gaussian from gaussian.safetensors; grid" in out
    assert "theta2" in out
    status, out, err = run("calibrate", flow, "--n", 100, "--draws", 50, "--out", tmp_path / "c")
    assert (status, err) == (0, "")
    assert "calibration_p" in out
    status, out, err = run("infer", tmp_path / "none.safetensors", "--test", 2, "--out", tmp_path / "i")
    assert status == 2
    assert "none.safetensors" in err
