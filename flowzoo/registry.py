"""The folder is the registry: a file's stem is the name of what it registers.

``names()`` lists the folder without importing anything, so that ``flowzoo --help`` and a misspelt name cost
nothing; ``get(name)`` imports that one module, whose decorator hands over its class. A package outside flowzoo
joins by an entry point in the group of the registry; a script or a notebook by the decorator alone, for as long as
its process lives. An optional dependency that is missing breaks the entry that needs it and no other.
"""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, TypeVar, overload

T = TypeVar("T", bound=type)


class UnknownName(ValueError):
    """A name that no file and no entry point provides."""


class MissingDependency(ImportError):
    """An entry exists, but a package that it needs is not installed."""


class Registry:
    """Named classes of one kind, found in one folder.

    Args:
        kind: what an entry is called in messages, such as ``"model"``.
        package: the package whose modules are the entries; modules that start with ``_`` are helpers.
        group: the entry-point group by which other distributions add to it.
        separator: what stands for the underscore of a file's stem in a name (``"-"``: ``nflows_nsf.py`` is
            ``nflows-nsf``). Both spellings are understood.
        aliases: other names that the field uses, mapped to ours.
    """

    def __init__(
        self,
        kind: str,
        package: str,
        group: str,
        *,
        separator: str = "_",
        aliases: Mapping[str, str] | None = None,
    ) -> None:
        self.kind = kind
        self.package = package
        self.group = group
        self.separator = separator
        self.aliases = dict(aliases or {})
        self._files: set[str] | None = None
        self._classes: dict[str, type] = {}
        self._points: dict[str, EntryPoint] | None = None

    def names(self) -> list[str]:
        """Every name that ``get`` takes, sorted, aliases apart; imports nothing."""
        return sorted(self._own() | self._entry_points().keys() | self._classes.keys())

    def local(self) -> list[str]:
        """The names that this process alone knows: what a script or a notebook has registered."""
        return sorted(self._classes.keys() - self._own() - self._entry_points().keys())

    def resolve(self, name: str) -> str:
        """The canonical form of a name: aliases and ``-``/``_`` folded.

        Raises:
            UnknownName: if there is none, with the nearest names or all of them.
        """
        known = self.names()
        folded = {self._fold(k): k for k in known}
        folded |= {self._fold(a): target for a, target in self.aliases.items()}
        if self._fold(name) in folded:
            return folded[self._fold(name)]
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise UnknownName(f"unknown {self.kind} '{name}': {hint}known {self.kind}s are {', '.join(known)}")

    def get(self, name: str) -> Any:
        """The class registered under a name; imports its module only.

        Raises:
            UnknownName: if no such entry exists.
            MissingDependency: if the entry's module cannot be imported for want of a package.
        """
        if name not in self._classes:
            name = self.resolve(name)
        if name not in self._classes:
            outside = self._entry_points().get(name)
            try:
                if outside is not None:
                    self._classes[name] = outside.load()
                else:
                    importlib.import_module(f"{self.package}.{self._stem(name)}")
            except ModuleNotFoundError as error:
                raise MissingDependency(
                    f"{self.kind} '{name}' needs the package '{error.name}', which is not installed: "
                    f"pip install {error.name}"
                ) from error
        if name not in self._classes:
            raise UnknownName(
                f"{self.package}.{self._stem(name)} registers no {self.kind}; decorate its class with `register`"
            )
        return self._classes[name]

    @overload
    def register(self, cls: T, /) -> T: ...
    @overload
    def register(self, /, *, name: str | None = None) -> Callable[[T], T]: ...
    def register(self, cls: T | None = None, /, *, name: str | None = None) -> T | Callable[[T], T]:
        """Class decorator of an entry, plain or with a name: ``@MODELS.register(name="shift")``.

        In the folder of the registry the file's name is the entry's. Elsewhere it is ``name``; without one that of the
        class's entry point, if it has one, and else the class's own in lower case. A class that is defined again (a
        cell of a notebook that is run twice) takes the place of the one before.

        Raises:
            ValueError: for a name that is taken, or is none.
        """
        if cls is None:
            return lambda cls: self._add(cls, name)
        return self._add(cls, name)

    def name_of(self, entry: Any) -> str:
        """The name under which a class, or that of an object, is registered.

        Raises:
            UnknownName: if it is not.
        """
        cls = entry if isinstance(entry, type) else type(entry)
        for name, known in self._classes.items():
            if known is cls:
                return name
        raise UnknownName(
            f"{cls.__name__} is no registered {self.kind}: decorate the class with {self.kind.upper()}S.register"
        )

    def _add(self, cls: T, name: str | None) -> T:
        if cls.__module__.startswith(f"{self.package}."):
            own = self._name(cls.__module__.rsplit(".", 1)[-1])
        else:
            own = self._foreign(cls, name)
        known = self._classes.get(own)
        if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(f"{self.kind} '{own}' is registered twice, by {known} and {cls}; {self._cure}")
        self._classes[own] = cls
        return cls

    def _foreign(self, cls: type, name: str | None) -> str:
        """The name of a class that is not in the folder."""
        package = cls.__module__.split(".")[0]
        for point in self._entry_points().values():
            if (point.module.split(".")[0], point.attr) == (package, cls.__qualname__):
                if name not in (None, point.name):
                    raise ValueError(f"{self.kind} '{name}' has the entry point '{point.name}'; give both one name")
                return point.name
        if name is not None and not re.fullmatch("[a-z0-9][a-z0-9_-]*", name):
            raise ValueError(f"the name of a {self.kind} is of lower-case letters, digits, - and _; got {name!r}")
        found = self._name(name or cls.__name__.lower())
        taken = {self._fold(n) for n in (*self._own(), *self._entry_points(), *self.aliases)}
        if self._fold(found) in taken:
            raise ValueError(f"{self.kind} '{found}' exists; {cls} cannot take its name: {self._cure}")
        return found

    @property
    def _cure(self) -> str:
        return f"give another, {self.kind.upper()}S.register(name=...)"

    def _own(self) -> set[str]:
        # Once, as entry points: a bench resolves thousands of names.
        if self._files is None:
            folder = Path(__file__).parent.joinpath(*self.package.split(".")[1:])
            self._files = {self._name(path.stem) for path in folder.glob("[!_]*.py")}
        return self._files

    def _entry_points(self) -> dict[str, EntryPoint]:
        # It looks at every installed package.
        if self._points is None:
            self._points = {point.name: point for point in entry_points(group=self.group)}
        return self._points

    def _name(self, stem: str) -> str:
        return stem.replace("_", self.separator)

    def _stem(self, name: str) -> str:
        return name.replace("-", "_")

    @staticmethod
    def _fold(name: str) -> str:
        return name.lower().replace("-", "_")


# What the field's users call a GalacticFlow-style flow; zuko's continuous flow is `ffjord` here.
MODELS = Registry("model", "flowzoo.models", "flowzoo.models", separator="-", aliases={"cnf": "galacticflow"})
DATASETS = Registry("dataset", "flowzoo.data", "flowzoo.datasets")
METRICS = Registry("metric", "flowzoo.metrics", "flowzoo.metrics")
EMBEDDINGS = Registry("embedding", "flowzoo.embeddings", "flowzoo.embeddings")
