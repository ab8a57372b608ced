"""Arrays from Python as a ``Data``: whatever numpy makes an array of, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from flowzoo.config import ConfigError
from flowzoo.data import Data
from flowzoo.data._direction import prior_of, side_of_theta, support_map
from flowzoo.data._drawn import other_prior


def data_from_arrays(x: Any, context: Any = None, groups: Any = None, prior: Mapping[str, str] | None = None) -> Data:
    """Events, contexts and groups of a user's own.

    Args:
        x: ``(N, *event)``; ``(N,)`` are N events of one number. Columns of a DataFrame, and a Series, keep their names.
        context: ``(N, *context)`` or ``(N,)``, in the same way.
        groups: ``(N,)`` numbers or text.
        prior: a distribution, as text, by name of each column of x or of the context: those are the parameters then.

    Raises:
        ConfigError: for values that are no numbers, or that float32 does not resolve; integers without levels; events
            without a group; a prior of other names, or that excludes parameters.
        ValueError: if the lengths differ.
    """
    events = _columns(x, "x")
    labels = None
    if groups is not None:
        if isinstance(groups, Tensor):
            groups = groups.detach().cpu().numpy()
        if np.ndim(groups) != 1:
            raise ConfigError(f"groups must be (N,), one label per event; got {np.shape(groups)}")
        codes = pd.factorize(pd.Series(list(groups)))[0]
        if (codes < 0).any():
            raise ConfigError(f"groups: {(codes < 0).sum()} of {len(codes)} events have none (NaN or None)")
        labels = torch.from_numpy(codes).long()
    if not events.is_floating_point():
        raise ConfigError(
            f"x is {events.dtype}: give floats, or for integer data a flowzoo.Data with levels=(low, step, count)"
        )
    data = Data(
        x=events,
        context=None if context is None else _columns(context, "context").float(),
        groups=labels,
        names=_names(x),
        context_names=_names(context),
    )
    return data if prior is None else _with_prior(data, prior, grouped=groups is not None)


def _with_prior(data: Data, texts: Mapping[str, str], *, grouped: bool) -> Data:
    if not (data.names or data.context_names):
        raise ConfigError("a prior is by name: give the parameters as a DataFrame, so that they have names")
    side = side_of_theta(texts, data.names, data.context_names)
    of_x = side == "event"
    names, values = (data.names, data.x) if of_x else (data.context_names, data.context)
    assert values is not None
    known = prior_of(texts, names, values)
    return replace(
        data,
        prior=known,
        theta=side,
        x_map=support_map(known) if of_x else data.x_map,
        groups=data.groups if grouped else None,
        notes=(*data.notes, *other_prior(known, texts, names, values)),
    )


def _names(values: Any) -> tuple[str, ...]:
    """What a table calls its columns; none if it calls them by their positions."""
    found: list[Any] = []
    if isinstance(values, pd.DataFrame | pd.Series):
        found = list(values.columns) if isinstance(values, pd.DataFrame) else [values.name]
    if all(isinstance(name, int | None) for name in found):
        return ()
    return tuple(str(name) for name in found)


def _columns(values: Any, name: str) -> Tensor:
    """``(N, ...)`` on the host, from a tensor or whatever numpy makes an array of; ``(N,)`` is one column."""
    if not isinstance(values, Tensor):
        array = np.asarray(values)
        if array.dtype.kind not in "biuf":
            raise ConfigError(f"{name} must hold numbers; got {array.dtype}")
        # FITS files are big-endian, a memory map is read-only, a reversed view has negative strides: torch takes none.
        values = torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))
    values = values.detach().cpu()
    values = values[:, None] if values.ndim == 1 else values
    if values.dtype == torch.float64 and values.ndim > 1 and len(values) > 1:
        flat = values.flatten(1)
        lost, spread = (flat - flat.float()).abs().amax(0), flat.std(0)
        if bool(((lost > 5e-3 * spread) & (flat.amax(0) > flat.amin(0))).any()):  # Julian dates, large numbers
            raise ConfigError(f"{name}: float32 does not resolve its scatter; subtract an offset, or rescale it")
    return values
