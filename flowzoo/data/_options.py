"""Types of options by which columns are named, from Python values, from text of --set or from YAML."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from flowzoo.config import ConfigError


def listed(value: Any) -> tuple[Any, ...]:
    """A tuple from a sequence, from one value, or from text with commas.

    >>> listed("ra, dec"), listed(("ra",)), listed(99), listed("")
    (('ra', 'dec'), ('ra',), (99,), ())
    """
    if value is None:
        return ()
    if isinstance(value, str):
        return tuple(word for part in value.split(",") if (word := part.strip()))
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def words(value: Any) -> tuple[str, ...]:
    """As ``listed``, every item as text: ``parameters=0`` is the name ``"0"``."""
    return tuple(str(item) for item in listed(value))


def pairs(value: Any) -> Any:
    """A mapping from a mapping, or from text; a comma within brackets does not end a pair.

    >>> pairs("sfr=1e-3, z: 0.01"), pairs("Z=log10, fHI: logit(0, 1)")
    ({'sfr': '1e-3', 'z': '0.01'}, {'Z': 'log10', 'fHI': 'logit(0, 1)'})
    """
    if not isinstance(value, str):
        return {} if value is None else value
    found = {}
    for part in re.split(r",(?![^(]*\))", value.strip().strip("{}")):
        if not part.strip():
            continue
        # The last colon only, because a name may be a range: cells[0:3].
        name, sign, amount = part.rpartition("=" if "=" in part else ":")
        if not sign:
            raise ValueError(f"expected column=value, with commas between several; got '{part.strip()}'")
        found[name.strip()] = amount.strip()
    return found


def amounts(value: Any) -> dict[str, float]:
    """As ``pairs``, with numbers.

    >>> amounts("sfr=1e-3, z: -2")
    {'sfr': 0.001, 'z': -2.0}
    """
    found = {}
    for name, amount in dict(pairs(value)).items():
        try:
            found[str(name)] = float(amount)
        except (TypeError, ValueError):
            raise ConfigError(f"expected a number for '{name}'; got {amount!r}") from None
    return found


def sentinels(value: Any) -> tuple[float | str, ...]:
    """Values that mean missing. Those that are not finite stay text, because JSON has no number for them."""
    found: list[float | str] = []
    for item in listed(value):
        try:
            number = float(item)
        except (TypeError, ValueError):
            raise ValueError(f"a value that means missing must be a number or nan; got {item!r}") from None
        found.append(number if math.isfinite(number) else str(number))
    return tuple(found)


Words = Annotated[tuple[str, ...], BeforeValidator(words)]
Whole = Annotated[tuple[int, ...], BeforeValidator(listed)]
Sentinels = Annotated[tuple[float | str, ...], BeforeValidator(sentinels)]
Amounts = Annotated[dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]], BeforeValidator(pairs)]
Floors = Annotated[dict[str, Annotated[float, Field(allow_inf_nan=False)]], BeforeValidator(pairs)]
Labels = Annotated[dict[str, str], BeforeValidator(pairs)]
