"""Seeds of one config are trained at once where that is faster; each cell is then evaluated on its own."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path

from flowzoo import lease, train
from flowzoo.harness.plan import Cell
from flowzoo.harness.run import LEASES, cpu_threads, label_of, state_path
from flowzoo.record import one_line
from flowzoo.storage import DISK
from flowzoo.train import NotTogether

# A larger flow keeps its device busy alone, and one with convolutions is slower at once on a CPU
# (`benchmarks/README.md`, five seeds at once over one).
SMALL = 200_000


def by_seed(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Cells that follow one another and differ in their seed alone, as one part."""
    return [list(part) for _, part in groupby(cells, lambda c: (c.source.name, c.source.fold, c.label, c.model, c.fit))]


def train_together(cells: Sequence[Cell], folder: Path, *, show: bool | None = None) -> None:
    """Train cells that differ in their seed alone at once, and leave what ``run_cell`` finds as a finished training.

    Nothing happens where there is one, where nobody wants it (``bench.together``), or where it cannot be.

    Args:
        cells: that are to be run.
        folder: the run directory.
        show: force the progress bar on or off.

    Raises:
        OSError: if the disk is full or cannot be written.
        Preempted: if the process shall end; then there are checkpoints.
    """
    first = cells[0]
    if len(cells) == 1 or first.bench.together is False:
        return
    flows = [cell.build() for cell in cells]
    weights = sum(p.numel() for p in flows[0].parameters() if p.requires_grad)
    vectors = len(flows[0].event_shape) == 1 or first.source.splits.train.x.device.type != "cpu"
    if not weights or (first.bench.together is None and not (vectors and weights <= SMALL)):
        return
    (folder / "checkpoints").mkdir(exist_ok=True)
    label = f"{label_of(first)} and {len(cells) - 1} more at once"
    with ExitStack() as held:
        for cell in cells:
            own = lease.take(folder / LEASES / cell.stem)
            if own is None:  # another process is at it
                return
            held.enter_context(own)
        try:
            with cpu_threads(first.bench.threads):
                train.fit_together(
                    flows,
                    first.source.splits,
                    first.fit,
                    seeds=[cell.seed for cell in cells],
                    checkpoints=[state_path(cell, folder) for cell in cells],
                    label=label,
                    show=show,
                )
        except NotTogether as reason:
            print(f"{first.source.name} {first.label}: its seeds are trained one by one ({reason})", file=sys.stderr)
        except Exception as error:
            if isinstance(error, OSError) and error.errno in DISK:
                raise
            # Whatever it is, each cell meets it again alone, and has a record of it.
            text = f"{first.source.name} {first.label}: its seeds go on one by one ({one_line(error)})"
            print(text, file=sys.stderr)
