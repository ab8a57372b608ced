"""The run directory: held by one process, checked before anything trains, described in its README."""

from __future__ import annotations

import glob
import hashlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from flowzoo import checkpoint, lease, record
from flowzoo import config as configs
from flowzoo.config import ConfigError
from flowzoo.harness.plan import Cell
from flowzoo.harness.run import LEASES, record_path, state_paths
from flowzoo.harness.source import Source
from flowzoo.record import Record
from flowzoo.report import joined_hash
from flowzoo.storage import inside, write_atomic
from flowzoo.train import FitConfig

_WAYS_OUT = "give another --out, delete it, or add --force, which moves it to replaced/"
CONFIGS = "tuned"  # the folder of config files in a run directory
TABLES = ("table.csv", "table.md", "table.tex")


class RunDirectoryError(ValueError):
    """A run directory that is in use, or holds another run."""


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """The run directory, made if it is not there, for this process alone; what the disk refuses is one line."""
    from filelock import FileLock, Timeout

    foreign = [name for name in (*TABLES, "README.md") if (folder / name).exists()]
    if foreign and not (folder / "cells").is_dir():
        raise RunDirectoryError(f"{folder} holds a {foreign[0]} and no run of flowzoo; give another --out")
    try:
        for name in ("cells", "checkpoints", "figures", "replaced", CONFIGS):
            inside(folder, name)
        (folder / "cells").mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise RunDirectoryError(
            f"{folder} is in use by another flowzoo process; wait for it, or give another --out"
        ) from None
    except OSError as error:
        raise RunDirectoryError(f"cannot write to {folder} ({error.strerror}); give another --out") from error
    except ValueError as error:
        raise RunDirectoryError(f"{error}; give another --out") from error
    try:
        # Of a process that was killed while it wrote, unless workers of one that is gone are at it still.
        torn = [] if _at_work(folder) else [*folder.rglob(".*.tmp")]
        for file in torn:
            file.unlink(missing_ok=True)
        yield
    except BrokenPipeError:  # of the terminal, not of the folder
        raise
    except OSError as error:
        raise RunDirectoryError(
            f"cannot write to {folder} ({error.strerror or error}); what is finished is kept: "
            "make room, and the same command goes on"
        ) from error
    finally:
        with suppress(OSError):
            for path in (folder / LEASES).glob("[!.]*[!~]"):
                left = None if path.suffix == ".lease" else lease.take(path)  # those are of trials
                if left is not None:  # of one that was killed between its record and its end
                    left.release()
            (folder / LEASES).rmdir()  # if it is empty
        lock.release()


def _at_work(folder: Path) -> bool:
    return any(lease.is_held(path) for path in (folder / LEASES).glob("[!.]*"))


def make_writable(folder: Path) -> None:
    """Make a folder for files that a command writes at its end, and find out now whether it can.

    Raises:
        ConfigError: if it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot write to {folder} ({why}); give another --out") from None


def finished_cells(cells: Sequence[Cell], folder: Path, *, force: bool = False) -> dict[str, Record]:
    """Records of cells that are over; failed ones are run again. All that is there must be of these very cells.

    Args:
        cells: the plan.
        folder: the run directory.
        force: move the files of a cell that do not fit to ``<folder>/replaced/<n>``, rather than refuse them.

    Raises:
        RunDirectoryError, RecordError: for what does not fit, and for a damaged file.
    """
    found = {}
    replaced = _Replaced(folder)
    others = _of_other_folding(cells, folder)
    if others and not force:
        raise others[0][1]
    for path, _ in others:
        replaced.move(path.stem)
    for cell in cells:
        try:
            known = _known(cell, folder)
        except (RunDirectoryError, record.RecordError):
            if not force:
                raise
            replaced.move(cell.stem)
            known = None
        if known is not None and known.status == "ok":
            for left in _states(cell, folder):
                left.unlink(missing_ok=True)
            found[cell.stem] = known
    return found


def _known(cell: Cell, folder: Path) -> Record | None:
    """The record of a cell, if there is one; what was left of it must be of this very cell."""
    path = record_path(cell.stem, folder)
    known = record.load(path) if path.exists() else None
    if known is not None:
        if known.hash != cell.hash:
            raise _other(path, known.config, cell.config, known.hash, cell.hash)
        if known.status == "ok":
            scores_of(known, path)
            return known
    known_states = state_paths(cell, folder)
    for left, fit in known_states.items():
        _check_state(cell, left, fit)
    for left in _states(cell, folder):
        if left not in known_states and ".without_context." not in left.name:
            raise RunDirectoryError(f"{left} was left by a run with other levels of context_noise; {_WAYS_OUT}")
    return known


class _Replaced:
    """A folder in a run directory for what another run left there; it is made when something goes there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.target: Path | None = None

    def folder_of_now(self) -> Path:
        """The folder, which need not be there yet."""
        if self.target is None:
            taken = [int(p.name) for p in (self.folder / "replaced").glob("*") if p.name.isdecimal()]
            self.target = self.folder / "replaced" / str(max(taken, default=0) + 1)
        return self.target

    def move(self, stem: str) -> None:
        """Put all files of a cell there."""
        target = self.folder_of_now()
        for part in ("cells", "checkpoints"):
            # The record last: while it lies there, the rest of its cell is known not to fit.
            for path in sorted((self.folder / part).glob(f"{glob.escape(stem)}.*"), key=lambda p: p.suffix == ".json"):
                (target / part).mkdir(parents=True, exist_ok=True)
                path.rename(target / part / path.name)


