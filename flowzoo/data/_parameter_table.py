"""The table of parameters beside maps: a row of numbers for each simulation, in a text or as an array."""

from __future__ import annotations

import re
from itertools import pairwise, takewhile
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
    alike: np.ndarray  # (rows,) the same number where all columns are equal, those too that are no parameters
    counted: bool = False  # whether the first column numbers the rows


def read_params(file: Path, key: str = "") -> Parameters:
    """The parameters of a text or of an array in ``.npy``, ``.npz``.

    In a text blanks, commas or both are between numbers; names are a line after ``#``, or a first line of words alone.

    Raises:
        ConfigError: as ``Keyed.read``.
        ValueError: if rows are missing, of different lengths, out of order by their own names, or hold what is no
            number; if two columns have one name; if it is not in UTF-8.
    """
    if file.suffix.lower() in (".npy", ".npz"):
        values = Keyed(file, key).read(2)
        if values.ndim != 2 or values.dtype.kind not in "iuf" or not values.size:
            raise ValueError(f"{file} must be numbers (simulations, parameters); it is {values.dtype} {values.shape}")
        width = values.shape[1]
        values = values.astype(np.float64)
        return Parameters(values, _numbered(width), [""] * width, [], _alike(values))
    rows, headers, notes = _read_rows(file)
    names = headers[-1] if headers else _numbered(len(rows[0]))
    own: list[list[str]] = []  # columns that are no parameters, and tell simulations apart
    if not any(is_number(row[0]) for row in rows):  # LH_0, LH_1, ...
        labels = [row[0] for row in rows]
        _check_order(file, labels)
        own += [labels] if len(set(labels)) < len(labels) else []
        rows, names = [row[1:] for row in rows], names[1:]
    if names and names[-1].lower() == "seed":  # of the initial conditions
        own.append([row[-1] for row in rows])
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
    values = np.array(rows, dtype=np.float64)
    counted = len(names) > 1 and _counts(values[:, 0], names[0])
    names = ["row", *names[1:]] if counted and not names[0] else names
    units = [re.fullmatch(r"(.+?)\s*\[(.*)\]", name) for name in names]
    names = [match[1] if match else name for match, name in zip(units, names, strict=True)]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(
            f"{file}: the header names '{twice[0]}' {names.count(twice[0])} times; each needs its own name"
        )
    alike = _alike(values[:, counted:], *own)
    return Parameters(values, names, [match[2] if match else "" for match in units], notes, alike, counted)


def choose(parameters: tuple[str, ...], table: Parameters, file: Path) -> list[int]:
    """Columns of the parameters by name, with or without its unit, or by position; ``none`` chooses none.

    By default all, but for a first one that numbers the rows.

    Raises:
        ConfigError: for a name that there is not, or one given twice.
        ValueError: if the numbers of the rows, which are no parameter, are out of order, or one of a parameter is not
            finite.
    """
    names, chosen = table.names, list[int]()
    nothing = [parameter.lower() for parameter in parameters] == ["none"]
    for parameter in () if nothing else parameters:
        name = parameter.split("[")[0].strip()
        if name in names:
            chosen.append(names.index(name))
        elif parameter.isdecimal() and int(parameter) < len(names):
            chosen.append(int(parameter))
        else:
            raise ConfigError(f"{file.name} has no parameter '{parameter}'; it has {', '.join(names)}")
    if len(set(chosen)) < len(chosen):
        raise ConfigError(f"parameters names a column twice: {', '.join(parameters)}")
    if table.counted and 0 not in chosen:
        _check_order(file, [f"{value:g}" for value in table.values[:, 0]])
        if not parameters:
            table.notes.append(f"{file.name}: the first column, {names[0]}, numbers the rows: no parameter")
    chosen = chosen or ([] if nothing else list(range(int(table.counted), len(names))))
    for row, i in np.argwhere(~np.isfinite(table.values[:, chosen]))[:1]:
        raise ValueError(
            f"{file}: '{names[chosen[i]]}' in row {row + 1} of the parameters is {table.values[row, chosen[i]]:g}; "
            "every simulation needs a number: leave it out, row and maps"
        )
    return chosen


