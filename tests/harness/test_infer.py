"""``flowzoo infer`` and ``calibrate`` from a saved flow: what they write, and what they refuse."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from flowzoo import checkpoint, cli
from flowzoo.config import ConfigError
from flowzoo.harness._given_prior import read_prior
from flowzoo.harness.calibrate import calibrate_flow
from flowzoo.harness.infer import _of_test, infer_file
from flowzoo.harness.single import fit_one
from flowzoo.inference import _methods

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
    with pytest.raises(ConfigError, match="--array maps names an array of --x"):
        infer_file(flow, tmp_path / "a", test=1, array="maps")
    with pytest.raises(ConfigError, match="--n and --threads must be at least 1"):
        infer_file(flow, tmp_path / "a", test=1, threads=0)
    assert not (tmp_path / "a").exists(), "no folder for what was refused"
    infer_file(flow, tmp_path / "b", test=1, n=10)
    with pytest.raises(ConfigError, match=r"samples\.npz exists; give another --out, or --overwrite"):
        infer_file(flow, tmp_path / "b", test=1, n=10)


@pytest.fixture(scope="module")
def posterior_flow(plan: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The baseline as a posterior of theta in [-1, 1] in two columns."""
    path = tmp_path_factory.mktemp("flows") / "posterior.safetensors"
    options = {"task": "two_moons", "simulations": 1000, "direction": "posterior"}
    fit_one(plan(["gaussian"], data="sbibm", options=options, train={"steps": 0})[0], path)
    return path


def test_prior_of_a_posterior_flow_may_not_be_wider_than_that_of_its_training(posterior_flow: Path, tmp_path: Path):
    np.save(tmp_path / "x.npy", np.zeros(2, np.float32))
    (name, other) = infer_file(posterior_flow, tmp_path / "own", x=tmp_path / "x.npy", n=300).names
    wide = {name: "uniform(-1, 1)", other: "uniform(-1, 2)"}
    with pytest.raises(ConfigError, match=rf"{other} is on \[-1, 2\], and the flow was trained on \[-1, 1\]"):
        infer_file(posterior_flow, tmp_path / "a", x=tmp_path / "x.npy", prior=wide)
    assert not (tmp_path / "a").exists()
    narrow = {name: "uniform(-1, 1)", other: "uniform(0, 1)"}
    done = infer_file(posterior_flow, tmp_path / "b", x=tmp_path / "x.npy", n=300, prior=narrow)
    assert float(done.found.theta[..., 1].min()) >= 0
    assert not any("shape" in text for text in done.warnings)
    bent = {name: "uniform(-1, 1)", other: "truncnorm(-1, 1, 0, 0.5)"}
    done = infer_file(posterior_flow, tmp_path / "c", x=tmp_path / "x.npy", n=300, prior=bent)
    assert sum("of another shape" in text for text in done.warnings) == 1
    assert json.loads((tmp_path / "c/summary.json").read_text())["warnings"] == done.warnings


def test_calibration_of_a_posterior_flow_under_a_wider_prior_is_refused(posterior_flow: Path, tmp_path: Path):
    wide = ("sbibm", {"task": "gaussian_mixture", "simulations": 1000, "direction": "posterior"})
    with pytest.raises(ConfigError, match=r"is on \[-10, 10\], and the flow was trained on \[-1, 1\]"):
        calibrate_flow(posterior_flow, tmp_path / "a", dataset=wide, n=25)
    assert not (tmp_path / "a").exists()


def test_methods_that_do_not_fit_leave_no_folder(flow: Path, posterior_flow: Path, tmp_path: Path):
    for path, method, why in ((flow, "gird", "must be auto"), (posterior_flow, "grid", "draws by itself")):
        with pytest.raises(ConfigError, match=why):
            infer_file(path, tmp_path / "a", test=1, method=method)
    with pytest.raises(ConfigError, match="posterior_method"):
        calibrate_flow(flow, tmp_path / "a", n=25, method="gird")
    with pytest.raises(ConfigError, match="draws by itself"):
        calibrate_flow(posterior_flow, tmp_path / "a", n=25, method="grid")
    assert not (tmp_path / "a").exists()


def test_observation_far_off_is_named(flow: Path, tmp_path: Path):
    np.save(tmp_path / "x.npy", np.array([[0.0, 0.0, 0.0], [0.0, 40.0, 0.0]], np.float32))
    done = infer_file(flow, tmp_path / "a", x=tmp_path / "x.npy", n=50)
    said = [text for text in done.warnings if "far outside what the flow was trained on" in text]
    assert len(said) == 1
    assert "in observation 1 " in said[0]
    assert "is 40, and in training" in said[0]
    done = infer_file(flow, tmp_path / "b", test=50, n=1)
    assert not any("far outside" in text for text in done.warnings)


