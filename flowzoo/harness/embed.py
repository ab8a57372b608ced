"""``flowzoo embed``: latents of images, learnt from training galaxies alone, as a table by galaxy."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from flowzoo import __version__, data
from flowzoo import config as configs
from flowzoo.autoencoder import (
    CHUNK,
    Autoencoder,
    AutoencoderConfig,
    AutoencoderError,
    Trained,
    halvings,
    load_autoencoder,
    make_autoencoder,
    save_autoencoder,
    train_autoencoder,
)
from flowzoo.config import ConfigError
from flowzoo.data import Data, Splits
from flowzoo.harness._reconstruction import PARTS, PICTURES, Error, draw, errors, joined, reconstructed
from flowzoo.harness.plan import BenchConfig, resolve_device
from flowzoo.harness.run import cpu_threads
from flowzoo.seeding import derive
from flowzoo.storage import write_atomic

View = Literal["mean", "first"]


@dataclass(frozen=True)
class FoldResult:
    """One autoencoder: how it was trained, and how well it does on each part."""

    fold: int
    split: str
    trained: Trained
    errors: Mapping[str, Error]
    seconds: float


def embed(
    name: str,
    options: Mapping[str, Any],
    config: AutoencoderConfig,
    bench: BenchConfig,
    out: Path,
    *,
    seed: int = 0,
    view: View = "mean",
    overwrite: bool = False,
    given: Data | None = None,
    on_fold: Callable[[FoldResult], None] | None = None,
) -> list[Path]:
    """Train an autoencoder for each fold and write what it makes of every galaxy.

    Beside the table lie the autoencoders (``latents.fold0.safetensors``), ``latents.json`` with the reconstruction
    errors beside those of principal components, and two pictures of the first fold. The table comes last.

    Args:
        name: of a dataset of square images, or what to call ``given``.
        options: of the dataset.
        config: the network and its training.
        bench: ``folds``, ``fractions``, ``split_seed``, ``device`` and ``threads`` are taken.
        out: the table: ``id``, ``fold``, ``part``, ``latent_0``, ..., a row for each galaxy and fold.
        seed: of weights, order and augmentation; each fold has its own streams of it.
        view: the latent of a galaxy is the mean over its images, or that of the first one.
        overwrite: replace what is there.
        given: data from Python instead of a registered dataset.
        on_fold: called when a fold is done.

    Returns:
        The files, the table first.

    Raises:
        ConfigError: for data without images, too few groups, files that are there; in one line.
        AutoencoderError: for images that do not halve, and a loss that is not finite.
    """
    about, pictures = out.with_suffix(".json"), [out.with_suffix(f".{kind}") for kind in PICTURES]
    _check_out(out, [out, about, *pictures], overwrite)
    images, resolved = _open(name, options, given)
    halvings(images.event_shape, config.levels)  # fails now, not after the data are split
    ids, keys, device = _ids(images), _keys(images), resolve_device(bench.device)
    results: list[FoldResult] = []
    rows: list[list[Any]] = []
    files: list[Path] = []
    drawn: list[bytes] = []
    with cpu_threads(bench.threads):
        for fold in range(bench.folds or 1):
            own = derive(seed, "fold", fold)
            try:
                splits = _split(images, bench, fold, device)
                network = make_autoencoder(splits, config, own)
            except ValueError as error:
                raise ConfigError(f"{name}: {error}") from None
            started = time.monotonic()
            try:
                trained = train_autoencoder(network, splits, seed=own, label=f"fold {fold}")
            except AutoencoderError as error:
                raise AutoencoderError(f"{name}, fold {fold}: {error}") from None
            seconds = time.monotonic() - started
            results.append(FoldResult(fold, splits.hash, trained, errors(network, splits, own), seconds))
            parts = [PARTS[k] for k in _part_of_group(splits).tolist()]
            rows += _rows(ids.values(), fold, parts, _latents(network, images, view))
            files.append(out.with_suffix(f".fold{fold}.safetensors"))
            save_autoencoder(
                network,
                files[-1],
                fold=fold,
                seed=seed,
                split=splits.hash,
                data={"name": name, **resolved},
                names=list(images.names),
                view=view,
                parts=dict(zip(keys, parts, strict=True)),
                trained=asdict(trained),
            )
            if fold == 0:
                drawn = draw(network, splits, ids)
            if on_fold is not None:
                on_fold(results[-1])
    for old in out.parent.iterdir():  # of an earlier run with more folds
        if re.fullmatch(rf"{re.escape(out.stem)}\.fold\d+\.safetensors", old.name) and old not in files:
            old.unlink()
    summary = {
        "data": {"name": name, **resolved},
        "notes": list(images.notes),
        "embed": configs.to_dict(config),
        "bench": {key: configs.to_dict(bench)[key] for key in ("folds", "fractions", "split_seed")},
        "seed": seed,
        "view": view,
        "version": __version__,
        "test": joined([result.errors["test"] for result in results]),
        "folds": [asdict(result) for result in results],
    }
    # Only now: what was killed leaves autoencoders alone behind, which the same command replaces.
    for path, content in zip([about, *pictures], [json.dumps(summary, indent=1).encode(), *drawn], strict=True):
        write_atomic(path, content)
    _write_table(out, rows, config.latents)
    return [out, about, *pictures, *files]


def embed_with(
    path: Path,
    name: str,
    options: Mapping[str, Any],
    bench: BenchConfig,
    out: Path,
    *,
    overwrite: bool = False,
    given: Data | None = None,
) -> float:
    """Write the latents of galaxies by an autoencoder that ``embed`` wrote; nothing is trained.

    A galaxy that the autoencoder was trained or stopped on is ``train`` or ``validation`` in the table, by its name or,
    where groups have none, by its images; every other one is ``test``. All are of fold 0.

    Args:
        path: a ``.safetensors`` of ``embed``.
        name: of the dataset, or what to call ``given``.
        options: of the dataset; those that make an image what it is must be as they were.
        bench: ``device`` and ``threads`` are taken.
        out: the table.
        overwrite: replace it.
        given: as for ``embed``.

    Returns:
        The mean squared error of the reconstructions, in network units, to compare with that of the training.

    Raises:
        CheckpointError: if the file is damaged or of something else.
        ConfigError: for images of another shape or of other fields.
    """
    _check_out(out, [out], overwrite)
    network, meta = load_autoencoder(path, device=resolve_device(bench.device))
    images, _ = _open(name, options, given)
    for what, own, other in (
        ("images", tuple(network.event_shape), tuple(images.event_shape)),
        ("fields", tuple(meta["names"]), tuple(images.names)),
    ):
        if own != other:
            raise ConfigError(f"{path} is of {what} {own}; those of {name} are {other}")
    with cpu_threads(bench.threads):
        latents = _latents(network, images, meta["view"])
        seen = [meta["parts"].get(key, "test") for key in _keys(images)]
        _write_table(out, _rows(_ids(images).values(), 0, seen, latents), network.config.latents)
        total = 0.0
        for part in images.x.split(CHUNK):
            u, found = reconstructed(network, part)
            total += float((found - u).double().square().sum())
    return total / images.x.numel()


def _open(name: str, options: Mapping[str, Any], given: Data | None) -> tuple[Data, dict[str, Any]]:
    """The data, which must be finite images, and the options that they were loaded with."""
    resolved = dict(options)
    if given is None:
        dataset = data.configure(name, resolved)
        resolved = configs.to_dict(dataset)
        try:
            given = dataset.load()
        except (OSError, ValueError) as error:
            raise ConfigError(f"{name}: {error}") from None
    if len(given.event_shape) != 3 or not len(given):
        raise ConfigError(f"embed takes images (C, H, H); '{name}' has {len(given)} events {tuple(given.event_shape)}")
    assert given.groups is not None
    for start in range(0, len(given), CHUNK):
        bad = ~torch.isfinite(given.x[start : start + CHUNK]).flatten(1).all(1)
        if bool(bad.any()):
            row = start + int(bad.nonzero()[0])
            galaxy = _ids(given)[int(given.groups[row])]
            raise ConfigError(f"{name}: image {row}, of galaxy '{galaxy}', is not finite; mend it or leave it out")
    return given, resolved


def _ids(images: Data) -> dict[int, str]:
    """What each group is called, in the order of the groups."""
    assert images.groups is not None
    names = images.group_names
    ids = {group: str(names[group]) if names else str(group) for group in torch.unique(images.groups).tolist()}
    known = list(ids.values())
    if len(set(known)) < len(known):
        twice = next(one for one in known if known.count(one) > 1)
        raise ConfigError(f"two galaxies are called '{twice}'; latents are joined by the name, which must be of one")
    return ids


def _keys(images: Data) -> list[str]:
    """What each group is known by in other data: its name, or else a digest of its images (a number says nothing)."""
    if images.group_names:
        return list(_ids(images).values())
    assert images.groups is not None
    return [
        hashlib.sha256(images.x[images.groups == group].contiguous().numpy().tobytes()).hexdigest()[:16]
        for group in torch.unique(images.groups)
    ]


def _split(images: Data, bench: BenchConfig, fold: int, device: torch.device) -> Splits:
    """One fold, or the only split."""
    return Splits.make(
        images,
        seed=bench.split_seed,
        fractions=bench.fractions,
        device=device,
        fold=(fold, bench.folds) if bench.folds else None,
        checked=True,  # an autoencoder needs no density: an atom of empty pixels is no fault here
    )


def _latents(network: Autoencoder, images: Data, view: View) -> Tensor:
    """``(G, k)`` float64: one latent for each group, of its images in their order."""
    assert images.groups is not None
    found = network.encode(images.x).double().cpu()
    labels, index = torch.unique(images.groups, return_inverse=True)
    if view == "first":
        first = torch.full((len(labels),), len(index)).scatter_reduce_(0, index, torch.arange(len(index)), "amin")
        return found[first]
    sums = torch.zeros(len(labels), found.shape[1], dtype=torch.float64).index_add_(0, index, found)
    return sums / torch.bincount(index)[:, None]


def _part_of_group(splits: Splits) -> Tensor:
    """``(G,)`` of 0, 1, 2, in the order of the groups."""
    groups = [torch.unique(part.groups).cpu() for part in (splits.train, splits.validation, splits.test)]
    part = torch.cat([torch.full_like(labels, k) for k, labels in enumerate(groups)])
    return part[torch.cat(groups).argsort()]


def _rows(ids: Iterable[str], fold: int, parts: list[str], latents: Tensor) -> list[list[Any]]:
    return [[one, fold, part, *row] for one, part, row in zip(ids, parts, latents.tolist(), strict=True)]


def _write_table(out: Path, rows: list[list[Any]], latents: int) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "fold", "part", *(f"latent_{i}" for i in range(latents))])
    writer.writerows(rows)  # floats by repr: all their digits
    write_atomic(out, text.getvalue().encode())


def _check_out(out: Path, files: list[Path], overwrite: bool) -> None:
    """Refuse what cannot be written, or is there, before anything is trained."""
    if out.suffix != ".csv":
        raise ConfigError(f"--out must be the .csv file of the latents; got {out}")
    there = [path for path in files if path.exists()]
    if there and not overwrite:
        raise ConfigError(f"{there[0]} is there already; give --overwrite, or another --out")
    if out.is_dir():
        raise ConfigError(f"--out {out} is a folder; give the file to write")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out.parent).close()
    except OSError as error:
        raise ConfigError(f"cannot write to {out.parent} ({error.strerror}); give another --out") from None
