"""A table of your own: columns of an .npz, .csv, .parquet or .h5 file, by the names that you give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from flowzoo.bijectors import Bijector, Columns, Compose, Log, Standardize
from flowzoo.config import ConfigError
from flowzoo.data._atoms import add_uniform
from flowzoo.data._context import default_context_map
from flowzoo.data._data import Data
from flowzoo.data._direction import PriorTexts, prior_of, support_map
from flowzoo.data._options import Amounts, Labels, Sentinels, Words, sentinels, words
from flowzoo.data._readers import Source, open_table
from flowzoo.data._values import factorise, numbers, parts, single
from flowzoo.registry import DATASETS
from flowzoo.seeding import generator


@DATASETS.register
@dataclass(frozen=True)
class Table:
    """The density of some columns of a table given others.

    Columns are named as the file names them: keys of an ``.npz`` (a 2-D array ``mag`` of shape ``(N, 6)`` has
    the columns ``mag[0]`` to ``mag[5]``; ``mag`` names all of them, ``mag[0:3]`` the first three), headers of
    a ``.csv`` or ``.parquet``, datasets of an ``.h5`` (``group/name`` where they are nested). On the command
    line several are separated by commas. Values are kept in the units of the file, as float32.

    Args:
        path: the file.
        x: columns that the density is over.
        context: columns that it is conditioned on; none for an unconditional density.
        group: column of numbers or text that says which rows belong together (a galaxy, a patient): no split
            tears them apart.
        split: column with the official split: 0, 1, 2 or train, validation, test.
        missing: values that mean "not measured", such as 99, -1 or nan. Declared, never guessed. Rows where a
            column of x is missing are left out. In the context they are filled with the median of the rest,
            and a column ``<name> missing`` of 0 and 1 is appended for each column that has gaps.
        noise: column of x to f: adds f * U(0, 1), for columns that are rounded or have exact zeros. The
            density is then that of the noisy column.
        log: columns of x whose logarithm the network sees; the density stays that of the column itself.
        context_log: the same for columns of the context.
        units: column to unit, for tables and figures.
        prior: the distribution from which parameters were taken, a text for each: ``uniform(0.1, 0.5)`` or one of
            ``scipy.stats``. The parameters are all columns of the context, or all of x: then the density is a
            posterior p(theta | observation), and they go through a map from the prior's support to the line.
        seed: of the noise.
    """

    path: str
    x: Words
    context: Words = ()
    group: str | None = None
    split: str | None = None
    missing: Sentinels = ()
    noise: Amounts = field(default_factory=dict)
    log: Words = ()
    context_log: Words = ()
    units: Labels = field(default_factory=dict)
    prior: PriorTexts = None
    seed: int = 0

    def __post_init__(self) -> None:
        # In Python a single column may be given as its name, as on the command line.
        for name in ("x", "context", "log", "context_log"):
            object.__setattr__(self, name, words(getattr(self, name)))
        object.__setattr__(self, "missing", sentinels(self.missing))

    def load(self) -> Data:
        """Read the columns.

        Raises:
            FileNotFoundError: if there is no such file.
            MissingDependency: if the package that reads this kind of file is not installed.
            ValueError: for columns that do not exist or do not fit what is said of them, in one line.
        """
        with open_table(self.path) as source:
            return self._build(source)

    def _build(self, source: Source) -> Data:
        notes: list[str] = []
        if not self.x:
            raise ConfigError("x names no column; name at least one that the density is over")
        found = source.columns(self.x)
        given = source.columns(self.context)
        both = [label for label in given if label in found]
        if both:
            raise ConfigError(f"column '{both[0]}' is both in x and in context; given itself it has no density")
        for name in self.units:
            source.columns([name])  # the unit of a column that does not exist is a misspelling
        rows = len(next(iter(found.values())))
        if rows == 0:
            raise ValueError(f"{self.path} has no rows")

        raw = {label: numbers(column, label) for label, column in (found | given).items()}
        gone = {label: self._is_missing(column) for label, column in (found | given).items()}
        keep = np.ones(rows, dtype=bool)
        for label in found:
            if gone[label].any():
                keep &= ~gone[label]
                notes.append(f"left out the {gone[label].sum()} of {rows} rows in which '{label}' is missing")
        if not keep.any():
            raise ValueError(f"{self.path}: x is missing in all {rows} rows, so no event is left")

        x = np.stack([raw[label][keep] for label in found], 1)
        x = self._with_noise(source, list(found), x, notes)
        context, flags = self._filled(list(given), raw, gone, keep, notes)
        x_log = _positions(source, "log", self.log, list(found), "x")
        context_log = _positions(source, "context_log", self.context_log, list(given), "context")
        _positive(x, list(found), x_log)
        _positive(context, list(given), context_log)

        groups = None if self.group is None else factorise(source.column(self.group)[keep], self.group)
        columns = [*given, *flags]
        theta: Literal["context", "event"] = "event" if sorted(self.prior or ()) == sorted(found) else "context"
        parameters = (list(found), x) if theta == "event" else (columns, context)
        prior = None
        if self.prior is not None:
            prior = prior_of(self.prior, parameters[0], torch.from_numpy(single(parameters[1], parameters[0])))
        contexts, index = _once(torch.from_numpy(single(context, columns)), groups)
        return Data(
            x=torch.from_numpy(single(x, list(found))),
            context=contexts if given else None,
            context_index=index if given else None,
            groups=groups,
            names=tuple(found),
            units=self._units([*found]),
            context_names=tuple(columns),
            context_units=(*self._units([*given]), *("" for _ in flags)),
            x_map=support_map(prior)
            if prior is not None and theta == "event"
            else _map(Standardize((len(found),)), len(found), len(found), x_log),
            context_map=_map(default_context_map((len(given),), len(contexts)), len(given), len(columns), context_log)
            if given
            else None,
            given_split=None if self.split is None else parts(source.column(self.split)[keep], self.split),
            prior=prior,
            theta=theta,
            notes=tuple(notes),
        )

    def _is_missing(self, column: np.ndarray) -> np.ndarray:
        gone = np.zeros(len(column), dtype=bool)
        for value in map(float, self.missing):
            if np.isnan(value):
                gone |= np.isnan(column) if column.dtype.kind == "f" else False
            else:
                # -99.9 stored as float32 is equal to float32(-99.9), not to -99.9.
                gone |= column == (column.dtype.type(value) if column.dtype.kind == "f" else value)
        return gone

    def _filled(
        self,
        labels: list[str],
        raw: Mapping[str, np.ndarray],
        gone: Mapping[str, np.ndarray],
        keep: np.ndarray,
        notes: list[str],
    ) -> tuple[np.ndarray, list[str]]:
        """The context with gaps filled and their indicator columns appended, and the names of these."""
        columns, indicators, flags = [], [], []
        for label in labels:
            column, hole = raw[label][keep], gone[label][keep]
            if hole.all():
                raise ValueError(f"column '{label}': all {len(hole)} rows are missing; leave it out of the context")
            if hole.any():
                median = float(np.median(column[~hole]))
                column = np.where(hole, median, column)
                indicators.append(hole.astype(float))
                flags.append(f"{label} missing")
                notes.append(
                    f"'{label}' is missing in {hole.sum()} of {len(hole)} rows: filled with the median of "
                    f"the others, {median:.6g}, and flagged in '{label} missing'"
                )
            columns.append(column)
        return np.stack([*columns, *indicators], 1) if columns else np.zeros((int(keep.sum()), 0)), flags

    def _with_noise(self, source: Source, labels: list[str], x: np.ndarray, notes: list[str]) -> np.ndarray:
        for name, f in self.noise.items():
            for i in _positions(source, "noise", [name], labels, "x"):
                add_uniform(x[:, i], f, labels[i], generator(self.seed, "noise", labels[i]))
                notes.append(f"added {f:g} * U(0, 1) to '{labels[i]}', seed {self.seed}")
        return x

    def _units(self, labels: Sequence[str]) -> tuple[str, ...]:
        """The unit of each column; ``mag`` gives that of ``mag[0]``, ``mag[1]``, ..."""
        bases = [label.split("[")[0] for label in labels]
        return tuple(self.units.get(n, self.units.get(b, "")) for n, b in zip(labels, bases, strict=True))


def _positions(source: Source, option: str, names: Sequence[str], labels: list[str], owner: str) -> list[int]:
    """Where the columns that an option names stand among ``labels``."""
    chosen = list(source.columns(names))
    for label in chosen:
        if label not in labels:
            has = ", ".join(labels) or "no columns"
            raise ConfigError(f"{option} names '{label}', which is not in {owner}; {owner} has {has}")
    return [labels.index(label) for label in chosen]


def _positive(values: np.ndarray, labels: list[str], positions: list[int]) -> None:
    """Refuse a logarithm of what has none, over all rows: ``Log.fit`` sees the training rows alone."""
    for i in positions:
        bad = int((values[:, i] <= 0).sum())
        if bad:
            raise ValueError(
                f"column '{labels[i]}': {bad} of {len(values)} rows are <= 0, which has no logarithm. "
                "Declare the value that means missing, add noise to exact zeros, or take no log of it."
            )


def _map(scale: Bijector, count: int, total: int, logs: list[int]) -> Bijector:
    """Log of some of the first ``count`` columns, then the scale of all of these; the rest (flags) stay."""
    if total > count:
        scale = Columns(range(count), scale)
    return Compose(Columns(logs, Log()), scale) if logs else scale


def _once(context: Tensor, groups: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """A context that is the same in all rows of a group, stored once per group, and its index.

    So a map that is fitted to it counts each galaxy once, however many rows it has.
    """
    if groups is None:
        return context, None
    first = torch.from_numpy(np.unique(groups.numpy(), return_index=True)[1])
    if bool((context[first][groups] == context).all()):
        return context[first], groups
    return context, None
