"""``flowzoo infer``: what observations say of the parameters, by a trained flow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from flowzoo import checkpoint, inference
from flowzoo.config import ConfigError
from flowzoo.flow import ConditionalFlow
from flowzoo.harness._gaps import gaps_of
from flowzoo.harness._given_prior import prior_of
from flowzoo.harness._observations import read_observations
from flowzoo.harness._posterior_files import SAMPLES, SUMMARY, write_posteriors
from flowzoo.harness._reach import beyond_thetas, far_off, reach_in
from flowzoo.harness._trained import as_typed
from flowzoo.harness.as_trained import check_unchanged, dataset_of, open_as_trained, split_options
from flowzoo.harness.bench_config import BenchConfig
from flowzoo.harness.chosen import find_flow
from flowzoo.harness.folder import make_writable
from flowzoo.harness.posteriors import observed
from flowzoo.harness.run import cpu_threads
from flowzoo.harness.source import resolve_device
from flowzoo.inference import Inferred, Posterior, sides
from flowzoo.seeding import generator


@dataclass(frozen=True)
class Inference:
    """What was inferred.

    Args:
        found: draws and what the method has to say of them.
        names: of the parameters.
        truth: ``(K, D)`` where it is known.
        summary: by observation, as in ``summary.json``.
        warnings: of the method and of what was given.
        files: that were written.
        flow: which flow it was, in one line.
    """

    found: Inferred
    names: tuple[str, ...]
    truth: Tensor | None
    summary: list[dict[str, Any]]
    warnings: list[str]
    files: list[Path]
    flow: str

    def rows(self, most: int) -> list[list[str]]:
        """A line for each parameter of the first observations: mean, sd, equal-tailed intervals, MAP, truth."""
        mean, std = self.found.mean, self.found.std
        inner, outer = self.found.interval(0.68), self.found.interval(0.95)
        rows = []
        for k in range(min(most, len(mean))):
            for d, name in enumerate(self.names):
                row = [str(k), name, f"{mean[k, d]:.4g}", f"{std[k, d]:.2g}"]
                row += [f"{low:.4g} to {high:.4g}" for low, high in (inner[k, d].tolist(), outer[k, d].tolist())]
                row.append(f"{self.found.best[k, d]:.4g}")
                rows.append(row if self.truth is None else [*row, f"{self.truth[k, d]:.4g}"])
        return rows


def infer_file(
    run: Path,
    out: Path,
    *,
    x: Path | None = None,
    array: str | None = None,
    test: int = 0,
    prior: Mapping[str, Any] | None = None,
    method: str = "auto",
    n: int = 10_000,
    model: str | None = None,
    seed: int = 0,
    device: str = "auto",
    threads: int = 1,
    overwrite: bool = False,
) -> Inference:
    """Posteriors of the observations of a file, or of test observations of the data that the flow was trained on.

    Writes ``samples.npz`` (``theta`` ``(K, n, D)``, ``log_prob`` ``(K, n)``, ``names``), ``summary.json`` and a corner
    plot of each of the first observations.

    Args:
        run: a flow's file, or the directory of a bench.
        out: folder to write.
        x: file of observations; see ``read_observations``.
        array: the array in it.
        test: without a file, so many test observations, whose parameters are known.
        prior: of the parameters, as ``inference.from_description`` takes it, texts matched to the parameters by name;
            by default that of the training data.
        method: auto, grid, importance or mcmc.
        n: draws from each posterior.
        model: of a directory, the flow of this model.
        seed: of the draws.
        device: auto, cpu, cuda, ...
        threads: of torch on the CPU.
        overwrite: whether files of an earlier call may be replaced; its corner plots go.

    Raises:
        ConfigError: in one line, for what does not fit: the flow has no parameters, the prior does not cover the truth,
            the observations are of another shape.
    """
    if (x is None) == (test == 0):
        raise ConfigError("give observations with --x FILE, or --test K to take K of the test part")
    if n < 1 or test < 0 or threads < 1:
        raise ConfigError(
            f"--n and --threads must be at least 1 and --test not negative; got {n}, {threads} and {test}"
        )
    if array is not None and x is None:
        raise ConfigError(f"--array {array} names an array of --x FILE; give that too")
    path, label = find_flow(run, model)
    flow, meta = checkpoint.load(path, device=resolve_device(device)), checkpoint.read_meta(path)
    known = _Known.of(flow, meta)
    chosen, warned = prior_of(prior, known.inference, known.names, path)
    if not overwrite and (there := [out / name for name in (SAMPLES, SUMMARY) if (out / name).exists()]):
        raise ConfigError(f"{there[0]} exists; give another --out, or --overwrite")
    if x is not None:
        gaps = gaps_of(meta, known.observation_names)
        values, truth = read_observations(x, known.shape, known.observation_names, known.names, array, gaps)
        values = values + known.half_level
    else:
        values, truth = _of_test(meta, path, test, device)
    far: list[str] = []
    try:
        posterior = Posterior(flow, chosen, theta=known.theta, names=known.names)
        posterior.method_for(method)
        if truth is not None and chosen is not None:
            warned += inference.check_covers(chosen, truth, known.names)
        maps = sides(known.theta, flow.x_map, flow.context_map)
        reach = [reach_in(meta, side) for side in sides(known.theta, "event", "context")]
        far = far_off(values, reach[1], known.observation_names, maps[1])
        warned += far
        if x is None and len(values) < test:
            warned.append(f"--test {test}: the test part has {len(values)} groups, of each of which one is taken")
        make_writable(out)
        with cpu_threads(threads):
            found = posterior.sample(values, n, method=method, generator=generator(seed, "infer"))
    except ValueError as error:
        raise ConfigError("; ".join([f"{path}: {as_typed(str(error))}", *far])) from None
    summary = inference.summarise(found, known.names, truth)
    beyond = beyond_thetas(found.theta, reach[0], known.names, maps[0])
    said = [*warned, *map(as_typed, found.warnings), *beyond]
    bounds = None if chosen is None else (chosen.low, chosen.high)
    files = write_posteriors(out, found, known.names, known.units, truth, bounds, summary, path, said)
    return Inference(found, known.names, truth, summary, said, files, label)


@dataclass(frozen=True)
class _Known:
    """What a flow's file says of the parameters, and of what they are inferred from; ``inference`` as it is there."""

    inference: Mapping[str, Any]
    theta: Literal["context", "event"]
    names: tuple[str, ...]
    units: tuple[str, ...]
    shape: tuple[int, ...]
    observation_names: tuple[str, ...]
    half_level: float

    @classmethod
    def of(cls, flow: ConditionalFlow, meta: Mapping[str, Any]) -> _Known:
        inference, columns = meta.get("inference") or {}, meta.get("columns", {})
        theta = inference.get("theta", "context")
        own, shape = sides(theta, flow.event_shape, flow.context_shape)
        names, observation_names = sides(theta, columns.get("names", ()), columns.get("context_names", ()))
        units = sides(theta, columns.get("units", ()), columns.get("context_units", ()))[0]
        dim = own.numel()
        return cls(
            inference=inference,
            theta=theta,
            names=tuple(map(str, names)) if len(names) == dim else tuple(f"theta{i + 1}" for i in range(dim)),
            units=tuple(units) if len(units) == dim else ("",) * dim,
            shape=tuple(shape),
            observation_names=tuple(observation_names),
            # Integer events were dequantised: the middle of a level is scored.
            half_level=inference.get("step", 0.0) / 2 if theta == "context" else 0.0,
        )


def _of_test(meta: Mapping[str, Any], path: Path, count: int, device: str) -> tuple[Tensor, Tensor]:
    """Test observations of the data that the flow was trained on, and their parameters."""
    from flowzoo import config as configs

    name, options = dataset_of(meta, path, "give observations with --x")
    bench = configs.make(BenchConfig, {**split_options(meta), "device": device}, "bench")
    source = open_as_trained(name, options, bench, meta)
    check_unchanged(source, path, meta, "give observations with --x")
    chosen = observed(source.splits, count)
    if isinstance(chosen, str):
        raise ConfigError(f"{path}: {chosen}; give observations with --x")
    return chosen.x, chosen.theta
