"""A trained flow from its file or from a run directory, and what its columns are called."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowzoo import checkpoint
from flowzoo.config import ConfigError
from flowzoo.flow import ConditionalFlow
from flowzoo.harness.chosen import find_flow

X, CONTEXT = "x", "context"  # what arrays of events and of contexts are called, where they are no columns


@dataclass(frozen=True)
class Trained:
    """A flow with names for what goes in and out: columns of a table, or of events that are images an array ``x``.

    Args:
        flow: in evaluation mode.
        path: its file.
        meta: what was written with it.
        note: which flow this is, and of several why this one.
        names: a name per column of an event; of images that of the array.
        units: as ``names``; of images those of the channels in one text.
        context_names: a name per column of the context; None if it is an image, or has one in it.
        context_units: as ``context_names``.
    """

    flow: ConditionalFlow
    path: Path
    meta: dict[str, Any]
    note: str
    names: tuple[str, ...]
    units: tuple[str, ...]
    context_names: tuple[str, ...] | None
    context_units: tuple[str, ...]

    @property
    def images(self) -> bool:
        """Whether an event is no vector, and so no row of a table."""
        return len(self.flow.event_shape) > 1

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of what the flow draws, in a file."""
        return np.dtype("float64" if self.meta["flow"]["dtype"] == "float64" else "float32")

    @property
    def written_names(self) -> tuple[str, ...]:
        """What the columns of the context are called beside those of the events."""
        return tuple(f"{n}_context" if n in self.names else n for n in self.context_names or ())

    def of_channels(self) -> dict[str, Any]:
        """Of images, for a file that holds them: what the channels are called, their units, what made them so."""
        columns = self.meta.get("columns", {})
        return {X: {key: list(columns.get(key, ())) for key in ("names", "units", "notes")}} if self.images else {}

    def on_device(self, values: Tensor) -> Tensor:
        """Values as the flow takes them."""
        like = next((t for t in self.flow.state_dict().values() if t.is_floating_point()), torch.empty(0))
        return values.to(like.device, like.dtype)

    def given_names(self) -> tuple[str, ...]:
        """The columns of the context, for a table that must have them.

        Raises:
            ConfigError: if the context is no row of a table.
        """
        if self.context_names is None:
            raise ConfigError(
                f"{self.path}: the context {tuple(self.flow.context_shape)} is or holds an image, which is no row of a "
                f"table; give --contexts an .npz or .h5 with an array '{CONTEXT}' "
                f"({', '.join(['rows', *map(str, self.flow.context_shape)])})"
            )
        return self.context_names


def open_trained(run: str | Path, *, model: str | None = None, device: torch.device | str = "cpu") -> Trained:
    """A flow from a file, or from a run directory the one that its verdict takes.

    Args:
        run: a file that ``fit`` or ``bench`` wrote, or the directory of a bench.
        model: take a flow of this model.
        device: where the flow will live.

    Raises:
        FileNotFoundError: if there is neither.
        CheckpointError: if the file is damaged.
        ConfigError: if there is no such flow.
    """
    path, note = find_flow(run, model)
    flow, meta = checkpoint.load(path, device=device), checkpoint.read_meta(path)
    columns, width = meta.get("columns", {}), flow.event_shape[0]
    names, units = tuple(columns.get("names", ())), _padded(columns.get("units", ()), width)
    names = names if len(names) == width else tuple(f"x{i}" for i in range(width))
    if len(flow.event_shape) > 1:
        names, units = (X,), (", ".join(units if len(set(units)) > 1 else units[:1]),)
    context_names = columns.get("context_names", ())
    known: tuple[str, ...] | None = tuple(context_names)
    if len(flow.context_shape) != 1 or len(context_names) not in (0, flow.context_shape[0]):
        known = None
    elif not context_names:
        known = tuple(f"c{i}" for i in range(flow.context_shape[0]))
    return Trained(
        flow=flow,
        path=path,
        meta=meta,
        note=note,
        names=names,
        units=units,
        context_names=known,
        context_units=_padded(columns.get("context_units", ()), len(known or ())),
    )


def as_typed(text: str) -> str:
    """What the inference has to say, with the option of the command line where it names another method.

    >>> as_typed("take the method mcmc, or a narrower prior")
    'take --method mcmc, or a narrower prior'
    """
    return re.sub(r"\bthe method (?=grid|importance|mcmc)", "--method ", text)


def _padded(units: list[str], width: int) -> tuple[str, ...]:
    return tuple(units) if len(units) == width else ("",) * width
