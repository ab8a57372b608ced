"""Break things on purpose and count what becomes of them.

    python benchmarks/chaos.py                      # every part in full
    python benchmarks/chaos.py --short              # a few of each, as in the test suite
    python benchmarks/chaos.py loaders folder       # these parts only

A part is a file of ``chaos_parts`` with ``run(short, seed) -> list[Row]``. Every row says what was tried and how
often, and what came of it: refused in a line that names it, the previous good version, an unchanged result, another
result that nobody can notice (and why), a fault. Exits with 1 if there is a fault.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import sys
import time
from pathlib import Path

from chaos_parts.counts import markdown

PARTS = ("kills", "preemption", "workers", "disk", "changed", "studies", "folder", "hostile", "loaders")


def main(arguments: list[str] | None = None) -> int:
    """Run it; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"some of {', '.join(PARTS)}; all by default")
    parser.add_argument("--short", action="store_true", help="a few of each")
    parser.add_argument("--seed", type=int, default=0, help="of moments and damages")
    parser.add_argument("--out", type=Path, help="write the table there too")
    chosen = parser.parse_args(arguments)
    for part in chosen.parts:
        if part not in PARTS:
            parser.error(f"unknown part '{part}'; there are {', '.join(PARTS)}")
    started, rows = time.monotonic(), []
    for part in PARTS:
        if part in chosen.parts or not chosen.parts:
            rows += importlib.import_module(f"chaos_parts.{part}").run(chosen.short, chosen.seed)
            print(f"{part}: done after {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    faults = sum(len(row.faults) for row in rows)
    text = "\n".join(
        [
            f"    python benchmarks/chaos.py {' '.join(arguments if arguments is not None else sys.argv[1:])}".rstrip(),
            "",
            f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
            f"{time.monotonic() - started:.0f} s; seed {chosen.seed}.",
            "",
            markdown(rows),
            "",
            f"{sum(row.counts.total() for row in rows)} tried, {faults} faults.",
        ]
    )
    print(text)
    if chosen.out is not None:
        chosen.out.write_text(text + "\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