def set_studies_aside(folder: Path) -> None:
    """Move the studies of a run directory, the states of their trials and the configs to ``<folder>/replaced/<n>``."""
    replaced = _Replaced(folder)
    # The study last: while it lies there, the rest is known not to fit.
    paths = [*folder.glob("*.state*.safetensors"), folder / CONFIGS, *sorted(folder.glob("study.db*"), reverse=True)]
    for path in paths:
        if path.exists():
            target = replaced.folder_of_now()
            target.mkdir(parents=True, exist_ok=True)
            path.rename(target / path.name)


def _states(cell: Cell, folder: Path) -> list[Path]:
    """The states that trainings of a cell left, whatever their options."""
    return [
        p for kind in ("state", "without_context.state") for p in (folder / "checkpoints").glob(f"{cell.stem}.{kind}*")
    ]


def _of_other_folding(cells: Sequence[Cell], folder: Path) -> list[tuple[Path, RunDirectoryError]]:
    """Records with folds where the plan has none, or the reverse: joined they would count groups twice."""
    found = []
    wanted = {(c.source.name, c.label, c.seed): c.source.fold is not None for c in cells}
    for path in sorted((folder / "cells").glob("*.json")):
        known = record.from_stem(path.stem)
        folded = wanted.get((known.get("dataset"), known.get("model"), known.get("seed")))  # type: ignore[arg-type]
        if folded is not None and folded != (known["fold"] is not None):
            was, now = ("without folds", "with them") if folded else ("with folds", "without them")
            found.append((path, RunDirectoryError(f"{path} is of a run {was}, and this one is {now}; {_WAYS_OUT}")))
    return found


def _check_state(cell: Cell, path: Path, fit: FitConfig) -> None:
    """Refuse the state of a training that a killed run with other options left."""
    if not path.exists():
        return
    try:
        left = checkpoint.read_meta(path)["fit"]
        was = {
            "data": {"split hash": left["split"]},
            "model": {"name": left["recipe"]["model"], **left["recipe"]["config"]},
            "train": left["config"],
        }
    except (checkpoint.CheckpointError, KeyError, TypeError) as error:
        raise RunDirectoryError(
            f"{path}: not the state of a training ({record.one_line(error)}); delete it to train from the start, "
            "or add --force"
        ) from error
    now = {
        "data": {"split hash": cell.source.splits.hash},
        "model": cell.config["model"],
        "train": configs.to_dict(fit),
    }
    if was != now:
        raise _other(path, was, now, _digest(was), _digest(now))


def scores_of(known: Record, path: Path) -> dict[str, Tensor]:
    """The per-event scores of a finished cell, which must average to the NLL of its record."""
    try:
        scores = record.load_scores(path)
        log_prob = scores["log_prob"].double()
        mean = -float((scores["weight"] * log_prob if "weight" in scores else log_prob).mean())
    except Exception as error:  # safetensors' own error derives from Exception directly
        why = record.one_line(error)
    else:
        nll = known.metrics.get("nll_nats")
        if nll is None or abs(mean - nll) <= 1e-6 * max(1.0, abs(nll)):
            return scores
        why = f"they average to {mean:.6g} nats, the record says {nll:.6g}"
    raise RunDirectoryError(
        f"{path.with_suffix('.safetensors')}: not the scores of this cell ({why}); delete {path} to run it again"
    )


def _other(path: Path, was: Any, now: Any, hash_was: str, hash_now: str) -> RunDirectoryError:
    return RunDirectoryError(
        f"{path} was made with other options or data, hash {hash_was}, now {hash_now} ({_difference(was, now)}); "
        + _WAYS_OUT
    )


def _digest(options: Any) -> str:
    return hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()[:16]


def _difference(old: Any, new: Any, prefix: str = "") -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(k for k in new if k not in old)]:
            if old.get(key) != new.get(key):
                return _difference(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else key)
    return (
        f"{prefix} was {old}, now {new}"
        if prefix
        else "other data, another version of flowzoo, or the model's file was edited"
    )


def command_of(folder: Path) -> str:
    """What made a run, as its README has it; empty if that is gone."""
    try:
        lines = (folder / "README.md").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.strip() for line in lines if line.startswith("    ")), "")


def write_readme(folder: Path, command: str, cells: Sequence[Cell]) -> None:
    """Say in the run directory what made it, from what data, and which file is what."""
    sources: dict[str, dict[int | None, Source]] = {}
    for cell in cells:
        sources.setdefault(cell.source.name, {})[cell.source.fold] = cell.source
    lines = ["# A flowzoo run", "", "Made by, and resumed with:", "", f"    {command}", ""]
    for name, folds in sources.items():
        source = next(iter(folds.values()))
        hashes = [fold.splits.hash for fold in folds.values()]
        cut = f"{len(hashes)} folds, together {joined_hash(hashes)}" if None not in folds else f"split hash {hashes[0]}"
        lines.append(f"- `{name}`: {source.note}; {cut}")
        lines += [f"  - {note}" for note in source.splits.data.notes]
    lines += [
        "",
        "| file | what it is |",
        "| --- | --- |",
        "| `report.html` | what to take from it, the tables and the figures on one page, which needs no other file |",
        "| `table.csv` `table.md` `table.tex` | the comparison, a row per dataset and model |",
        "| `figures/*.png` | how far models are apart, how they were trained, and what the data allow |",
        "| `cells/*.json` | one record per dataset, model, seed and fold |",
        "| `cells/*.safetensors` | log q of each test event (nats) and its group; what the figures show |",
        "| `checkpoints/*.safetensors` | trained flows: `flowzoo.load(path)` |",
        "| `study.db` | of tuning: the studies, for Optuna and its dashboard |",
        "| `tuned/*.yaml` | of tuning: the best configs, which `flowzoo fit --config` takes |",
        "",
    ]
    write_atomic(folder / "README.md", "\n".join(lines).encode())
