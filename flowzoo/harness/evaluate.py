"""What is measured of a trained flow: every metric, the inverse's error, the cost of sampling."""

from __future__ import annotations

import math
import time
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from flowzoo.flow import ConditionalFlow
from flowzoo.harness.bench_config import BenchConfig
from flowzoo.harness.clouds import drawn_clouds
from flowzoo.harness.clouds import examples as cloud_examples
from flowzoo.harness.ensembles import drawn_ensembles, examples
from flowzoo.harness.posteriors import draw_posteriors, draw_references, remarks
from flowzoo.harness.source import Source
from flowzoo.metrics import Evaluation, NotComputed, configure
from flowzoo.record import one_line
from flowzoo.registry import METRICS
from flowzoo.seeding import generator

ROUNDTRIP_EVENTS = 256
DRAWS = ("events", "posteriors")  # kinds of draws that metrics are taken over


@dataclass
class Evaluated:
    """Figures of a trained flow on the test split."""

    metrics: dict[str, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    scores: dict[str, Tensor] = field(default_factory=dict)  # per-event scores, and curves behind the figures
    notes: list[str] = field(default_factory=list)
    evaluation: Evaluation | None = None  # what the metrics were taken of


@torch.no_grad()
def evaluate_flow(
    flow: ConditionalFlow, source: Source, seed: int, bench: BenchConfig, draws: Collection[str] = DRAWS
) -> Evaluated:
    """Every installed metric, the inverse's error and the cost of sampling, on the test split.

    Args:
        flow: trained, on the device of the source's splits.
        source: whose test part is looked at, once.
        seed: of the draws.
        bench: how many draws, and when to skip them.
        draws: which kinds are made, some of ``DRAWS``; metrics that need others are left out.
    """
    flow.eval()
    splits, found = source.splits, Evaluated()
    test = splits.test
    x, spread = test.fixed, _spread(splits.train.fixed)
    used, index = torch.unique(test.context_index, return_inverse=True)
    contexts = test.contexts[used]
    scores = flow(x, contexts, index)
    found.scores = {"log_prob": scores.double().cpu(), "group": test.groups.cpu()}
    if test.weights is not None:
        found.scores["weight"] = test.weights.cpu()
    true = splits.data.true_log_prob
    evaluation = Evaluation(
        x=x,
        contexts=contexts,
        context_index=index,
        groups=test.groups,
        scale=spread,
        log_prob=flow,
        scores=scores,
        samples=None,
        samples_missing="no samples were asked for",
        true_scores=None if true is None else true(x, contexts[index]),
        step=None if test.levels is None else test.levels.step,
        generator=generator(seed, "metrics"),
        side=1.0 if splits.data.side is None else splits.data.side[0],
        weights=test.weights,
        names=splits.data.names,
    )
    why = ""
    if flow.sequential_passes > bench.max_passes:
        why = (
            f"a draw takes {flow.sequential_passes} sequential network passes, more than max_passes = "
            f"{bench.max_passes}; raise it to wait for them"
        )
    if "events" in draws:
        evaluation = _with_events(evaluation, found, flow, source, seed, bench, why)
    if "posteriors" in draws:
        # A likelihood is scored and not drawn from.
        evaluation = _with_posteriors(
            evaluation, found, flow, source, seed, bench, why if splits.data.theta == "event" else ""
        )
    found.evaluation = evaluation
    for name in METRICS.names():
        _fill(found, name, evaluation, seed)
    lost = {name: value for name, value in found.metrics.items() if not math.isfinite(value)}
    found.missing |= {name: f"it came out as {value}" for name, value in lost.items()}
    found.metrics = {name: value for name, value in found.metrics.items() if name not in lost}
    return found


def _with_events(
    evaluation: Evaluation,
    found: Evaluated,
    flow: ConditionalFlow,
    source: Source,
    seed: int,
    bench: BenchConfig,
    why: str,
) -> Evaluation:
    """Draws at test contexts, for what they look like and what they cost; or why there are none."""
    if why:
        found.missing |= dict.fromkeys(("sample_seconds_per_1000", "roundtrip_error"), why)
        return replace(evaluation, samples_missing=why, ensembles_missing=why, clouds_missing=why)
    splits, test = source.splits, source.splits.test
    x, contexts, index, spread = evaluation.x, evaluation.contexts, evaluation.context_index, evaluation.scale
    # A random choice, the same for every model: a catalogue is sorted by galaxy, and its first rows are one galaxy.
    order = torch.randperm(len(x), generator=generator(splits.seed, "draws"))
    rows = order[: bench.draws].to(x.device)
    if len(rows) < len(x):
        found.notes.append(f"sample statistics from {len(rows)} draws, at {len(rows)} of {len(x)} test events")
    samples, seconds = _draw(flow, contexts[index[rows]], seed)
    found.metrics["sample_seconds_per_1000"] = seconds / len(rows) * 1000
    some = rows[:ROUNDTRIP_EVENTS]
    found.metrics["roundtrip_error"] = _roundtrip(flow, x[some], contexts[index[some]], spread)
    evaluation = replace(evaluation, samples=samples, samples_missing="", rows=rows)
    known = source.ensembles(bench)
    if isinstance(known, str):
        evaluation = replace(evaluation, ensembles_missing=known)
    else:
        ensembles = drawn_ensembles(flow, known, bench.ensemble_draws, seed)
        found.scores |= examples(ensembles, known, splits.data.context_image)
        draws = "a draw" if known.paired else f"{ensembles.drawn.shape[1]} draws"
        found.notes.append(f"field statistics: {known.note}, {draws} at each")
        evaluation = replace(evaluation, ensembles=ensembles)
    chosen = source.clouds(bench)
    if isinstance(chosen, str):
        return replace(evaluation, clouds_missing=chosen)
    found.notes.append(f"point statistics: {chosen.note}")
    if not source.fold:  # of a cross-validation the first is shown
        found.scores |= cloud_examples(flow, chosen, test, seed)
    return replace(evaluation, clouds=drawn_clouds(flow, chosen, test, spread, seed))


def _with_posteriors(
    evaluation: Evaluation,
    found: Evaluated,
    flow: ConditionalFlow,
    source: Source,
    seed: int,
    bench: BenchConfig,
    why: str,
) -> Evaluation:
    """Posteriors of test observations, and of those whose exact ones are known; or why there are none."""
    data = source.splits.data
    asked = why or source.observed(bench)
    if isinstance(asked, str):
        evaluation = replace(evaluation, posteriors_missing=asked)
    else:
        _wait(evaluation.x.device)
        started = time.perf_counter()
        try:
            posteriors, inferred = draw_posteriors(flow, asked, data, bench, seed)
        except ValueError as error:  # a density that is nowhere finite, or lies outside the prior
            evaluation = replace(evaluation, posteriors_missing=one_line(error))
        else:
            _wait(evaluation.x.device)
            found.metrics["posterior_seconds"] = (time.perf_counter() - started) / len(asked.theta)
            found.notes += [f"posteriors: {asked.note}, {bench.posterior_draws} draws of each", *remarks(inferred)]
            evaluation = replace(evaluation, posteriors=posteriors)
    exact = why or source.references(bench)
    if isinstance(exact, str):
        return replace(evaluation, references_missing=exact)
    try:
        references, inferred = draw_references(flow, exact, data, bench, seed)
    except ValueError as error:
        return replace(evaluation, references_missing=one_line(error))
    found.notes += [f"reference posteriors: {exact.note}", *remarks(inferred)]
    return replace(evaluation, references=references)


def _fill(found: Evaluated, name: str, evaluation: Evaluation, seed: int) -> None:
    """The columns of one metric, the reasons for those that are empty, and the curves behind them."""
    metric = configure(name, {})
    columns = [column.name for column in metric.columns]
    if not type(metric).__module__.startswith("flowzoo."):
        # Ours draw from one generator after another; a metric more, or one that fails, moves none of their numbers.
        evaluation = replace(evaluation, generator=generator(seed, "metrics", name))
    try:
        values = {key: _checked(key, value, columns) for key, value in metric(evaluation).items()}
    except NotComputed as reason:
        found.missing |= dict.fromkeys(columns, str(reason))
        return
    except Exception as error:  # of whoever wrote it: no reason to lose a training, and all other numbers with it
        found.missing |= dict.fromkeys(columns, f"metric '{name}' failed ({one_line(error)})")
        return
    for key, value in values.items():
        if isinstance(value, Tensor):
            found.scores[f"{name}.{key}"] = value.cpu()
        elif isinstance(value, str):
            found.missing[key] = value
        else:
            found.metrics[key] = value


def _checked(key: str, value: Any, columns: list[str]) -> float | str | Tensor:
    """What a metric returns under a name: of a column a number or a reason, under any other a tensor."""
    if key not in columns:
        if isinstance(value, Tensor):
            return value
        raise TypeError(f"'{key}' is none of its columns {', '.join(columns)}; got {value!r:.40} and no tensor")
    return value if isinstance(value, str) else float(value)


def _draw(flow: ConditionalFlow, context: Tensor, seed: int) -> tuple[Tensor, float]:
    """A draw per context, and the seconds that they took."""
    _wait(context.device)
    started = time.perf_counter()
    samples = flow.sample(context, generator=generator(seed, "sample"))
    _wait(context.device)
    return samples, time.perf_counter() - started


def _roundtrip(flow: ConditionalFlow, x: Tensor, context: Tensor, spread: Tensor) -> float:
    """Largest ``|to_data(to_latent(x)) - x|``, in training spreads."""
    back = flow.to_data(flow.to_latent(x, context)[0], context)[0]
    return float(((back - x).abs() / spread).max())


def _spread(x: Tensor) -> Tensor:
    """Standard deviation per column of a vector, per channel of an image."""
    over = (0,) if x.ndim == 2 else (0, *range(2, x.ndim))
    return x.std(over, keepdim=True)[0]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
