"""Does the family of calibration tests pass a fitted flow, and fail the same one with posteriors that are too narrow?

    flowzoo fit --model maf --data linear_gaussian --set data.num_events=50000 --out maf.safetensors
    python benchmarks/sharpened.py maf.safetensors

Prints the Holm-corrected p of every member, of the posteriors of the flow and of those with every spread times 0.7 (and
1.4): draws moved towards (from) their mean, densities with them.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from pathlib import Path

import torch

from flowzoo import checkpoint
from flowzoo.harness.as_trained import open_to_test
from flowzoo.harness.posteriors import draw_posteriors
from flowzoo.inference import Posterior
from flowzoo.metrics import Posteriors
from flowzoo.metrics.calibration import family
from flowzoo.seeding import generator


def scaled(found: Posteriors, posterior: Posterior, x: torch.Tensor, factor: float) -> Posteriors:
    """The posteriors with every spread times a factor, about their means."""
    mean = found.draws.mean(0)
    draws, dim = mean + factor * (found.draws - mean), found.truth.shape[1]
    # q'(theta) = q(mean + (theta - mean) / factor) / factor^D
    before = mean + (found.truth - mean) / factor
    constant = found.truth_log_prob - posterior.log_prob(found.truth, x)
    return replace(
        found,
        draws=draws,
        log_prob=found.log_prob - dim * math.log(factor),
        truth_log_prob=posterior.log_prob(before, x) + constant - dim * math.log(factor),
        log_likelihood=posterior.log_likelihood(draws, x),
        truth_log_likelihood=posterior.log_likelihood(found.truth, x),
    )


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("flow", type=Path)
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--factors", type=float, nargs="+", default=[1.0, 0.7, 1.4])
    options = parser.parse_args()
    asked = {"posteriors": options.n, "posterior_draws": options.draws, "reference_draws": 0}
    flow, source, bench = open_to_test(options.flow, checkpoint.read_meta(options.flow), None, asked)
    known, data = source.observed(bench), source.splits.data
    if isinstance(known, str):
        raise SystemExit(known)
    found, inferred = draw_posteriors(flow.eval(), known, data, bench, 0)
    posterior = Posterior(flow, data.prior, theta=data.theta)
    print(f"{options.flow.name}: N = {len(found.truth)}, L = {len(found.draws)}, by {inferred.method}")
    for factor in options.factors:
        of = found if factor == 1 else scaled(found, posterior, known.x, factor)
        tests = family(of, *(generator(0, "sharpened", name) for name in ("sbc", "hpd", "tarp")))
        each = ", ".join(f"{name} {p:.2g}" for name, p in zip(tests.names, tests.adjusted.tolist(), strict=True))
        print(f"spreads x {factor:g}: family p {float(tests.adjusted.min()):.2g} ({each})")


if __name__ == "__main__":
    main()
