"""What to run: a config file, ``--models``, ``--data`` and ``--set``, every name checked before all else.

Values keep the types that YAML gives them; ``flowzoo.config.make`` coerces them where they are used. That an
option exists is checked here, where its line in the file is still known.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from flowzoo.config import ConfigError, fields
from flowzoo.harness._yaml import MOST, Dumper, Loader, Path_, problem
from flowzoo.registry import DATASETS, MODELS, MissingDependency, Registry, UnknownName

Options = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """The resolved settings of a run: canonical names in their order, and options.

    A dataset may recur with other options; a model may not.
    """

    datasets: list[tuple[str, Options]] = field(default_factory=list)
    models: dict[str, Options] = field(default_factory=dict)
    train: Options = field(default_factory=dict)
    tune: Options = field(default_factory=dict)
    bench: Options = field(default_factory=dict)
    embed: Options = field(default_factory=dict)


def read(
    config: Path | None = None,
    *,
    models: str | None = None,
    data: str | None = None,
    sets: Sequence[str] = (),
    sections: Mapping[str, type] | None = None,
    default_models: str = "",
    default_data: str = "",
) -> Settings:
    """Resolve a config file and the command line, which wins over it.

    Args:
        config: YAML, ``{data: ..., models: ..., train: ..., tune: ..., bench: ...}``. ``data`` is a name, a
            mapping of ``name`` and options, a mapping of names to options, or a list of these; ``models`` a list of
            names, or a mapping of names to options.
        models: names, separated by commas: replaces the file's list, keeps its options of the models named.
        data: the same for datasets.
        sets: ``key=value``, the value in YAML, later ones winning. The key is an option after ``data.`` or
            ``model.`` (every chosen one that has it), the name of one of these, or the name of a section.
        sections: which of ``train``, ``tune``, ``bench`` and ``embed`` there are, with the dataclass of their options.
        default_models: as ``models``, where neither that nor the file names any.
        default_data: the same for datasets.

    Raises:
        ConfigError: in one line, with the file and its line, for an unknown or repeated key, name or option.
        MissingDependency: if the options of a chosen model need a package that is not installed.
    """
    source = _open(config)
    source.check((), source.values, "a config file", ["data", "models", *(sections or {})], "key")
    targets = {
        "data": _chosen(source, "data", DATASETS, data, default_data),
        "model": _chosen(source, "models", MODELS, models, default_models),
    }
    for name, cls in (sections or {}).items():
        options = source.mapping((name,), source.values.get(name), name)
        source.check((name,), options, name, fields(cls))
        targets[name] = [_Target(name, options, cls)]
    for text in sets:
        _set(text, targets)
    datasets = [(target.name, target.options) for target in targets["data"]]
    for i, pair in enumerate(datasets):
        if pair in datasets[:i]:
            raise ConfigError(f"dataset '{pair[0]}' is chosen twice with the same options; name it once")
    flows = {target.name: target.options for target in targets["model"]}
    return Settings(datasets, flows, **{name: targets[name][0].options for name in sections or {}})


def dump(settings: Settings) -> str:
    """Settings as the text of a config file, which ``read`` takes back to equal settings."""
    data = [{"name": name, **options} for name, options in settings.datasets]
    sections = {name: getattr(settings, name) for name in ("train", "tune", "bench", "embed")}
    content = {"data": data, "models": settings.models, **{k: v for k, v in sections.items() if v}}
    return yaml.dump(content, Dumper=Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None)


class _Target(NamedTuple):
    """A dataset, a model or a section: what ``--set`` can reach, and where it stands in the file."""

    name: str
    options: Options
    owner: Registry | type
    path: Path_ = ()

    def known(self) -> list[str]:
        """The options that it may have; asked late, as that imports a backend."""
        return fields(self.owner.get(self.name) if isinstance(self.owner, Registry) else self.owner)


def _chosen(source: _Source, key: str, registry: Registry, flag: str | None, default: str) -> list[_Target]:
    """The datasets or the models of the run, with the options that the file has for them."""
    listed = _listed(source, key, registry)
    chosen = listed
    text = default if flag is None else flag
    if flag is not None or (text and not listed):
        where = f"--{key} {text}"
        names = [_resolve(registry, part.strip(), where) for part in text.split(",")]
        twice = [name for i, name in enumerate(names) if name in names[:i]]
        if twice:
            raise ConfigError(f"{where}: {registry.kind} '{twice[0]}' is named twice; name it once")
        chosen = []
        for name in names:
            chosen += [t for t in listed if t.name == name] or [_Target(name, {}, registry)]
    for target in listed:
        try:
            source.check(target.path, target.options, target.name, target.known() if target.options else [])
        except MissingDependency:
            if target in chosen:  # else it is no part of this run, and no reason to stop it
                raise
    return chosen


def _listed(source: _Source, key: str, registry: Registry) -> list[_Target]:
    """The datasets or the models of the file, by canonical name."""
    value = source.values.get(key)
    if key == "models" and isinstance(value, dict):
        found: list[tuple[Path_, Any, Any]] = [((key, name), name, value[name]) for name in value]
    elif isinstance(value, list):
        found = [((key, i), item, None) for i, item in enumerate(value)]
    else:
        found = [] if value is None else [((key,), value, None)]
    if key == "data":
        found = [dataset for path, item, _ in found for dataset in _datasets(path, item)]
    listed: list[_Target] = []
    for path, name, options in found:
        where = source.at(path)
        if not isinstance(name, str):
            flat = "{name: ..., options} or {dataset: {options}}"
            shape = flat if key == "data" else "all of them as {name: {options}, ...}"
            raise ConfigError(f"{where}: expected the name of a {registry.kind}, or {shape}; got {name!r}")
        canonical = _resolve(registry, name, where)
        if key == "models" and canonical in [target.name for target in listed]:
            raise ConfigError(f"{where}: model '{canonical}' is named twice; name it once")
        listed.append(_Target(canonical, source.mapping(path, options, name), registry, path))
    return listed


def _datasets(path: Path_, item: Any) -> list[tuple[Path_, Any, Any]]:
    """The datasets of one item, with their names and options: one with its name among them, or several by name."""
    if isinstance(item, dict) and "name" in item:
        return [(path, item["name"], {k: v for k, v in item.items() if k != "name"})]
    if isinstance(item, dict) and item and all(isinstance(options, dict | None) for options in item.values()):
        return [((*path, name), name, options) for name, options in item.items()]
    return [(path, item, None)]


def _resolve(registry: Registry, name: str, where: str) -> str:
    try:
        return registry.resolve(name)
    except UnknownName as error:
        raise ConfigError(f"{where}: {error}") from None


def _set(text: str, targets: Mapping[str, list[_Target]]) -> None:
    """Apply one ``--set key=value``."""
    key, equals, value = (part.strip() for part in text.partition("="))
    prefix, dot, option = key.partition(".")
    names = [target.name for group in ("data", "model") for target in targets[group]]
    prefixes = f"prefixes are {', '.join(dict.fromkeys([*targets, *names]))}"
    if not (equals and value and dot and prefix and option):
        raise ConfigError(f"--set {text:.200}: expected prefix.option=value (null for none); {prefixes}")
    reached, why = targets.get(prefix, []), f"no {prefix} is chosen"
    if prefix not in targets:
        why = f"unknown prefix '{prefix}': {_near(prefix, [*targets, *names])}{prefixes}"
        for registry, group in ((DATASETS, targets["data"]), (MODELS, targets["model"])):
            try:
                name = registry.resolve(prefix)
            except UnknownName:
                continue
            among = ", ".join(target.name for target in group) or "none"
            why = f"{name} is not among the chosen {registry.kind}s ({among})"
            reached = reached + [target for target in group if target.name == name]
    if not reached:
        raise ConfigError(f"--set {text:.200}: {why}")
    fitting = [target for target in reached if option in target.known()]
    if not fitting:
        known = list(dict.fromkeys(name for target in reached for name in target.known()))
        raise ConfigError(f"--set {text:.200}: {_unknown([t.name for t in reached], option, known)}")
    for target in fitting:
        target.options[option] = _value(value, text)


def _value(value: str, text: str) -> Any:
    """YAML where it is YAML, else the text as it stands (``*.npz``, ``#3``, ``{theta[0]: uniform(0, 1)}``)."""
    try:
        parsed = yaml.load(value, Loader)
    except Exception as error:  # as in ``_open``
        # In braces YAML knows no theta[0], and cuts uniform(0, 1) at its comma; whoever takes such texts reads them.
        if value[0] == "{" and value[-1] == "}" and re.search(r"\w\(.*\)", value):
            return value
        if value[0] in "[{'\"!&":
            raise ConfigError(f"--set {text:.200}: {problem(error)}") from None
        return value
    return value if parsed is None and value.lower() not in ("null", "~") else parsed


def _near(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean '{near[0]}'? " if near else ""


def _unknown(owners: list[str], key: str, known: list[str], noun: str = "option") -> str:
    """The words of ``flowzoo.config.make``, for one owner or several."""
    has, whose = ("has no", "its") if len(owners) == 1 else ("have no", "their")
    listed = ", ".join(known) or "none"
    return f"{' and '.join(owners)} {has} {noun} '{key}': {_near(key, known)}{whose} {noun}s are {listed}"


class _Source(NamedTuple):
    """The content of a config file, and where each part of it stands."""

    name: str
    values: Options
    lines: Mapping[Path_, int]

    def at(self, path: Path_) -> str:
        """``bench.yaml:7``: the line of a part, or of the nearest thing around it that has one."""
        while path and path not in self.lines:
            path = path[:-1]
        return f"{self.name}:{self.lines.get(path, 1)}"

    def check(self, path: Path_, keys: Options, owner: str, known: list[str], noun: str = "option") -> None:
        """Refuse a key that its owner does not have."""
        for key in keys:
            if key not in known:
                raise ConfigError(f"{self.at((*path, str(key)))}: {_unknown([owner], str(key), known, noun)}")

    def mapping(self, path: Path_, value: Any, owner: str) -> Options:
        """Options, none for an empty value. A copy, as an anchor can give two models one mapping."""
        if not isinstance(value, dict | None):
            raise ConfigError(f"{self.at(path)}: expected {owner}: {{option: value, ...}}; got {value!r}")
        return dict(value or {})


def read_mapping(path: Path) -> dict[str, Any]:
    """A YAML file that is one mapping, such as a prior.

    Raises:
        ConfigError: with its line, if it cannot be read or is something else.
    """
    return dict(_open(path).values)


def _open(path: Path | None) -> _Source:
    if path is None:
        return _Source("", {}, {})
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(MOST + 1)
        if len(text) > MOST:
            raise ValueError(f"more than {MOST} characters, which is no config file")
        loader = Loader(text)
        values = loader.get_single_data()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); expected a YAML file") from None
    except Exception as error:  # a tag on what does not fit it raises a KeyError, an AttributeError, ...
        mark = getattr(error, "problem_mark", None)
        raise ConfigError(f"{path}{f':{mark.line + 1}' if mark else ''}: {problem(error)}") from None
    if not isinstance(values, dict | None):
        raise ConfigError(f"{path}:1: expected a mapping with data, models and so on; got {values!r:.40}")
    return _Source(str(path), values or {}, loader.lines)
