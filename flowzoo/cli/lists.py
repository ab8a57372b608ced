"""``flowzoo models``, ``datasets`` and ``metrics``: what there is."""

from __future__ import annotations

from typing import Any

from flowzoo.cli._common import print_table


def models() -> None:
    """List the zoo: name, family, backend, what it takes, cost of the inverse, paper."""
    from flowzoo.registry import MODELS

    _list(MODELS, ("family", "backend", "events", "contexts", "inverse", "paper"))


def datasets() -> None:
    """List the datasets and their options."""
    from flowzoo.registry import DATASETS

    _list(DATASETS, ())


def metrics() -> None:
    """List the columns that the metrics fill."""
    from flowzoo.harness.context_gain import COLUMNS
    from flowzoo.metrics import columns

    rows = [[c.name, c.better, c.meaning] for c in (*columns().values(), *COLUMNS)]
    print_table(["column", "better", "meaning"], rows)


def _list(registry: Any, attributes: tuple[str, ...]) -> None:
    from flowzoo.config import fields
    from flowzoo.registry import MissingDependency

    rows = []
    for name in registry.names():
        try:
            cls = registry.get(name)
        except MissingDependency as error:
            rows.append([name, f"not available: {error}", *("" for _ in attributes[1:])])
            continue
        summary = (cls.__doc__ or "").strip().splitlines()[0]
        rows.append([name, *([getattr(cls, a) for a in attributes] or [", ".join(fields(cls)), summary])])
    print_table(["name", *(attributes or ("options", "what it is"))], rows)
