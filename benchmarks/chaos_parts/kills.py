"""Kill a bench again and again, and compare what is left of it with an undisturbed run.

Runs a small bench on digits, kills it (SIGKILL) at a random moment of its work, no later than half of what the
undisturbed run took from its start, and runs the same command again. Where it finishes before its next kill it begins
anew in an empty folder, until all kills are spent. Every folder must end with the table of an undisturbed run, equal in
every digit of every column but those of time and memory, with the same per-event scores and the same weights, and
without a trace of what was half written.
"""

from __future__ import annotations

import csv
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from chaos_parts.counts import FAULT, UNCHANGED, Row
from flowzoo.checkpoint import load_tensors

KILLS = 50
MEASURED = {"train_seconds", "sample_seconds_per_1000", "posterior_seconds", "peak_memory_mb"}
OPTIONS = (
    *("--models", "maf,realnvp", "--data", "digits", "--device", "cpu"),
    *("--set", "model.num_steps=2", "--set", "model.hidden_features=32", "--set", "bench.draws=50"),
    *("--set", "train.evaluate_every=20", "--set", "train.checkpoint_every=2"),
)


def start(out: Path, steps: int) -> subprocess.Popen[bytes]:
    """The bench as a process of its own, its words in a file beside the folder."""
    command = [sys.executable, "-m", "flowzoo.cli", "bench", *OPTIONS, "--steps", str(steps), "--out", str(out)]
    with out.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


def at_work(process: subprocess.Popen[bytes], out: Path, began: float) -> bool:
    """Wait until the process holds the folder, which its README says; False if it ended first."""
    readme = out / "README.md"
    while process.poll() is None:
        if readme.exists() and readme.stat().st_mtime >= began:
            return True
        time.sleep(0.002)
    return False


def undisturbed(out: Path, steps: int) -> float:
    """Run to the end; the seconds of work, without those of starting."""
    began = time.time()
    process = start(out, steps)
    at_work(process, out, began)
    working = time.monotonic()
    if process.wait() != 0:
        raise SystemExit(f"the undisturbed run failed:\n{out.with_suffix('.log').read_text()}")
    return time.monotonic() - working


def phase(out: Path) -> str:
    """Where a killed process stood."""
    if list(out.rglob(".*.tmp")):
        return "while writing a file"
    if list(out.glob("checkpoints/*.state.safetensors")):
        return "while training, with a state"
    return "before or between the trainings"


def differences(out: Path, reference: Path) -> list[str]:
    """What is not as in the undisturbed run."""
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
    return found


def contents(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata of a file (whose bytes may differ all the same: its header has no order)."""
    return load_tensors(path) if path.parent.name == "checkpoints" else (load_file(path), {})


def run(short: bool, seed: int) -> list[Row]:
    """A row for each phase in which a process was killed; a difference is a fault of the last kill before it."""
    kills, steps = (3, 40) if short else (KILLS, 150)
    moments = random.Random(f"{seed} kills")
    rows: dict[str, Row] = {}
    spent = runs = 0
    with tempfile.TemporaryDirectory() as name:
        reference = Path(name, "undisturbed")
        work = undisturbed(reference, steps)
        while spent < kills:
            out = Path(name, f"run{runs}")
            runs += 1
            killed: list[Row] = []
            while True:
                began = time.time()
                process = start(out, steps)
                if at_work(process, out, began) and spent < kills:
                    try:
                        process.wait(moments.uniform(0, work / 2))
                    except subprocess.TimeoutExpired:
                        process.send_signal(signal.SIGKILL)
                if process.wait() != -signal.SIGKILL:
                    break
                spent += 1
                where = phase(out)
                killed.append(rows.setdefault(where, Row("kills", where)))
            if process.returncode != 0:
                found = [f"{out.name}: ended with {process.returncode}:\n{out.with_suffix('.log').read_text()}"]
            else:
                found = differences(out, reference)
            for row in killed[: len(killed) - bool(found)]:
                row.add(UNCHANGED)
            if found:
                (killed or [rows.setdefault("never", Row("kills", "never"))])[-1].add(FAULT, "; ".join(found))
    return [rows[where] for where in sorted(rows)]
