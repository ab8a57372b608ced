"""What stands in the first line of every ``results/*.jsonl``: where the numbers are from; and how lines are written."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from flowzoo.checkpoint import versions
from flowzoo.storage import write_atomic


def processor() -> str:
    """The model of the CPU."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def header(device: torch.device, clock: str | None = None) -> dict[str, Any]:
    """Machine, versions, threads and command, as the first line of a file of results; and what measured its seconds."""
    gpu = device.type == "cuda"
    script = Path(sys.argv[0]).resolve()
    root = Path(__file__).resolve().parents[2]
    name = script.relative_to(root).as_posix() if script.is_relative_to(root) else script.name
    return {
        "what": "header",
        "machine": torch.cuda.get_device_name(device) if gpu else processor(),
        "device": device.type,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "clock": clock or ("by the clock" if gpu else "of the process"),
        "versions": {**versions(), **({"cuda": torch.version.cuda} if gpu else {})},
        "command": shlex.join(["python", name, *sys.argv[1:]]),
    }


class Lines:
    """A file of one JSON a line, each written as soon as it is known; the terminal has them too."""

    def __init__(self, path: Path | None, first: dict[str, Any]) -> None:
        self.path = path
        write(path, [])
        self.add(first)

    def add(self, line: dict[str, Any]) -> None:
        """Write one."""
        text = as_json(line)
        print(text, flush=True)
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(text + "\n")


def write(path: Path | None, lines: Sequence[dict[str, Any]]) -> None:
    """Write all lines anew, if there is a path."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, "".join(as_json(line) + "\n" for line in lines).encode())


def as_json(line: dict[str, Any]) -> str:
    """In five digits: more are noise."""
    return json.dumps({key: _rounded(value) for key, value in line.items()}, allow_nan=False)


def _rounded(value: Any) -> Any:
    return float(f"{value:.5g}") if isinstance(value, float) else value
