"""``flowzoo infer``: what observations say of the parameters, by a trained flow."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowzoo import __version__, checkpoint, inference
from flowzoo.config import ConfigError
from flowzoo.data._direction import prior_texts
from flowzoo.harness._observations import read_observations
from flowzoo.harness._trained import find_flow
from flowzoo.harness.as_trained import check_unchanged, dataset_of, open_as_trained, split_options
from flowzoo.harness.folder import make_writable
from flowzoo.harness.plan import BenchConfig, resolve_device
from flowzoo.harness.posteriors import observed
from flowzoo.harness.run import cpu_threads
from flowzoo.harness.settings import read_mapping
from flowzoo.inference import Inferred, Posterior, Prior
from flowzoo.seeding import generator
from flowzoo.storage import write_atomic

PICTURES = 12  # observations at most whose corner plots are drawn


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
    path, note = find_flow(run, model)
    flow, meta = checkpoint.load(path, device=resolve_device(device)), checkpoint.read_meta(path)
    known = meta.get("inference") or {}
    side = known.get("theta", "context")
    shape = flow.event_shape if side == "context" else flow.context_shape
    dim = (flow.context_shape if side == "context" else flow.event_shape).numel()
    columns = meta.get("columns", {})
    own = ("context_names", "names") if side == "context" else ("names", "context_names")
    given = [str(name) for name in columns.get(own[0], ())]
    names = tuple(given) if len(given) == dim else tuple(f"theta{i + 1}" for i in range(dim))
    units = tuple(columns.get(own[0].replace("names", "units"), ()))
    units = units if len(units) == dim else ("",) * dim
    chosen = _prior(prior, known, names, path)
    targets = [out / "samples.npz", out / "summary.json"]
    if not overwrite and (there := [file for file in targets if file.exists()]):
        raise ConfigError(f"{there[0]} exists; give another --out, or --overwrite")
    if x is not None:
        values, truth = read_observations(x, shape, columns.get(own[1], ()), names, array)
        if side == "context":  # integer events were dequantised: the middle of a level is scored, not its edge
            values = values + known.get("step", 0.0) / 2
    else:
        values, truth = _of_test(meta, path, test, device)
    try:
        posterior = Posterior(flow, chosen, theta=side)
        warned = [] if truth is None or chosen is None else [*inference.check_covers(chosen, truth, names)]
        if x is None and len(values) < test:
            warned.append(f"--test {test}: the test part has {len(values)} groups, of each of which one is taken")
        make_writable(out)
        with cpu_threads(threads):
            # A flow in closed form has buffers and no parameters.
            like = next((t for t in flow.state_dict().values() if t.is_floating_point()), torch.empty(0))
            found = posterior.sample(values.to(like.device), n, method=method, generator=generator(seed, "infer"))
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    summary = inference.summarise(found, names, truth)
    said = [*warned, *found.warnings]
    bounds = None if chosen is None else (chosen.low, chosen.high)
    files = _write(out, found, names, units, truth, bounds, summary, path, said)
    label = note or f"{meta['flow']['model']} from {path.name}"
    return Inference(found, names, truth, summary, said, files, label)


def read_prior(path: Path) -> dict[str, Any]:
    """A prior as YAML: a line for each parameter, all of them in braces, or a kind and its options.

    Raises:
        ConfigError: with its line, if it cannot be read.
    """
    try:
        return read_mapping(path)
    except ConfigError:
        # In braces YAML cuts uniform(0.1, 0.5) at the comma, and two parameters may end alike.
        text = path.read_text(encoding="utf-8", errors="replace").strip() if path.is_file() else ""
        try:
            if text.startswith("{") and (found := prior_texts(" ".join(text.split()))):
                return dict(found)
        except ValueError:
            pass
        raise


def _prior(given: Mapping[str, Any] | None, known: Mapping[str, Any], names: Sequence[str], path: Path) -> Prior | None:
    """The prior that was given, or that of the training data."""
    description = known.get("prior") if given is None else _in_order(given, names)
    if description is None and known.get("theta", "context") == "context":
        raise ConfigError(
            f"{path} was trained without a prior, so its context may be no parameter; give one with --prior FILE, "
            "YAML such as {Omega_m: 'uniform(0.1, 0.5)', sigma_8: 'norm(0.8, 0.1)'}"
        )
    if description is None:
        return None
    try:
        with np.errstate(all="ignore"):  # scipy of an infinite width
            found = inference.from_description(description)
            middle = found.from_unit(torch.full((found.dim,), 0.5, dtype=torch.float64))
    except (ValueError, TypeError, RuntimeError) as error:
        raise ConfigError(f"prior: {error}") from None
    if not bool(middle.isfinite().all()):
        raise ConfigError(f"prior: the median of each parameter must be finite; got {middle.tolist()}; bound it")
    return found


def _in_order(given: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """A prior with its parameters in the order of the flow's: their names say which is which, not their places."""
    kind = given.get("kind", "product")
    if not isinstance(kind, str):
        raise ConfigError(f"prior: kind must be a word such as box; got {kind!r}")
    if kind != "product":
        return {key: value if key == "kind" else _numeric(value) for key, value in given.items()}
    texts = given.get("marginals", {key: value for key, value in given.items() if key != "kind"})
    if isinstance(texts, Sequence) and not isinstance(texts, str):
        return {"kind": kind, "marginals": list(texts)}
    try:
        if isinstance(texts, Mapping) and (bad := [key for key in texts if isinstance(texts[key], Mapping | list)]):
            raise ValueError(f"'{bad[0]}' must be text such as 'uniform(0.1, 0.5)'; got {texts[bad[0]]!r}")
        found = prior_texts(texts) or {}
        if not isinstance(found, Mapping):
            raise ValueError(f"expected a text for each parameter; got {texts!r}")
    except ValueError as error:
        raise ConfigError(f"prior: {error}") from None
    if sorted(found) != sorted(names):
        came = ", ".join(found) or "none"
        raise ConfigError(f"prior must have a text for each of the parameters {', '.join(names)}; it has {came}")
    return {"kind": kind, "marginals": [found[name] for name in names]}


