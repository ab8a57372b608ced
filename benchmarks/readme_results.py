"""Put the table of a run directory between the markers of README.md: ``python benchmarks/readme_results.py RUN``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

README = Path(__file__).resolve().parent.parent / "README.md"
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"


def main(run: Path) -> None:
    """Replace what stands between the markers by the run's command, machine and table."""
    record = json.loads(sorted((run / "cells").glob("*.json"))[0].read_text())
    command = next(line.strip() for line in (run / "README.md").read_text().splitlines() if line.startswith("    "))
    machine = f"{record['run']['device']}, {record['run']['threads']} threads"
    versions = record["run"]["versions"]
    made = f"Made by `{command}` ({machine}, torch {versions['torch']}, zuko {versions['zuko']}):"
    text = README.read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    table = (run / "table.md").read_text().strip()
    README.write_text(f"{before}{BEGIN}\n{made}\n\n{table}\n{END}{after}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
