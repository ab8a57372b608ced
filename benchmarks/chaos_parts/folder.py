"""Each file of a run directory emptied, cut, and with a bit of every region flipped, and read again.

A record, its scores, a flow or the state of a training must come back as they were, or be refused by the name of the
file; a bench on the folder must end with the very table, or refuse. What a bench writes anew (tables, README) it must
write as it was.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import flowzoo
from chaos_parts.counts import FAULT, PREVIOUS, REFUSED, UNCHANGED, Row
from chaos_parts.damage import every_region
from flowzoo import checkpoint, record, train
from flowzoo.config import make
from flowzoo.data import Data, Splits
from flowzoo.report import read_cells
from flowzoo.seeding import generator
from flowzoo.train_config import FitConfig

REGIONS, BENCHES = 200, 12  # of each file; those of them that a whole bench is run on
MODELS = {"maf": {"num_steps": 1, "hidden_features": 8}}
OPTIONS: dict[str, Any] = {
    "train": {"steps": 30, "evaluate_every": 10},
    "draws": 20,
    "device": "cpu",
    "show": False,
    "baseline": False,
}


class _Stop(Exception):
    """Of a training, after its first checkpoint."""


def run(short: bool, seed: int) -> list[Row]:
    """A row for each kind of file."""
    regions, benches = (5, 1) if short else (REGIONS, BENCHES)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "run")
        noise = torch.randn(200, 3, generator=generator(seed, "chaos", "folder"))
        arrays = {"x": noise[:, :2], "context": noise[:, 2:]}
        bench = lambda: flowzoo.bench(MODELS, **arrays, out=folder, **OPTIONS)  # noqa: E731
        bench()
        rows = []
        for pattern, reader in (
            ("cells/*.json", _read_cell),
            ("cells/*.safetensors", _read_cell),
            ("checkpoints/*.safetensors", _read_flow),
        ):
            rows.append(_row(f"{pattern}, read", sorted(folder.glob(pattern)), reader, regions, seed))
        tables = {path: path.read_bytes() for path in sorted(folder.glob("table.*"))}
        again = _bench_again(bench, folder, tables)
        for pattern in ("cells/*.json", "cells/*.safetensors", "checkpoints/*.safetensors", "table.*", "README.md"):
            rows.append(_row(f"{pattern}, bench", sorted(folder.glob(pattern)), again, benches, seed, folder))
        rows.append(
            _row("*.state.safetensors, fit", *_training(Path(name, "fit.state.safetensors"), arrays), regions, seed)
        )
    return rows


def _row(
    what: str,
    files: list[Path],
    read: Callable[[Path], Any],
    regions: int,
    seed: int,
    folder: Path | None = None,
) -> Row:
    """Damage each file in every way, read it, and put back what was there."""
    row = Row("folder", what)
    source = random.Random(f"{seed} {what}")
    if not files:
        row.add(FAULT, "there is no such file")
    for path in files:
        good, wanted = path.read_bytes(), read(path)
        kept = None
        if folder is not None:
            kept = folder.with_name("kept")
            shutil.copytree(folder, kept)
        for how, content in every_region(good, regions, source):
            path.write_bytes(content)
            row.add(*_outcome(read, path, wanted, how, content == good))
            if folder is not None and kept is not None:
                shutil.rmtree(folder)
                shutil.copytree(kept, folder)
            path.write_bytes(good)
        if kept is not None:
            shutil.rmtree(kept)
    return row


def _outcome(read: Callable[[Path], Any], path: Path, wanted: Any, how: str, same: bool) -> tuple[str, str]:
    try:
        found = read(path)
    except (ValueError, OSError) as error:
        words = str(error)
        if path.stem.split(".safe")[0] in words and "\n" not in words and type(error).__module__.startswith("flowzoo."):
            return REFUSED, words
        return FAULT, f"{path.name}, {how}: says {type(error).__name__}: {words}"
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return FAULT, f"{path.name}, {how}: {type(error).__name__}: {error} ({where.filename}:{where.lineno})"
    if not _equal(found, wanted):
        return FAULT, f"{path.name}, {how}: other numbers, and not a word"
    written_anew = not same and path.exists() and path.parent.name not in ("cells", "checkpoints")
    return (PREVIOUS if written_anew else UNCHANGED), ""


def _equal(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, Tensor):
        return isinstance(found, Tensor) and found.equal(wanted)
    if isinstance(wanted, dict):
        return found.keys() == wanted.keys() and all(_equal(found[key], wanted[key]) for key in wanted)
    if isinstance(wanted, tuple):
        return len(found) == len(wanted) and all(map(_equal, found, wanted))
    return bool(found == wanted)


def _read_cell(path: Path) -> tuple[record.Record, dict[str, Tensor]]:
    """As a table does, which must say the same as the record itself."""
    path = path.with_suffix(".json")
    cells, errors = read_cells(path.parent)
    if errors:
        raise errors[0]
    (cell,) = (each for each in cells if each.record.stem == path.stem)
    return cell.record, cell.scores


def _read_flow(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    return flowzoo.load(path).state_dict(), checkpoint.read_meta(path)


def _bench_again(
    bench: Callable[[], Any], folder: Path, tables: dict[Path, bytes]
) -> Callable[[Path], dict[str, bytes]]:
    def again(path: Path) -> dict[str, bytes]:
        bench()
        return {file.name: file.read_bytes() for file in tables}

    return again


def _training(path: Path, arrays: dict[str, Tensor]) -> tuple[list[Path], Callable[[Path], dict[str, Tensor]]]:
    """The state that a training left, and how it goes on from there."""
    splits = Splits.make(Data(**arrays), seed=0)
    config = make(FitConfig, {"steps": 20, "evaluate_every": 5, "checkpoint_every": 5}, "train")

    def fit(path: Path, stop: int | None = None) -> dict[str, Tensor]:
        x_map, context_map = splits.maps()
        flow = flowzoo.build(
            "maf", (2,), (1,), x_map=x_map, context_map=context_map, generator=generator(0, "init"), **MODELS["maf"]
        )

        def halt(step: int, nll: float) -> None:
            if stop is not None and step >= stop:
                raise _Stop

        train.fit(flow, splits, config, seed=0, checkpoint=path, show=False, on_validation=halt)
        return dict(flow.state_dict())

    with contextlib.suppress(_Stop):
        fit(path, 15)
    return [path], fit
