"""``flowzoo models``, ``datasets``, ``metrics`` and ``options``: what there is, and what each option means."""

from __future__ import annotations

import difflib
import shutil
import textwrap
from typing import TYPE_CHECKING, Annotated

import typer

from flowzoo.cli._common import print_table

if TYPE_CHECKING:
    from flowzoo.metrics import Column
    from flowzoo.registry import Registry

Name = Annotated[str | None, typer.Argument(help="Say all of this one, its options too.", show_default="list them")]
FACTS = ("family", "backend", "events", "contexts", "inverse", "paper")
NEEDS = {  # what a metric is taken of: see flowzoo.metrics.Evaluation
    "scores": "log q of the test events",
    "samples": "a draw at test contexts",
    "clouds": "draws beside test events",
    "ensembles": "many draws at held-out contexts, of images",
    "posteriors": "posteriors of test observations: a dataset with a prior",
    "references": "a dataset with exact posteriors",
}
WIDEST = 100  # characters of a line of prose


def models(name: Name = None) -> None:
    """List the zoo: name, family, backend, what it takes, cost of the inverse, paper; or say all of one model."""
    from flowzoo.registry import MODELS

    _list(MODELS, FACTS) if name is None else _model(MODELS.resolve(name))


def datasets(name: Name = None) -> None:
    """List the datasets; or say all of one."""
    from flowzoo.registry import DATASETS

    _list(DATASETS, ()) if name is None else _dataset(DATASETS.resolve(name))


def metrics(
    name: Annotated[str | None, typer.Argument(help="Say all of this metric, or of that of this column.")] = None,
) -> None:
    """List the columns that the metrics fill; or say all of one."""
    if name is not None:
        _metric(name)
        return
    rows = [[c.name, metric or "-", c.better, c.meaning] for c, metric in _columns()]
    print_table(["column", "metric", "better", "meaning"], rows)
    typer.echo("\nflowzoo metrics NAME says all of one: thresholds, what it needs, where it comes from.")


def options(
    name: Annotated[
        str | None, typer.Argument(help="train, bench, tune or embed; or a model, a dataset, a metric.")
    ] = None,
) -> None:
    """Say what --set and --config can set: of the training, of a bench, ...; or of anything that has a name."""
    from flowzoo.cli import _docstrings
    from flowzoo.registry import DATASETS, EMBEDDINGS, METRICS, MODELS, UnknownName

    sections = _sections()
    if name is None:
        print_table(["options", "what they are"], [[key, _docstrings.summary(cls)] for key, cls in sections.items()])
        typer.echo("\nflowzoo options NAME explains each: of one of these, or of a model, a dataset or a metric.")
        return
    if name in sections:
        _prose(name, sections[name])
        _options(
            sections[name], f"Set by --set {name}.OPTION=VALUE, or in a --config file under {name}: {{OPTION: VALUE}}"
        )
        return
    describe = {MODELS: _model, DATASETS: _dataset, METRICS: _metric, EMBEDDINGS: _embedding}
    for registry, say in describe.items():
        try:
            found = registry.resolve(name)
        except UnknownName:
            continue
        say(found)
        return
    known = [*sections, *(entry for registry in describe for entry in registry.names())]
    near = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise UnknownName(
        f"nothing is called '{name}': {hint}there are {', '.join(sections)}, and what flowzoo models, datasets and "
        "metrics list"
    )


def _sections() -> dict[str, type]:
    from flowzoo.autoencoder import AutoencoderConfig
    from flowzoo.harness.jobs import SECTIONS

    return {**SECTIONS, "embed": AutoencoderConfig}


def _columns() -> list[tuple[Column, str]]:
    """Every column that is measured, with its metric; what a run measures by itself has none."""
    from flowzoo.harness.context_gain import COLUMNS
    from flowzoo.metrics import Column
    from flowzoo.registry import METRICS

    own = (
        Column("num_parameters", "none", "numbers that are trained"),
        Column("train_seconds", "lower", "seconds of training"),
        Column("sample_seconds_per_1000", "lower", "seconds that 1,000 draws take, one at each of so many contexts"),
        Column("posterior_seconds", "lower", "seconds that the posterior of one observation takes"),
        Column("roundtrip_error", "lower", "largest |to_data(to_latent(x)) - x|, in training spreads"),
        Column("peak_memory_mb", "lower", "MB of memory at most: of the process, or of the GPU"),
    )
    found = [(column, name) for name in METRICS.names() for column in METRICS.get(name).columns]
    return [*found, *((column, "") for column in (*COLUMNS, *own))]


