"""What somebody made to do harm: pickles that run a command, YAML that fills the memory, names that lead elsewhere.

Each must be refused in a line (line breaks are the command line's to join), quickly, with nothing executed and nothing
written outside of the folder. What is made here runs ``touch`` on one file, at most; that the file is not there
afterwards is what is counted.
"""

from __future__ import annotations

import io
import os
import pickle
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

import flowzoo
from chaos_parts.counts import FAULT, REFUSED, Row
from flowzoo import record
from flowzoo.autoencoder import load_autoencoder
from flowzoo.config import ConfigError
from flowzoo.data import configure
from flowzoo.harness.settings import read
from flowzoo.registry import DATASETS, MODELS
from flowzoo.storage import inside

SECONDS = 5.0  # that a refusal may take
LINE = 1500  # characters of one: a bomb is not written out

Case = tuple[str, Callable[[], Any]]


def run(short: bool, seed: int) -> list[Row]:
    """A row for each kind; there are few, so that short is the same."""
    rows = []
    for what, made in (("pickles", pickles), ("YAML", texts), ("names and links", names)):
        row = Row("hostile", what)
        with tempfile.TemporaryDirectory() as name:
            for words, attempt in made(Path(name, "work")):
                row.add(*_outcome(words, attempt, Path(name)))
        rows.append(row)
    return rows


def _outcome(words: str, attempt: Callable[[], Any], folder: Path) -> tuple[str, str]:
    started = time.monotonic()
    try:
        attempt()
    except (ValueError, OSError) as error:
        if len(str(error)) > LINE:
            return FAULT, f"{words}: says {len(str(error))} characters: {error}"
    except Exception as error:
        return FAULT, f"{words}: {type(error).__name__}: {error}"
    else:
        return FAULT, f"{words}: taken"
    finally:
        outside = [path.name for path in folder.iterdir() if path.name != "work"]
    if outside:
        return FAULT, f"{words}: left {', '.join(outside)}"
    if time.monotonic() - started > SECONDS:
        return FAULT, f"{words}: took {time.monotonic() - started:.0f} s"
    return REFUSED, ""


