"""The table of parameters beside maps: a row of numbers for each simulation, in a text or as an array."""

from __future__ import annotations

import re
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flowzoo.config import ConfigError
from flowzoo.data._camels import SUITES
from flowzoo.data._keyed import Keyed
from flowzoo.data._values import is_number

# Columns of the tables that come with the maps, which have no header (the dataset's documentation, "2D maps").
PARAMETERS = ("Omega_m", "sigma_8", "A_SN1", "A_AGN1", "A_SN2", "A_AGN2")


class Parameters(NamedTuple):
    """``(rows, columns)`` numbers, a name and a unit for each column, and what was done to read them."""

    values: np.ndarray
    names: list[str]
    units: list[str]
    notes: list[str]


def read_params(file: Path, key: str = "") -> Parameters:
    """The parameters of a text or of an array in ``.npy``, ``.npz``.

    In a text blanks, commas or both are between numbers; names are a line after ``#``, or a first line of words alone.

    Raises:
        ConfigError: as ``Keyed.read``.
        ValueError: if rows are missing, of different lengths, or hold what is no number, or it is not in UTF-8.
    """
    if file.suffix.lower() in (".npy", ".npz"):
        values = Keyed(file, key).read(2)
        if values.ndim != 2 or values.dtype.kind not in "iuf" or not values.size:
            raise ValueError(f"{file} must be numbers (simulations, parameters); it is {values.dtype} {values.shape}")
        width = values.shape[1]
        return Parameters(values.astype(np.float64), _numbered(width), [""] * width, [])
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        byte = f"byte {error.start} is 0x{error.object[error.start]:02x}"
        raise ValueError(f"{file}: not text in UTF-8 ({byte}); write the table in plain ASCII") from None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    comments = [_words(line.lstrip("# ")) for line in lines if line.startswith("#")]
    above = comments[: len(list(takewhile(lambda line: line.startswith("#"), lines)))]
    above = [words for words in above if words]
    rows = [_words(line.split("#")[0]) for line in lines if not line.startswith("#")]
    if len(rows) > 1 and not any(map(is_number, rows[0])) and any(map(is_number, rows[1])):
        for found in (comments, above):
            found.append(rows[0])
        rows = rows[1:]
    if not rows:
        raise ValueError(f"{file} has no rows of parameters")
    widths = sorted({len(row) for row in rows})
    if len(widths) > 1:
        raise ValueError(f"{file}: its rows have {' or '.join(map(str, widths))} columns; they must be equally long")
    # Other comments may stand above the header: the last one that names every column is it.
    headers = [words for words in comments if len(words) == widths[0]]
    notes = []
    if above and not headers:
        notes.append(f"{file.name}: the header names {len(above[-1])} columns, the rows have {widths[0]}: ignored")
    names = headers[-1] if headers else _numbered(widths[0])
    if not any(is_number(row[0]) for row in rows):  # LH_0, LH_1, ...
        rows, names = [row[1:] for row in rows], names[1:]
    if names and names[-1].lower() == "seed":  # of the initial conditions
        rows, names = [row[:-1] for row in rows], names[:-1]
    if not headers:
        of_camels = len(names) == len(PARAMETERS) and set(SUITES) & set(re.split("[_.]", file.name))
        names = list(PARAMETERS) if of_camels else _numbered(len(names))
    for number, row in enumerate(rows, 1):
        for word in row:
            if not is_number(word):
                raise ValueError(f"{file}: '{word}' in row {number} of the parameters is not a number")
    if not names:
        raise ValueError(f"{file} has no column of numbers")
    split = [re.fullmatch(r"(.+?)\[(.*)\]", name) for name in names]
    return Parameters(
        np.array(rows, dtype=np.float64),
        [m[1] if m else n for m, n in zip(split, names, strict=True)],
        [match[2] if match else "" for match in split],
        notes,
    )


def choose(parameters: tuple[str, ...], names: list[str], file: Path) -> list[int]:
    """Columns of the parameters by name, with or without its unit, or by position; ``none`` chooses none.

    Raises:
        ConfigError: for a name that there is not, or one given twice.
    """
    if [parameter.lower() for parameter in parameters] == ["none"]:
        return []
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


def _numbered(count: int) -> list[str]:
    """Names of columns that have none."""
    return [f"p{i}" for i in range(count)]


def _words(line: str) -> list[str]:
    """What stands between blanks and commas; nothing, where two commas follow each other."""
    return re.split(r"\s*,\s*|\s+", line.strip()) if line.strip() else []
