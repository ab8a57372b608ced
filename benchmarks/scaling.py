"""Excess NLL of the flows of the zoo against training size, number of parameters and seconds of training.

    python benchmarks/scaling.py --out benchmarks/results/scaling.jsonl
    python benchmarks/scaling.py --data fields --models cglow maf --steps 400
    python benchmarks/scaling.py --toy                             # some seconds, as in the test suite

Data are those of the zoo whose exact density is known. The excess is the mean of log p - log q over the same test
events for all, in nats per event, with its error over these; what differs between trainings is not in that error.
From one base (the largest of ``--sizes`` and ``--steps``, and ``--width``) one of the three is varied at a time: events
that are trained on, width of the networks, and optimiser steps, each number of them with a learning-rate schedule of
its own. As many events as a fifth of the training ones, beside them, tell when to stop. A power law
``excess = a x^-alpha`` is fitted to each series by least squares of its logarithm; the scatter about it that the errors
do not explain is fitted too, so the error of alpha has it. Points within two errors of zero are left out, and the range
of the others stands with alpha. Seconds are those of the training by the clock, which other work makes longer.

Cells are run by ``flowzoo.bench`` in folders of their own below ``--runs``: a command that was killed goes on.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from scaling_parts.fits import fits_of
from scaling_parts.known import DATA, Known
from speed.machine import header, write

import flowzoo
from flowzoo.record import Record, load_scores
from flowzoo.stats import clustered_mean

VECTORS = ("gaussian", "maf", "nsf", "sospf", "bpf", "gf", "nice", "realnvp", "galacticflow")
MODELS = {
    "linear_gaussian": VECTORS,
    "two_moons": VECTORS[1:],
    "galaxies": ("maf", "nsf", "sospf", "realnvp"),  # galacticflow takes twice as long as these together
    "fields": ("cglow", "maf", "nsf", "realnvp"),
}
NO_WIDTH = ("gaussian",)  # a closed form: neither width nor steps


@dataclass(frozen=True)
class Point:
    """Events that are trained on, width of the networks, optimiser steps; and the series that it is in."""

    size: int
    width: int
    steps: int
    series: tuple[str, ...]

    @property
    def name(self) -> str:
        """Of its run directory."""
        return f"n{self.size}-w{self.width}-s{self.steps}"


def points(sizes: list[int], widths: list[int], steps: list[int], width: int) -> list[Point]:
    """The base, and what differs from it in one way."""
    size, most = max(sizes), max(steps)
    found = [Point(size, width, most, ("n_train", "parameters", "seconds"))]
    found += [Point(n, width, most, ("n_train",)) for n in sorted(sizes) if n != size]
    found += [Point(size, w, most, ("parameters",)) for w in sorted(widths) if w != width]
    return found + [Point(size, width, s, ("seconds",)) for s in sorted(steps) if s != most]


def cells(known: Known, point: Point, models: tuple[str, ...], chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """Train and score the models at one point; what was done before is taken as it is."""
    if "n_train" not in point.series:
        models = tuple(name for name in models if name not in NO_WIDTH)
    if not models:
        return []
    data = known.of_size(point.size)
    result = flowzoo.bench(
        {name: {} if name in NO_WIDTH else {"hidden_features": point.width} for name in models},
        data,
        seeds=tuple(range(chosen.seeds)),
        out=chosen.runs / known.name / point.name,
        train={"steps": point.steps, "evaluate_every": max(1, point.steps // 20), "validation_events": 2000},
        baseline=False,
        device=chosen.device,
        max_passes=0,  # log q is all that is asked
        posteriors=0,
        reference_draws=0,
        together=False,  # a share of the time of several is not that of one
        show=False,
    )
    truth = known.true_scores()
    return [_line(known.name, point, record, result.path, truth) for record in result.records]


def _line(dataset: str, point: Point, record: Record, folder: Path, truth: torch.Tensor) -> dict[str, Any]:
    line = {
        "what": "cell",
        "dataset": dataset,
        "model": record.model,
        "series": list(point.series) if record.model not in NO_WIDTH else ["n_train"],
        "seed": record.seed,
        "n_train": record.n_train,
        "width": point.width,
        "steps": point.steps,
    }
    if record.status != "ok":
        return {**line, "failed": record.reason}
    scores = load_scores(folder / "cells" / f"{record.stem}.json")
    excess, error = clustered_mean(truth - scores["log_prob"], scores["group"])
    return {
        **line,
        "parameters": int(record.metrics["num_parameters"]),
        "train_steps": int(record.metrics["train_steps"]),
        "seconds": record.metrics["train_seconds"],
        "n_test": record.n_test,
        "nll": record.metrics["nll_nats"],
        "excess": excess,
        "excess_se": error,
    }


def main() -> int:
    """Run what is not there yet, fit, write; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=list(DATA), default=["linear_gaussian", "galaxies"])
    parser.add_argument("--models", nargs="+", help="for all data; by default those that suit each")
    parser.add_argument("--sizes", nargs="+", type=int, default=[300, 1_000, 3_000, 10_000, 30_000])
    parser.add_argument("--widths", nargs="+", type=int, default=[4, 16, 64, 256])
    parser.add_argument("--width", type=int, default=64, help="of the base")
    parser.add_argument("--steps", nargs="+", type=int, default=[30, 100, 300, 1_000])
    parser.add_argument("--test", type=int, default=20_000, help="test events")
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--runs", type=Path, default=Path("runs/scaling"))
    parser.add_argument("--toy", action="store_true", help="a few seconds in all")
    parser.add_argument("--out", type=Path, help="write the lines there too")
    chosen = parser.parse_args()
    if chosen.toy:
        chosen.data, chosen.models = ["linear_gaussian"], chosen.models or ["gaussian", "maf"]
        chosen.sizes, chosen.widths, chosen.width, chosen.steps, chosen.test = [60, 120, 240], [4, 8], 8, [10, 20], 200
    torch.set_num_threads(1)
    first, lines = header(torch.device(chosen.device), clock="by the clock"), []
    for name in chosen.data:
        known = Known(name, max(chosen.sizes), chosen.test)
        models = tuple(chosen.models or MODELS[name])
        for point in points(chosen.sizes, chosen.widths, chosen.steps, chosen.width):
            lines += cells(known, point, models, chosen)
            print(f"{name} {point.name}: done", file=sys.stderr, flush=True)
            write(chosen.out, [first, *lines])
    fits = fits_of(lines)
    write(chosen.out, [first, *lines, *fits])
    for line in fits:
        print(
            f"{line['dataset']} {line['model']}: excess ~ {line['against']}^-{line['exponent']:.2f} +- "
            f"{line['error']:.2f}, from {line['low']:g} to {line['high']:g}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
