"""Observations of a task of sbibm with draws from their posteriors: from a folder, or made where they are known."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowzoo.config import ConfigError
from flowzoo.data._data import References
from flowzoo.data._readers import expanded, open_table
from flowzoo.data._sbibm_tasks import Task
from flowzoo.seeding import generator

OBSERVATIONS, DRAWS = 10, 10_000  # as many as the published scores were computed on
DESIGN = "bernoulli_glm_design.npz"
# Those that need no more simulations for another observation, as a flow of ours.
_METHODS = ("NPE", "NLE")


def find_folder(given: str | None) -> Path | None:
    """The folder of the reference files: the given one, or else ``$FLOWZOO_DATA/sbibm`` if there is one.

    Raises:
        FileNotFoundError: if the given one is not there.
    """
    if given:
        folder = expanded(given)
        if not folder.is_dir():
            raise FileNotFoundError(f"no such folder: {given}; references is the folder of TASK.npz, or leave it out")
        return folder
    root = os.environ.get("FLOWZOO_DATA")
    return folder if root and (folder := Path(root).expanduser() / "sbibm").is_dir() else None


def read_design(folder: Path | None) -> Tensor | None:
    """The design matrix ``(100, 10)`` of the Bernoulli tasks in a folder; None if it has none.

    Raises:
        ConfigError: if the file is not of that shape, or damaged.
    """
    if folder is None or not (folder / DESIGN).is_file():
        return None
    return _read(folder / DESIGN, {"design_matrix": (100, 10)})["design_matrix"]


def read(folder: Path, name: str, task: Task, simulations: int) -> References:
    """The references of ``NAME.npz``.

    ``observation`` is ``(K, F)``, ``reference_posterior`` ``(K, n, D)``, and ``true_parameters``, if it is there,
    ``(K, D)``. Published scores are those of ``published_c2st.csv`` at as many simulations.

    Raises:
        ConfigError: if an array is missing, of another shape, of objects, or not finite, or the file is damaged.
    """
    file, dim = folder / f"{name}.npz", task.prior.dim
    wanted = {"observation": (None, len(task.names)), "reference_posterior": (None, None, dim)}
    found = _read(file, wanted | {"true_parameters": (None, dim)}, optional={"true_parameters"})
    x, theta, truth = found["observation"], found["reference_posterior"], found.get("true_parameters")
    if len({len(x), len(theta), len(x if truth is None else truth)}) > 1:
        counts = ", ".join(f"{len(array)} in {key}" for key, array in found.items())
        raise ConfigError(f"{file}: its arrays must have a row for each observation; got {counts}")
    published = _published(folder / "published_c2st.csv", name, simulations)
    return References(x, theta, truth, published, f"reference posteriors of {file.name}")


def make(name: str, task: Task) -> References:
    """Ten observations of thetas from the prior, by a seed of their own, with 10,000 exact draws each."""
    assert task.draw is not None
    truth = task.prior.sample(OBSERVATIONS, generator(0, "sbibm", name, "observation theta"))
    x = task.simulate(truth, generator(0, "sbibm", name, "observation"))
    source = generator(0, "sbibm", name, "reference")
    theta = torch.stack([task.draw(one, DRAWS, source) for one in x]).float()
    return References(x, theta, truth, {}, "observations and exact draws of our own")


def _published(file: Path, name: str, simulations: int) -> dict[str, float]:
    """Mean C2ST over the observations, by method; empty without the file, or at other numbers of simulations.

    Raises:
        ConfigError: if the file has other columns, or a score that is no share.
    """
    if not file.is_file():
        return {}
    scores: dict[str, list[float]] = {}
    try:
        with file.open(newline="") as lines:
            for row in csv.DictReader(lines):
                if row["task"] == name and int(row["num_simulations"]) == simulations and row["algorithm"] in _METHODS:
                    score = float(row["C2ST"])
                    if not 0 <= score <= 1:
                        raise ValueError(f"C2ST is a share of right answers; got {score:g}")
                    scores.setdefault(row["algorithm"], []).append(score)
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise ConfigError(
            f"{file}: needs the columns task, num_simulations, algorithm and C2ST, with numbers in them ({error})"
        ) from None
    return {method: sum(scores[method]) / len(scores[method]) for method in _METHODS if method in scores}


def _read(
    file: Path, wanted: Mapping[str, tuple[int | None, ...]], optional: set[str] | None = None
) -> dict[str, Tensor]:
    """Named arrays of an ``.npz`` file as float32, checked; None in a shape is any length from 1."""
    try:
        with open_table(str(file)) as source:
            return {
                key: _array(file, source.arrays, key, shape)
                for key, shape in wanted.items()
                if key in source.arrays or key not in (optional or set())
            }
    except ValueError as error:  # of a reader, and looked at after the training: a class of ours, so one line
        raise ConfigError(str(error)) from None


def _array(file: Path, arrays: Mapping[str, Any], key: str, shape: tuple[int | None, ...]) -> Tensor:
    if key not in arrays:
        raise ConfigError(f"{file}: no array '{key}'; it has {', '.join(arrays) or 'none'}")
    array = arrays[key]
    if array.dtype.kind not in "fiub":
        raise ConfigError(f"{file}: '{key}' must be numbers; got {array.dtype}")
    fits = array.ndim == len(shape) and all(
        n == m or (m is None and n) for n, m in zip(array.shape, shape, strict=True)
    )
    if not fits:
        text = ", ".join("any" if n is None else str(n) for n in shape)
        raise ConfigError(f"{file}: '{key}' must be ({text}); got {array.shape}")
    tensor = torch.from_numpy(array).float()
    if bad := int((~tensor.isfinite()).sum()):
        raise ConfigError(f"{file}: {bad} of {tensor.numel()} values of '{key}' are not finite")
    return tensor
