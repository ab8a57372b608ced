"""``flowzoo calibrate``: can the posteriors of a trained flow be believed?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from flowzoo import __version__, checkpoint
from flowzoo import config as configs
from flowzoo.config import ConfigError
from flowzoo.flow import ConditionalFlow
from flowzoo.harness._gaps import gaps_of
from flowzoo.harness._given_prior import beside_training
from flowzoo.harness._observations import read_observations
from flowzoo.harness._reach import beyond_thetas, far_off, reach_in
from flowzoo.harness._trained import as_typed
from flowzoo.harness.as_trained import open_to_test
from flowzoo.harness.bench_config import BenchConfig
from flowzoo.harness.chosen import find_flow
from flowzoo.harness.evaluate import evaluate_flow
from flowzoo.harness.folder import make_writable
from flowzoo.harness.posteriors import Observed, local_tests, posterior_of
from flowzoo.harness.run import cpu_threads, labels_of
from flowzoo.harness.source import Source
from flowzoo.inference import sides
from flowzoo.metrics import Column, Evaluation, columns
from flowzoo.record import Record, one_line
from flowzoo.registry import DATASETS, METRICS
from flowzoo.report import Cell, word, write_figures
from flowzoo.storage import write_atomic

FEWEST = 3  # draws of each posterior, of which L-C2ST makes its pairs
FEWEST_PAIRS = 20  # observations, below which no test is taken


@dataclass(frozen=True)
class Calibration:
    """What was measured.

    Args:
        metrics: by column.
        local: p and statistic of L-C2ST at each observation of its own, if there were any.
        missing: why others are empty.
        notes: how the posteriors were drawn, and what the method had to say.
        files: that were written.
        flow: which flow it was, in one line.
    """

    metrics: dict[str, float]
    local: list[tuple[float, float]]
    missing: dict[str, str]
    notes: list[str]
    files: list[Path]
    flow: str


def calibrate_flow(
    run: Path,
    out: Path,
    *,
    dataset: tuple[str, dict[str, Any]] | None = None,
    x: Path | None = None,
    array: str | None = None,
    n: int = 1000,
    draws: int = 200,
    reference_draws: int = 10_000,
    method: str = "auto",
    model: str | None = None,
    seed: int = 0,
    device: str = "auto",
    threads: int = 1,
    overwrite: bool = False,
) -> Calibration:
    """Every calibration metric of a flow's posteriors, on the test part of the data that it was trained on.

    Writes ``calibration.json`` (numbers, words, thresholds, notes) and ``figures/calibration.<dataset>.png``.

    Args:
        run: a flow's file, or the directory of a bench.
        out: folder to write.
        dataset: name and options; None takes what it was trained on, split as then.
        x: file of observations (see ``read_observations``) whose posteriors are tested by themselves, with L-C2ST; by
            default those of which the dataset knows the exact posterior, if there are any.
        array: the array in it.
        n: test observations at most, one of each test group.
        draws: from the posterior of each.
        reference_draws: from each posterior whose exact one is known, at most; 0 for none, which saves C2ST.
        method: auto, grid, importance or mcmc.
        model: of a directory, the flow of this model.
        seed: of the draws.
        device: auto, cpu, cuda, ...
        threads: of torch on the CPU.
        overwrite: whether files of an earlier call may be replaced.

    Raises:
        ConfigError: in one line, if the data have no prior, or changed since the training, or there are files already.
    """
    if n < 1 or draws < FEWEST or threads < 1:
        raise ConfigError(
            f"--n and --threads must be at least 1 and --draws at least {FEWEST}; got {n}, {threads} and {draws}"
        )
    if array is not None and x is None:
        raise ConfigError(f"--array {array} names an array of --x FILE; give that too")
    target = out / "calibration.json"
    if target.exists() and not overwrite:
        raise ConfigError(f"{target} exists; give another --out, or --overwrite")
    path, label = find_flow(run, model)
    meta = checkpoint.read_meta(path)
    options: dict[str, Any] = {"posteriors": n, "posterior_draws": draws, "posterior_method": method}
    options["reference_draws"] = reference_draws
    flow, source, bench = open_to_test(path, meta, dataset, {**options, "device": device, "threads": threads})
    name = source.name
    asked = source.observed(bench)
    if isinstance(asked, str):
        cure = f"; {_prior_option(name)}" if source.splits.data.prior is None else ""
        raise ConfigError(f"{name}: {asked}{cure}")
    if len(asked.rows) < FEWEST_PAIRS:
        raise ConfigError(
            f"{name}: calibration needs {FEWEST_PAIRS} test observations at least; got {len(asked.rows)}; raise --n, "
            "or take data with more test groups"
        )
    # Before the long part, for what is wrong in them.
    given = None if x is None else _given(x, array, source, meta)
    data, learnt = source.splits.data, meta.get("inference") or {}
    try:
        posterior_of(flow, data).method_for(method)
    except ValueError as error:
        raise ConfigError(f"{path}: {as_typed(str(error))}") from None
    said = beside_training(asked.prior, learnt, data.theta_names, path)
    maps = sides(data.theta, flow.x_map, flow.context_map)
    reach = [reach_in(meta, side) for side in sides(data.theta, "event", "context")]
    if given is not None:
        said += far_off(given, reach[1], data.observation_names, maps[1])
    make_writable(out)
    with cpu_threads(threads):
        found = evaluate_flow(flow, source, seed, bench, draws=("posteriors",))
        try:
            local, why = _local(flow, found.evaluation, asked, source, bench, seed, given), ""
        except ValueError as error:  # too few pairs to learn from
            local, why = [], one_line(error)
    own = [m for m in map(METRICS.get, METRICS.names()) if {"posteriors", "references"}.intersection(m.needs)]
    wanted = [column.name for metric in own for column in metric.columns]
    metrics = {k: found.metrics[k] for k in wanted if k in found.metrics}
    missing = {k: found.missing[k] for k in wanted if k in found.missing}
    if found.evaluation is not None and found.evaluation.references is None:
        # Of events there are no draws here: C2ST is that of posteriors, and needs exact ones.
        missing |= {k: found.evaluation.references_missing for k in missing if k.startswith("c2st")}
    missing |= {"lc2st": why} if why else {}
    if not metrics:
        raise ConfigError(f"{path}: {missing['calibration_p']}")
    record = Record(name, meta["flow"]["model"], seed, "", "ok", metrics=metrics, labels=labels_of(data))
    pictures = write_figures([Cell(record, found.scores)], out)
    posteriors = found.evaluation.posteriors if found.evaluation is not None else None
    beyond = [] if posteriors is None else beyond_thetas(posteriors.draws, reach[0], posteriors.names, maps[0])
    notes = [*said, *beyond, *data.notes, *map(as_typed, found.notes)]
    about = {
        "flow": str(path),
        "version": __version__,
        "columns": {c.name: {"value": v, "word": w, "good": c.good, "bad": c.bad} for c, v, w in rows(metrics)},
        "lc2st": [{"p": p, "statistic": statistic} for p, statistic in local],
        "missing": missing,
        "notes": notes,
    }
    write_atomic(target, json.dumps(about, indent=1, allow_nan=False).encode())
    return Calibration(metrics, local, missing, notes, [target, *pictures], label)


def _prior_option(name: str) -> str:
    """How data without a prior come by one."""
    if name in DATASETS.names() and "prior" in configs.fields(DATASETS.get(name)):
        return f"name the data again with one: --data {name} --set data.prior='{{theta: uniform(0, 1)}}' --set ..."
    return "of a table of simulations (--data table) it is the option data.prior"


def _given(file: Path, array: str | None, source: Source, meta: Mapping[str, Any]) -> Tensor:
    """The observations of a file."""
    data = source.splits.data
    names, gaps = data.observation_names, gaps_of(meta, data.observation_names)
    x = read_observations(file, data.observation_shape, names, data.theta_names, array, gaps)[0]
    return x + data.half_level


def _local(
    flow: ConditionalFlow,
    evaluation: Evaluation | None,
    asked: Observed,
    source: Source,
    bench: BenchConfig,
    seed: int,
    given: Tensor | None,
) -> list[tuple[float, float]]:
    """p and statistic of L-C2ST at each observation of a file, or of the references."""
    posteriors = evaluation.posteriors if evaluation is not None else None
    data, known = source.splits.data, source.references(bench)
    if given is not None:
        x = given
    elif not isinstance(known, str):
        x = known.x + data.half_level
    else:
        return []
    if posteriors is None:
        return []
    found = local_tests(flow, posteriors, asked, x.to(asked.x), data, bench, seed)
    return list(zip(found.p.tolist(), found.statistic.tolist(), strict=True))


def rows(metrics: Mapping[str, float]) -> list[tuple[Column, float, str]]:
    """Each number with its column and its word."""
    known = columns()
    return [(known[name], value, word(known[name], value)) for name, value in metrics.items()]
