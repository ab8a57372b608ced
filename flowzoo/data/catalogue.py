"""Galaxies as catalogues of particles: stars or gas, conditioned on what the galaxy is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from flowzoo.bijectors import Identity, Standardize, VectorAndImage
from flowzoo.config import ConfigError, fields
from flowzoo.data._atoms import REMEDY, Atoms
from flowzoo.data._catalogue_files import Galaxy, Particles, read_parameters
from flowzoo.data._cleaning import Cleaned, Cleaning, Ranges, ranges
from flowzoo.data._cleaning_record import record, report
from flowzoo.data._column_maps import ColumnMaps, DefaultScale, column_maps, map_pairs
from flowzoo.data._data import Data
from flowzoo.data._galaxy_images import read_images
from flowzoo.data._latents import read_latents
from flowzoo.data._options import Amounts, Floors, Labels, Words, amounts, pairs, words
from flowzoo.data._summaries import Summary, parse_all
from flowzoo.data._values import Rows, single
from flowzoo.registry import DATASETS

if TYPE_CHECKING:
    import pandas as pd

_WORDS = ("x", "columns", "context", "parameter_columns", "summaries", "position", "velocity")
_ROLES = ("mass", "metallicity", "age")
_Count = tuple[str, int, dict[str, int]]  # a galaxy's id, its particles, what each step removed


@DATASETS.register
@dataclass(frozen=True)
class Catalogue:
    """p(particle | galaxy): the density of particles of many galaxies, given a few numbers of each galaxy.

    A galaxy is a file of a folder, called by its id (``.npz``, ``.npy``, ``.csv``, ``.parquet``, ``.h5``), or the rows
    of one file that have the same ``group``. Its context is a row of a table of parameters, statistics of the particles
    that cleaning left, and latents of images, in this order; it is stored once for each galaxy. No split tears a galaxy
    apart. Particles stay in the units of the files, as float32. Paths may hold environment variables.

    Cleaning takes the steps of ``flowzoo.data._cleaning.Cleaning`` in their order: finite values, centre, radius,
    metallicity, ranges, minimum, rotation. What each did is in the notes, galaxy by galaxy in ``report``; the data's
    ``references["cleaning"]`` has the rows that are left, and puts rotated events back (``restore``).

    Args:
        path: the folder or the file.
        x: columns that the density is over.
        columns: names of the columns of the only 2-D array with so many columns; or the array of the file that holds
            them. Other columns are called as in ``table``.
        group: of one file, the column that says which galaxy a row belongs to.
        units: column to unit; a statistic has the unit of its column.
        parameters: table with a row for each galaxy (it may be the same file).
        parameter_columns: as ``columns``, of that table.
        id: its column of ids. By default ``id`` or ``ID`` if there is one, else galaxy i has row i, from 0.
        context: its columns that are context.
        summaries: statistics of the particles that are context too: ``sum``, ``mean``, ``median``, ``std``, ``min``,
            ``max``, ``p10`` (percentiles) of any column of the files, such as ``median(age)``; and ``count()``. With
            ``log10`` before it (``log10 sum(mass)``) the network sees the logarithm; the context stays ``sum(mass)``.
        latents: table of ``flowzoo embed``: columns id, fold, part and latent_0, latent_1, ...; a row for each galaxy
            and fold. The data are then split as that says, because the latents were learnt from its training galaxies.
        images: an image of each galaxy, context beside the numbers: an ``.npy`` of all, those of galaxy i from row
            ``image_views`` * i on, or a folder with one ``.npy`` per galaxy. For flows with ``model.embed=conv``.
        image_views: images of a galaxy in that file; the first is taken.
        image_floor: lower pixels are raised to it, and log10 is taken; without it they stay as they are.
        maps: column of x to the fixed map by which the network sees it: ``log10``, ``log``, ``logit(low high)``,
            ``logit(low high alpha)``, ``signed_log(tau)``, ``tanh(bound)``. Standardised after it. The density is still
            that of the column itself. ``logit(low high)`` has alpha 0.05, so that draws can leave the range by 5.6 % of
            it at either end; give a small alpha to keep them in.
        context_maps: the same for columns of the context.
        position: two or three columns. Roles need not be in x; those that are say what can be rotated, cut and shown.
        velocity: as many.
        mass: column of masses: weights in centre and rotation.
        metallicity: column.
        age: column.
        finite: leave out particles with values that are not finite; else these are an error.
        centre: ``mean`` (by mass) or ``median``: positions and velocities are from there.
        radius: leave out R above it, in the units of the position.
        radius_percentile: leave out R above this percentile of the galaxy; of the two the lesser counts.
        metallicity_outliers: leave out so many particles of highest metallicity in each galaxy.
        ranges: leave out what is outside: column to ``low..high``, ``low..`` or ``..high``.
        minimum: leave out galaxies with fewer particles; with 0 a galaxy without any is an error.
        rotate: ``angular_momentum`` (L along +z) or ``inertia`` (largest axis along x, smallest along z).
        noise: column of x to f: value + f * U(0, 1), for a column that is rounded or has many exact zeros.
        floor: column of x to the value that lower ones are raised to.
        noise_dex: column of x to s: value * 10^(s N(0, 1)), after its floor; the column stays in its units.
        balanced: whether every galaxy counts the same; else every particle does.
        seed: of the noise.
    """

    path: str
    x: Words
    columns: Words = ()
    group: str = ""
    units: Labels = field(default_factory=dict)
    parameters: str = ""
    parameter_columns: Words = ()
    id: str = ""
    context: Words = ()
    summaries: Words = ()
    latents: str = ""
    images: str = ""
    image_views: int = 1
    image_floor: float | None = None
    maps: ColumnMaps = field(default_factory=dict)
    context_maps: ColumnMaps = field(default_factory=dict)
    position: Words = ()
    velocity: Words = ()
    mass: str = ""
    metallicity: str = ""
    age: str = ""
    finite: bool = False
    centre: str = ""
    radius: float | None = None
    radius_percentile: float | None = None
    metallicity_outliers: int = 0
    ranges: Ranges = field(default_factory=dict)
    minimum: int = 0
    rotate: str = ""
    noise: Amounts = field(default_factory=dict)
    floor: Floors = field(default_factory=dict)
    noise_dex: Amounts = field(default_factory=dict)
    balanced: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        # In Python a single column may be given as its name, as on the command line.
        for name in _WORDS:
            object.__setattr__(self, name, words(getattr(self, name)))
        for name in ("maps", "context_maps"):
            object.__setattr__(self, name, map_pairs(getattr(self, name)))
        for name in ("noise", "floor", "noise_dex"):
            object.__setattr__(self, name, amounts(getattr(self, name)))
        object.__setattr__(self, "units", dict(pairs(self.units)))
        object.__setattr__(self, "ranges", ranges(self.ranges))

    def load(self) -> Data:
        """Read the galaxies one after another, clean each, and gather them.

        Raises:
            FileNotFoundError: if there is no such file or folder.
            MissingDependency: if the package that reads such a file is not installed.
            ConfigError: for options that do not go together, or a column that does not exist.
            ValueError: for data that do not fit what is said of them, naming file and galaxy.
        """
        cleaning, summaries = self._checked()
        cleaned, derived = [], []
        counts: list[_Count] = []
        rows: Rows | None = None
        for result in self._cleaned(cleaning, summaries, counts):
            left = result.galaxy
            rows = rows or Rows(left.labels)
            rows.add([left.columns[label] for label in left.labels])
            derived.append([summary(left.columns) for summary in summaries])
            # What is kept of it is small.
            index = left.rows.astype(np.int32 if left.rows[-1] < 2**31 else np.int64)
            cleaned.append(result._replace(galaxy=left._replace(rows=index, columns={})))
        if rows is None:
            most = max((n - sum(r.values()) + r.get("minimum", 0) for _, n, r in counts), default=0)
            raise ValueError(
                f"{self.path}: none of its {len(counts)} galaxies has {self.minimum} particles left after cleaning "
                f"(at most {most}); lower `minimum`, or cut less"
            )
        done = record(cleaning, cleaned, counts)
        atoms = Atoms(self.noise, self.floor, self.noise_dex, self.seed)
        particles = rows.done()
        notes = atoms.apply(particles, rows.labels, done.galaxies, done.ends.tolist())
        x = torch.from_numpy(particles)
        x_map = column_maps("maps", self.maps, x, rows.labels, Standardize(x.shape[1:]))
        galaxies = [(each.galaxy.id, each.galaxy.file) for each in cleaned]
        groups = torch.repeat_interleave(torch.from_numpy(np.diff(done.ends, prepend=0)))
        statistics = np.array(derived).reshape(len(cleaned), len(summaries))
        context = self._context(galaxies, groups, rows.labels, summaries, statistics, notes)
        return Data(
            x=x,
            groups=groups,
            names=rows.labels,
            units=tuple(self.units.get(label, "") for label in rows.labels),
            x_map=x_map,
            **context,
            balanced=self.balanced,
            group_names=done.galaxies,
            roles=self._roles(rows.labels),
            references={"cleaning": done},
            notes=(*done.notes(), *notes),
            remedy=REMEDY,
        )

    def report(self) -> pd.DataFrame:
        """What each step of the cleaning left out: a row per galaxy, a column per step. Reads the files."""
        cleaning, summaries = self._checked()
        counts: list[_Count] = []
        for _ in self._cleaned(cleaning, summaries, counts):
            pass
        return report(cleaning, counts)

    def _checked(self) -> tuple[Cleaning, list[Summary]]:
        """The options that are objects, and an error for those that do not go together."""
        if not self.x:
            raise ConfigError("x names no column; name at least one that the density is over")
        if bool(self.context) != bool(self.parameters):
            has, lacks = ("context", "parameters") if self.context else ("parameters", "context")
            raise ConfigError(f"context names columns of the table `parameters`: {has} is given and {lacks} is not")
        if self.image_views < 1 or (self.image_floor is not None and not self.image_floor > 0):
            raise ConfigError(
                f"image_views must be at least 1 and image_floor positive; got {self.image_views}, {self.image_floor}"
            )
        if self.group and self.group in self.x:
            raise ConfigError(f"group '{self.group}' is in x; which galaxy it is has no density: leave it out of x")
        for option in ("id", "parameter_columns"):
            if getattr(self, option) and not self.parameters:
                raise ConfigError(f"{option} is of the table `parameters`, which is not given")
        # Cleaning's fields are options of the same names.
        cleaning = Cleaning(**{name: getattr(self, name) for name in fields(Cleaning)})
        return cleaning, parse_all(self.summaries)

    def _galaxies(self, cleaning: Cleaning, summaries: Sequence[Summary]) -> Iterator[Galaxy]:
        roles = [*self.position, *self.velocity, *(name for role in _ROLES if (name := getattr(self, role)))]
        others = dict.fromkeys([*roles, *cleaning.needs, *(each.column for each in summaries if each.column)])
        besides = [path for path in (self.parameters, self.latents, self.images) if path]
        return Particles(self.path, self.group, self.columns, besides).read(self.x, list(others))

    def _cleaned(self, cleaning: Cleaning, summaries: Sequence[Summary], counts: list[_Count]) -> Iterator[Cleaned]:
        """The galaxies that are left, one after another; counts gets a line for every one."""
        for galaxy in self._galaxies(cleaning, summaries):
            result = cleaning.clean(galaxy)
            if isinstance(result, Cleaned):
                counts.append((galaxy.id, len(galaxy.rows), result.removed))
                yield result
            else:
                counts.append((galaxy.id, len(galaxy.rows), result))

    def _roles(self, labels: Sequence[str]) -> dict[str, list[str]]:
        """The roles of columns of x; a position of one axis is none."""
        named = {"position": self.position, "velocity": self.velocity, **{r: (getattr(self, r),) for r in _ROLES}}
        own = {role: [name for name in names if name in labels] for role, names in named.items()}
        return {role: names for role, names in own.items() if len(names) >= (1 if role in _ROLES else 2)}

    def _context(
        self,
        galaxies: list[tuple[str, str]],
        groups: Tensor,
        labels: Sequence[str],
        summaries: Sequence[Summary],
        statistics: np.ndarray,
        notes: list[str],
    ) -> dict[str, Any]:
        """What ``Data`` is told of the contexts; notes gets a line for a table of parameters."""
        names, values = [each.name for each in summaries], statistics
        if self.parameters:
            table = (self.parameters, self.parameter_columns, self.id, self.context)
            own, parameters, told = read_parameters(*table, galaxies)
            names, values = [*own, *names], np.concatenate([parameters, values], 1)
            notes += told
        latents = read_latents(self.latents, galaxies) if self.latents else None
        plain, names = names, [*names, *(latents.names if latents else ())]
        for name in names:
            if name in labels or names.count(name) > 1:
                where = "in x and in the context" if name in labels else "twice in the context"
                raise ConfigError(f"'{name}' is {where}; columns need names of their own")
        units = dict(self.units) | {each.name: self.units.get(each.column, "") for each in summaries}
        for name in self.units:
            if name not in (*labels, *names, *(each.column for each in summaries)):
                raise ConfigError(f"units names '{name}', which is neither in x nor in the context")
        if not names and self.context_maps:
            raise ConfigError("context_maps is given and there is no context; give `context`, `summaries` or `latents`")
        if not names and not self.images:
            return {}
        context = torch.from_numpy(single(values, plain))
        split: dict[str, Any] = {"context": context}
        if latents:
            context, part, folds = latents.splits(context, groups)
            split = {"context": context, "given_split": part, "folds": folds}
        maps = {each.name: "log10" for each in summaries if each.log10}
        for name in maps:
            if name in self.context_maps:
                raise ConfigError(f"'{name}' has log10 as a summary and a map in context_maps; give one of them")
        scale = DefaultScale(context.shape[1:]) if names else Identity()
        context_map = column_maps("context_maps", {**self.context_maps, **maps}, context, names, scale)
        if self.images:
            pixels, shape = read_images(self.images, self.image_views, self.image_floor, galaxies)
            context_map = VectorAndImage(shape, context_map or scale, Standardize(shape))
            names = [*names, *(f"image[{i}]" for i in range(shape[0]))]
            split |= {
                "context": torch.cat([context, pixels], 1),
                "folds": [
                    fold._replace(context=torch.cat([fold.context, pixels], 1)) for fold in split.get("folds", ())
                ],
                "context_image": shape,
            }
        return split | {
            "context_index": groups,
            "context_names": tuple(names),
            "context_units": tuple(units.get(name, "") for name in names),
            "context_map": context_map,
        }
