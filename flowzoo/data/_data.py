"""``Data``: what a dataset's ``load`` returns. The rest of the house knows data only through this."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Size, Tensor

from flowzoo.bijectors import Bijector
from flowzoo.data._copies import grouped_by, leak
from flowzoo.inference import Prior, sides


class Levels(NamedTuple):
    """The values that integer data can take: ``low + step * k`` for k = 0 .. count - 1. Declared, never fitted."""

    low: float
    step: float
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody asks a Levels for


class Fold(NamedTuple):
    """A split, and contexts that were learnt from its training groups alone (latents of images, say)."""

    part: Tensor  # (N,) of 0 (train), 1 (validation), 2 (test)
    context: Tensor  # as Data.context


@dataclass(frozen=True)
class References:
    """Observations with draws from their exact posteriors, or as exact as anybody has them.

    Args:
        x: ``(K, *observation)``, none of them an event of the data.
        theta: ``(K, n, D)`` draws from p(theta | x) in the units of theta, independent.
        truth: ``(K, D)`` the parameters that made them, if known.
        published: C2ST of other people's methods against these draws, mean over the observations, by name.
        note: where the draws come from, in one line.
    """

    x: Tensor
    theta: Tensor
    truth: Tensor | None = None
    published: Mapping[str, float] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Data:
    """Events with their contexts, in physical units, before any split; on the host, where tensors of a GPU are copied.

    Args:
        x: ``(N, *event)``, float or integer (then ``levels`` is required).
        context: ``(G, *context)``, one row per group of events that share it, or ``(N, *context)``;
            None for unconditional data.
        context_index: ``(N,)``, the row of ``context`` of each event; by default event i has row i.
        groups: ``(N,)`` integers: what a split may not tear apart (a simulation, a galaxy, a patient) and over
            which errors are taken. By default each event is its own group, and where there is a prior (and no split is
            given) all events of equal parameters are one, which is then in the notes.
        names: a name per column of a vector event, or per channel of an image.
        units: as ``names``.
        context_names: a name per column of the context, or per channel of what in it is an image.
        context_units: as ``context_names``.
        levels: for integer data, the values that it can take.
        periodic: axes of an event (0 is the first) along which it is periodic.
        side: length of an image along its last axis and the unit of that, such as ``(25.0, "Mpc/h")``, from which
            wavenumbers get their unit.
        context_image: shape ``(C, H, W)`` of the image that the last C H W columns of a flat context are, where a
            context is a vector and an image together; the columns before it are the vector.
        augment: symmetries of an image that leave the density unchanged: ``"flip"``, ``"mirror"``, ``"quarter_turn"``,
            ``"shift"``. They move the events, or where these are theta the contexts.
        x_map: unfitted map to network units; None chooses a standardisation (for integer data a logit before it).
        context_map: the same for the context.
        given_split: ``(N,)`` of 0 (train), 1 (validation), 2 (test), when the field has an official split.
        folds: the splits of a cross-validation, where the contexts come from training groups and so differ with them.
        balanced: whether every group counts the same, in training and in scores, however many events it has; else
            every event does.
        group_names: what the groups 0, 1, 2, ... are called (ids of galaxies).
        roles: names of the columns that are a ``"position"`` (two or three), a ``"velocity"``, a ``"mass"``,
            ``"metallicity"`` or ``"age"``, for what can only be shown of such.
        prior: distribution of theta, where the context or the event is a parameter.
        theta: which of the two is theta where there is a prior: ``"context"``, so that a flow is a likelihood
            p(x | theta), or ``"event"``, so that it is a posterior p(theta | x) itself.
        simulate: ``simulate(theta, generator)`` -> observations, where fresh ones can be had.
        true_log_prob: ``true_log_prob(x, context) -> (N,)``, where the truth is known.
        references: exact answers by name: ``"nll"``, ``"posterior"``.
        reference_posteriors: makes, or reads, observations with draws from their posteriors; called when they are
            looked at.
        fills: by column of the context, what its gaps were filled with; a column ``<name> missing`` says where.
        notes: what the loader did to the data (rows left out, floors, noise added); kept in every record.
        remedy: sentences for the message that refuses values of x which are exactly equal: what the options of this
            dataset can do about them. ``{value}`` and ``{column}`` stand for which.
    """

    x: Tensor
    context: Tensor | None = None
    context_index: Tensor | None = None
    groups: Tensor | None = None
    names: Sequence[str] = ()
    units: Sequence[str] = ()
    context_names: Sequence[str] = ()
    context_units: Sequence[str] = ()
    levels: Levels | None = None
    periodic: Sequence[int] = ()
    side: tuple[float, str] | None = None
    context_image: tuple[int, int, int] | None = None
    augment: Sequence[str] = ()
    x_map: Bijector | None = None
    context_map: Bijector | None = None
    given_split: Tensor | None = None
    folds: Sequence[Fold] = ()
    balanced: bool = False
    group_names: Sequence[str] = ()
    roles: Mapping[str, Sequence[str]] = field(default_factory=dict)
    prior: Prior | None = None
    theta: Literal["context", "event"] = "context"
    simulate: Callable[[Tensor, torch.Generator], Tensor] | None = None
    true_log_prob: Callable[[Tensor, Tensor], Tensor] | None = None
    references: dict[str, Any] = field(default_factory=dict)
    reference_posteriors: Callable[[], References] | None = None
    fills: Mapping[str, float] = field(default_factory=dict)
    notes: Sequence[str] = ()
    remedy: str = "Leave the column out of x, or add a stated noise to it."

    def __post_init__(self) -> None:
        self._to_the_host()
        if self.x.ndim < 2:
            raise ValueError(f"x must be (N, *event); got {tuple(self.x.shape)}. A single column is (N, 1): x[:, None]")
        count = len(self.x)
        if self.context is not None and self.context.ndim < 2:
            raise ValueError(
                f"context must be (N, *context); got {tuple(self.context.shape)}. "
                "A single column is (N, 1): context[:, None]"
            )
        if self.context is None:
            object.__setattr__(self, "context", torch.zeros(1, 0))
            object.__setattr__(self, "context_index", torch.zeros(count, dtype=torch.long))
        assert self.context is not None
        if self.context_index is None:
            if len(self.context) != count:
                raise ValueError(
                    f"context must have one row per event; got {len(self.context)} rows for {count} events. "
                    "Give context_index if several events share a row."
                )
            object.__setattr__(self, "context_index", torch.arange(count))
        if self.groups is None:
            self._group()
        for name in ("context_index", "groups", "given_split"):
            column = getattr(self, name)
            if column is not None and len(column) != count:
                raise ValueError(f"{name} must have one entry per event; got {len(column)} for {count} events")
        assert self.context_index is not None
        for row in (int(self.context_index.min()), int(self.context_index.max())) if count else ():
            if not 0 <= row < len(self.context):
                raise ValueError(f"context_index points to row {row}; context has {len(self.context)} rows")
        if self.context_image is not None and (
            self.context.ndim != 2 or self.context.shape[1] < prod(self.context_image)
        ):
            raise ValueError(
                f"context_image {tuple(self.context_image)} says that the last {prod(self.context_image)} columns of a "
                f"flat context are an image; context is {tuple(self.context.shape)}"
            )
        for fold in self.folds:
            if len(fold.part) != count or fold.context.shape != self.context.shape:
                raise ValueError(
                    f"a fold must have a part per event and contexts {tuple(self.context.shape)}; got "
                    f"{len(fold.part)} parts for {count} events and contexts {tuple(fold.context.shape)}"
                )
        if self.prior is not None:
            shape = tuple(self.context_shape if self.theta == "context" else self.event_shape)
            if shape != (self.prior.dim,):
                raise ValueError(f"the prior is of {self.prior.dim} parameters; theta, the {self.theta}, is {shape}")
        for role, names in self.roles.items():
            unknown = [name for name in names if name not in self.names]
            if unknown:
                raise ValueError(f"roles: {role} '{unknown[0]}' is no column; the columns are {', '.join(self.names)}")
        if not self.x.is_floating_point() and self.levels is None:
            raise ValueError(f"x is {self.x.dtype}: integer data must declare levels=(low, step, count)")

    def __len__(self) -> int:
        return len(self.x)

    def _to_the_host(self) -> None:
        # Where data are hashed and looked at; splits are moved to a device.
        for name in ("x", "context", "context_index", "groups", "given_split"):
            values = getattr(self, name)
            if isinstance(values, Tensor) and (values.requires_grad or values.device.type != "cpu"):
                object.__setattr__(self, name, values.detach().cpu())

    def _group(self) -> None:
        assert self.context is not None
        assert self.context_index is not None
        object.__setattr__(self, "groups", torch.arange(len(self)))
        if self.prior is None or self.given_split is not None or self.folds:
            return
        theta = self.x if self.theta == "event" else self.context[self.context_index]
        if theta.ndim == 2 and (found := grouped_by(theta.numpy())) is not None:
            object.__setattr__(self, "groups", found[0])
            object.__setattr__(self, "notes", (*self.notes, found[1]))

    @cached_property
    def leak(self) -> str:
        """What to say of copies of rows under different groups; empty where there are none."""
        return leak(self)

    @property
    def event_shape(self) -> Size:
        """Shape of one event."""
        return self.x.shape[1:]

    @property
    def context_shape(self) -> Size:
        """Shape of one context."""
        assert self.context is not None
        return self.context.shape[1:]

    @property
    def theta_names(self) -> Sequence[str]:
        """Of the parameters, where there is a prior."""
        return sides(self.theta, self.names, self.context_names)[0]

    @property
    def theta_units(self) -> Sequence[str]:
        """As ``theta_names``."""
        return sides(self.theta, self.units, self.context_units)[0]

    @property
    def observation_names(self) -> Sequence[str]:
        """Of what parameters are inferred from, where there is a prior."""
        return sides(self.theta, self.names, self.context_names)[1]

    @property
    def observation_shape(self) -> Size:
        """As ``observation_names``."""
        return sides(self.theta, self.event_shape, self.context_shape)[1]

    @property
    def half_level(self) -> float:
        """From an integer observation to the middle of its level, where a flow of dequantised events scores it."""
        return self.levels.step / 2 if self.theta == "context" and self.levels is not None else 0.0

    def select(self, rows: Tensor) -> Data:
        """The same data, with these events only."""
        assert self.context_index is not None
        assert self.groups is not None
        return replace(
            self,
            x=self.x[rows],
            context_index=self.context_index[rows],
            groups=self.groups[rows],
            given_split=None if self.given_split is None else self.given_split[rows],
            folds=[Fold(fold.part[rows], fold.context) for fold in self.folds],
        )

    def describe(self) -> str:
        """One line for a person."""
        groups = len(torch.unique(self.groups)) if self.groups is not None else len(self)
        numbers = prod(self.context_shape)
        context = f"given {numbers} number{'s' if numbers > 1 else ''}" if numbers else "no context"
        shape = "x".join(str(n) for n in self.event_shape)
        return f"{len(self)} events of {shape}, {context}, {groups} groups"

    def introduce(self, name: str) -> str:
        """What a person should know before a training: ``describe`` and a line for each of the notes.

        Args:
            name: what the dataset is called.
        """
        return "\n".join([f"{name}: {self.describe()}", *(f"  {note}" for note in self.notes)])


class DatasetConfig(Protocol):
    """What a dataset's file registers: a frozen dataclass of its options with ``load``."""

    def load(self) -> Data:
        """Read or make the data.

        Raises:
            FileNotFoundError: if a file that an option names is not there.
            ValueError: if the data do not fit what the options say of them.
        """
        ...