class Evil:
    """Runs a command where it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.function, self.arguments


def pickles(folder: Path) -> Iterator[Case]:
    """Of every file that is read, one that is a pickle or has one in it."""
    folder.mkdir()
    mark = folder.parent / "executed"
    command = Evil(os.system, f"touch {mark}")
    evil = np.array([command, 1.0], dtype=object)

    def put(name: str, content: bytes) -> Path:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
        return folder / name

    def numpy_bytes(save: Callable[..., None], *arrays: Any, **named: Any) -> bytes:
        content = io.BytesIO()
        save(content, *arrays, **named)
        return content.getvalue()

    objects = numpy_bytes(np.save, evil)
    archive = numpy_bytes(np.savez, a=evil, b=np.ones(2), c=evil)
    torch_file = numpy_bytes(lambda file, value: torch.save(value, file), {"a": command})
    plain = {protocol: pickle.dumps({b"data": command, b"labels": [1]}, protocol) for protocol in range(6)}
    forms = {
        "objects": objects,
        "archive": archive,
        "torch": torch_file,
        **{f"protocol {k}": v for k, v in plain.items()},
    }
    for form, content in forms.items():
        for ending in ("npz", "npy", "csv", "parquet", "h5"):
            path = put(f"{form}/t.{ending}", content)
            yield (
                f"table .{ending}, {form}",
                lambda path=path: configure("table", {"path": str(path), "x": "a,b"}).load(),
            )
        path = put(f"{form}/flow.safetensors", content)
        yield f"a flow, {form}", lambda path=path: flowzoo.load(path)
        yield f"an autoencoder, {form}", lambda path=path: load_autoencoder(path)
        path = put(f"{form}/a.maf.0.json", content)
        yield f"a record, {form}", lambda path=path: record.load(path)
        maps = put(f"{form}/Maps_HI_SIMBA_LH_z=0.npy", content).parent
        put(f"{form}/params_LH_SIMBA.txt", b"1 2\n3 4\n")
        yield f"maps, {form}", lambda maps=maps: configure("maps", {"root": str(maps)}).load()
        for batch in ("data_batch_1", "test_batch"):
            root = put(f"{form}/{batch}", content).parent
        yield f"cifar10, {form}", lambda root=root: configure("cifar10", {"root": str(root)}).load()
    calls: dict[str, Any] = {
        "eval": Evil(eval, f"open({str(mark)!r}, 'w')"),
        "open": Evil(open, str(mark), "w"),
        "getattr": Evil(getattr, "x", "upper"),
        "numpy.load": Evil(np.load, str(mark)),
        "numpy.memmap": Evil(np.memmap, str(mark), "u1", "w+", 0, 8),
        "numpy.fromfile": Evil(np.fromfile, str(mark)),
        "a codec": Evil(__import__("codecs").decode, b"x", "zlib"),
    }
    for name, call in calls.items():
        for batch in ("data_batch_1", "test_batch"):
            root = put(f"calls {name}/{batch}", pickle.dumps({b"data": call, b"labels": [1]}, 2)).parent
        yield f"cifar10, a pickle that calls {name}", lambda root=root: configure("cifar10", {"root": str(root)}).load()
    for name, content in {
        "a persistent id": b"Pevil\n.",
        "an extension": b"\x80\x02\x82\x01.",
        "an instance": b"(ios\nsystem\n.",
        "a gigabyte": b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"x.",
        "a memo of terabytes": b"\x80\x02]r\xff\xff\xff\x7f.",
    }.items():
        for batch in ("data_batch_1", "test_batch"):
            root = put(f"opcode {name}/{batch}", content).parent
        yield f"cifar10, {name}", lambda root=root: configure("cifar10", {"root": str(root)}).load()


def _bomb(line: str) -> str:
    """Twenty aliases, each of nine of the one before."""
    lines = ["a0: &a0 {x: lol}"]
    lines += [f"a{i}: &a{i} {line.format(', '.join([f'*a{i - 1}'] * 9))}" for i in range(1, 21)]
    return "\n".join(lines)


TEXTS = {
    "a tag that calls": "data: !!python/object/apply:os.system ['touch {mark}']",
    "a tag that makes an object": "data: !!python/object:os.system {{}}",
    "a tag of a name": "data: !!python/name:os.system",
    "a tag of a module": "data: !!python/module:os",
    "a tag of a tuple": "data: !!python/tuple [digits]",
    "a tag of its own": "data: !mine digits",
    "a tag that does not fit": "data: !!timestamp digits",
    "a truth that is none": "data: !!bool perhaps",
    "a key twice": "data: digits\ndata: maps",
    "a key twice, nested": "data: {{name: table, x: a, x: b}}",
    "a key twice, quoted": "data: digits\n'data': maps",
    "a bomb of lists": _bomb("[{}]").replace("{", "{{").replace("}", "}}"),
    "a bomb of merges": _bomb("{{<<: [{}]}}").replace("{", "{{").replace("}", "}}"),
    "a list in itself": "data: &a [*a]",
    "a mapping in itself": "data: &a {{name: *a}}",
    "brackets": "data: " + "[" * 5000,
    "braces": "data: " + "{{a: " * 3000,
    "a number of base 60": "data: 1" + ":59" * 30_000,
    "a number of many digits": "train: {{lr: " + "9" * 90_000 + "}}",
    "a number in base 16": "train: {{lr: 0x" + "f" * 90_000 + "}}",
    "a million lines": "# nothing\n" * 1_000_000,
    "NUL": "data: digits\0",
    "control characters": "data: \x1b[31mdigits",
    "no UTF-8": "data: \udcff",
    "two documents": "data: digits\n---\ndata: maps",
}


def texts(folder: Path) -> Iterator[Case]:
    """Config files, and what of them fits behind ``--set``."""
    folder.mkdir()
    mark = folder.parent / "executed"
    for name, text in TEXTS.items():
        path = folder / f"{name}.yaml"
        path.write_bytes(text.format(mark=mark).encode(errors="surrogateescape"))
        yield name, lambda path=path: read(path, default_models="maf", sections={"train": dict})
    for name in ("a tag that calls", "a list in itself", "brackets"):
        value = TEXTS[name].format(mark=mark).removeprefix("data: ")
        yield (
            f"--set, {name}",
            lambda value=value: read(None, default_data="table", default_models="maf", sets=[f"data.path={value}"]),
        )


NAMES = (
    *("../x", "..", ".", "", "/etc/x", "a/b", "a\\b", "a\0b", "~", "~/x", ".hidden"),
    *("a\nb", "\x1b[31m", "a*", "[a]", "x" * 300),
)


def names(folder: Path) -> Iterator[Case]:
    """Of datasets, models and cells, and links in place of folders and files."""
    folder.mkdir()
    for name in NAMES:
        yield f"dataset {name!r:.20}", lambda name=name: record.stem(name, "maf", 0)
        yield f"model {name!r:.20}", lambda name=name: record.stem("digits", name, 0)
        yield f"registered dataset {name!r:.20}", lambda name=name: DATASETS.get(name)
        yield f"registered model {name!r:.20}", lambda name=name: MODELS.get(name)
        yield f"record of {name!r:.20}", lambda name=name: record.save(_record(name), folder / "run" / "cells")
    for name in ("../x", "..", ".", "", "/etc/x", "a\0b", "a/../../x"):
        yield f"path {name!r}", lambda name=name: inside(folder, name)
    (folder / "linked").mkdir()
    (folder / "linked" / "cells").symlink_to(folder.parent)
    yield "cells that is a link", lambda: record.save(_record("digits"), folder / "linked" / "cells")
    yield "a link to a parent", lambda: inside(folder / "linked", "cells")
    (folder / "linked" / "round").symlink_to(folder / "linked" / "round")
    yield "a link to itself", lambda: inside(folder / "linked", "round", "x")
    with _precious(folder) as precious:
        cells = folder / "files" / "cells"
        cells.mkdir(parents=True)
        (cells / "digits.maf.0.json").symlink_to(precious)
        (cells / "digits.maf.0.safetensors").symlink_to(precious)
        yield "a record that is a link", lambda: _must_not_follow(cells, precious)


def _record(dataset: str) -> record.Record:
    return record.Record(dataset=dataset, model="maf", seed=0, hash="a", status="ok")


@contextmanager
def _precious(folder: Path) -> Iterator[Path]:
    path = folder / "precious"
    path.write_text("mine")
    yield path


def _must_not_follow(cells: Path, precious: Path) -> None:
    record.save(_record("digits"), cells, {"log_prob": torch.zeros(2)})
    if precious.read_text() == "mine":
        raise ConfigError("the link was replaced, and what it led to is as it was")
