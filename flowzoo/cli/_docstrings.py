"""The docstring of a config class as its help: what it is, and what each of its options means."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

_SECTIONS = ("Args:", "Returns:", "Raises:", "Yields:")
_ENTRY = re.compile(r"(\w+): (.*)")
_PLAIN = {int: "integer", float: "number", str: "text", bool: "true or false", type(None): "null"}


class Option(NamedTuple):
    """An option of a config: in words what may be given, its default as ``--set`` takes it, and what it means."""

    name: str
    type: str
    default: str
    meaning: str


def summary(cls: type) -> str:
    """The first sentence or paragraph of a docstring, whichever is shorter, on one line."""
    first = next(iter(about(cls)), "")
    return re.split(r"(?<=\w\.)\s(?=[A-Z])", first, maxsplit=1)[0]


def about(cls: type) -> list[str]:
    """The paragraphs of a docstring before its sections; what is laid out by hand, a table, keeps its lines."""
    lines = inspect.cleandoc(cls.__doc__ or "").splitlines()
    end = next((i for i, line in enumerate(lines) if line in _SECTIONS), len(lines))
    paragraphs = re.split(r"\n\s*\n", "\n".join(lines[:end]).strip())
    return [_plain(text if re.search(r"^(\||\.\. )", text, re.M) else " ".join(text.split())) for text in paragraphs]


def options(cls: type) -> list[Option]:
    """The options of a config class, its own before those that it inherits; no meaning where no docstring has one."""
    meanings = {name: text for base in reversed(cls.__mro__) for name, text in _entries(base).items()}
    hints = get_type_hints(cls, include_extras=True)
    own = inspect.get_annotations(cls)
    fields = sorted((field for field in dataclasses.fields(cls) if field.init), key=lambda field: field.name not in own)
    return [Option(f.name, kind(hints[f.name]), _default(f), meanings.get(f.name, "")) for f in fields]


def kind(hint: Any) -> str:
    """An annotation in words.

    >>> kind(int | tuple[int, ...]), kind(dict[str, float] | None), kind(Literal["a", "b", "c"])
    ('integer or [integer, ...]', '{text: number} or null', 'a, b or c')
    """
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return kind(parts[0])
    if origin in (Union, types.UnionType):
        return _either([kind(part) for part in parts])
    if origin is Literal:
        return _either([value(part) for part in parts])
    if origin is tuple:
        return f"[{', '.join('...' if part is ... else kind(part) for part in parts)}]"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "{" + ": ".join(kind(part) for part in parts) + "}"
    return _PLAIN.get(hint, getattr(hint, "__name__", str(hint)))


def value(given: Any) -> str:
    """A value as ``--set`` takes it.

    >>> value(None), value(True), value((128, 128)), value(""), value({"a": 0.5})
    ('null', 'true', '[128, 128]', "''", '{a: 0.5}')
    """
    if given is None or isinstance(given, bool):
        return {None: "null", True: "true", False: "false"}[given]
    if isinstance(given, list | tuple):
        return f"[{', '.join(map(value, given))}]"
    if isinstance(given, Mapping):
        return "{" + ", ".join(f"{k}: {value(v)}" for k, v in given.items()) + "}"
    return str(given) or "''"


def _entries(cls: type) -> dict[str, str]:
    """Name and text of each entry of the section ``Args`` of a class's own docstring, without markup, on one line."""
    lines = inspect.cleandoc(cls.__dict__.get("__doc__") or "").splitlines()
    if "Args:" not in lines:
        return {}
    found: dict[str, list[str]] = {}
    name = ""
    for line in lines[lines.index("Args:") + 1 :]:
        if line and not line.startswith(" "):
            break
        entry = _ENTRY.fullmatch(line.removeprefix("    "))
        if entry:  # other lines are indented further, and go on with it
            name = entry[1]
            found[name] = [entry[2]]
        elif name:
            found[name].append(line.strip())
    # What Python calls None is called null by --set and by YAML.
    texts = {name: _plain(" ".join(filter(None, parts))) for name, parts in found.items()}
    return {name: re.sub(r"\bNone\b", "null", text) for name, text in texts.items()}


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default_factory is not dataclasses.MISSING:
        return value(field.default_factory())
    return "(needed)" if field.default is dataclasses.MISSING else value(field.default)


def _either(words: list[str]) -> str:
    """Alternatives, of which the last has an "or" before it."""
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _plain(text: str) -> str:
    """Without the markup of docstrings."""
    text = re.sub(r":\w+:`([^`]*)`", r"\1", text)
    return re.sub(r"``(.*?)``", r"\1", text, flags=re.S)
