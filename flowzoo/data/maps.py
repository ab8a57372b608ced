"""Maps given the parameters of their simulations, in the layout of the CAMELS Multifield Dataset."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from flowzoo.config import ConfigError
from flowzoo.data._augment import SYMMETRIES
from flowzoo.data._data import Data
from flowzoo.data._readers import Whole, Words, listed, words
from flowzoo.registry import DATASETS
from flowzoo.seeding import generator


@DATASETS.register
@dataclass(frozen=True)
class Maps:
    r"""Images of a positive field, 1 x H x W in dex, given the parameters of their simulations.

    .. math:: x = \log_{10}(\mathrm{map} + \mathrm{floor}) + N(0, \mathrm{noise\_dex}^2)

    The layout is that of the CAMELS Multifield Dataset (Villaescusa-Navarro et al. 2022, ApJS 259, 61): an
    array ``Maps_<field>_<suite>_<set>_z=<z>.npy`` of shape ``(n_simulations * k, H, W)``, and a text file
    ``params_*.txt`` with one row per simulation; map i belongs to row i // k. The text may begin with ``#``
    and the names of its columns (with units, as ``M[Msun]``); a first column of names and a last one called
    ``seed`` are no parameters. A split never tears a simulation apart. Empty pixels are exactly equal, and an
    atom has no density: the floor gives them a logarithm, the noise a density, and both are part of what is
    scored.

    Args:
        root: folder with both files; or give ``maps`` and ``params``.
        maps: the ``.npy`` file; by default the only ``Maps_*.npy`` in ``root``.
        params: the text file; by default the only ``params_*.txt`` in ``root``.
        field: which maps, where ``root`` has several: a field such as ``HI``, or a pattern of the file name
            such as ``Maps_HI_*_LH_*``.
        parameters: columns of ``params``, by name or by position from 0; all by default.
        floor: added to the map before the logarithm, in the units of the map.
        noise_dex: standard deviation of the noise added after it, in dex; seeded per map.
        downsample: mean over blocks of this many pixels a side, before the logarithm.
        num_maps: use the first of each simulation only; None: all.
        augment: symmetries for training: flip, quarter_turn, shift. By default flip, and quarter_turn if the
            maps are square.
        periodic: axes of the event along which it is periodic (1, 2), if any.
        seed: of the noise.
    """

    root: str = ""
    maps: str = ""
    params: str = ""
    field: str = ""
    parameters: Words = ()
    floor: float = 1e3
    noise_dex: float = 0.05
    downsample: int = 1
    num_maps: int | None = None
    augment: Words | None = None
    periodic: Whole = ()
    seed: int = 0

    def __post_init__(self) -> None:
        # In Python a single one may be given as its name, as on the command line.
        object.__setattr__(self, "parameters", words(self.parameters))
        object.__setattr__(self, "periodic", tuple(int(axis) for axis in listed(self.periodic)))
        if self.augment is not None:
            object.__setattr__(self, "augment", words(self.augment))

    def load(self) -> Data:
        """Read both files, map by map.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if several files could be meant, the two do not fit together, or a map has no
                logarithm.
        """
        if not (np.isfinite(self.floor) and np.isfinite(self.noise_dex) and self.noise_dex >= 0):
            raise ConfigError(f"floor and noise_dex must be finite, noise_dex >= 0; got {self.floor}, {self.noise_dex}")
        maps_file = self._file("maps", "Maps_*.npy", self.field)
        params_file = self._file("params", "params_*.txt", "")
        maps = _open(maps_file)
        values, names, units = _read_params(params_file)
        chosen = _choose(self.parameters, names, params_file)
        per_row, rest = divmod(len(maps), len(values))
        if rest or not per_row:
            raise ValueError(
                f"{maps_file.name} has {len(maps)} maps and {params_file.name} {len(values)} rows; the "
                "number of maps must be a multiple of the number of rows (map i belongs to row i // k)"
            )
        count = per_row if self.num_maps is None else self.num_maps
        if not 1 <= count <= per_row:
            raise ConfigError(f"num_maps must be from 1 to {per_row}, the maps per simulation; got {count}")
        height, width = maps.shape[1:]
        if self.downsample < 1 or height % self.downsample or width % self.downsample:
            raise ConfigError(f"downsample must divide {height} x {width} pixels; got {self.downsample}")

        index = np.arange(len(maps))
        index = index[index % per_row < count]
        simulation = torch.from_numpy(index // per_row)
        match = re.match(r"Maps_([^_]+)_", maps_file.name)
        notes = [f"log10(map + {self.floor:g}), plus N(0, {self.noise_dex:g} dex), seed {self.seed}"]
        if self.downsample > 1:
            notes.insert(0, f"mean over {self.downsample} x {self.downsample} pixels")
        return Data(
            x=self._logarithm(maps, index),
            context=torch.from_numpy(values[:, chosen]).float(),
            context_index=simulation,
            groups=simulation,
            names=(f"log10 {match[1] if match else 'map'}",),
            units=("dex",),
            context_names=tuple(names[i] for i in chosen),
            context_units=tuple(units[i] for i in chosen),
            augment=self._symmetries(height, width),
            periodic=self.periodic,
            notes=tuple(notes),
        )

    def _logarithm(self, maps: np.ndarray, index: np.ndarray) -> Tensor:
        """The events, ``(n, 1, h, w)``; one map at a time, so that the file need not fit in memory twice."""
        f = self.downsample
        height, width = maps.shape[1] // f, maps.shape[2] // f
        x = torch.empty(len(index), 1, height, width)
        negative = 0
        for position, i in enumerate(index.tolist()):
            pooled = maps[i].astype(np.float64).reshape(height, f, width, f).mean((1, 3)) + self.floor
            bad = int((pooled <= 0).sum())
            if bad or negative:
                negative += bad
                continue
            noise = torch.randn(height, width, generator=generator(self.seed, "noise", i), dtype=torch.float64)
            x[position, 0] = torch.from_numpy(np.log10(pooled)) + self.noise_dex * noise
        if negative:
            raise ValueError(
                f"{negative} of {x.numel()} pixels are <= 0 after adding the floor of {self.floor:g}, which "
                "has no logarithm; raise `floor` (in the units of the map)"
            )
        return x

    def _symmetries(self, height: int, width: int) -> tuple[str, ...]:
        if self.augment is None:
            return ("flip", "quarter_turn") if height == width else ("flip",)
        for symmetry in self.augment:
            if symmetry not in SYMMETRIES:
                raise ConfigError(f"unknown symmetry '{symmetry}'; known are {', '.join(SYMMETRIES)}")
        if "quarter_turn" in self.augment and height != width:
            raise ConfigError(f"quarter turns need square maps; these have {height} x {width} pixels")
        return self.augment

    def _file(self, option: str, pattern: str, field: str) -> Path:
        """The file that an option names, or the only one in ``root`` that fits."""
        path = getattr(self, option)
        if path:
            file = Path(path).expanduser()
            if not file.is_file():
                raise FileNotFoundError(f"no such file: {path}")
            return file
        if not self.root:
            raise ConfigError(f"maps needs `root`, the folder of {pattern}, or `{option}`, the file")
        root = Path(self.root).expanduser()
        if not root.is_dir():
            raise FileNotFoundError(f"no such folder: {self.root}")
        every = sorted(file for file in root.glob(pattern) if file.is_file())
        found = [f for f in every if not field or f.name.split("_")[1] == field or fnmatch(f.name, field)]
        if len(found) == 1:
            return found[0]
        listing = ", ".join(file.name for file in (found or every)[:10]) or "none"
        if not found:
            what = f"no {pattern}" + (f" of field '{field}'" if field else "")
            raise FileNotFoundError(f"{self.root} has {what}; {pattern} there: {listing}")
        hint = "`field` or `maps`" if option == "maps" else f"`{option}`"
        raise ConfigError(f"{self.root} has {len(found)} {pattern}, say which by {hint}: {listing}")


def _open(file: Path) -> np.ndarray:
    """The maps, left on disk until they are asked for."""
    try:
        maps = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError, BadZipFile) as error:
        raise ValueError(f"{file}: not a readable .npy file ({' '.join(str(error).split())})") from None
    if not isinstance(maps, np.ndarray) or maps.ndim != 3 or maps.dtype.kind not in "iuf":
        what = f"{maps.dtype} of shape {maps.shape}" if isinstance(maps, np.ndarray) else "an archive"
        raise ValueError(f"{file} must be an array of numbers (n, height, width); it is {what}")
    if maps.size == 0:
        raise ValueError(f"{file} has no maps: its shape is {maps.shape}")
    return maps


def _read_params(file: Path) -> tuple[np.ndarray, list[str], list[str]]:
    """The parameters ``(rows, columns)``, their names and their units."""
    lines = [line.strip() for line in file.read_text().splitlines() if line.strip()]
    comments = [line.lstrip("# ").split() for line in lines if line.startswith("#")]
    rows = [line.split("#")[0].split() for line in lines if not line.startswith("#")]
    if not rows:
        raise ValueError(f"{file} has no rows of parameters")
    widths = sorted({len(row) for row in rows})
    if len(widths) > 1:
        raise ValueError(f"{file}: its rows have {' or '.join(map(str, widths))} columns; they must be equally long")
    # Other comments may stand above the header: the last one that names every column is it.
    headers = [words for words in comments if len(words) == widths[0]]
    names = headers[-1] if headers else [str(i) for i in range(widths[0])]
    if not any(_is_number(row[0]) for row in rows):  # LH_0, LH_1, ...
        rows, names = [row[1:] for row in rows], names[1:]
    if names and names[-1].lower() == "seed":  # of the initial conditions
        rows, names = [row[:-1] for row in rows], names[:-1]
    if not headers:
        names = [str(i) for i in range(len(names))]
    for number, row in enumerate(rows, 1):
        for word in row:
            if not _is_number(word):
                raise ValueError(f"{file}: '{word}' in row {number} of the parameters is not a number")
    if not names:
        raise ValueError(f"{file} has no column of numbers")
    split = [re.fullmatch(r"(.+?)\[(.*)\]", name) for name in names]
    units = [match[2] if match else "" for match in split]
    return (
        np.array(rows, dtype=np.float64),
        [m[1] if m else n for m, n in zip(split, names, strict=True)],
        units,
    )


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _choose(parameters: tuple[str, ...], names: list[str], file: Path) -> list[int]:
    """Columns of the parameters by name, with or without its unit, or by position."""
    chosen = []
    for parameter in parameters:
        name = parameter.split("[")[0]
        if name in names:
            chosen.append(names.index(name))
        elif parameter.isdecimal() and int(parameter) < len(names):
            chosen.append(int(parameter))
        else:
            raise ConfigError(f"{file.name} has no parameter '{parameter}'; it has {', '.join(names)}")
    if len(set(chosen)) < len(chosen):
        raise ConfigError(f"parameters names a column twice: {', '.join(parameters)}")
    return chosen or list(range(len(names)))