def test_observation_far_off_is_named_where_it_has_no_posterior(flow: Path, tmp_path: Path):
    np.savez(tmp_path / "far.npz", x=np.full((1, 3), 1e19, np.float32))
    with pytest.raises(ConfigError, match="; the observation lies far outside what the flow"):
        infer_file(flow, tmp_path / "out", x=tmp_path / "far.npz", method="grid")


def test_one_observation_of_many_without_a_posterior(flow: Path, tmp_path: Path):
    x = np.zeros((3, 3), np.float32)
    x[1] = 1e30  # whose square is beyond float32
    np.savez(tmp_path / "x.npz", x=x, theta=np.zeros((3, 2)))
    done = infer_file(flow, tmp_path / "a", x=tmp_path / "x.npz", n=50)
    assert any("1 of 3 observations have no posterior (1, from 0)" in text for text in done.warnings)
    theta = np.load(tmp_path / "a/samples.npz")["theta"]
    assert np.isnan(theta).all((1, 2)).tolist() == [False, True, False]
    assert [file.name for file in done.files[2:]] == ["corner-0.png", "corner-2.png"]
    summary = json.loads((tmp_path / "a/summary.json").read_text())["observations"]
    assert summary[1]["parameters"]["theta1"]["mean"] is None
    assert summary[1]["parameters"]["theta1"]["inside_68"] is None
    assert done.rows(3)[2][2] == "nan"


