"""Our flows beside plain zuko, nflows and normflows: training step, log q and draw, as the work grows.

    python benchmarks/speed/run.py --out benchmarks/results/speed.jsonl        # everything
    python benchmarks/speed/run.py --only galacticforge together              # these parts
    python benchmarks/speed/run.py --only compare --models maf nsf --most 10  # and longer calls
    python benchmarks/speed/run.py --toy                                       # some seconds, as in the test suite

Both of a pair have the same layers and the same weights, and take turns in one process; the median over rounds
counts, of the time of the process on a CPU, where another may have the core, and of the clock on a GPU. Ours are
trained by flowzoo's ``Stepper`` (AdamW, clip, and an average of the weights, which the others do not take), theirs by
an eager loop with a ``DataLoader``, and by the same on resident tensors. Batches that would take more than ``--most``
seconds a call, or more memory than ``--gib``, are left out with the reason; a call that takes longer is timed once.

Parts: ``compare`` the table of D and batch; ``galacticforge`` a step of that configuration, on a CPU compiled too;
``together`` five seeds at once over one; ``kernels`` what operation a step spends its time in. Each line of the file
is a JSON: first the machine, then ``what`` was timed, ``seconds``, and ``ratio`` to ours (of ``together``, to one
seed).
"""

from __future__ import annotations

import argparse
import warnings
from dataclasses import replace
from pathlib import Path

import compare
import kernels
import peers
import seeds
import targets
import torch
from machine import Lines, header
from timing import Watch

PARTS = ("galacticforge", "together", "kernels", "compare")


def main() -> None:
    """Time what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    known = [model.name for model in peers.MODELS]
    parser.add_argument("--models", nargs="+", choices=known, default=known, metavar="MODEL", help="of compare")
    parser.add_argument("--dims", nargs="+", type=int, default=[2, 10, 64, 784], help="of compare")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--engine", default="auto", help="of our steps: auto, eager, compile or graph")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--most", type=float, default=1.0, help="seconds of a call")
    parser.add_argument("--gib", type=float, default=6.0, help="of memory of a call")
    parser.add_argument("--toy", action="store_true", help="a few seconds in all")
    parser.add_argument("--out", type=Path, help="write the lines there too")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    warnings.simplefilter("ignore")  # of the libraries about torch
    device, toy = torch.device(chosen.device), chosen.toy
    warm = device.type == "cuda" or chosen.engine == "compile"
    watch = Watch(device, 2, 0.0, warm=warm) if toy else Watch(device, chosen.rounds, most=chosen.most, warm=warm)
    lines = Lines(chosen.out, header(device))
    torch.manual_seed(0)  # of the libraries' own draws, which take no generator
    if "galacticforge" in chosen.only:
        targets.run(watch, lines, engine=chosen.engine, toy=toy)
    if "together" in chosen.only:
        few = seeds.Sizes(("maf", "nsf"), (8, 16), (16,), 3, (100,), ("maf",), 4)
        seeds.run(few if toy else seeds.Sizes(), watch, lines)
    if "kernels" in chosen.only:
        profiled = ("maf",) if toy else ("maf", "nsf", "galacticflow")
        kernels.run(profiled, 16 if toy else 1024, watch, lines, engine=chosen.engine, size=64 if toy else 4096)
    if "compare" in chosen.only:
        models = [model for model in peers.MODELS if model.name in chosen.models]
        grid = compare.Grid((2,), (1, 10), steps=2) if toy else compare.Grid(chosen.dims, gib=chosen.gib)
        compare.run(models, replace(grid, engine=chosen.engine), watch, lines)


if __name__ == "__main__":
    main()
