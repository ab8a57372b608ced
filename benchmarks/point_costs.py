"""Processor seconds of each point statistic: ``python benchmarks/point_costs.py``, one thread."""

from __future__ import annotations

import time

import torch

from flowzoo.metrics import Clouds, Evaluation, configure
from flowzoo.seeding import generator

NAMES = ("sw", "mmd", "energy", "ks", "correlation", "c2st", "pqmass", "prdc")


def evaluation(clouds: int, points: int, columns: int) -> Evaluation:
    """Normal points, real and drawn alike, and no population."""
    real, drawn = (torch.randn(clouds, 2, points, columns, generator=generator(0, name)) for name in ("real", "drawn"))
    nothing = torch.zeros(0, 0, columns)
    found = Clouds(real, drawn, torch.arange(clouds), torch.zeros(clouds, 1), nothing, torch.zeros(0, 1))
    x = real.flatten(0, 2)
    return Evaluation(
        x=x,
        contexts=torch.zeros(1, 1),
        context_index=torch.zeros(len(x), dtype=torch.long),
        groups=torch.zeros(len(x), dtype=torch.long),
        scale=torch.ones(columns),
        log_prob=lambda x, context: x[:, 0],
        scores=x[:, 0],
        samples=None,
        samples_missing="",
        true_scores=None,
        step=None,
        generator=generator(0, "metrics"),
        clouds=found,
    )


def main() -> None:
    """Print a row for each metric."""
    torch.set_num_threads(1)
    shapes = ((6, 1000, 10), (1, 500, 64))
    print("| | " + " | ".join(f"{k} x {m} x {d}" for k, m, d in shapes) + " |\n| --- | ---: | ---: |")
    cases = [evaluation(*shape) for shape in shapes]
    configure("c2st", {})(evaluation(1, 60, 2))  # what scikit-learn takes to be imported
    for name in NAMES:
        took = []
        for case in cases:
            started = time.process_time()
            configure(name, {})(case)
            took.append(time.process_time() - started)
        print(f"| `{name}` | " + " | ".join(f"{seconds:.2f}" for seconds in took) + " |")


if __name__ == "__main__":
    main()
