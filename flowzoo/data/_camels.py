"""Files in the layout of the CAMELS Multifield Dataset: which file is which, and what is in it.

Villaescusa-Navarro et al. 2022, ApJS 259, 61: maps are ``Maps_<field>_<suite>_<set>_z=<z>.npy`` (the suite of a run
without gas is ``Nbody_<suite>``), parameters ``params_<set>_<suite>.txt`` with one row per simulation, or the table
``CosmoAstroSeed_*.txt`` of the simulations themselves. Map i of a file and map i of another of the same suite, set and
redshift are the same region of the same simulation.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flowzoo.config import ConfigError
from flowzoo.data._keyed import Keyed

TABLES = ("params_*.txt", "CosmoAstroSeed_*.txt")  # the second is looked for where there is none of the first
SUITES = ("IllustrisTNG", "SIMBA", "Astrid")
SETS = ("LH", "1P", "CV", "EX", "SB28")


class MapsFile(NamedTuple):
    """What the name of a file of maps says; empty where it says nothing."""

    path: Path
    field: str
    suite: str = ""
    set: str = ""
    redshift: str = ""
    key: str = ""  # of the array in an .npz

    @classmethod
    def of(cls, path: Path, key: str = "") -> MapsFile:
        """Read a name."""
        full = re.fullmatch(r"Maps_([^_]+)_(.+)_([^_]+)_z=([^_]+)\.npy", path.name)
        if full:
            return cls(path, *full.groups())
        part = re.match(r"Maps_([^_]+)_", path.name)
        return cls(path, part[1] if part else "map", key=key)

    @property
    def simulation(self) -> tuple[str, str, str]:
        """Suite, set and redshift; a run with gas and its twin without have the same."""
        return self.suite.removeprefix("Nbody_"), self.set, self.redshift


# -- which files


def find_maps(
    root: Path, words: Sequence[str], suite: str = "", subset: str = "", like: MapsFile | None = None
) -> list[MapsFile]:
    """The file of each field in ``root``; of the only field if ``words`` is empty.

    Args:
        root: the folder.
        words: fields, or patterns of the names of their files.
        suite: of the files.
        subset: as ``suite``.
        like: whose simulations the fields of a context are of; those of events are of the simulations of the first.

    Raises:
        FileNotFoundError: if there is none, with those that there are.
        ConfigError: if several could be meant, with the options that tell them apart.
    """
    every = [MapsFile.of(path) for path in sorted(root.glob("Maps_*.npy")) if path.is_file()]
    found: list[MapsFile] = []
    for word in words or ("",):
        fitting = [f for f in every if _means(word, f) and suite in ("", f.suite) and subset in ("", f.set)]
        first = like or (found[0] if found else None)
        option = "context_field" if like else "field"
        found.append(_only(_like(first, fitting) if first else fitting, every, root, word, suite, subset, option))
    return found


def find_params(root: Path, suite: str, subset: str, like: MapsFile) -> Path:
    """The only table of parameters in ``root``, of this suite and set where they are given and it names them.

    Raises:
        FileNotFoundError: if there is none.
        ConfigError: if several could be meant.
        ValueError: if it names another suite or set than the maps of ``like``.
    """
    for pattern in TABLES:
        every = sorted(path for path in root.glob(pattern) if path.is_file())
        found = [path for path in every if _is_of(path, suite, subset)] or every
        if len(found) > 1:
            listing = ", ".join(path.name for path in found[:10])
            raise ConfigError(f"{root} has {len(found)} {pattern}, say which by `params`: {listing}")
        if found:
            # 1,000 rows fit 15,000 maps of another suite as well.
            words = set(re.split("[_.]", found[0].name))
            for known, own in ((SUITES, like.simulation[0]), (SETS, like.set)):
                if own in known and own not in words and words & set(known):
                    raise ValueError(
                        f"{found[0].name} is not the table of {like.path.name}; put that into the folder, or give it "
                        "as `params`"
                    )
            return found[0]
    raise FileNotFoundError(f"{root} has no {' and no '.join(TABLES)}; give the table as `params`")


def check_different(option: str, files: Sequence[MapsFile]) -> None:
    """Refuse a file that is named twice, by its field and by a pattern of its name.

    Raises:
        ConfigError: naming it.
    """
    paths = [file.path.resolve() for file in files]
    for file, path in zip(files, paths, strict=True):
        if paths.count(path) > 1:
            raise ConfigError(f"{option} names {file.path.name} {paths.count(path)} times; name each file once")


def check_simulation(files: Sequence[MapsFile]) -> None:
    """Refuse maps of different simulations, as far as their names tell.

    Raises:
        ValueError: naming the two.
    """
    first, *others = files
    for other in others:
        if first.suite and other.suite and first.simulation != other.simulation:
            raise ValueError(
                f"{first.path.name} and {other.path.name} are maps of different simulations; suite, set and redshift "
                "must be the same (a suite and its Nbody_ twin are)"
            )


def _is_of(table: Path, suite: str, subset: str) -> bool:
    words = f"_{table.stem}_"
    without_gas = suite.startswith("Nbody_") == ("_Nbody_" in words)
    return (not subset or f"_{subset}_" in words) and (not suite or (f"_{suite}_" in words and without_gas))


def _means(word: str, file: MapsFile) -> bool:
    return not word or word == file.field or fnmatch(file.path.name, word)


def _like(first: MapsFile, files: list[MapsFile]) -> list[MapsFile]:
    """Those of the same run as another file, else of its twin, else all."""
    same = [f for f in files if (f.suite, *f.simulation) == (first.suite, *first.simulation)]
    return same or [f for f in files if f.simulation == first.simulation] or files


def _only(
    found: list[MapsFile],
    every: list[MapsFile],
    root: Path,
    word: str,
    suite: str,
    subset: str,
    option: str,
) -> MapsFile:
    if len(found) == 1:
        return found[0]
    listing = ", ".join(f.path.name for f in (found or every)[:10]) or "none"
    if not found:
        asked = {"field": word, "suite": suite, "set": subset}
        what = " and".join(f" of {name} '{value}'" for name, value in asked.items() if value)
        cure = "" if every else "; give files of other names as `maps` and `params`"
        raise FileNotFoundError(f"{root} has no Maps_*.npy{what}; Maps_*.npy there: {listing}{cure}")
    hints = [f"`{option}`"]
    if option == "field":
        # Where they are of one field, the name of the field cannot tell them apart.
        differ = [name for name in ("field", "suite", "set") if len({getattr(f, name) for f in found}) > 1]
        hints = [f"`{name}`" for name in differ or ["field"]] + ["`maps`"]
    raise ConfigError(f"{root} has {len(found)} Maps_*.npy, say which by {' or '.join(hints)}: {listing}")


# -- what is in them


def open_maps(found: MapsFile) -> np.ndarray:
    """The maps ``(n, height, width)``, left on disk until they are asked for if the file is an ``.npy``.

    Raises:
        ConfigError: as ``Keyed.read``.
        ValueError: if the file is not such an array, or is empty.
    """
    file, maps = found.path, Keyed(found.path, found.key).read(3)
    if maps.ndim != 3 or maps.dtype.kind not in "iuf":
        what = f"{maps.dtype} of shape {maps.shape}"
        cure = f"; reshape it to {(-1, *maps.shape[-2:])}" if maps.ndim > 3 else ""
        raise ValueError(f"{file} must be an array of numbers (n, height, width); it is {what}{cure}")
    if maps.size == 0:
        raise ValueError(f"{file} has no maps: its shape is {maps.shape}")
    return maps


def open_fields(files: Sequence[MapsFile]) -> list[np.ndarray]:
    """The maps of several fields, equal in number and size.

    Raises:
        ValueError: as ``open_maps``, or if they are not equal.
    """
    arrays = [open_maps(file) for file in files]
    shapes = [f"{file.path.name} is {array.shape}" for file, array in zip(files, arrays, strict=True)]
    if len({array.shape for array in arrays}) > 1:
        raise ValueError(
            f"the maps of the fields must be equal in number and size, because each is a channel; {', '.join(shapes)}"
        )
    return arrays
