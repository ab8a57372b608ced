"""What whitened contexts and averaged weights are worth on photometric redshifts.

    FLOWZOO_DATA=... python benchmarks/photoz_ablation.py [--models nsf,galacticflow] [--split-seeds 0,1,2]

Prints mean test log p (nats, raw redshift) for each of the four combinations, a column per split seed.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from pathlib import Path

import flowzoo
from flowzoo.bijectors import Columns, Standardize, Whiten
from flowzoo.data import configure
from flowzoo.seeding import generator
from flowzoo.validation import mean_nll


def main() -> None:
    """Train each combination on each split and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="nsf,galacticflow")
    parser.add_argument("--split-seeds", default="0,1,2")
    parser.add_argument("--steps", type=int, default=2000)
    options = parser.parse_args()
    path = Path(os.environ["FLOWZOO_DATA"]) / "photoz_dc2" / "train.npz"
    data = configure("table", {"path": str(path), "x": "redshift", "context": "mag", "missing": "99"}).load()
    seeds = [int(seed) for seed in options.split_seeds.split(",")]
    print("| model | context | ema | " + " | ".join(f"split {seed}" for seed in seeds) + " |")
    print("| --- | --- | --- | " + "--- | " * len(seeds))
    for name in options.models.split(","):
        for scale in (Standardize, Whiten):
            for ema in (0.0, 0.99):
                # the six magnitudes; the flags of missing ones stay 0 or 1
                chosen = dataclasses.replace(data, context_map=Columns(range(6), scale((6,))))
                scores = [score(name, chosen, seed, flowzoo.FitConfig(steps=options.steps, ema=ema)) for seed in seeds]
                cells = " | ".join(f"{value:.3f}" for value in scores)
                print(f"| {name} | {scale.__name__.lower()} | {ema:g} | {cells} |", flush=True)


def score(name: str, data: flowzoo.Data, split_seed: int, config: flowzoo.FitConfig) -> float:
    """Mean test log p of one flow."""
    splits = flowzoo.Splits.make(data, seed=split_seed)
    x_map, context_map = splits.maps()
    flow = flowzoo.build(
        name,
        data.event_shape,
        data.context_shape,
        x_map=x_map,
        context_map=context_map,
        generator=generator(0, "init"),
    )
    flowzoo.fit(flow, splits, config)
    return -mean_nll(flow, splits.test.fixed, splits.test.context)


if __name__ == "__main__":
    main()
