"""Options into frozen dataclasses, with errors that a person can act on.

Every model, dataset, metric and the training have a frozen dataclass as their options. Values come from Python,
from ``--set`` (text) or from a YAML file (where PyYAML reads ``1e-3`` as a string): pydantic coerces them, and a
misspelt field is an error with the fields that exist.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any, TypeVar

C = TypeVar("C")


class ConfigError(ValueError):
    """An option that does not exist, or a value that does not fit it."""


def fields(cls: type) -> list[str]:
    """The names of the options of a config class."""
    return [field.name for field in dataclasses.fields(cls) if field.init]


def make(cls: type[C], values: Mapping[str, Any], where: str) -> C:
    """Build a config from a mapping of its options.

    Args:
        cls: a frozen dataclass.
        values: option names to values; text is coerced to the annotated type.
        where: what the options belong to, for messages (``"maf"``, ``"train"``).

    Raises:
        ConfigError: for an unknown option or a value that does not fit, in one line.
    """
    from pydantic import TypeAdapter, ValidationError

    known = fields(cls)
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean '{near[0]}'? " if near else ""
            raise ConfigError(f"{where} has no option '{key}': {hint}its options are {', '.join(known) or 'none'}")
    try:
        return TypeAdapter(cls).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        name = "".join(f".{part}" for part in first["loc"][:1])
        if first["type"] == "missing":
            raise ConfigError(f"{where} needs {name[1:]}; `flowzoo options {where}` says what it is") from None
        text = str(first["msg"]).removeprefix("Value error, ")
        came = f" (got {first['input']!r})" if name else ""
        raise ConfigError(f"{where}{name}: {text}{came}") from None


def to_dict(config: Any) -> dict[str, Any]:
    """The options of a config as plain JSON values; tuples become lists."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(k): plain(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [plain(v) for v in value]
        return value

    return {name: plain(getattr(config, name)) for name in fields(type(config))}