def _numeric(value: Any) -> Any:
    """Numbers that YAML takes for text, such as 1e-4, as numbers."""
    if isinstance(value, list | tuple):
        return [_numeric(part) for part in value]
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        raise ConfigError(f"prior: expected numbers; got {value!r}") from None


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


def _write(
    out: Path,
    found: Inferred,
    names: Sequence[str],
    units: Sequence[str],
    truth: Tensor | None,
    bounds: tuple[Tensor, Tensor] | None,
    summary: list[dict[str, Any]],
    path: Path,
    warned: Sequence[str],
) -> list[Path]:
    """The three kinds of files."""
    from flowzoo.report.figures_posterior import draw_posterior

    content = io.BytesIO()
    arrays = {"theta": found.theta.transpose(0, 1), "log_prob": found.log_prob.T}
    arrays |= {} if truth is None else {"truth": truth}
    arrays |= {} if found.log_evidence is None else {"log_evidence": found.log_evidence}
    known: dict[str, Any] = {k: v.cpu().numpy() for k, v in arrays.items()}
    np.savez_compressed(content, names=np.array(names), **known)
    write_atomic(out / "samples.npz", content.getvalue())
    about = {
        "flow": str(path),
        "method": found.method,
        "draws": len(found.theta),
        "version": __version__,
        "warnings": list(warned),
        "observations": summary,
    }
    write_atomic(out / "summary.json", json.dumps(about, indent=1, allow_nan=False).encode())
    files = [out / "samples.npz", out / "summary.json"]
    count = found.theta.shape[1]
    for left in out.glob("corner*.png"):  # of an earlier call, of other observations
        if left.stem == "corner" or left.stem.removeprefix("corner-").isdigit():
            left.unlink()
    for k in range(min(count, PICTURES) if len(found.theta) > 1 else 0):  # a single draw has no density
        of = None if truth is None else truth[k].cpu()
        title = f"observation {k}" if count > 1 else ""
        draws, best = found.theta[:, k].cpu(), found.best[k].cpu()
        figure = draw_posterior(draws, names, units, truth=of, best=best, bounds=bounds, title=title)
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=150)
        files.append(out / (f"corner-{k}.png" if count > 1 else "corner.png"))
        write_atomic(files[-1], content.getvalue())
    return files
