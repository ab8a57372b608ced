"""What ``train.engine=compile`` costs and gains: training steps per second of a few flows, with and without.

    OMP_NUM_THREADS=1 python benchmarks/compile_gain.py
    OMP_NUM_THREADS=1 python benchmarks/compile_gain.py --only maf --seconds 5

Prints Markdown. The two ways take turns, so that other work on the machine disturbs both alike. **Steps per second**
are of processor time on the CPU, where one thread does all, and of the clock on a GPU: the median over the turns.
**Gain** is their ratio, and the least and the largest in a turn. **First step** is by the clock, and compiles with an
empty cache. **Even after** so many steps the faster ones have made up for it. **Graphs** is into how many pieces torch
cut the forward pass; one is whole, and between them it runs as it would without. **Kept** is what waits for the
backward pass, parameters apart, without and with. **Difference** is the largest of a weight after the first step, over
the learning rate.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch

from flowzoo import FitConfig, Splits, build
from flowzoo.data import Data
from flowzoo.record import one_line
from flowzoo.seeding import generator
from flowzoo.stepper import Stepper

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CONTEXT, EVENTS = 6, 2000
# label: model, event shape, batch, options
CASES: dict[str, tuple[str, tuple[int, ...], int, dict[str, Any]]] = {
    "maf, 10-D": ("maf", (10,), 256, {}),
    "cglow, 16 x 16": ("cglow", (1, 16, 16), 64, {"reversible": False}),
    "cglow, 16 x 16, reversible": ("cglow", (1, 16, 16), 64, {"reversible": True, "num_steps": 2, "num_levels": 2}),
    "cglow, 16 x 16, spectral": (
        "cglow",
        (1, 16, 16),
        64,
        {"reversible": False, "spectral": True, "num_steps": 2, "num_levels": 2},
    ),
}


def make(label: str, compiled: bool) -> Stepper:
    """The steps of one case, from its initialised flow."""
    name, shape, batch, options = CASES[label]
    c = torch.randn(EVENTS, CONTEXT, generator=generator(0, "context"))
    x = torch.randn(EVENTS, *shape, generator=generator(0, "x")) + c[:, :1].reshape(-1, *[1] * len(shape))
    splits = Splits.make(Data(x, c), device=DEVICE)
    x_map, context_map = splits.maps()
    source = generator(0, "init")
    flow = build(name, shape, (CONTEXT,), x_map=x_map, context_map=context_map, generator=source, **options)
    flow.to(DEVICE).initialize(*splits.train.batch(torch.arange(batch), generator(0, "initialize", device=DEVICE)))
    return Stepper(flow, splits.train, FitConfig(batch_size=batch, engine="compile" if compiled else "eager"), 0)


def seconds(stepper: Stepper, steps: int, clock: Callable[[], float]) -> float:
    """Of each of so many steps."""
    float(stepper.descent.loss_sum)  # waits for the device
    start = clock()
    for _ in range(steps):
        stepper.step()
    float(stepper.descent.loss_sum)
    return (clock() - start) / steps


def kept(stepper: Stepper) -> float:
    """MiB that the graph of one batch holds, parameters apart."""
    index = torch.arange(stepper.batch_size, device=DEVICE)
    x, context = stepper.split.batch(index, generator(0, "kept", device=DEVICE))
    held: dict[int, int] = {}
    seen, left = set(), [stepper.flow(x, context).mean().grad_fn]
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        left += [each for each, _ in node.next_functions]
        found = [getattr(node, name) for name in dir(node) if name.startswith("_saved_")]
        for each in [*found, *getattr(node, "saved_tensors", ())]:
            for tensor in each if isinstance(each, tuple) else (each,):
                if isinstance(tensor, torch.Tensor):
                    held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    own = {weight.untyped_storage().data_ptr() for weight in stepper.descent.weights}
    return sum(size for place, size in held.items() if place not in own) / 2**20


def row(label: str, options: argparse.Namespace) -> list[str]:
    """One line of the table."""
    clock = time.process_time if DEVICE == "cpu" else time.perf_counter
    plain, compiled = make(label, False), make(label, True)
    torch._dynamo.utils.counters.clear()
    began = seconds(plain, 1, time.perf_counter)
    try:
        first = seconds(compiled, 1, time.perf_counter)
    except Exception as error:
        return [label, str(CASES[label][2]), f"cannot be compiled: {one_line(error)}", *[""] * 7]
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    pairs = zip(plain.weights, compiled.weights, strict=True)
    difference = max(float((one - other).abs().max()) for one, other in pairs) / plain.rate
    steps = max(3, round(options.seconds / seconds(plain, 2, clock)))
    each: dict[Stepper, list[float]] = {plain: [], compiled: []}
    for _ in range(options.turns):
        for stepper, times in each.items():
            times.append(seconds(stepper, steps, clock))
    without, with_it = (statistics.median(times) for times in each.values())
    ratios = sorted(one / other for one, other in zip(*each.values(), strict=True))
    gained = without - with_it
    return [
        label,
        str(CASES[label][2]),
        f"{1 / without:.3g}",
        f"{1 / with_it:.3g}",
        f"{without / with_it:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})",
        f"{first - began:.0f} s",
        f"{(first - began) / gained:.2g} steps" if gained > 0.02 * without else "never",
        str(graphs),
        f"{kept(plain):.1f}, {kept(compiled):.1f} MiB",
        f"{difference:.0e}",
    ]


def main() -> None:
    """Read the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="the cases whose name contains this")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a turn without compiling")
    parser.add_argument("--turns", type=int, default=7)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # of torch about itself
    heads = [
        "flow",
        "batch",
        "steps/s",
        "compiled",
        "gain",
        "first step",
        "even after",
        "graphs",
        "kept",
        "difference",
    ]
    print(f"{DEVICE}, {torch.get_num_threads()} thread(s), torch {torch.__version__}\n")
    print("| " + " | ".join(heads) + " |\n| " + " | ".join(["---"] * len(heads)) + " |", flush=True)
    for label in CASES:
        if options.only in label:
            with tempfile.TemporaryDirectory() as folder:
                os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
                print("| " + " | ".join(row(label, options)) + " |", flush=True)


if __name__ == "__main__":
    main()
