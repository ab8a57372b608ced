"""The operation in which a training step spends most of its time, and what of the device it uses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from machine import Lines
from peers import gaussian, ours
from timing import Watch
from torch.profiler import ProfilerActivity, profile

from flowzoo import FitConfig
from flowzoo.stepper import Stepper


def run(
    models: tuple[str, ...], batch: int, watch: Watch, lines: Lines, *, engine: str = "eager", size: int = 4096
) -> None:
    """Profile a step of each; first what the device can do, measured here: a large product, and a large copy."""
    lines.add({"what": "hardware", **peak(watch, size)})
    splits = gaussian(64, 4 * batch, watch.device)
    for model in models:
        config = FitConfig(batch_size=batch, lr=1e-5, engine=engine)
        stepper = Stepper(ours(model, splits, {}), splits.train, config, 0)
        for _ in range(3):
            stepper.step()
        lines.add({"what": "kernel", "model": model, "D": 64, "batch": batch, **dominant(stepper.step, watch.device)})


def peak(watch: Watch, size: int) -> dict[str, float]:
    """Flops of a float32 product of square matrices, and bytes a second of a copy, read and written."""
    a = torch.randn(size, size, device=watch.device)
    b = torch.empty_like(a)
    found = watch.side_by_side({"product": lambda: torch.mm(a, a, out=b), "copy": lambda: b.copy_(a)})
    return {
        "flops_per_second": 2 * size**3 / found["product"].seconds,
        "bytes_per_second": 2 * 4 * size**2 / found["copy"].seconds,
    }


def dominant(call: Callable[[], object], device: torch.device) -> dict[str, Any]:
    """By the profiler: the operation with the largest time of its own, its share, and its flops a second.

    The bytes are those of its inputs, each read once, and so a lower bound of what it moves.
    """
    gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]
    with profile(activities=activities, record_shapes=True, with_flops=True) as seen:
        call()
        if gpu:
            torch.cuda.synchronize(device)

    def own(event: Any) -> float:
        return float(event.self_device_time_total if gpu else event.self_cpu_time_total)

    found = seen.key_averages(group_by_input_shape=True)
    # A captured CUDA graph is one launch: its kernels belong to no operation, and have neither shapes nor flops.
    events = [event for event in found if event.key.startswith("aten::") and own(event)] or [e for e in found if own(e)]
    together: dict[str, list[Any]] = {}
    for event in events:
        together.setdefault(event.key, []).append(event)
    total = sum(map(own, events))
    if not total:
        return {"skipped": "the profiler saw no operation"}
    name = max(together, key=lambda key: sum(map(own, together[key])))
    most = together[name]
    seconds = sum(map(own, most)) / 1e6
    flops = sum(event.flops or 0 for event in most)
    moved = sum(4 * event.count * sum(map(_numel, event.input_shapes or ())) for event in most)
    return {
        "operation": name,
        "share": seconds * 1e6 / total,
        "seconds": seconds,
        "flops_per_second": flops / seconds if flops else None,
        "bytes_per_second": moved / seconds if moved else None,
    }


def _numel(shape: Any) -> int:
    count = 1
    for size in shape if isinstance(shape, list | tuple) else ():
        if not isinstance(size, int):  # a list of tensors
            return 0
        count *= size
    return count if shape else 0
