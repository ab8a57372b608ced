"""The journeys of docs/table.md, from a file of simulations to a posterior, and what is said where one goes wrong."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowzoo import cli
from flowzoo.config import ConfigError
from flowzoo.harness.calibrate import calibrate_flow
from flowzoo.harness.infer import infer_file
from flowzoo.harness.plan import Cell
from flowzoo.harness.single import fit_one

Plan = Callable[..., list[Cell]]
PRIOR = {"theta[0]": "uniform(0, 1)", "theta[1]": "uniform(0.5, 2)"}
SIDES = {"likelihood": {"x": "flux", "context": "theta"}, "posterior": {"x": "theta", "context": "flux"}}


def simulations(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Lines with noise, given their offset and slope."""
    rng = np.random.default_rng(seed)
    theta = rng.uniform([0, 0.5], [1, 2], (count, 2))
    return {
        "theta": theta,
        "flux": theta[:, :1] + theta[:, 1:] * np.linspace(0, 1, 8) + 0.1 * rng.normal(size=(count, 8)),
    }


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("own") / "sims.npz"
    np.savez(path, **simulations(1000))
    return path


def fitted(plan: Plan, table: Path, folder: Path, **options: Any) -> Path:
    cell = plan(("gaussian",), data="table", options={"path": str(table), **options}, train={"steps": 0})[0]
    fit_one(cell, folder / "flow.safetensors")
    return folder / "flow.safetensors"


@pytest.mark.parametrize("side", SIDES)
def test_parameters_of_ones_own_simulations_are_found_again(plan: Plan, table: Path, tmp_path: Path, side: str) -> None:
    path = fitted(plan, table, tmp_path, prior=PRIOR, **SIDES[side])
    np.savez(tmp_path / "observed.npz", **simulations(5, seed=1))  # with what made them, which nobody has to name
    done = infer_file(path, tmp_path / "out", x=tmp_path / "observed.npz", n=500)
    assert done.names == ("theta[0]", "theta[1]")
    assert done.truth is not None
    off = (done.found.mean - done.truth) / done.found.std
    assert float(off.abs().max()) < 4
    assert float(done.found.std.max()) < 0.3  # the prior's is up to 0.43


def test_calibrate_without_a_prior_says_how_to_give_one_and_that_works(plan: Plan, table: Path, tmp_path: Path) -> None:
    path = fitted(plan, table, tmp_path, **SIDES["likelihood"])
    with pytest.raises(ConfigError, match=r"no prior.* --data table --set data.prior='\{theta: uniform\(0, 1\)\}'"):
        calibrate_flow(path, tmp_path / "out")
    named = ("table", {"path": str(table), **SIDES["likelihood"], "prior": PRIOR})
    done = calibrate_flow(path, tmp_path / "out", dataset=named, n=20, draws=20)
    assert "calibration_p" in done.metrics


def test_observation_that_does_not_fit_lists_its_columns_in_short(plan: Plan, table: Path, tmp_path: Path) -> None:
    path = fitted(plan, table, tmp_path, prior=PRIOR, **SIDES["likelihood"])
    np.savez(tmp_path / "observed.npz", flux=np.zeros((3, 7)))
    with pytest.raises(
        ConfigError, match=r"an array \(K, 8\) or the columns flux\[0\] to flux\[7\]; 'flux' is \(3, 7\)"
    ):
        infer_file(path, tmp_path / "out", x=tmp_path / "observed.npz")
    with pytest.raises(ConfigError, match=r"parameters theta\[0\], theta\[1\]; it has a"):
        infer_file(path, tmp_path / "out", x=tmp_path / "observed.npz", prior={"a": "uniform(0, 1)"})


def test_fit_says_what_was_done_to_the_data_and_does_not_replace_another_flow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    x = np.random.default_rng(0).normal(size=200)
    x[::10] = -99
    np.savez(tmp_path / "gal.npz", x=x)
    data = [f"data.path={tmp_path / 'gal.npz'}", "data.x=x", "data.missing=-99"]

    def fit(model: str, *flags: str) -> tuple[int, str, str]:
        sets = [word for each in data for word in ("--set", each)]
        path = str(tmp_path / "flow.safetensors")
        words = ["flowzoo", "fit", "--model", model, "--data", "table", *sets, "--steps", "2", "--out", path, *flags]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return int(caught.value.code or 0), *capsys.readouterr()

    status, out, _ = fit("gaussian")
    assert status == 0
    assert out.startswith(
        "table: 180 events of 1, no context, 180 groups\n  left out the 20 of 200 rows in which 'x' is missing\n"
    )
    status, _, err = fit("maf")
    assert status != 0
    assert "is a finished flow of something else (model.name was gaussian, now maf)" in err
    assert fit("maf", "--overwrite")[0] == 0
