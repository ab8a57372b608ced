"""One model in several runs whose test events are the same and whose contexts are not: paired differences of the NLL.

    python benchmarks/compare_runs.py nsf runs/numbers runs/latents runs/images

A table compares models on one split; what a context is worth is asked across runs. Folds are joined, seeds averaged.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from flowzoo.report import join_folds, read_cells
from flowzoo.stats import clustered_mean


def scores(folder: Path, model: str) -> tuple[Tensor, Tensor, Tensor | None]:
    """Log q of each test event, mean over seeds, its group, and its weight where groups are balanced."""
    cells, errors = read_cells(folder)
    if errors:
        raise SystemExit(f"{folder}: {errors[0]}")
    found = [cell for cell in join_folds(cells) if cell.record.model == model and cell.record.status == "ok"]
    if not found:
        raise SystemExit(f"{folder} has no finished {model}")
    log_prob = torch.stack([cell.scores["log_prob"] for cell in found]).mean(0)
    return log_prob, found[0].scores["group"], found[0].scores.get("weight")


def main() -> None:
    """Print a line for each run: its NLL, and by how much it is below that of the first."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("runs", nargs="+", type=Path)
    given = parser.parse_args()
    first = None
    print("| run | NLL ± SE (nats) | gain over the first ± SE (nats) |\n| --- | ---: | ---: |")
    for run in given.runs:
        log_prob, group, weight = scores(run, given.model)
        mean, error = clustered_mean(-log_prob, group, weight)
        line = f"| {run.name} | {mean:.3f} ± {error:.3f} |"
        if first is None:
            first = log_prob, group
        elif not torch.equal(group, first[1]):
            raise SystemExit(f"{run}: its test events are not those of {given.runs[0]}")
        else:
            gain, gain_error = clustered_mean(log_prob - first[0], group, weight)
            line += f" {gain:.3f} ± {gain_error:.3f} |"
        print(line)


if __name__ == "__main__":
    main()