def _model(name: str) -> None:
    from flowzoo.registry import MODELS

    cls = MODELS.get(name)
    _prose(name, cls)
    for fact in FACTS:
        typer.echo(f"{fact:10}{getattr(cls, fact)}")
    typer.echo()
    _options(
        cls,
        f"Set by --set {name}.OPTION=VALUE (model.OPTION: of every model that has it), or in a --config file under "
        f"models: {{{name}: {{OPTION: VALUE}}}}",
    )


def _dataset(name: str) -> None:
    from flowzoo.registry import DATASETS

    cls = DATASETS.get(name)
    _prose(name, cls)
    _options(
        cls,
        f"Set by --data {name} --set data.OPTION=VALUE (with several datasets {name}.OPTION), or in a --config file "
        f"under data: {{name: {name}, OPTION: VALUE}}",
    )


def _metric(name: str) -> None:
    from flowzoo.registry import METRICS

    found = [(column, metric) for column, metric in _columns() if column.name == name]
    metric = found[0][1] if found else METRICS.resolve(name)
    shown = [column for column, owner in _columns() if owner == metric and (metric or column.name == name)]
    if metric:
        cls = METRICS.get(metric)
        _prose(metric, cls)
        for need in cls.needs:
            typer.echo(f"needs     {NEEDS.get(need, need)}")
        typer.echo()
    marks = [["" if mark is None else f"{mark:g}" for mark in (c.good, c.bad)] for c in shown]
    rows = [[c.name, c.better, *m, c.floor or "", c.meaning] for c, m in zip(shown, marks, strict=True)]
    print_table(["column", "better", "good", "bad", "noise floor", "meaning"], rows)
    if metric:
        typer.echo()
        _options(cls, "Set in Python alone; a bench takes the defaults, so that tables compare")


def _embedding(name: str) -> None:
    from flowzoo.registry import EMBEDDINGS

    _prose(name, EMBEDDINGS.get(name))
    _options(EMBEDDINGS.get(name), f"Set in Python alone; --set model.embed={name} takes the defaults")


def _prose(name: str, cls: type) -> None:
    """What a class is, paragraph by paragraph."""
    from flowzoo.cli import _docstrings

    first, *rest = _docstrings.about(cls)
    for text in (f"{name}: {first}", *rest):
        # Tables and equations are laid out by hand.
        typer.echo(f"{text if chr(10) in text else _wrapped(text)}\n")


def _wrapped(text: str) -> str:
    return textwrap.fill(text, min(WIDEST, shutil.get_terminal_size((WIDEST, 24)).columns))


def _options(cls: type, how: str) -> None:
    """The options of a class, and how they are set."""
    from flowzoo.cli import _docstrings

    found = _docstrings.options(cls)
    if not found:
        typer.echo("It has no options.")
        return
    typer.echo(_wrapped(f"{how}. A list is [a, b] and a mapping {{a: b}}, as in YAML.") + "\n")
    print_table(["option", "type", "default", "meaning"], [list(option) for option in found], widths=(None, 24, 16))


def _list(registry: Registry, attributes: tuple[str, ...]) -> None:
    from flowzoo.cli import _docstrings
    from flowzoo.registry import MissingDependency

    rows = []
    for name in registry.names():
        try:
            cls = registry.get(name)
        except MissingDependency as error:
            rows.append([name, f"not available: {error}", *("" for _ in attributes[1:])])
            continue
        rows.append([name, *([getattr(cls, a) for a in attributes] or [_docstrings.summary(cls)])])
    print_table(["name", *(attributes or ("what it is",))], rows)
    typer.echo(f"\nflowzoo {registry.kind}s NAME says all of one: its options, what each means, how it is set.")
