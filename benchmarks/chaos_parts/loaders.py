"""Every loader that reads files, fed with damaged ones: a clear error or the right data.

A loader that is given a bad file must say so in one line that names the file (or the column, where the data were read
and have no density), or load what it would have loaded from the good one. Other numbers without an error are counted as
undetectable where the format has no checksum and only bytes were changed, and are a fault everywhere else, as are any
other exception, a crash, a minute's wait, and gigabytes.
"""

from __future__ import annotations

import hashlib
import os
import random
import resource
import signal
import tempfile
import traceback
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from chaos_parts.counts import FAULT, REFUSED, UNCHANGED, UNDETECTABLE, Row
from chaos_parts.damage import BYTES, CONTENT
from chaos_parts.formats import CHECKSUMS, Case, cases
from flowzoo.data import Data

FILES, SHORT = 1000, 25  # of each loader
# What the house says of data that were read and make no sense: there the column counts, whatever file it is of.
PARTS_OF_DATA = ("column '", "the given split", "the data has", "no density")
SECONDS, MEMORY = 20, 2 * 2**30  # what one bad file may take, in excess of what the process has


def run(short: bool, seed: int) -> list[Row]:
    """A row for each loader."""
    return [_row(case, SHORT if short else FILES, seed) for case in cases()]


def _row(case: Case, count: int, seed: int) -> Row:
    row = Row("loaders", case.name, case.checksum)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        good = {path: file.write(file.arrays) for path, file in (*case.files.items(), *case.unharmed.items())}
        for path, content in good.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        wanted = _fingerprint(case.load(folder))
        done = 0
        while done < count:
            outcomes = _in_child(case, folder, good, wanted, range(done, count), seed)
            for outcome, words in outcomes:
                row.add(outcome, words)
            done += len(outcomes)
    return row


def _in_child(
    case: Case, folder: Path, good: Mapping[str, bytes], wanted: str, numbers: range, seed: int
) -> list[tuple[str, str]]:
    """The outcomes of these files, from a process of its own, until one kills it."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        status = 1
        with suppress(BaseException), os.fdopen(write, "w") as out:
            in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (in_use + MEMORY, in_use + MEMORY))
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            for number in numbers:
                signal.alarm(SECONDS)
                outcome, words = _try(case, folder, good, wanted, number, seed)
                out.write(f"{outcome}\t{' '.join(words.split())}\n")
                out.flush()
            status = 0
        os._exit(status)
    os.close(write)
    with os.fdopen(read, errors="replace") as lines:
        found = [tuple(line.rstrip("\n").split("\t", 1)) for line in lines]
    _, status = os.waitpid(child, 0)
    if status and len(found) < len(numbers):
        how = "took too long" if status == signal.SIGALRM else f"killed the process ({status})"
        path, kind, _ = _damaged(case, good, numbers[len(found)], seed)
        found.append((FAULT, f"{path}, {kind}, number {numbers[len(found)]}: {how}"))
    return found  # type: ignore[return-value]  # pairs


def _damaged(case: Case, good: Mapping[str, bytes], number: int, seed: int) -> tuple[str, str, bytes]:
    """Which file is damaged how in a case's number: its path, the kind of damage, its bytes."""
    source = random.Random(f"{seed} {case.name} {number}")
    while True:
        path = source.choice(list(case.files))
        kind = source.choice([*BYTES, *CONTENT])
        if kind in BYTES:
            content = BYTES[kind](good[path], source)
            if len(content) < 2 and number > 0 and kind == "truncated":
                continue
            return path, kind, content
        file = case.files[path]
        try:
            return path, kind, file.write(CONTENT[kind](file.arrays, source))
        except Exception:  # what this format cannot hold cannot come from it
            continue


def _try(case: Case, folder: Path, good: Mapping[str, bytes], wanted: str, number: int, seed: int) -> tuple[str, str]:
    path, kind, content = _damaged(case, good, number, seed)
    (folder / path).write_bytes(content)
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            data = case.load(folder)
            found = _fingerprint(data)
    except (ValueError, OSError) as error:
        words = str(error)
        named = Path(path).name in words or any(part in words for part in PARTS_OF_DATA)
        own = type(error).__module__.startswith("flowzoo.") or isinstance(error, OSError)
        if "\n" in words or not named or not own:
            return FAULT, f"{path}, {kind}, number {number}: says {type(error).__name__}: {words}"
        return REFUSED, words
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        words = f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})"
        return FAULT, f"{path}, {kind}, number {number}: {words}"
    finally:
        (folder / path).write_bytes(good[path])
    if said:
        return FAULT, f"{path}, {kind}, number {number}: warns {said[0].message}"
    if found == wanted:
        return UNCHANGED, ""
    if kind in BYTES and Path(path).suffix not in CHECKSUMS:
        return UNDETECTABLE, ""
    return FAULT, f"{path}, {kind}, number {number}: other numbers, and not a word"


def _fingerprint(data: Data) -> str:
    """Of all that a flow would be trained on."""
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            value = value.numpy()
        if isinstance(value, np.ndarray):
            digest.update(f"{value.dtype}{value.shape}".encode() + value.tobytes())
        elif isinstance(value, Mapping):
            for key in sorted(value):
                digest.update(key.encode())
                add(value[key])
        elif isinstance(value, Sequence) and not isinstance(value, str):
            for each in value:
                add(each)
        else:
            digest.update(repr(value).encode())

    add([data.x, data.context, data.context_index, data.groups, data.given_split, data.names, data.context_names])
    add([data.folds, data.group_names, data.references.get("read", ())])
    return digest.hexdigest()