@pytest.fixture(scope="module")
def hubble(plan: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A likelihood of two noisy numbers of H0, which was 60 to 80 in the simulations."""
    folder = tmp_path_factory.mktemp("hubble")
    rng = np.random.default_rng(0)
    h0 = rng.uniform(60, 80, 2000)
    table = pd.DataFrame({"H0": h0, "v": h0 + rng.normal(size=2000), "noisy": h0 + rng.normal(0, 20, 2000)})
    table.to_csv(folder / "sims.csv", index=False)
    for x, name in (("v", "sharp"), ("noisy", "blunt")):
        options = {"path": str(folder / "sims.csv"), "x": x, "context": "H0", "prior": {"H0": "uniform(60, 80)"}}
        fit_one(
            plan(["gaussian"], data="table", options=options, train={"steps": 0})[0], folder / f"{name}.safetensors"
        )
    return folder


def test_posterior_where_no_simulation_was_is_said(hubble: Path, tmp_path: Path):
    pd.DataFrame({"v": [62.0, 79.9, 85.0, 88.0]}).to_csv(tmp_path / "x.csv", index=False)
    wide = {"H0": "uniform(40, 100)"}
    done = infer_file(hubble / "sharp.safetensors", tmp_path / "a", x=tmp_path / "x.csv", prior=wide, n=1000)
    (said,) = (text for text in done.warnings if "beyond the thetas" in text)
    assert re.fullmatch(
        r"up to 100% of the posterior of H0 lies beyond the thetas that the flow was trained on "
        r"\(60[.\d]* to 79\.9\d\), for 3 of 4 observations: simulate there and train again",
        said,
    )
    assert said in json.loads((tmp_path / "a/summary.json").read_text())["warnings"]
    # Under the prior of the training nothing lies there, and what leans on its end leads to no extrapolation.
    done = infer_file(hubble / "sharp.safetensors", tmp_path / "b", x=tmp_path / "x.csv", n=1000)
    assert not any("beyond the thetas" in text for text in done.warnings)
    (said,) = (text for text in done.warnings if "leans on an end" in text)
    assert said.endswith("widen the prior as far as the training went, or simulate and train on a wider one")


def test_calibration_beyond_the_simulations_is_said(hubble: Path, tmp_path: Path):
    options = {"path": str(hubble / "sims.csv"), "x": "noisy", "context": "H0"}
    wide = ("table", {**options, "prior": {"H0": "uniform(40, 100)"}})
    done = calibrate_flow(hubble / "blunt.safetensors", tmp_path / "a", dataset=wide, n=25, draws=50, reference_draws=0)
    (said,) = (text for text in done.notes if "beyond the thetas" in text)
    assert "the posterior of H0 lies beyond" in said
    assert "for 25 of 25 observations" in said
    done = calibrate_flow(hubble / "blunt.safetensors", tmp_path / "b", n=25, draws=50, reference_draws=0)
    assert not any("beyond the thetas" in text for text in done.notes)


@pytest.mark.parametrize("ending", [".csv", ".npz", ".h5", ".parquet"])
def test_gaps_of_observations_are_filled_as_in_the_training(plan: Callable, tmp_path: Path, ending: str, write):
    rng = np.random.default_rng(0)
    h0 = rng.uniform(60, 80, 400)
    table = pd.DataFrame({"H0": h0, "v": h0 + rng.normal(size=400), "z": rng.normal(size=400)})
    table.loc[::5, "v"] = -99
    table.to_csv(tmp_path / "sims.csv", index=False)
    options = {
        "path": str(tmp_path / "sims.csv"),
        "x": "H0",
        "context": "v,z",
        "missing": "-99",
        "prior": {"H0": "uniform(60, 80)"},
    }
    path = tmp_path / "flow.safetensors"
    fit_one(plan(["gaussian"], data="table", options=options, train={"steps": 0})[0], path)
    fill = checkpoint.read_meta(path)["columns"]["fills"]["v"]

    def found(name: str, frame: pd.DataFrame) -> torch.Tensor:
        file = write(frame, tmp_path / f"{name}{ending}")
        return infer_file(path, tmp_path / name, x=file, n=50).found.theta

    gaps = found("gaps", pd.DataFrame({"v": [70.0, -99], "z": [0.0, 1]}))
    flagged = pd.DataFrame({"v": [70.0, fill], "z": [0.0, 1], "v missing": [0.0, 1]})
    assert torch.equal(gaps, found("flagged", flagged))
    if ending == ".npz":
        np.savez(tmp_path / "array.npz", x=[[70.0, 0, 0], [-99, 1, 0]])
        done = infer_file(path, tmp_path / "array", x=tmp_path / "array.npz", n=50)
        assert torch.equal(gaps, done.found.theta)
        given = calibrate_flow(path, tmp_path / "c", x=tmp_path / "gaps.npz", n=40, draws=50, reference_draws=0)
        assert len(given.local) == 2
    with pytest.raises(ConfigError, match=r"1 of 2 observations hold .* finite \(-99 counts as such: data.missing of"):
        found("other", pd.DataFrame({"v": [70.0, 71], "z": [0.0, -99]}))
    with pytest.raises(ConfigError, match="v, z"):
        found("none", pd.DataFrame({"z": [0.0, 1]}))


def test_warnings_name_parameters(flow: Path, tmp_path: Path):
    prior = {"theta1": "uniform(-30, 30)", "theta2": "uniform(20, 30)"}
    done = infer_file(flow, tmp_path / "a", test=1, n=300, prior=prior)
    assert any(text.startswith("theta2: the posterior leans") for text in done.warnings)


NORMAL = "norm(0, 1)"


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        ({"theta1": "uniform(0, 1)"}, "a text for each of the parameters theta1, theta2; it has theta1"),
        ({"a": NORMAL, "b": NORMAL}, "a text for each of the parameters theta1, theta2; it has a, b"),
        ({}, "it has none"),
        ({"kind": "box", "low": [0], "high": [1]}, "the prior has 1 parameters"),
        ({"theta1": "gauss(0, 1)", "theta2": NORMAL}, "no continuous distribution 'gauss'"),
        ({"theta1": {"kind": "box"}, "theta2": NORMAL}, "'theta1' must be text such as"),
        ({"kind": {"a": "b"}}, "kind must be a word such as box"),
        ({"kind": "product", "marginals": 5}, "expected a text for each parameter; got 5"),
        ({"kind": "box", "low": [0, 0], "high": [1, "x"]}, "expected numbers; got 'x'"),
        ({"theta1": "uniform(nan, 1)", "theta2": NORMAL}, "the median of each parameter must be finite"),
        ({"theta1": "uniform(0, inf)", "theta2": NORMAL}, "the median of each parameter must be finite"),
    ],
)
def test_priors_that_are_none(flow: Path, tmp_path: Path, prior: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        infer_file(flow, tmp_path / "a", test=1, prior=prior)


def test_prior_is_matched_by_name_and_not_by_place(flow: Path, tmp_path: Path):
    np.save(tmp_path / "x.npy", np.zeros(3, np.float32))
    for prior in (
        {"theta2": "uniform(1, 2)", "theta1": "uniform(-2, -1)"},
        {"kind": "product", "marginals": {"theta2": "uniform(1, 2)", "theta1": "uniform(-2, -1)"}},
    ):
        theta = infer_file(flow, tmp_path, x=tmp_path / "x.npy", n=50, prior=prior, overwrite=True).found.theta
        assert bool((theta[..., 0] <= -1).all())
        assert bool((theta[..., 1] >= 1).all())


def test_prior_of_samples_has_no_map(flow: Path, tmp_path: Path):
    np.save(tmp_path / "x.npy", np.zeros(3, np.float32))
    prior = {"kind": "samples", "theta": np.random.default_rng(0).normal(size=(2000, 2)).tolist()}
    done = infer_file(flow, tmp_path / "a", x=tmp_path / "x.npy", n=200, prior=prior)
    assert done.found.method == "importance"
    said = json.loads((tmp_path / "a/summary.json").read_text())["observations"][0]["parameters"]["theta1"]
    assert said["map"] is None
    assert said["mean"] == pytest.approx(float(done.found.mean[0, 0]))
    assert (tmp_path / "a/corner.png").exists()


def test_prior_files(tmp_path: Path):
    file = tmp_path / "prior.yaml"
    # YAML cuts at the comma within the brackets, and two keys are "1)" then.
    file.write_text("{theta1: uniform(-1, 1),\n theta2: uniform(0, 1)}\n")
    assert read_prior(file) == {"theta1": "uniform(-1, 1)", "theta2": "uniform(0, 1)"}
    file.write_text("a: [1,\n")
    with pytest.raises(ConfigError, match=r"prior\.yaml:2"):
        read_prior(file)


def test_numbers_that_yaml_takes_for_text(flow: Path, tmp_path: Path):
    (tmp_path / "prior.yaml").write_text("kind: gaussian\nmean: [0, 0]\ncovariance: [1e-4, 1e-4]\n")
    prior = read_prior(tmp_path / "prior.yaml")
    assert prior["covariance"] == ["1e-4", "1e-4"]
    done = infer_file(flow, tmp_path / "a", test=1, n=2000, prior=prior)
    assert torch.allclose(done.found.std, torch.full((1, 2), 0.01, dtype=torch.float64), rtol=0.1)


def test_a_single_draw_has_no_picture_and_no_spread(flow: Path, tmp_path: Path):
    infer_file(flow, tmp_path, test=3, n=10)
    done = infer_file(flow, tmp_path, test=1, n=1, overwrite=True)
    assert {file.name for file in tmp_path.iterdir()} == {"samples.npz", "summary.json"}, "nor those of the last call"
    assert {file.name for file in done.files} == {"samples.npz", "summary.json"}

    def no_constant(text: str) -> None:
        raise AssertionError(text)

    found = json.loads((tmp_path / "summary.json").read_text(), parse_constant=no_constant)
    assert found["observations"][0]["parameters"]["theta1"]["sd"] is None


def test_same_seed_same_draws(flow: Path, tmp_path: Path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        infer_file(flow, tmp_path / name, test=2, n=50, seed=seed)
    first, again, other = (np.load(tmp_path / name / "samples.npz")["theta"] for name in "abc")
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert (tmp_path / "a/summary.json").read_text() == (tmp_path / "b/summary.json").read_text()


def test_fewer_test_groups_than_asked_for(flow: Path, tmp_path: Path):
    done = infer_file(flow, tmp_path, test=9999, n=2)
    count = done.found.theta.shape[1]
    assert any(f"the test part has {count} groups" in text for text in done.warnings)


def test_as_many_test_observations_as_asked_for_of_many_parameters(plan: Callable, tmp_path: Path):
    path = tmp_path / "many.safetensors"
    options = {**LINEAR, "context_dim": 4}
    fit_one(plan(["gaussian"], data="linear_gaussian", options=options, train={"steps": 0})[0], path)
    x, theta = _of_test(checkpoint.read_meta(path), path, 8, "cpu")
    assert (x.shape, theta.shape) == ((8, 3), (8, 4))


def test_test_observations_of_data_that_changed(flow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    meta = checkpoint.read_meta(flow)
    changed = {**meta, "split": {**meta["split"], "hash": "another"}}
    monkeypatch.setattr(checkpoint, "read_meta", lambda path: changed)
    with pytest.raises(ConfigError, match="may have been trained on; give observations with --x"):
        infer_file(flow, tmp_path, test=1, n=10)


def test_truth_outside_the_prior_is_named(flow: Path, tmp_path: Path):
    np.savez(tmp_path / "x.npz", x=np.zeros((1, 3)), theta=np.array([[0.5, 7.0]]))
    prior = {"theta1": "uniform(-1, 1)", "theta2": "uniform(-1, 1)"}
    done = infer_file(flow, tmp_path / "a", x=tmp_path / "x.npz", n=10, prior=prior)
    assert any("theta2" in text and "7" in text for text in done.warnings)


def test_other_method_is_named_by_its_option(flow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_methods, "TOLERANCE", 0.0)  # which no grid keeps
    done = infer_file(flow, tmp_path / "a", test=1, n=10)
    (said,) = (text for text in done.warnings if "ran out of evaluations" in text)
    assert said.endswith("; take --method mcmc, or in Python more evaluations")
    assert said in json.loads((tmp_path / "a" / "summary.json").read_text())["warnings"]
    np.save(tmp_path / "x.npy", np.full(3, 1e30, np.float32))  # whose square is beyond float32
    with pytest.raises(ConfigError, match="take --method mcmc, or a narrower prior"):
        infer_file(flow, tmp_path / "b", x=tmp_path / "x.npy", n=10)


def test_context_that_is_no_parameter_needs_a_prior(plan: Callable, tmp_path: Path):
    path = tmp_path / "digits.safetensors"
    fit_one(plan(["gaussian"], data="galaxies", options={"num_galaxies": 20}, train={"steps": 0})[0], path)
    with pytest.raises(ConfigError, match="trained without a prior"):
        infer_file(path, tmp_path / "a", test=1)


def test_calibration_of_a_flow_that_is_right(flow: Path, tmp_path: Path):
    done = calibrate_flow(flow, tmp_path, n=400, draws=100, reference_draws=0)
    found = json.loads((tmp_path / "calibration.json").read_text())
    assert found["columns"]["calibration_p"]["word"] in ("good", "doubtful")
    assert done.metrics["calibration_p"] == found["columns"]["calibration_p"]["value"]
    assert found["columns"]["calibration_p"]["good"] == 0.05
    assert tmp_path / "figures/calibration.linear_gaussian.png" in done.files
    with pytest.raises(ConfigError, match=r"calibration\.json exists; give another --out, or --overwrite"):
        calibrate_flow(flow, tmp_path, n=25, draws=20, reference_draws=0)
    again = calibrate_flow(flow, tmp_path, n=25, draws=20, reference_draws=0, overwrite=True)
    found = json.loads((tmp_path / "calibration.json").read_text())
    assert found["columns"]["coverage_error"]["value"] == again.metrics["coverage_error"]


def test_calibrate_refuses_before_the_long_part(flow: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="--draws at least 3; got 100, 1 and 1"):
        calibrate_flow(flow, tmp_path / "a", n=100, draws=1)
    np.save(tmp_path / "x.npy", np.zeros((2, 5), np.float32))
    with pytest.raises(ConfigError, match=r"takes observations \(3,\)"):
        calibrate_flow(flow, tmp_path / "a", x=tmp_path / "x.npy")
    with pytest.raises(ConfigError, match="--array maps names an array"):
        calibrate_flow(flow, tmp_path / "a", array="maps")
    assert not (tmp_path / "a").exists()


def test_too_few_observations_to_calibrate(flow: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="calibration needs 20 test observations at least; got 10; raise --n"):
        calibrate_flow(flow, tmp_path / "a", n=10, draws=20)


@pytest.mark.slow
def test_an_observation_without_a_posterior_costs_nothing_else(flow: Path, tmp_path: Path):
    np.save(tmp_path / "x.npy", np.full(3, 1e30, np.float32))  # whose square is beyond float32
    done = calibrate_flow(flow, tmp_path / "a", x=tmp_path / "x.npy", n=25, draws=20, reference_draws=0)
    assert "calibration_p" in done.metrics
    assert done.local == []
    assert "the posterior is zero at every node" in done.missing["lc2st"]


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
    status, out, err = run(
        "calibrate", flow, "--n", 100, "--draws", 50, "--reference-draws", 0, "--out", tmp_path / "c"
    )
    assert (status, err) == (0, "")
    assert "calibration_p" in out
    reasons = [line for line in out.splitlines() if line.startswith("not measured: ")]
    assert len(reasons) == 1  # four columns, of which three say the same
    assert reasons[0].startswith("not measured: c2st, c2st_observations, c2st_published (")
    assert "clouds" not in reasons[0]
    status, out, err = run("infer", tmp_path / "none.safetensors", "--test", 2, "--out", tmp_path / "i")
    assert status == 2
    assert "none.safetensors" in err
