"""What a run directory holds, and how it differs from that of an undisturbed run."""

from __future__ import annotations

import csv
import shutil
import tempfile
from pathlib import Path
from typing import Any

import optuna
from safetensors.torch import load_file
from torch import Tensor

from flowzoo.checkpoint import load_tensors

MEASURED = {"train_seconds", "sample_seconds_per_1000", "posterior_seconds", "peak_memory_mb"}


def trials(folder: Path, name: str = "study.db") -> dict[str, list[tuple[Any, ...]]]:
    """By study all of its trials that does not depend on the clock, read from a copy: a reader may roll back."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory() as copy:
        for path in folder.glob(f"{name}*"):
            if path.is_file():
                shutil.copy(path, copy)
        if not Path(copy, name).exists():
            return {}
        storage = optuna.storages.RDBStorage(f"sqlite:///{copy}/{name}")
        try:
            return {
                study.study_name: [
                    (t.number, t.state.name, t.params, t.values, t.intermediate_values, t.user_attrs.get("reason"))
                    for t in storage.get_all_trials(study._study_id)
                ]
                for study in storage.get_all_studies()
            }
        finally:
            storage.remove_session()
            storage.engine.dispose()


def finished(folder: Path) -> dict[str, str]:
    """What is over: cells and trials by the label of their training, and when they ended."""
    found = {}
    for path in folder.glob("cells/*.json"):
        dataset, model, seed = path.stem.split(".")
        if '"status": "ok"' in path.read_text():
            found[f"{dataset} {model} seed {seed}"] = str(path.stat().st_mtime_ns)
    for study, of_study in trials(folder).items():
        found |= {f"{study} trial {t[0]}": str(t) for t in of_study if t[1] in ("COMPLETE", "PRUNED", "FAIL")}
    return found


def differences(out: Path, reference: Path, study: bool = True) -> list[str]:
    """What is not as in the undisturbed run; without ``study``, of all but trials and what is said of them."""
    found = []
    tables = [list(csv.DictReader((folder / "table.csv").open())) for folder in (out, reference)]
    if len(tables[0]) != len(tables[1]) or tables[0][0].keys() != tables[1][0].keys():
        return [f"{out.name}: the table has other rows or columns"]
    for row, wanted in zip(*tables, strict=True):
        for column in wanted.keys() - MEASURED:
            if row[column] != wanted[column]:
                found.append(f"{out.name}: {wanted['model']}, {column}: {row[column]}, undisturbed {wanted[column]}")
    names = [sorted(str(p.relative_to(f)) for p in f.rglob("*") if p.is_file()) for f in (out, reference)]
    if names[0] != names[1]:
        found.append(f"{out.name}: other files: {sorted(set(names[0]) ^ set(names[1]))}")
        return found
    for path in sorted(reference.rglob("*.safetensors")):
        (tensors, meta), (wanted, said) = (
            contents(folder / path.relative_to(reference)) for folder in (out, reference)
        )
        unlike = [k for k in tensors.keys() | wanted.keys() if k not in tensors or not tensors[k].equal(wanted[k])]
        unlike += [k for k in said if meta.get(k) != said[k]]
        if unlike:
            found.append(f"{out.name}: {path.relative_to(reference)} differs in {', '.join(sorted(unlike))}")
    for path in sorted(reference.glob("tuned/*.yaml")) if study else []:
        texts = [(f / "tuned" / path.name).read_text() for f in (out, reference)]
        texts = [text.replace(str(out), "").replace(str(reference), "") for text in texts]
        if texts[0] != texts[1]:
            found.append(f"{out.name}: tuned/{path.name} differs")
    if study and trials(out) != trials(reference):
        found.append(f"{out.name}: other trials: {trials(out)}, undisturbed {trials(reference)}")
    return found


def contents(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata of a file (whose bytes may differ all the same: its header has no order)."""
    return load_tensors(path) if path.parent.name != "cells" else (load_file(path), {})


def files(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def left_over(folder: Path) -> list[str]:
    """Temporary files that nobody needs."""
    return [p.name for p in folder.rglob(".*.tmp")]
