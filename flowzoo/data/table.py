"""A table of your own: columns of a file, by the names that you give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from flowzoo.bijectors import Bijector, Columns, Compose, Log, Standardize
from flowzoo.config import ConfigError
from flowzoo.data._atoms import add_uniform
from flowzoo.data._column_maps import ColumnMaps, column_maps, map_pairs
from flowzoo.data._context import default_context_map, stored_once
from flowzoo.data._copies import grouped_by
from flowzoo.data._data import Data
from flowzoo.data._direction import PriorTexts, prior_of, side_of_theta, support_map
from flowzoo.data._drawn import other_prior
from flowzoo.data._missing import filled, flag_of, is_missing
from flowzoo.data._options import Amounts, Labels, Sentinels, Words, sentinels, words
from flowzoo.data._readers import Source, open_table
from flowzoo.data._values import factorise, numbers, parts, single
from flowzoo.registry import DATASETS
from flowzoo.seeding import generator

_REMEDY = (
    "If it means that nothing was measured, declare it (`missing={value}`); else leave the column out of x, or add "
    "noise by the option `noise` (value + f * U(0, 1))."
)


@DATASETS.register
@dataclass(frozen=True)
class Table:
    """The density of some columns of a table given others.

    Columns are named as the file names them: keys of an ``.npz`` (a 2-D array ``mag`` of shape ``(N, 6)`` has
    the columns ``mag[0]`` to ``mag[5]``; ``mag`` names all of them, ``mag[0:3]`` the first three), headers of
    a ``.csv``, ``.tsv``, ``.ecsv``, ``.parquet`` or ``.fits``, datasets of an ``.h5`` (``group/name`` where they
    are nested). On the command line several are separated by commas. Values are kept in the units of the file,
    as float32.

    Args:
        path: the file.
        x: columns that the density is over.
        context: columns that it is conditioned on; none for an unconditional density.
        group: column of numbers or text that says which rows belong together (a galaxy, a patient): no split
            tears them apart. By default rows of equal parameters do, where there is a `prior` and no `split`.
        split: column with the official split: 0, 1, 2 or train, validation, test.
        missing: values that mean "not measured", such as 99, -1 or nan. Declared, never guessed. Rows where a
            column of x, or a parameter of a prior, is missing are left out. In any other context they are filled
            with the median of the rest, and a column ``<name> missing`` of 0 and 1 is appended for each column
            that has gaps.
        noise: column of x to f: adds f * U(0, 1), for columns that are rounded or have exact zeros. The
            density is then that of the noisy column.
        log: columns of x whose logarithm the network sees; the density stays that of the column itself.
        context_log: the same for columns of the context.
        maps: column of x to the fixed map by which the network sees it, as in ``catalogue``: ``log10``, ``log``,
            ``logit(low high)``, ``logit(low high alpha)``, ``signed_log(tau)``, ``tanh(bound)``. Standardised after it.
            Draws of ``logit(low high)`` can leave the range by 5.6 % of it at either end; with ``logit(0 360 1e-6)``
            they stay in it.
        context_maps: the same for columns of the context.
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
    maps: ColumnMaps = field(default_factory=dict)
    context_maps: ColumnMaps = field(default_factory=dict)
    units: Labels = field(default_factory=dict)
    prior: PriorTexts = None
    seed: int = 0

    def __post_init__(self) -> None:
        # In Python a single column may be given as its name, as on the command line.
        for name in ("x", "context", "log", "context_log"):
            object.__setattr__(self, name, words(getattr(self, name)))
        for name in ("maps", "context_maps"):
            object.__setattr__(self, name, map_pairs(getattr(self, name)))
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
        gone = {label: is_missing(column, self.missing) for label, column in (found | given).items()}
        keep = np.ones(rows, dtype=bool)
        theta = side_of_theta(self.prior, list(found), list(given))
        needed = found if self.prior is None or theta == "event" else found | given
        for label in needed:
            if gone[label].any():
                keep &= ~gone[label]
                notes.append(f"left out the {gone[label].sum()} of {rows} rows in which '{label}' is missing")
        if not keep.any():
            what = "x is" if needed is found else "x or a parameter is"
            raise ValueError(f"{self.path}: {what} missing in all {rows} rows, so no event is left")

        x = np.stack([raw[label][keep] for label in found], 1)
        x = self._with_noise(source, list(found), x, notes)
        kept = [{label: column[keep] for label, column in named.items()} for named in (raw, gone)]
        parts_, fills, filling = filled(list(given), *kept)
        context = np.stack(parts_, 1) if parts_ else np.zeros((int(keep.sum()), 0))
        notes += filling

        groups, group_names = None, tuple[str, ...]()
        if self.group is not None:
            groups, group_names = factorise(source.column(self.group)[keep], self.group)
        columns = [*given, *map(flag_of, fills)]
        x32, context32 = (
            torch.from_numpy(single(values, labels)) for values, labels in ((x, list(found)), (context, columns))
        )
        prior = None
        if self.prior is not None:
            named, values = (list(found), x32) if theta == "event" else (columns, context32)
            prior = prior_of(self.prior, named, values)
            notes += other_prior(prior, self.prior, named, values)
            if groups is None and self.split is None and (alike := grouped_by(values.numpy())) is not None:
                groups = alike[0]
                notes.append(alike[1])
        if theta == "event" and (self.log or self.maps):
            raise ConfigError("log and maps are of x, which is the parameters here: their map is that of their prior")
        contexts, index = stored_once(context32, groups)
        scale = default_context_map((len(given),), len(contexts))
        x_map = self._map("", source, list(found), x32, Standardize((len(found),)))
        context_map = self._map("context_", source, list(given), context32, scale)
        return Data(
            x=x32,
            context=contexts if given else None,
            context_index=index if given else None,
            groups=groups,
            group_names=group_names,
            names=tuple(found),
            units=self._units([*found]),
            context_names=tuple(columns),
            context_units=(*self._units([*given]), *("" for _ in fills)),
            x_map=support_map(prior) if prior is not None and theta == "event" else x_map,
            context_map=context_map if given else None,
            given_split=None if self.split is None else parts(source.column(self.split)[keep], self.split),
            prior=prior,
            theta=theta,
            fills=fills,
            notes=tuple(notes),
            remedy=_REMEDY,
        )

    def _with_noise(self, source: Source, labels: list[str], x: np.ndarray, notes: list[str]) -> np.ndarray:
        for name, f in self.noise.items():
            for i in _positions(source, "noise", [name], labels, "x"):
                add_uniform(x[:, i], f, labels[i], generator(self.seed, "noise", labels[i]))
                notes.append(f"added {f:g} * U(0, 1) to '{labels[i]}', seed {self.seed}")
        return x

    def _map(self, prefix: str, source: Source, labels: list[str], values: Tensor, scale: Bijector) -> Bijector:
        """The map of each column on its own, then the scale of all; flags, which come last, stay.

        Args:
            prefix: of the options ``log`` and ``maps`` of the context.
            source: the table.
            labels: columns of x or of the context.
            values: ``(N, D)``: all rows, because ``fit`` sees those of the training alone.
            scale: of the columns that have labels, unfitted.

        Raises:
            ConfigError: for a column that is not here, or has both a logarithm and a map.
            ValueError: for rows that a map does not take.
        """
        owner = "context" if prefix else "x"
        logs = _positions(source, f"{prefix}log", getattr(self, f"{prefix}log"), labels, owner)
        maps = dict[str, str]()
        for name, text in getattr(self, f"{prefix}maps").items():
            maps |= {labels[i]: text for i in _positions(source, f"{prefix}maps", [name], labels, owner)}
        for i in logs:
            if labels[i] in maps:
                raise ConfigError(f"'{labels[i]}' is in {prefix}log and {prefix}maps; name it in one of them")
            if bad := int((values[:, i] <= 0).sum()):
                raise ValueError(
                    f"column '{labels[i]}': {bad} of {len(values)} rows are <= 0, which has no logarithm. "
                    "Declare the value that means missing, add noise to exact zeros, or take no log of it."
                )
        if values.shape[1] > len(labels):
            scale = Columns(range(len(labels)), scale)
        if logs:
            scale = Compose(Columns(logs, Log()), scale)
        finite = values[values.isfinite().all(1)]  # others are refused as such
        return column_maps(f"{prefix}maps", maps, finite, labels, scale) or scale

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
