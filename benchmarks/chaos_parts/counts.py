"""What became of things that were damaged: one row of counts each, and the table of all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

REFUSED, PREVIOUS, UNCHANGED = "refused by name", "previous version", "unchanged"
UNDETECTABLE, FAULT = "undetectable", "FAULTS"
OUTCOMES = (REFUSED, PREVIOUS, UNCHANGED, UNDETECTABLE, FAULT)
_SHOWN = 5  # faults of a row that are written out


@dataclass
class Row:
    """Counts of the outcomes of one thing that was tried, and its faults in words.

    Args:
        part: of the script.
        what: was tried.
        note: what a reader of the counts must know, such as which format has no checksum.
    """

    part: str
    what: str
    note: str = ""
    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def add(self, outcome: str, words: str = "") -> None:
        """Count one; the words are kept of faults alone."""
        if outcome not in OUTCOMES:
            raise ValueError(f"outcome must be one of {', '.join(OUTCOMES)}; got {outcome!r}")
        self.counts[outcome] += 1
        if outcome == FAULT:
            self.faults.append(words)


def markdown(rows: Sequence[Row]) -> str:
    """The table, and below it the faults, a few of each row."""
    lines = [f"| part | what | tried | {' | '.join(OUTCOMES)} | note |", f"| --- | --- {'| ---: ' * 6}| --- |"]
    for row in rows:
        numbers = [row.counts.total(), *(row.counts[outcome] for outcome in OUTCOMES)]
        lines.append(f"| {row.part} | {row.what} | {' | '.join(map(str, numbers))} | {row.note} |")
    for row in rows:
        for words in row.faults[:_SHOWN]:
            lines.append(f"\nFAULT: {row.part}, {row.what}: {' '.join(words.split())[:600]}")
        if len(row.faults) > _SHOWN:
            lines.append(f"\n... and {len(row.faults) - _SHOWN} more of {row.part}, {row.what}")
    return "\n".join(lines)
