"""Observations out of files: by name, by shape, with their truth; and what is refused."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from flowzoo.config import ConfigError
from flowzoo.harness._observations import read_observations

NAMES, PARAMETERS = ("u", "g"), ("Omega_m", "sigma_8")


def test_columns_by_name_with_truth(tmp_path: Path):
    table = pd.DataFrame({"g": [1.0, 2], "u": [3.0, 4], "sigma_8": [0.8, 0.9], "Omega_m": [0.3, 0.2]})
    table.to_csv(tmp_path / "a.csv", index=False)
    x, truth = read_observations(tmp_path / "a.csv", (2,), NAMES, PARAMETERS)
    assert torch.equal(x, torch.tensor([[3.0, 1.0], [4.0, 2.0]]))
    assert torch.equal(truth, torch.tensor([[0.3, 0.8], [0.2, 0.9]]))


@pytest.mark.parametrize("shape", [(4, 1, 8, 8), (1, 8, 8), (8, 8), (4, 8, 8)])
def test_images_of_one_channel_by_shape(tmp_path: Path, shape: tuple[int, ...]):
    maps = np.random.default_rng(0).normal(size=shape)
    np.save(tmp_path / "maps.npy", maps)
    x, truth = read_observations(tmp_path / "maps.npy", (1, 8, 8), (), PARAMETERS)
    assert x.shape == ((4, 1, 8, 8) if shape[0] == 4 else (1, 1, 8, 8))
    assert np.allclose(x.numpy().ravel(), maps.ravel())
    assert truth is None


def test_array_by_name_and_array_of_truths(tmp_path: Path):
    np.savez(tmp_path / "a.npz", other=np.zeros(3), observation=np.ones((5, 2)), theta=np.full((5, 2), 0.5))
    x, truth = read_observations(tmp_path / "a.npz", (2,), NAMES, PARAMETERS)
    assert torch.equal(x, torch.ones(5, 2))
    assert torch.equal(truth, torch.full((5, 2), 0.5))
    chosen, _ = read_observations(tmp_path / "a.npz", (2,), NAMES, PARAMETERS, array="theta")
    assert torch.equal(chosen, torch.full((5, 2), 0.5))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.ones((5, 3))}, r"takes observations \(2,\).*columns u, g; 'x' is \(5, 3\)"),
        ({"x": np.array([[1.0, np.nan]])}, "1 of 1 observations hold a value that is not finite"),
        ({"x": np.ones((0, 2))}, "no observations: 0 rows"),
        ({"x": np.array([["a", "b"]])}, "'x' must hold real numbers; it holds <U1"),
        ({"x": np.ones((1, 2), complex)}, "'x' must hold real numbers; it holds complex128"),
        ({"x": np.array([[1e300, 0.0]])}, "1 of 1 observations hold a value that is not finite"),
        ({"a": np.ones((1, 2)), "b": np.ones((1, 2))}, "of a, b none is called x or .* with --array"),
        ({"x": np.ones((1, 2)), "theta": np.array([[np.inf, 1.0]])}, "1 of 1 true parameters hold"),
    ],
)
def test_refused(tmp_path: Path, arrays: dict, message: str):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ConfigError, match=message):
        read_observations(tmp_path / "a.npz", (2,), NAMES, PARAMETERS)


def test_a_column_as_long_as_an_observation_is_none(tmp_path: Path):
    # Two rows and two columns: neither column is one observation of two numbers.
    table = pd.DataFrame({"x": [1.0, 2], "b": [3.0, 4]})
    table.to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(ConfigError, match="expected the columns u, g; it has x, b"):
        read_observations(tmp_path / "a.csv", (2,), NAMES, PARAMETERS)
    unnamed, _ = read_observations(tmp_path / "a.csv", (2,), (), PARAMETERS)
    assert torch.equal(unnamed, torch.tensor([[1.0, 3.0], [2.0, 4.0]]))
    with pytest.raises(ConfigError, match=r"images come as \.npy"):
        read_observations(tmp_path / "a.csv", (1, 2, 2), (), PARAMETERS)


@pytest.mark.parametrize("content", ["", "x\n"])
def test_tables_without_rows(tmp_path: Path, content: str):
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(ConfigError, match=r"a\.csv"):
        read_observations(tmp_path / "a.csv", (1,), ("x",), PARAMETERS)
    with pytest.raises(ConfigError, match="is a folder; give a file"):
        read_observations(tmp_path, (1,), ("x",), PARAMETERS)


def test_truth_of_a_single_observation_is_a_vector(tmp_path: Path):
    np.savez(tmp_path / "a.npz", x=np.zeros(2), theta=np.array([0.3, 0.8]))
    x, truth = read_observations(tmp_path / "a.npz", (2,), NAMES, PARAMETERS)
    assert x.shape == (1, 2)
    assert truth is not None
    assert torch.equal(truth, torch.tensor([[0.3, 0.8]]))


def test_no_such_array_or_file(tmp_path: Path):
    np.savez(tmp_path / "a.npz", x=np.ones((5, 2)))
    with pytest.raises(ConfigError, match="no array 'maps'; it has x"):
        read_observations(tmp_path / "a.npz", (2,), NAMES, PARAMETERS, array="maps")
    with pytest.raises(FileNotFoundError):
        read_observations(tmp_path / "b.npz", (2,), NAMES, PARAMETERS)
    np.savez(tmp_path / "object.npz", x=np.array([{}, {}], dtype=object))
    with pytest.raises(ValueError, match=r"object\.npz"):
        read_observations(tmp_path / "object.npz", (2,), NAMES, PARAMETERS)
