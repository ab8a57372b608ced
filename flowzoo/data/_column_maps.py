"""Fixed maps of columns, written as text: ``log10``, ``logit(0 1)``, ``signed_log(100)``, ``tanh(5)``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator
from torch import Tensor

from flowzoo.bijectors import Bijector, Columns, Compose, Log, Logit, SoftLog, Standardize, Tanh
from flowzoo.config import ConfigError
from flowzoo.data._options import pairs

# name: how it is written, how many numbers it may have, how it is made
_KINDS: dict[str, tuple[str, tuple[int, ...], Callable[..., Bijector]]] = {
    "log": ("log", (0,), Log),
    "log10": ("log10", (0,), lambda: Log(10)),
    "logit": ("logit(low high), logit(low high alpha)", (2, 3), Logit),
    "signed_log": ("signed_log(tau)", (1,), SoftLog),
    "tanh": ("tanh(bound)", (1,), Tanh),
}


class DefaultScale(Standardize):
    """Stands for the scale of contexts that nobody chose: ``Splits.maps`` takes the default for its training part."""


def map_pairs(value: Any) -> Any:
    """As ``pairs``, of columns and maps."""
    if isinstance(value, Mapping):
        for name, text in value.items():
            if text is None:  # what YAML makes of {f: logit(0, 1)}
                raise ValueError(f"'{name}' has no map; within {{...}} write spaces between numbers, or quotes")
    return pairs(value)


ColumnMaps = Annotated[dict[str, str], BeforeValidator(map_pairs)]


def parse(text: str) -> Bijector:
    """The map that a text stands for; numbers in brackets are separated by spaces or commas.

    >>> parse("logit(0 1 1e-5)").describe()
    {'kind': 'logit', 'low': 0.0, 'high': 1.0, 'alpha': 1e-05}

    Raises:
        ConfigError: for another text, or numbers that the map does not take.
    """
    match = re.fullmatch(r"(\w+)\s*(?:\(([^()]*)\))?", text.strip())
    known = ", ".join(written for written, _, _ in _KINDS.values())
    if match is None or match[1] not in _KINDS:
        raise ConfigError(f"unknown map '{text}': known are {known}")
    written, counts, make = _KINDS[match[1]]
    try:
        numbers = [float(word) for word in re.split(r"[\s,]+", (match[2] or "").strip()) if word]
        if len(numbers) not in counts:
            raise ValueError(f"it has {len(numbers)} numbers")
        return make(*numbers)
    except ValueError as error:
        raise ConfigError(f"map '{text}' must be {written.replace(', ', ' or ')}: {error}") from None


def column_maps(
    option: str, maps: Mapping[str, str], values: Tensor, labels: Sequence[str], scale: Bijector
) -> Bijector | None:
    """Maps of some columns, each on its own, then the scale of all; None where there are none.

    Args:
        option: which option names them, for messages.
        maps: column to text.
        values: ``(n, D)``: all rows, of every split, because a row of the test set outside the bounds of a map is
            as wrong as one of the training set.
        labels: names of the columns.
        scale: what comes after, unfitted.

    Raises:
        ConfigError: for a column that there is not, or a text that is no map.
        ValueError: for rows outside the bounds of a map, with their number.
    """
    together: dict[str, list[int]] = {}
    for label, text in maps.items():
        if label not in labels:
            listing = ", ".join(labels) or "none"
            raise ConfigError(f"{option} names '{label}', which is no column here; the columns are {listing}")
        together.setdefault(" ".join(text.split()), []).append(labels.index(label))
    parts = []
    for text, columns in together.items():
        part = Columns(sorted(columns), parse(text))
        try:
            part.fit(values, labels)
        except ValueError as error:
            raise ValueError(f"{option}: {error}") from None
        parts.append(part)
    return Compose(*parts, scale) if parts else None
