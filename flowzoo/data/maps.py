"""Maps given the parameters of their simulations, in the layout of the CAMELS Multifield Dataset."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import BeforeValidator
from torch import Tensor

from flowzoo.config import ConfigError
from flowzoo.data import _camels as camels
from flowzoo.data._augment import SYMMETRIES
from flowzoo.data._channels import AMOUNTS, Channels, check_amounts, each
from flowzoo.data._copies import grouped_by
from flowzoo.data._data import Data
from flowzoo.data._direction import Direction, PriorTexts, directed, prior_of
from flowzoo.data._drawn import other_prior
from flowzoo.data._keyed import Keyed
from flowzoo.data._options import Whole, Words, listed, words
from flowzoo.data._parameter_table import Parameters, choose, read_params
from flowzoo.data._readers import expanded
from flowzoo.registry import DATASETS
from flowzoo.seeding import generator

_FEWEST = 3  # simulations of which a split can be made


def _side(value: Any) -> tuple[float, str] | None:
    """A length and its unit, from a pair or from text such as ``25 Mpc/h`` or ``25, Mpc/h``."""
    if value is None or value == "":
        return None
    parts = value.replace(",", " ").split(maxsplit=1) if isinstance(value, str) else list(listed(value))
    try:
        length, unit = float(parts[0]), str(parts[1]).strip() if len(parts) > 1 else ""
    except (TypeError, ValueError, IndexError):
        length, unit = math.nan, ""
    if len(parts) > 2 or not (math.isfinite(length) and length > 0):
        raise ConfigError(f"side must be a positive length and its unit, such as '25 Mpc/h'; got {value!r}")
    return length, unit


Numbers = Annotated[tuple[float, ...], BeforeValidator(listed)]
Side = Annotated[tuple[float, str] | None, BeforeValidator(_side)]


@DATASETS.register
@dataclass(frozen=True)
class Maps:
    r"""Images, C x H x W, given the parameters of their simulations: positive fields in dex, others as they are.

    .. math:: x = \log_{10}(\mathrm{map} + \mathrm{floor}) + N(0, \mathrm{noise\_dex}^2)

    or with ``log=false``, for images that are signed or logarithms already, :math:`x = \mathrm{map} +
    N(0, \mathrm{noise}^2)` in the units of the map.

    The layout is that of the CAMELS Multifield Dataset (Villaescusa-Navarro et al. 2022, ApJS 259, 61): an
    array ``Maps_<field>_<suite>_<set>_z=<z>.npy`` of shape ``(n_simulations * k, H, W)``, and a text file
    ``params_*.txt`` with one row per simulation; map i belongs to row i // k. The text has blanks or commas
    between its columns and may begin with ``#`` and their names (with units, as ``M[Msun]``); a first column
    of names or row numbers and a last one called ``seed`` are no parameters, and rows that count must count upwards.
    A split never tears a simulation apart, nor, where there is a ``prior``, simulations of equal parameters; a table
    may have a row for each map, and then equal rows are one simulation. Empty pixels are exactly equal, and an
    atom has no density: the floor gives them a logarithm, the noise a density, and both are part of what is
    scored. Maps that they would hide are refused.

    With ``context_field`` the context is a vector and an image: the parameters, then the C' H' W' pixels of
    log10(map + floor) of another field of the same region (dark matter to hydrogen), or of the same one at low
    resolution (super-resolution). It is flat, one row per event, and ``Data.context_image`` says (C', H', W').

    Args:
        root: folder with both files; or give ``maps`` and ``params``.
        maps: the ``.npy`` file, or ``file.npz:key``; by default that of ``field`` in ``root``.
        params: the text file, or an array as for ``maps``; by default the only ``params_*.txt`` in ``root``, or else
            the only ``CosmoAstroSeed_*.txt``. Columns without names are called p0, p1, ...
        field: which maps, where ``root`` has several: a field such as ``HI``, or a pattern of the file name
            such as ``Maps_HI_*_LH_*``. Several, such as ``HI,Mgas``, are the channels of one image.
        suite: where ``root`` has several: ``IllustrisTNG``, ``SIMBA``, ``Nbody_SIMBA``, ...
        set: the same for ``LH``, ``1P``, ``CV``, ...
        parameters: columns of ``params``, by name or by position from 0; all by default; ``none`` for none.
        log: whether the logarithm is taken; without it ``floor`` and ``noise_dex`` are nothing.
        noise: standard deviation of the noise that is added without it, in the units of the map; one number, or one per
            field.
        floor: added to the map before the logarithm, in the units of the map; one number, or one per field.
        noise_dex: standard deviation of the noise added after it, in dex; one number, or one per field. Seeded per
            map and channel.
        downsample: mean over blocks of this many pixels a side, before the logarithm.
        num_maps: use the first of each simulation only; None: all.
        context_field: field or fields (or patterns of their file names) whose maps are given as an image.
        context_log: as ``log``, for these.
        context_floor: as ``floor``, for these.
        context_downsample: as ``downsample``, for these. They get no noise: nothing needs their density.
        side: length of a map along its last axis and its unit, such as ``25 Mpc/h`` (the box of CAMELS).
        augment: symmetries for training: flip, quarter_turn, shift; ``none`` for none. By default flip, quarter_turn
            if the maps are square, and shift if they are periodic along both axes; none with ``context_field``,
            because only the event is turned.
        periodic: axes of the event along which it is periodic (1, 2), if any; those of CAMELS are along both.
        seed: of the noise.
        prior: the distribution from which the simulations took their parameters, a text for each, such as
            ``{Omega_m: uniform(0.1, 0.5), sigma_8: uniform(0.6, 1.0)}``; see ``inference.from_description``.
        direction: ``posterior``: the events are the parameters, given a map. It needs ``prior``.
    """

    root: str = ""
    maps: str = ""
    params: str = ""
    field: Words = ()
    suite: str = ""
    set: str = ""
    parameters: Words = ()
    log: bool = True
    noise: Numbers = (0.0,)
    floor: Numbers = (1e3,)
    noise_dex: Numbers = (0.05,)
    downsample: int = 1
    num_maps: int | None = None
    context_field: Words = ()
    context_log: bool = True
    context_floor: Numbers = (1e3,)
    context_downsample: int = 1
    side: Side = None
    augment: Words | None = None
    periodic: Whole = ()
    seed: int = 0
    prior: PriorTexts = None
    direction: Direction = "likelihood"

    def __post_init__(self) -> None:
        # In Python a single one may be given as its name, as on the command line.
        for name in ("field", "parameters", "context_field"):
            object.__setattr__(self, name, words(getattr(self, name)))
        for name in AMOUNTS:
            object.__setattr__(self, name, tuple(float(value) for value in listed(getattr(self, name))))
        object.__setattr__(self, "periodic", tuple(sorted({int(axis) for axis in listed(self.periodic)})))
        object.__setattr__(self, "side", _side(self.side))
        if self.augment is not None:
            chosen = words(self.augment)
            object.__setattr__(self, "augment", () if [word.lower() for word in chosen] == ["none"] else chosen)

    def load(self) -> Data:
        """Read the files, map by map.

        Raises:
            FileNotFoundError: if there is no such file.
            ConfigError: if several files could be meant, or an option does not fit the maps.
            ValueError: if the files do not fit together, a map has no logarithm, or the floor hides a field.
        """
        self._check_options()
        files, params_file = self._files()
        arrays = camels.open_fields(files)
        table = read_params(*params_file)
        values, names, units = table.values, table.names, table.units
        chosen = choose(self.parameters, table, params_file.path)
        total, height, width = arrays[0].shape
        per_row, rest = divmod(total, len(values))
        if rest or not per_row:
            raise ValueError(
                f"{files[0].path.name} has {total} maps and {params_file.path.name} {len(values)} rows; the "
                "number of maps must be a multiple of the number of rows (map i belongs to row i // k)"
            )
        count = per_row if self.num_maps is None else self.num_maps
        if not 1 <= count <= per_row:
            raise ConfigError(f"num_maps must be from 1 to {per_row}, the maps per simulation; got {count}")

        index = np.arange(total)
        index = index[index % per_row < count]
        simulation = torch.from_numpy(index // per_row)
        fields = Channels(files, arrays, each("floor", self.floor, files), self.downsample, self.log)
        x = torch.empty(len(index), *fields.shape)
        noise = self._noise(files)
        fields.write(x, index, noise, self.seed)
        vectors = torch.from_numpy(values[:, chosen]).float()
        context: dict[str, Any] = {"context": vectors, "context_index": simulation}
        context_names = [names[i] for i in chosen]
        context_units = [units[i] for i in chosen]
        notes = [*table.notes, *fields.notes(noise, self.seed), self._layout(per_row, table, params_file.path)]
        if self.context_field:
            image = self._image(files, total)
            context = {"context": image.beside(vectors[simulation], index), "context_image": image.shape}
            context_names += image.names
            context_units += image.units
            notes += [f"context image: {note}" for note in image.notes()]
        elif not chosen:
            context = {}
        prior, groups = None, torch.from_numpy(table.alike)[simulation] if self._by_map(per_row, table) else simulation
        if self.prior is not None:
            texts = self._texts(names)
            prior = prior_of(texts, context_names, vectors)
            notes += other_prior(prior, texts, context_names, vectors)
            if (alike := grouped_by(vectors.numpy())) is not None:
                groups = alike[0][simulation]
                notes.append(f"{params_file.path.name}: {alike[1]}")
        data = Data(
            x=x,
            **context,
            groups=groups,
            names=tuple(fields.names),
            units=tuple(fields.units),
            context_names=tuple(context_names),
            context_units=tuple(context_units),
            augment=self._symmetries(height, width),
            periodic=self.periodic,
            side=self.side,
            prior=prior,
            notes=tuple(notes),
            remedy=fields.remedy,
        )
        return directed(data, self.direction)

    def events(self, maps: np.ndarray, seed: int | None = None) -> Tensor:
        """Maps of elsewhere, such as observed ones, as the events that a flow was trained on.

        They are pooled, get the floor, the logarithm and noise of their own, as ``load`` does it to those of the files.

        >>> import numpy as np
        >>> Maps(log=False, downsample=2).events(np.ones((3, 8, 8))).shape
        torch.Size([3, 1, 4, 4])

        Args:
            maps: ``(H, W)``, ``(n, H, W)``, or ``(n, C, H, W)`` of several fields, in the units of the files.
            seed: of the noise, which is another than that of the files; by default theirs.

        Returns:
            ``(n, C, h, w)``; written to a file they are what ``flowzoo infer --x`` takes.

        Raises:
            ConfigError: if an option does not fit the maps.
            ValueError: if they have other axes, or a pixel has no logarithm.
        """
        maps = np.asarray(maps)
        if maps.ndim not in (2, 3, 4) or maps.dtype.kind not in "iuf" or not maps.size:
            raise ValueError(f"maps must be numbers (n, H, W) or (n, C, H, W); got {maps.dtype} {maps.shape}")
        maps = maps[None] if maps.ndim == 2 else maps
        channels = [maps] if maps.ndim == 3 else list(maps.swapaxes(0, 1))
        named = self.field or tuple("map" for _ in channels)
        if len(named) != len(channels):
            raise ValueError(f"maps must have the channels {', '.join(named)}; got {len(channels)}")
        files = [camels.MapsFile(Path(name), name) for name in named]
        fields = Channels(files, channels, each("floor", self.floor, files), self.downsample, self.log)
        x = torch.empty(len(maps), *fields.shape)
        fields.write(x, np.arange(len(maps)))
        noise = torch.tensor(self._noise(files), dtype=torch.float64)
        # Not by ``write``, which refuses maps that the noise would hide: one observed map may well be so smooth.
        drawn = torch.randn(
            x.shape, generator=generator(self.seed if seed is None else seed, "events"), dtype=noise.dtype
        )
        return (x + noise[:, None, None] * drawn).float()

    def _noise(self, files: list[camels.MapsFile]) -> list[float]:
        """Its standard deviation in each channel."""
        option = "noise_dex" if self.log else "noise"
        return each(option, getattr(self, option), files)

    @staticmethod
    def _by_map(per_row: int, table: Parameters) -> bool:
        """Whether the table has a row for each map, with equal ones for those of a simulation."""
        return per_row == 1 and _FEWEST <= len(np.unique(table.alike)) < len(table.alike)

    def _layout(self, per_row: int, table: Parameters, file: Path) -> str:
        """Which map belongs to which row, said so that a table of other rows is seen."""
        if self._by_map(per_row, table):
            count = len(np.unique(table.alike))
            return f"{file.name}: a row for each map, {count} of them different: each of these is a simulation"
        row = "map i belongs to row i" if per_row == 1 else f"map i belongs to row i // {per_row}"
        return f"{file.name}: {row}, {len(table.values)} simulations"

    def _check_options(self) -> None:
        if self.direction == "posterior" and (self.prior is None or self.context_field):
            raise ConfigError(
                "direction=posterior needs `prior`, the distribution of the parameters, such as "
                "{Omega_m: uniform(0.1, 0.5)}, and no context_field"
            )
        if self.prior is not None and self.context_field:
            raise ConfigError("prior is of a context of parameters alone, and there is a context_field; leave one out")
        check_amounts(self)
        for axis in self.periodic:
            if axis not in (1, 2):
                raise ConfigError(f"periodic must be 1 (height), 2 (width) or both; got {axis}")
        if len(set(self.field)) < len(self.field) or len(set(self.context_field)) < len(self.context_field):
            raise ConfigError("field and context_field must name each field once")
        if self.maps and self.field:
            raise ConfigError("give `maps`, which is one file, or `field`, which finds files in `root`; got both")
        for option in ("suite", "set"):
            if self.maps and getattr(self, option):
                raise ConfigError(f"give `maps`, which is one file, or `{option}`, which chooses in `root`; got both")
        for option in ("context_log", "context_floor", "context_downsample"):
            if not self.context_field and getattr(self, option) != getattr(Maps, option):
                raise ConfigError(f"{option} is of the maps of `context_field`, which is missing; leave it out")
        if self.context_field and self.augment:
            raise ConfigError(
                f"augment ({', '.join(self.augment)}) would turn the maps and not the context_field beside them; "
                "leave one of the two out"
            )

    def _texts(self, names: list[str]) -> dict[str, str]:
        """The texts of the prior by the names of the parameters, where it has their positions."""
        texts = self.prior or {}
        places = {str(i): name for i, name in enumerate(names) if str(i) not in names}
        return {places.get(key, key): text for key, text in texts.items()}

    def _files(self) -> tuple[list[camels.MapsFile], Keyed]:
        """The maps of each channel and the parameters."""
        needed = not (self.maps and self.params) or bool(self.context_field)
        if needed and not self.root:
            option, pattern = ("maps", "Maps_*.npy") if not self.maps else ("params", camels.TABLES[0])
            raise ConfigError(
                f"maps needs `root`, the folder of {pattern}, or `{option}`, the file"
                if not (self.maps and self.params)
                else "maps needs `root`, the folder where context_field is to be found"
            )
        root = expanded(self.root)
        maps, params = Keyed.of(self.maps), Keyed.of(self.params)
        for text, (path, _) in ((self.maps, maps), (self.params, params)):
            if text and not path.is_file():
                raise FileNotFoundError(f"no such file: {path}")
        if needed and not root.is_dir():
            raise FileNotFoundError(f"no such folder: {self.root}")
        files = [camels.MapsFile.of(*maps)] if self.maps else camels.find_maps(root, self.field, self.suite, self.set)
        camels.check_different("field", files)
        camels.check_simulation(files)
        return files, params if self.params else Keyed(camels.find_params(root, self.suite, self.set, files[0]))

    def _image(self, events: list[camels.MapsFile], total: int) -> Channels:
        """The fields of the context, map for map beside the event's."""
        like = events[0]
        files = camels.find_maps(expanded(self.root), self.context_field, like=like)
        camels.check_different("context_field", files)
        same = {file.path.resolve() for file in events} & {file.path.resolve() for file in files}
        if same and self.context_downsample <= self.downsample:
            raise ConfigError(
                f"{min(path.name for path in same)} is both event and context_field, which would tell all of it; "
                f"context_downsample must be more than downsample = {self.downsample}; got {self.context_downsample}"
            )
        camels.check_simulation([like, *files])
        arrays = camels.open_fields(files)
        if len(arrays[0]) != total:
            raise ValueError(
                f"context_field: {files[0].path.name} has {len(arrays[0])} maps and {like.path.name} {total}; "
                "they must be equal in number (map i is the same region in both)"
            )
        floors = each("context_floor", self.context_floor, files)
        return Channels(files, arrays, floors, self.context_downsample, self.context_log, prefix="context_")

    def _symmetries(self, height: int, width: int) -> tuple[str, ...]:
        axes = set(self.periodic)
        if self.augment is None:
            if self.context_field:
                return ()
            # A quarter turn exchanges the axes, so they must be alike.
            turn = ("quarter_turn",) if height == width and len(axes) != 1 else ()
            return ("flip", *turn, *(("shift",) if len(axes) == 2 else ()))
        for symmetry in self.augment:
            if symmetry not in SYMMETRIES:
                raise ConfigError(f"unknown symmetry '{symmetry}'; known are {', '.join(SYMMETRIES)}")
        if "quarter_turn" in self.augment and height != width:
            raise ConfigError(f"quarter turns need square maps; these have {height} x {width} pixels")
        return self.augment
