"""The step of GalacticForge's configuration beside an eager zuko NSF of as many parameters."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from compare import RESIDENT, US, Stepped, engine_of, ratio
from machine import Lines
from peers import Peer, eager_step, gaussian, loaded, ours, resident, zukos
from timing import Watch

from flowzoo import Splits
from flowzoo import config as configs
from flowzoo.engine import EngineError
from flowzoo.train import FitConfig

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "galacticforge.yaml"
DIM, CONTEXT = 10, 20
COMPILED = ", compiled"  # after our name: the same step by the engine ``compile``
GALAXIES = 31  # in `configs/gas.yaml`, with thousands of particles each
SHARED = f", {GALAXIES} contexts"  # after our name: the same step where events share so many


def run(watch: Watch, lines: Lines, *, engine: str = "eager", toy: bool = False) -> None:
    """Time it, with as many transforms as there are steps, and with zuko's default of three wide ones.

    Each event has a context of its own, and once more few have all. On a CPU our step is timed compiled too, which
    takes two minutes to compile.
    """
    given = yaml.safe_load(CONFIG.read_text())
    options: dict[str, Any] = given["models"]["galacticflow"]
    if toy:
        options |= {"num_steps": 2, "hidden_features": 16}
    # As configured, but for the rate: the weights shall stay where they are.
    changed = {"lr": 1e-6, "engine": engine, **({"batch_size": 32} if toy else {})}
    fit = configs.make(FitConfig, {**given["train"], **changed}, "train")
    splits = gaussian(DIM, 20 * fit.batch_size, watch.device, CONTEXT)
    flow = ours("galacticflow", splits, options)
    count = sum(p.numel() for p in flow.parameters())
    u = flow.x_map.to_latent(splits.train.x)[0]
    c = flow.context_map.to_latent(splits.train.context)[0]
    few = ours("galacticflow", splits, options)
    calls: dict[str, Callable[[], object]] = {
        US: Stepped(flow, splits, fit),
        US + SHARED: Stepped(few, _sharing(splits), fit),
    }
    sizes, depths = {US: count, US + SHARED: count, US + COMPILED: count}, (2,) if toy else (options["num_steps"], 3)
    if watch.device.type == "cpu" and engine in ("auto", "eager") and not toy:
        again = Stepped(ours("galacticflow", splits, options), splits, replace(fit, engine="compile"))
        with suppress(EngineError):  # if it cannot be had, its line will say so
            again()  # compiles, which is not timed
        calls[US + COMPILED] = again
    for depth in depths:
        other, width = nsf_of_size(count, depth, options["num_bins"])
        other.to(watch.device)
        name = f"zuko NSF, {depth} transforms of 3 x {width}"
        for label, batches in (("", loaded), (RESIDENT, resident)):
            calls[name + label] = eager_step(other, batches(u, c, fit.batch_size), torch.optim.RAdam)
            sizes[name + label] = sum(p.numel() for p in other.parameters())
    found = replace(watch, most=60.0).side_by_side(calls)
    for name, timed in found.items():
        lines.add(
            {
                "what": "galacticforge",
                "model": "galacticflow" if name.startswith(US) else "nsf",
                "library": name,
                "D": DIM,
                "context": CONTEXT,
                "batch": fit.batch_size,
                "parameters": sizes[name],
                **ratio(timed, found[US]),
                **engine_of(calls[name]),
            }
        )


def _sharing(splits: Splits) -> Splits:
    """The same events with the contexts of the first few."""
    data = splits.data
    assert data.context is not None
    index = torch.arange(len(data.x)) % GALAXIES
    return Splits.make(
        replace(data, context=data.context[:GALAXIES], context_index=index), device=splits.train.x.device
    )


def nsf_of_size(count: int, transforms: int, bins: int) -> tuple[Peer, int]:
    """A zuko NSF with about so many parameters, and the width of its three hidden layers."""
    from zuko.flows import NSF

    out = DIM * (3 * bins - 1)

    def weights(width: int) -> int:  # of masked layers and their biases: in, two between, out
        each = (DIM + CONTEXT + 1) * width + 2 * (width + 1) * width + (width + 1) * out
        return transforms * each

    width = min(range(DIM, 2000), key=lambda w: abs(weights(w) - count))
    return zukos(NSF(DIM, CONTEXT, transforms=transforms, hidden_features=[width] * 3, bins=bins)), width
