"""Observations to infer parameters from, and what made them if that is known, out of a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from flowzoo.config import ConfigError
from flowzoo.data._readers import Source, open_table, shape_of

ARRAYS = ("x", "observation", "observations", "maps")  # what an array of observations is called, first that is there
TRUTHS = ("theta", "truth", "true_parameters", "parameters")


def read_observations(
    path: Path, shape: Sequence[int], names: Sequence[str], parameters: Sequence[str], array: str | None = None
) -> tuple[Tensor, Tensor | None]:
    """Observations, and the parameters that made them where the file has these.

    Vectors are rows of columns with the names that the flow was trained with, or an array ``(K, F)``; images an array
    ``(K, C, H, W)`` or one ``(C, H, W)``, without the C where it is 1. The parameters are columns of their names, or an
    array ``(K, D)`` called theta, truth, true_parameters or parameters.

    Args:
        path: .npz, .npy, .h5, .csv or .parquet.
        shape: of an observation.
        names: of its columns.
        parameters: names of the parameters.
        array: the array of observations, by name.

    Returns:
        ``(K, *shape)`` and ``(K, D)`` or None, in float32.

    Raises:
        FileNotFoundError, ValueError, ConfigError: in one line, for a file that is not there, cannot be read, or holds
            no such observations, or some that are not finite.
    """
    with open_table(str(path)) as table:
        if array is None and names and all(name in table.arrays for name in names):
            x = _columns(table, names)
        else:
            x = _array(table, path, tuple(shape), names, array)
        truth = _truth(table, len(x), parameters)
    for what, value in (("observations", x), ("true parameters", truth)):
        lost = 0 if value is None else int((~np.isfinite(value.reshape(len(value), -1)).all(1)).sum())
        if lost:
            raise ConfigError(f"{path}: {lost} of {len(x)} {what} hold a value that is not finite; leave them out")
    # Copies: what is mapped from a file cannot be written to.
    return torch.tensor(x), None if truth is None else torch.tensor(truth)


def _columns(table: Source, names: Sequence[str]) -> np.ndarray:
    return np.stack([np.asarray(c, np.float32) for c in table.columns(list(names)).values()], 1)


def _array(table: Source, path: Path, shape: tuple[int, ...], names: Sequence[str], array: str | None) -> np.ndarray:
    """The observations of an array whose last axes are those of one."""
    known = list(table.arrays)
    if array is not None and array not in known:
        raise ConfigError(f"{path} has no array '{array}'; it has {', '.join(known) or 'none'}")
    wanted = [array] if array is not None else [name for name in ARRAYS if name in known] or known[:1]
    fits = [shape] + ([shape[1:]] if len(shape) > 1 and shape[0] == 1 else [])
    for name in wanted:
        found = shape_of(table.arrays, name)
        for one in fits:
            if found[len(found) - len(one) :] == one and len(found) in (len(one), len(one) + 1):
                return np.asarray(table.arrays[name], np.float32).reshape(-1, *shape)
    came = f"'{wanted[0]}' is {shape_of(table.arrays, wanted[0])}" if wanted else "the file is empty"
    columns = f" or the columns {', '.join(names)}" if names and len(names) == shape[0] else ""
    raise ConfigError(f"{path}: the flow takes observations {shape}: expected an array (K, *{shape}){columns}; {came}")


def _truth(table: Source, count: int, parameters: Sequence[str]) -> np.ndarray | None:
    if parameters and all(name in table.arrays for name in parameters):
        return _columns(table, parameters)
    for name in TRUTHS:
        if name in table.arrays and shape_of(table.arrays, name) == (count, len(parameters)):
            return np.asarray(table.arrays[name], np.float32)
    return None
