"""Other data or options under a run that is there: refused with both hashes, and nothing lost with ``--force``.

A tuned bench is left as it ended, or killed in a trial, in the training of a cell, or of a tuned one. Then it is asked
for with something changed. It must refuse in one line that has two hashes, before it trains anything, and leave every
file as it was; with ``--force`` it must end with the numbers of the changed command in an empty folder, and whatever
it had before must be in ``replaced/``, byte for byte, or still in its place.
"""

from __future__ import annotations

import random
import re
import shutil
import tempfile
from functools import partial
from pathlib import Path

from chaos_parts import commands, moments
from chaos_parts.commands import do, one_line, succeed
from chaos_parts.compare import differences, files
from chaos_parts.counts import FAULT, REFUSED, Row
from chaos_parts.kills import memory
from chaos_parts.moments import TRAINING, TRIAL, Moment

LEFT: dict[str, Moment | None] = {
    "as it ended": None,
    "killed in a trial": Moment(TRIAL, 60),
    "killed in a training": Moment(TRAINING, 15),
    "killed in a tuned training": Moment(TRAINING, 95),
}
CHANGES: dict[str, list[str]] = {
    "the data": [],
    "an option of the data": ["--set", "data.x=c", "--set", "data.context=x"],
    "an option of a model": ["--set", "maf.hidden_features=9"],
    "an option of the training": ["--set", "train.batch_size=32"],
    "the split": ["--set", "bench.split_seed=1"],
}
HASHES = r"hash ([0-9a-f]{16}), (?:now|this command) ([0-9a-f]{16})\b"
# What a command writes anew in any case, or what says who is at it.
ANEW = ("README.md", "report.html", "table.", "figures/", ".lock", "leases", "study.db.leases")


def run(short: bool, seed: int) -> list[Row]:
    """A row for each change."""
    source = random.Random(f"{seed} changed")
    rows = []
    with tempfile.TemporaryDirectory(dir=memory()) as name:
        root = Path(name)
        data, other = root / "data" / "t.npz", root / "other.npz"
        data.parent.mkdir()
        commands.write_data(other, seed=1)
        made: dict[str, Path] = {}
        chosen = source.sample(sorted(LEFT), 1) if short else list(LEFT)
        commands.write_data(data)
        for how in chosen:
            out = made[how] = root / "made" / how.replace(" ", "-")
            out.parent.mkdir(exist_ok=True)
            watch = partial(moments.watch, root / "log", LEFT[how])
            do(commands.bench(data, out), root / "words", watch)
        for what, options in CHANGES.items():
            if short and what not in ("the data", "an option of a model"):
                continue
            row = Row("changed", what)
            shutil.copy(other, data) if what == "the data" else commands.write_data(data)
            fresh = root / "fresh" / what.replace(" ", "-")
            fresh.parent.mkdir(exist_ok=True)
            succeed(commands.bench(data, fresh, *options), root / "words")
            for how in chosen:
                out = root / "run"
                shutil.copytree(made[how], out)
                found = _refused(commands.bench(data, out, *options), out, root / "words")
                row.add(FAULT if found else REFUSED, f"{how}: {found}")
                found = _forced(commands.bench(data, out, "--force", *options), out, fresh, root / "words")
                row.add(FAULT if found else REFUSED, f"{how}, --force: {found}")
                shutil.rmtree(out)
            row.note = "refused, and then gone on with by --force"
            rows.append(row)
    return rows


def _refused(arguments: list[str], out: Path, words: Path) -> str:
    before = files(out)
    log = words.with_name("refused.log")
    process = do(arguments, words, partial(moments.watch, log))
    trained = moments.begun(log)
    log.unlink(missing_ok=True)
    found = [said for said in [one_line(process, "hash")] if said]
    hashes = re.search(HASHES, process.said())
    if hashes is None or hashes[1] == hashes[2]:
        found.append(f"it does not say two hashes: {process.said()[:400]}")
    after = files(out)
    changed = [name for name, content in before.items() if not name.startswith(ANEW) and after.get(name) != content]
    if changed or trained:
        found.append(f"it changed {changed} and trained {trained}")
    return "; ".join(found)


def _forced(arguments: list[str], out: Path, fresh: Path, words: Path) -> str:
    before = files(out)
    process = do(arguments, words)
    if process.status != 0:
        return f"status {process.status}: {process.said()[-500:]}"
    after = files(out)
    kept = {content for name, content in after.items()}
    lost = [
        name
        for name, content in before.items()
        if content and content not in kept and not name.startswith(ANEW) and not name.endswith("-journal")
    ]
    found = [f"lost {lost}"] if lost else []
    shutil.rmtree(out / "replaced", ignore_errors=True)
    return "; ".join([*found, *differences(out, fresh)])
