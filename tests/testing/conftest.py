"""Entries of a third party."""

from types import SimpleNamespace

import pytest


@pytest.fixture
def register(monkeypatch):
    """Registers a class as another package would, by an entry point, in the place of the one before; gives its name."""
    put = {}

    def plant(registry, cls):
        base, before = put.get(registry.kind, (registry._entry_points(), None))
        registry._classes.pop(before, None)
        name = cls.__name__.lower()
        monkeypatch.setattr(registry, "_points", base | {name: SimpleNamespace(load=lambda: cls)})
        put[registry.kind] = base, name
        # Not a copy of the table: modules that register themselves meanwhile are imported once a process.
        monkeypatch.setitem(registry._classes, name, cls)
        return name

    return plant
