"""Seeds of one config are trained at once where that is faster; each cell is then evaluated on its own."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from flowzoo import lease, train
from flowzoo.data import Split
from flowzoo.flow import ConditionalFlow
from flowzoo.harness.memory import kept_of
from flowzoo.harness.plan import Cell
from flowzoo.harness.run import LEASES, cpu_threads, label_of, state_path
from flowzoo.record import one_line
from flowzoo.stepper import Stepper
from flowzoo.storage import DISK
from flowzoo.train import FitConfig, NotTogether

# A larger flow keeps its device busy alone, and on a CPU one with convolutions, or with larger tensors in a step, is as
# slow at once or slower (`benchmarks/README.md`, five seeds at once over one).
SMALL = 200_000  # weights
KEPT = 96 * 2**10  # bytes of the tensors that autograd keeps of a step, in their mean


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
    if not any(p.requires_grad for p in flows[0].parameters()):
        return
    if first.bench.together is None and not _pays(flows[0], first.source.splits.train, first.fit):
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


def _pays(flow: ConditionalFlow, split: Split, config: FitConfig) -> bool:
    """Whether a step of several of these flows takes less time than a step of each."""
    if sum(p.numel() for p in flow.parameters() if p.requires_grad) > SMALL:
        return False
    if split.x.device.type != "cpu":
        return True
    try:
        return len(flow.event_shape) == 1 and mean_kept(flow, split, config) <= KEPT
    except Exception:  # each cell meets it again alone, and has a record of it
        return False


def mean_kept(flow: ConditionalFlow, split: Split, config: FitConfig) -> float:
    """Bytes that autograd keeps of a step, in the mean over tensors."""
    sizes = kept_of(flow, Stepper(flow, split, replace(config, engine="eager"), 0).take())
    return sum(sizes) / max(1, len(sizes))