def _read_rows(file: Path) -> tuple[list[list[str]], list[list[str]], list[str]]:
    """The rows of a text, the lines that name as many columns, and what to say of those that name others.

    Raises:
        ValueError: as ``read_params``.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        byte = f"byte {error.start} is 0x{error.object[error.start]:02x}"
        raise ValueError(f"{file}: not text in UTF-8 ({byte}); write the table in plain ASCII") from None
    lines = [line.strip() for line in text.replace('"', "").splitlines() if line.strip()]
    comments = [_words(line.lstrip("# ")) for line in lines if line.startswith("#")]
    above = comments[: len(list(takewhile(lambda line: line.startswith("#"), lines)))]
    above = [words for words in above if words]
    found = [line.split("#")[0].strip() for line in lines if not line.startswith("#")]
    _check_separators(file, found)
    split = _cells if _has_commas(found[1:] or found) else _words
    rows = [split(line) for line in found]
    if len(rows) > 1 and not any(map(is_number, rows[0])) and any(map(is_number, rows[1])):
        for part in (comments, above):
            part.append(rows[0])
        rows = rows[1:]
    if not rows:
        raise ValueError(f"{file} has no rows of parameters")
    widths = sorted({len(row) for row in rows})
    if len(widths) > 1:
        raise ValueError(f"{file}: its rows have {' or '.join(map(str, widths))} columns; they must be equally long")
    # Other comments may stand above the header: the last one that names every column is it.
    headers, notes = [words for words in comments if len(words) == widths[0]], []
    if above and not headers:
        notes.append(f"{file.name}: the header names {len(above[-1])} columns, the rows have {widths[0]}: ignored")
    return rows, headers, notes


def _check_separators(file: Path, lines: list[str]) -> None:
    """Refuse what would be read as other columns than were meant."""
    if semicolons := [number for number, line in enumerate(lines, 1) if ";" in line]:
        raise ValueError(f"{file}: row {semicolons[0]} has ';'; blanks or commas must stand between its columns")
    words = [line.split() for line in lines[1:] or lines]
    if words and all(len(row) > 1 and all(re.fullmatch(r"[-+]?\d+,\d+", word) for word in row) for row in words):
        raise ValueError(
            f"{file}: {words[0][0]} is two columns, or a decimal comma; write {words[0][0].replace(',', '.')}"
        )


def _has_commas(lines: list[str]) -> bool:
    """Whether commas alone stand between the columns, so that names may have blanks."""
    return bool(lines) and all("," in line and not any(" " in cell for cell in _cells(line)) for line in lines)


def _counts(column: np.ndarray, name: str) -> bool:
    """Whether a first column numbers the rows, from 0 or from 1 and in whatever order, as an index has no name."""
    count = len(column)
    numbers = np.sort(column) - np.arange(count)
    return not name or (count > 2 and bool((numbers == numbers[0]).all()) and numbers[0] in (0, 1))


def _check_order(file: Path, labels: list[str]) -> None:
    """Refuse rows whose names count, but not upwards.

    Raises:
        ValueError: with the first two that are out of order.
    """
    found = [re.fullmatch(r"(.*?)(\d+)", label) for label in labels]
    if not all(found) or len({match[1] for match in found if match}) > 1:
        return
    numbers = [int(match[2]) for match in found if match]
    for i, (one, other) in enumerate(pairwise(numbers)):
        if other < one:
            raise ValueError(
                f"{file}: {labels[i + 1]} stands below {labels[i]}, and map i belongs to row i // k; bring the rows "
                "into the order of the maps, and leave out this column where that is another than its own"
            )


def _alike(values: np.ndarray, *columns: list[str]) -> np.ndarray:
    """``(rows,)`` the first row that is equal to each."""
    first: dict[tuple[object, ...], int] = {}
    rows = zip(map(tuple, values.tolist()), *columns, strict=True)
    return np.array([first.setdefault(row, i) for i, row in enumerate(rows)])


def _numbered(count: int) -> list[str]:
    """Names of columns that have none."""
    return [f"p{i}" for i in range(count)]


def _words(line: str) -> list[str]:
    """What stands between blanks and commas, nothing between two commas; a unit stays with its name."""
    line = re.sub(r"\s+(?=\[)", "", line.strip())
    return re.split(r"\s*,\s*|\s+", line) if line else []


def _cells(line: str) -> list[str]:
    """What stands between commas, where there are any."""
    return [cell.strip() for cell in line.split(",")] if "," in line else _words(line)
