"""Training steps per second of cglow and of normflows' Glow, side by side in one process.

    python benchmarks/glow_speed.py [--size 32] [--channels 3] [--width 64] [--batch 16] [--rounds 7]

The same number of steps K and levels L, the same width, batch, images, classes and optimiser; rounds are interleaved,
so that whatever else the machine does falls on both. Prints the median seconds of a step and their ratio.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import torch

import flowzoo
from flowzoo.flow import ConditionalFlow


def stepper(
    flow: ConditionalFlow, called: Callable[..., torch.Tensor], x: torch.Tensor, c: torch.Tensor
) -> Callable[[], None]:
    """A training step, as the stepper takes it: gradient, clip, AdamW."""
    parameters = list(flow.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        (-called(x, c).mean()).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 5.0)
        optimizer.step()

    return step


def main() -> None:
    """Time both, print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("size", 32), ("channels", 3), ("width", 64), ("batch", 16), ("rounds", 7)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--levels", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--variants", action="store_true", help="also cglow in bfloat16, channels-last, and both")
    parser.add_argument("--compile", action="store_true", help="also the last variant compiled, which takes minutes")
    options = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(options.device)
    # On one CPU thread the time of the process counts: it does not run while another has the core.
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    source = torch.Generator().manual_seed(0)
    event = (options.channels, options.size, options.size)
    x = torch.randn(options.batch, *event, generator=source).to(device)
    c = torch.eye(10)[torch.randint(10, (options.batch,), generator=source)].to(device)
    low, last = {"precision": "bfloat16"}, {"channels_last": True}
    tuned = {"bfloat16": low, "channels_last": last, "both": {**low, **last}}
    variants: dict[str, dict[str, object]] = {"cglow": {}, **(tuned if options.variants else {})}
    if options.compile:
        variants["compiled"] = variants[list(variants)[-1]]
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU, one thread"
    print(f"{name}, torch {torch.__version__}; {event}, L = {options.levels}, width {options.width}, ", end="")
    print(f"batch {options.batch}, 10 classes, median of {options.rounds} interleaved rounds\n")
    print(
        "| K | "
        + " | ".join(f"{v} (ms)" for v in [*variants, "normflows-glow"])
        + " | normflows / cglow | normflows / fastest |"
    )
    print("| ---: |" + " ---: |" * (len(variants) + 3))
    for steps in options.steps:
        shape = {"num_steps": steps, "num_levels": options.levels, "hidden_features": options.width}
        built = {key: flowzoo.build("cglow", event, (10,), **shape, **extra) for key, extra in variants.items()}
        built["normflows-glow"] = flowzoo.build("normflows-glow", event, (10,), **shape)
        takes: dict[str, list[float]] = {key: [] for key in built}
        run = {}
        for key, flow in built.items():
            flow.to(device).train().initialize(x, c)
            called = torch.compile(flow) if key == "compiled" else flow
            run[key] = stepper(flow, called, x, c)
            run[key]()
        for _ in range(options.rounds):
            for key, step in run.items():
                wait(device)
                started = clock()
                step()
                wait(device)
                takes[key].append(clock() - started)
        middle = {key: 1000 * statistics.median(found) for key, found in takes.items()}
        row = " | ".join(f"{middle[key]:.1f}" for key in built)
        peer, fastest = middle["normflows-glow"], min(value for key, value in middle.items() if key in variants)
        print(f"| {steps} | {row} | {peer / middle['cglow']:.2f} | {peer / fastest:.2f} |", flush=True)


def wait(device: torch.device) -> None:
    """Let the device finish."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
