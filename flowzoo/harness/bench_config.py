"""``BenchConfig``: how to compare, and which of that a cell's figures depend on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flowzoo import data
from flowzoo.harness.clouds import LEAST

# The options of a bench that a cell's figures depend on.
EVALUATION = (
    "split_seed",
    "fractions",
    "folds",
    "draws",
    "ensemble_contexts",
    "ensemble_draws",
    "cloud_groups",
    "cloud_points",
    "posteriors",
    "posterior_draws",
    "posterior_method",
    "reference_draws",
    "context_gain",
    "max_passes",
)


@dataclass(frozen=True)
class BenchConfig:
    """How to compare.

    Args:
        seeds: of initialisation, order and noise; one cell per dataset, model and seed.
        split_seed: of the split, the same for every model and seed.
        fractions: of the groups that go to train, validation and test.
        folds: 0 for one split; else the groups are cut into so many parts, each is left out in turn, and a cell is one
            of these: every group is tested once, which errors over few groups need.
        out: run directory; by default ``runs/<datasets>-<hash of the plan>``, so that the same command goes on
            where it stopped.
        device: ``auto`` takes the first GPU if there is one.
        threads: of torch on the CPU. One by default: small flows gain little from more, and where another process
            wants the cores, threads that wait for one another are many times slower than one.
        draws: events drawn for the sample statistics, at most one per test context.
        ensemble_contexts: held-out contexts at which field statistics are taken, of images.
        ensemble_draws: draws at each of them, and fresh real events where the dataset can simulate.
        cloud_groups: test groups of many events for which point statistics are taken, of vectors.
        cloud_points: events in each half of such a group, and as many draws.
        posteriors: test observations, one of each test group, whose posteriors are drawn for calibration, where the
            dataset has a prior; 0 for none. By default 200, or 50 where they take Markov chains, which are slow:
            likelihoods of more than three parameters.
        posterior_draws: draws from each.
        posterior_method: how posteriors are drawn from a likelihood: grid (up to three parameters), importance, mcmc,
            or auto.
        reference_draws: draws from each posterior for which the dataset has reference draws, at most as many as those;
            0 for none. C2ST trains a classifier on them, minutes a cell for 10 posteriors of 10,000 draws.
        context_gain: train each config a second time without context, and say what the context is worth.
        max_passes: sampling is skipped, with this reason, where one draw takes more sequential network passes
            (a count and not a time, so that the same command gives the same table).
        together: train the seeds of a config at once (``torch.func.vmap``), where one process trains them; by default
            those of small flows, of vectors if on a CPU: elsewhere nothing is gained. Figures are the same up to
            rounding.
        reevaluate: take the metrics of finished cells again, from their trained flows, where a metric is of other code
            now, or new.
        baseline: add ``gaussian`` to every dataset for which its covariance can be had: events of at most 8,192
            numbers, and fewer columns of context than training events. Named itself, it is tried all the same.
    """

    seeds: tuple[int, ...] = (0,)
    split_seed: int = 0
    fractions: tuple[float, float, float] = data.FRACTIONS
    folds: int = 0
    out: str | None = None
    device: str = "auto"
    threads: int = 1
    draws: int = 1000
    ensemble_contexts: int = 16
    ensemble_draws: int = 500
    cloud_groups: int = 16
    cloud_points: int = 500
    posteriors: int | None = None
    posterior_draws: int = 200
    posterior_method: Literal["auto", "grid", "importance", "mcmc"] = "auto"
    reference_draws: int = 10_000
    context_gain: bool = False
    max_passes: int = 4096
    together: bool | None = None
    reevaluate: bool = False
    baseline: bool = True

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise ValueError(f"threads must be at least 1; got {self.threads}")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds must be different numbers, at least one; got {list(self.seeds)}")
        if self.folds < 0 or self.folds == 1:
            raise ValueError(f"folds must be 2 or more, or 0 for one split; got {self.folds}")
        counts = {"draws": 1, "ensemble_contexts": 1, "ensemble_draws": 2, "cloud_groups": 1, "cloud_points": LEAST}
        counts |= {"posteriors": 0, "posterior_draws": 1, "reference_draws": 0}
        for name, least in counts.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}; got {value}")
