"""Observations to infer parameters from, and what made them if that is known, out of a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowzoo.config import ConfigError
from flowzoo.data._labels import shortened
from flowzoo.data._readers import TABLES, Source, open_table, shape_of
from flowzoo.harness._gaps import Gaps, in_words

ARRAYS = ("x", "observation", "observations", "maps")  # what an array of observations is called, first that is there
NONE = Gaps()
TRUTHS = ("theta", "truth", "true_parameters", "parameters")


def read_observations(
    path: Path,
    shape: Sequence[int],
    names: Sequence[str],
    parameters: Sequence[str],
    array: str | None = None,
    gaps: Gaps = NONE,
) -> tuple[Tensor, Tensor | None]:
    """Observations, and the parameters that made them where the file has these.

    Vectors are rows of columns with the names that the flow was trained with (a flow whose columns have none takes
    those of a table in their order), or an array ``(K, F)``; images an array ``(K, C, H, W)`` or one ``(C, H, W)``,
    without the C where it is 1. The parameters are columns of their names, or an
    array ``(K, D)``, or ``(D,)`` of one observation, called theta, truth, true_parameters or parameters.

    Args:
        path: .npz, .npy, .h5, .csv or .parquet.
        shape: of an observation.
        names: of its columns.
        parameters: names of the parameters.
        array: the array of observations, by name.
        gaps: that its columns may have, filled and flagged as in the training.

    Returns:
        ``(K, *shape)`` and ``(K, D)`` or None, in float32.

    Raises:
        FileNotFoundError, ConfigError: in one line, for a file that is not there, cannot be read, or holds no such
            observations, or some that are not finite.
    """
    try:
        with open_table(str(path)) as table:
            if array is None and names and _has(table, gaps.read(names, table.arrays.__contains__)):
                x = _columns(table, path, names, gaps)
            elif array is None and path.suffix.lower() in TABLES:  # where one array is no observation
                x = _rows(table, path, tuple(shape), [name for name in names if name not in gaps.owners])
            else:
                x = _array(table, path, tuple(shape), names, array)
                if gaps.missing and x.shape[1:] == (len(names),):
                    found = dict(zip(names, x.T, strict=True))
                    x = np.stack([_numbers(gaps.made(name, found), path, name) for name in names], 1)
            truth = _truth(table, path, len(x), parameters)
    except ConfigError:
        raise
    except ValueError as error:  # of a reader, which says what cannot be read
        raise ConfigError(str(error)) from None
    if not len(x):
        raise ConfigError(f"{path} holds no observations: 0 rows; expected at least one")
    for what, value, words in (("observations", x, in_words(gaps.missing)), ("true parameters", truth, "")):
        lost = 0 if value is None else int((~np.isfinite(value.reshape(len(value), -1)).all(1)).sum())
        if lost:
            raise ConfigError(
                f"{path}: {lost} of {len(x)} {what} hold a value that is not finite{words}; leave them out"
            )
    # Copies: what is mapped from a file cannot be written to.
    return torch.tensor(x), None if truth is None else torch.tensor(truth)


def _numbers(values: Any, path: Path, name: str) -> np.ndarray:
    """Real numbers in float32; those beyond its range are infinite, and found out as such."""
    values = np.asarray(values)
    try:
        if values.dtype.kind == "c":
            raise ValueError
        with np.errstate(over="ignore"):
            return values.astype(np.float32)
    except (ValueError, TypeError):
        raise ConfigError(f"{path}: '{name}' must hold real numbers; it holds {values.dtype}") from None


def _columns(table: Source, path: Path, names: Sequence[str], gaps: Gaps = NONE) -> np.ndarray:
    found = table.columns(gaps.read(names, table.arrays.__contains__))
    return np.stack([_numbers(gaps.made(name, found), path, name) for name in (names if gaps.missing else found)], 1)


def _has(table: Source, names: Sequence[str]) -> bool:
    """Whether these are columns of a table: arrays, or columns of one such as flux[0]."""
    if all(name in table.arrays for name in names):
        return True
    try:
        return len(table.columns(list(names))) == len(names)
    except ConfigError:
        return False


def _rows(table: Source, path: Path, shape: tuple[int, ...], names: Sequence[str]) -> np.ndarray:
    """The columns of a table in their order, for a flow whose columns have no names."""
    known = list(table.arrays)
    if not names and shape == (len(known),):
        return _columns(table, path, known)
    wanted = f"the columns {shortened(names)}" if names else f"{' x '.join(map(str, shape))} columns"
    image = "; images come as .npy, .npz or .h5" if len(shape) > 1 else ""
    raise ConfigError(f"{path}: the flow takes observations {shape}: expected {wanted}; it has {_listed(known)}{image}")


def _listed(names: Sequence[str], most: int = 20) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "none") + more


def _array(table: Source, path: Path, shape: tuple[int, ...], names: Sequence[str], array: str | None) -> np.ndarray:
    """The observations of an array whose last axes are those of one."""
    known = list(table.arrays)
    if array is not None and array not in known:
        raise ConfigError(f"{path} has no array '{array}'; it has {', '.join(known) or 'none'}")
    # Of several arrays none is taken for its place alone: it may be a column that is as long as an observation.
    only = known if len(known) == 1 else []
    wanted = [array] if array is not None else [name for name in ARRAYS if name in known] or only
    fits = [shape] + ([shape[1:]] if len(shape) > 1 and shape[0] == 1 else [])
    for name in wanted:
        found = shape_of(table.arrays, name)
        for one in fits:
            if found[len(found) - len(one) :] == one and len(found) in (len(one), len(one) + 1):
                values = _numbers(table.arrays[name], path, name)
                return values.reshape(len(values) if len(found) > len(one) else 1, *shape)
    if wanted:
        came = f"'{wanted[0]}' is {shape_of(table.arrays, wanted[0])}"
    elif known:
        came = f"of {_listed(known)} none is called {' or '.join(ARRAYS)}; name one with --array"
    else:
        came = "the file is empty"
    columns = f" or the columns {shortened(names)}" if names and len(names) == shape[0] else ""
    full = ", ".join(["K", *map(str, shape)])
    raise ConfigError(f"{path}: the flow takes observations {shape}: expected an array ({full}){columns}; {came}")


def _truth(table: Source, path: Path, count: int, parameters: Sequence[str]) -> np.ndarray | None:
    found: np.ndarray | None = None
    if parameters and all(name in table.arrays for name in parameters):
        found = _columns(table, path, parameters)
        if len(found) != count:
            raise ConfigError(
                f"{path}: {count} observations and {len(found)} rows of true parameters; expected as many"
            )
        return found
    fits = [(count, len(parameters))] + ([(len(parameters),)] if count == 1 else [])
    for name in TRUTHS:
        if name in table.arrays and shape_of(table.arrays, name) in fits:
            return _numbers(table.arrays[name], path, name).reshape(count, -1)
    return None
