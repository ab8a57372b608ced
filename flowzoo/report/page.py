"""The report of a run as one HTML file that needs no other: the verdict first, then the tables and the figures."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowzoo.record import Record
from flowzoo.report.columns import name_of, significant
from flowzoo.report.render import Block, blocks
from flowzoo.report.table import Cell, Table
from flowzoo.report.verdict import verdicts
from flowzoo.report.words import BAD, DOUBTFUL, GOOD

if TYPE_CHECKING:
    from jinja2 import Template

# What a figure shows, by the first part of its file's name.
CAPTIONS = {
    "nll": "NLL less that of the best, paired by event, ± 2 standard errors over groups; filled: tied with the best",
    "training": "NLL against the step: validation, and training fainter; a dot at the weights that were kept",
    "maps": "Real events, and below them draws at the same contexts",
    "power": "Power spectra of real and drawn maps at the same contexts, and their ratio",
    "marginals": "Each column, real and drawn",
    "corner": "Pairs of columns, real and drawn",
    "particles": "Projections, real and drawn, and what is left between them",
    "contours": "Contours that hold given shares of the mass, real and drawn",
    "mmd": "How far the draws of each group are from it, against how far it is from the groups of training",
    "calibration": "Calibration of the posteriors: inside the bands nothing speaks against them",
}


def to_html(
    cells: Sequence[Cell], table: Table, figures: Sequence[Path], flows: Mapping[str, str], command: str
) -> str:
    """The page.

    Args:
        cells: finished ones, failed ones too.
        table: theirs.
        figures: PNG files, named as ``write_figures`` does; they are put into the page.
        flows: by ``Record.stem``, where its trained flow is.
        command: what made it; empty if it is not known.
    """
    by_block: dict[str, list[Block]] = {}
    for block in blocks(table):
        by_block.setdefault(block.dataset, []).append(block)
    parts = [
        {
            **_about([cell.record for cell in cells if cell.record.dataset == verdict.dataset], flows, verdict.take),
            "name": verdict.dataset,
            "take": verdict.take,
            "lines": verdict.lines,
            "blocks": [_block(block) for block in by_block[verdict.dataset]],
            "legend": dict.fromkeys(text for block in by_block[verdict.dataset] for text in block.legend),
            "figures": [_figure(path) for path in figures if _shows(path, verdict.dataset)],
        }
        for verdict in verdicts(table, cells)
    ]
    names = ", ".join(str(part["name"]) for part in parts)
    return _template().render(title=f"flowzoo: {names}", made=_made(cells), command=command, parts=parts)


@cache
def _template() -> Template:
    from jinja2 import Environment

    text = (resources.files("flowzoo.report") / "page.html.j2").read_text(encoding="utf-8")
    return Environment(autoescape=True, trim_blocks=True).from_string(text)


def _made(cells: Sequence[Cell]) -> str:
    """When, by what, and on which machine."""
    runs = [cell.record.run for cell in cells if cell.record.run]
    if not runs:
        return ""
    versions = runs[-1].get("versions", {})
    last = max(str(run.get("finished", "")) for run in runs)
    devices = dict.fromkeys(f"{run.get('device', '?')}, {run.get('threads', '?')} threads" for run in runs)
    return "; ".join([last, *devices, ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))])


def _about(records: Sequence[Record], flows: Mapping[str, str], take: str) -> dict[str, Any]:
    """What a part of the page says of its data and its trainings."""
    done = [record for record in records if record.status == "ok"]
    first = (done or list(records))[0]
    # What the loader did stands in every record; what a training did, in its own alone.
    notes = [note for note in first.notes if all(note in record.notes for record in done)]
    chosen = [record for record in done if record.model == take and record.stem in flows]
    best = min(chosen, key=lambda record: record.metrics.get("validation_nll", 0.0), default=None)
    return {
        "about": f"{first.n_train:,} training and {first.n_test:,} test events; split {first.split_hash[:12]}",
        "notes": notes,
        "load": "" if best is None else _usage(flows[best.stem], first),
        "cells": [_cell(record, notes) for record in records],
        "configs": [(record.model, _text(record.config)) for record in {r.model: r for r in records}.values()],
    }


def _usage(path: str, record: Record) -> str:
    """How to use a flow from Python."""
    names = record.labels.get("context_names", [])
    of = f" ({', '.join(names)})" if 0 < len(names) <= 8 else ""
    return "\n".join(
        [
            f'flow = flowzoo.load("{path}")',
            f"draws = flow.sample(context, (100,))   # for each context{of}, in the units of the data",
            "scores = flow.log_prob(x, context)     # nats",
        ]
    )


def _cell(record: Record, common: Sequence[str]) -> dict[str, str]:
    def number(name: str, digits: int = 3) -> str:
        return significant(record.metrics[name], digits) if name in record.metrics else ""

    own = [note for note in record.notes if note not in common]
    return {
        "model": record.model,
        "seed": str(record.seed),
        "status": record.status,
        "steps": f"{record.metrics.get('train_steps', 0):.0f}",
        "seconds": number("train_seconds"),
        "validation": number("validation_nll", 5),
        "story": "; ".join(filter(None, [record.reason or "", *own])),
    }


def _text(config: Mapping[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(dict(config), allow_unicode=True, width=100)


def _block(block: Block) -> dict[str, Any]:
    meanings = dict(text.split(": ", 1) for text in block.legend if ": " in text)
    return {
        "title": block.title,
        "headings": [(heading, meanings.get(name_of(heading), "")) for heading in block.headings],
        "rows": [
            {"bold": bold, "cells": [(text, _word(text)) for text in row]}
            for row, bold in zip(block.rows, block.bold, strict=True)
        ],
        "reasons": block.reasons,
    }


def _word(text: str) -> str:
    """The word that a number comes with, good, doubtful or bad."""
    return next((word for word in (GOOD, DOUBTFUL, BAD) if word in text.split()[1:]), "")


def _shows(path: Path, dataset: str) -> bool:
    about = path.stem.partition(".")[2]
    return about == dataset or about.startswith(f"{dataset}.")


def _figure(path: Path) -> dict[str, str]:
    kind = path.stem.partition(".")[0]
    content = base64.b64encode(path.read_bytes()).decode()
    return {"source": f"data:image/png;base64,{content}", "caption": CAPTIONS.get(kind, path.stem)}
