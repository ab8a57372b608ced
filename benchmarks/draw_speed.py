"""Time of a draw over that of its own log p, of trained autoregressive flows; zuko's inverse of the same beside ours.

    python benchmarks/draw_speed.py [--only maf-10 sospf-10] [--zuko 64] [--rounds 5] [--device cpu] [--passes]
    FLOWZOO_CUDA_GRAPHS=1 python benchmarks/draw_speed.py --device cuda

The flows are those of the zoo, trained for some steps on a bent Gaussian, as an untrained flow hides what an inverse
costs. One thread on a CPU; rounds of draw and log p are interleaved, zuko's follow, and the medians of a process's own
time count. zuko's inverse is timed up to the dimension ``--zuko``: beyond it takes minutes a draw. With ``--passes``
only the passes of a fixed-point iteration over all features at once are counted, of the flows whose univariate inverse
is in closed form.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

import flowzoo
from flowzoo.data import Data, Splits
from flowzoo.flow import ConditionalFlow
from flowzoo.layers.replays import SWITCH
from flowzoo.train import FitConfig, fit


@dataclass(frozen=True)
class Case:
    """A flow, the dimension, the batch, the options, and how long it is trained."""

    model: str
    dim: int
    batch: int = 1024
    options: dict[str, Any] | None = None
    steps: int = 200

    @property
    def name(self) -> str:
        """``maf-784``."""
        return f"{self.model}-{self.dim}"


CASES = (
    Case("maf", 10),
    Case("maf", 64),
    Case("maf", 784, 256, {"num_steps": 5, "hidden_features": [1024, 1024]}, 30),
    Case("maf", 4096, 64, {"num_steps": 1, "hidden_features": [2048, 2048]}, 5),
    Case("nsf", 10),
    Case("sospf", 10),
    Case("bpf", 10),
    Case("naf", 10),
)


def bent(dim: int, count: int) -> Data:
    """A Gaussian whose every feature is bent by the one before it, given two numbers."""
    source = torch.Generator().manual_seed(0)
    context = torch.randn(count, 2, generator=source)
    z = torch.randn(count, dim, generator=source)
    x = z.clone()
    for i in range(1, dim):
        x[:, i] = 0.5 * z[:, i] + torch.sin(x[:, i - 1]) + 0.3 * context[:, i % 2]
    return Data(x=x, context=context)


def trained(case: Case) -> tuple[ConditionalFlow, torch.Tensor, torch.Tensor]:
    """The flow, and a batch of events and contexts."""
    splits = Splits.make(bent(case.dim, max(4 * case.batch, 2000)), seed=0)
    x_map, context_map = splits.maps()
    flow = flowzoo.build(case.model, (case.dim,), (2,), x_map=x_map, context_map=context_map, **(case.options or {}))
    config = FitConfig(steps=case.steps, batch_size=min(case.batch, 256), evaluate_every=case.steps)
    fit(flow, splits, config, show=False)
    rows = torch.arange(case.batch)
    return flow.eval(), splits.train.fixed[rows], splits.train.contexts[splits.train.context_index[rows]]


def zukos(flow: ConditionalFlow, z: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """Base draws to network units by zuko's own inverses of the same transforms."""
    given = flow.context_map.to_latent(c)[0]
    for lazy in reversed(flow.transforms):
        z = lazy(given).inv(z)
    return z


def passes(flow: ConditionalFlow, z: torch.Tensor, c: torch.Tensor, tolerance: float = 2e-6) -> list[int]:
    """By transform, how often all features are solved from all of the pass before until none moves."""
    given, counts = flow.context_map.to_latent(c)[0], []
    for lazy in reversed(flow.transforms):
        x, count, moved = torch.zeros_like(z), 0, 1.0
        while moved > tolerance and count < len(z[0]):
            found = lazy(given).meta(x).inv(z)
            x, count, moved = found, count + 1, float(((found - x).abs() / (1 + found.abs())).max())
        counts.append(count)
        z = x
    return counts


def main() -> None:
    """Time all, print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", default=[case.name for case in CASES])
    parser.add_argument("--zuko", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--passes", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(options.device)
    clock = time.perf_counter if device.type == "cuda" else time.process_time

    def seconds(call: Callable[[], object]) -> float:
        start = clock()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return clock() - start

    if options.passes:
        for case in (case for case in CASES if case.name in options.only and case.model == "maf"):
            flow, x, c = trained(case)
            z = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
            with torch.no_grad():
                print(f"{case.name}: {passes(flow, z, c)}", flush=True)
        return
    hardware = torch.cuda.get_device_name() if device.type == "cuda" else f"{platform.machine()} CPU, one thread"
    graphs = "; CUDA graphs" if os.environ.get(SWITCH) == "1" else ""
    print(f"{hardware}; torch {torch.__version__}{graphs}; `python benchmarks/draw_speed.py`\n")
    print("| flow | batch | log p (ms) | draw (ms) | draw / log p | zuko's inverse / log p | round trip |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for case in (case for case in CASES if case.name in options.only):
        flow, x, c = trained(case)
        flow, x, c = flow.to(device), x.to(device), c.to(device)
        source = torch.Generator(device=device).manual_seed(0)
        z = torch.randn(x.shape, generator=source, device=device)
        calls: dict[str, Callable[[], object]] = {
            "log p": lambda flow=flow, x=x, c=c: flow.log_prob(x, c),
            "draw": lambda flow=flow, c=c, source=source: flow.sample(c, generator=source),
        }
        if case.dim <= options.zuko:
            calls["zuko"] = lambda flow=flow, z=z, c=c: zukos(flow, z, c)
        with torch.no_grad():
            error = (flow.to_data(flow.to_latent(x, c)[0], c)[0] - x).abs().max()
            for call in calls.values():
                for _ in range(2):  # a CUDA graph is captured in the second
                    call()
            taken: dict[str, list[float]] = {name: [] for name in calls}
            # zuko's inverse leaves cycles behind, which Python frees at the cost of who comes next: it comes last.
            for part in ([name for name in calls if name != "zuko"], ["zuko"] if "zuko" in calls else []):
                for _ in range(options.rounds):
                    for name in part:
                        taken[name].append(seconds(calls[name]))
        found = {name: statistics.median(values) for name, values in taken.items()}
        score, draw = found["log p"], found["draw"]
        beside = f"{found['zuko'] / score:.1f}" if "zuko" in found else "-"
        print(
            f"| {case.name} | {case.batch} | {1e3 * score:.1f} | {1e3 * draw:.1f} | {draw / score:.1f} | {beside} | "
            f"{float(error):.1e} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
