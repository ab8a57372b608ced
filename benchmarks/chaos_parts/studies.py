"""What tuning leaves, damaged: studies, leases, states of trials, config files.

A finished tuned bench, or one that was killed in a trial, has one of its files emptied, cut, or a bit of a region
flipped, and the same command is run: it must end with the very table and trials, or refuse in one line that names the
file. ``flowzoo tune`` reads the studies alone, from SQLite and from a journal: it must say the very same best trial,
or refuse. A config file must be taken as the same options, or be refused, where it is not YAML any more; what another
digit in it means nobody can tell, for it has no checksum: it is a file that people edit.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from functools import partial
from pathlib import Path

from chaos_parts import commands, moments
from chaos_parts.commands import do, one_line, succeed
from chaos_parts.compare import differences, trials
from chaos_parts.counts import FAULT, REFUSED, UNCHANGED, UNDETECTABLE, Row
from chaos_parts.damage import every_region
from chaos_parts.kills import memory
from chaos_parts.moments import TRIAL, Moment
from flowzoo.config import ConfigError
from flowzoo.harness.settings import read
from flowzoo.train_config import FitConfig

REGIONS, SHORT = 8, 1
SECTIONS = {"train": FitConfig}
HEARTBEAT = 1  # seconds; a lease that nobody can read is waited out for four times as long


def run(short: bool, seed: int) -> list[Row]:
    """A row for each kind of file."""
    regions = SHORT if short else REGIONS
    with tempfile.TemporaryDirectory(dir=memory()) as name:
        root = Path(name)
        data, reference, killed = root / "data.npz", root / "undisturbed", root / "killed"
        commands.write_data(data)
        # Where a run is counts: its studies are named by their paths.
        out, words = root / "run", root / "words"
        again = commands.bench(data, out, "--set", f"tune.heartbeat={HEARTBEAT}")
        succeed(again, words)
        shutil.copytree(out, reference)
        rows = [_row("study.db, bench", again, out, reference, ["study.db"], regions, seed, reference)]
        shutil.rmtree(out)
        do(again, words, partial(moments.watch, root / "log", Moment(TRIAL, 58)))
        shutil.copytree(out, killed)
        found = sorted(path.name for path in killed.glob("*.state.safetensors"))
        rows.append(_row("state of a trial, bench", again, out, killed, found, regions // 4, seed, reference))
        found = sorted(str(path.relative_to(killed)) for path in killed.rglob("*.lease"))
        rows.append(_row("*.lease, bench", again, out, killed, found, regions // 8, seed, reference))
        shutil.rmtree(out)
        rows += [_tune(kind, data, root, regions, seed) for kind in ("study.db", "study.log")]
        rows.append(_configs(reference, regions, seed))
    return rows


def _row(
    what: str, arguments: list[str], out: Path, before: Path, names: list[str], regions: int, seed: int, wanted: Path
) -> Row:
    # Whose lease nobody can read is waited for until its heartbeat is stale, and begun again under a new number.
    again = what.startswith("*.lease")
    note = "its trial is begun again under another number" if again else ""
    row, source = Row("studies", what, note), random.Random(f"{seed} {what}")
    if not names:
        row.add(FAULT, "there is no such file")
    for name in names:
        good = (before / name).read_bytes()
        for how, content in every_region(good, max(1, regions), source):
            shutil.rmtree(out, ignore_errors=True)
            shutil.copytree(before, out)
            (out / name).write_bytes(content)
            process = do(arguments, out.with_name("words"))
            if process.status == 0:
                for left in out.glob("*.leases/*.lease"):  # that nobody can read, until it expires
                    left.unlink()
                # A study that was emptied is tuned again, from the same seeds.
                found = "; ".join(differences(out, wanted, study=not again))
            else:
                found = one_line(process, Path(name).name)
            outcome = FAULT if found else UNCHANGED if process.status == 0 else REFUSED
            row.add(outcome, f"{name}, {how}: {found}")
    return row


def _tune(kind: str, data: Path, root: Path, regions: int, seed: int) -> Row:
    """``flowzoo tune`` on a study that is over, of a storage whose only file is damaged."""
    row, source = Row("studies", f"{kind}, tune"), random.Random(f"{seed} {kind}")
    out = root / f"tune-{kind}"
    storage = "sqlite:///" if kind.endswith("db") else "journal:"
    out.mkdir()
    models = ["--models", "nice", *commands.MODELS["nice"], "--device", "cpu", "--steps", "20", "--trials", "4"]
    arguments = [
        "tune",
        *models,
        *commands.data_options(data),
        "--storage",
        f"{storage}{out / kind}",
        "--out",
        str(out),
    ]
    succeed(arguments, root / "first")
    words = root / f"best-{kind}"
    succeed(arguments, words)
    wanted, best = words.read_text(), sorted(out.glob("tuned/*.yaml"))[0].read_bytes()
    good, known = (out / kind).read_bytes(), trials(out, kind) if kind.endswith("db") else None
    for how, content in every_region(good, regions * 2, source):
        for left in out.glob(f"{kind}*"):
            if not left.is_dir():  # leases stay: of a journal they are all that says who is gone
                left.unlink()
        (out / kind).write_bytes(content)
        words.unlink(missing_ok=True)
        process = do(arguments, words)
        if process.status == 0:
            found = "" if words.read_text().endswith(wanted) else f"says {words.read_text()}, before {wanted}"
            found = found or ("" if sorted(out.glob("tuned/*.yaml"))[0].read_bytes() == best else "another config")
            if known is not None and not found and trials(out, kind) != known:
                found = "other trials"
            row.add(FAULT if found else UNCHANGED, f"{how}: {found}")
        else:
            found = one_line(process, kind)
            row.add(FAULT if found else REFUSED, f"{how}: {found}")
    return row


def _configs(folder: Path, regions: int, seed: int) -> Row:
    row, source = Row("studies", "tuned/*.yaml, read", ".yaml: no checksum"), random.Random(f"{seed} configs")
    for path in sorted(folder.glob("tuned/*.yaml")):
        good, wanted = path.read_bytes(), read(path, sections=SECTIONS)
        for how, content in every_region(good, regions, source):
            path.write_bytes(content)
            try:
                found = read(path, sections=SECTIONS)
                row.add(UNCHANGED if found == wanted else UNDETECTABLE)
            except ConfigError as error:
                said = str(error)
                row.add(REFUSED if "\n" not in said else FAULT, f"{path.name}, {how}: {said}")
            except Exception as error:
                row.add(FAULT, f"{path.name}, {how}: {type(error).__name__}: {error}")
        path.write_bytes(good)
    return row
