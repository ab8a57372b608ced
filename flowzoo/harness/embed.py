"""``flowzoo embed``: latents of images, learnt from training galaxies alone, as a table by galaxy."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

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
from flowzoo.harness._known_galaxies import differing, ids_of, keys_of, seen
from flowzoo.harness._reconstruction import PARTS, PICTURES, Error, draw, errors, joined, reconstructed
from flowzoo.harness.bench_config import BenchConfig
from flowzoo.harness.folder import make_writable
from flowzoo.harness.run import cpu_threads
from flowzoo.harness.source import resolve_device
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


class Encoded(NamedTuple):
    """What ``embed_with`` found, beside the latents.

    Args:
        error: mean squared error of the reconstructions in network units, to compare with that of the training.
        recognised: galaxies of the autoencoder's own data.
        galaxies: all of them.
        differ: options of the dataset that are not as they were, places apart: what each was and is.
    """

    error: float
    recognised: int
    galaxies: int
    differ: list[str]


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
    _check_out(out, [out, about, *pictures, *_fold_files(out)], overwrite)
    images, resolved = _open(name, options, given)
    halvings(images.event_shape, config.levels)  # fails now, not after the data are split
    ids, keys, device = ids_of(images), keys_of(images), resolve_device(bench.device)
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
            if bool((splits.train.x == splits.train.x[:1]).all()):
                what = f"fold {fold} has {len(splits.train)} training images, all equal"
                raise ConfigError(f"{name}: {what}; an autoencoder needs two that differ: give more galaxies")
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
                _unfinished(files[-1]),
                fold=fold,
                seed=seed,
                split=splits.hash,
                data={"name": name, **resolved},
                names=list(images.names),
                view=view,
                parts=dict(zip(keys, parts, strict=True)),
                named=bool(images.group_names),
                trained=asdict(trained),
            )
            if fold == 0:
                drawn = draw(network, splits, ids)
            if on_fold is not None:
                on_fold(results[-1])
    for old in _fold_files(out):  # of an earlier run, and --overwrite is given
        if old not in files:
            old.unlink()
    for path in files:
        os.replace(_unfinished(path), path)
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
    # Only now: what was killed leaves unfinished files alone behind, which the same command replaces.
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
    new: bool = False,
    given: Data | None = None,
) -> Encoded:
    """Write the latents of galaxies by an autoencoder that ``embed`` wrote; nothing is trained.

    A galaxy that the autoencoder was trained or stopped on is ``train`` or ``validation`` in the table, by its name;
    every other one is ``test``. All are of fold 0. Where groups have no names only their images tell, which must be the
    same to the last bit (their noise is of their place in the file): then all galaxies are known, or ``new`` is needed.

    Args:
        path: a ``.safetensors`` of ``embed``.
        name: of the dataset, or what to call ``given``.
        options: of the dataset; those that make an image what it is must be as they were.
        bench: ``device`` and ``threads`` are taken.
        out: the table.
        overwrite: replace it.
        new: no galaxy is one of those that the autoencoder was made with, whatever its name; all are ``test``.
        given: as for ``embed``.

    Raises:
        CheckpointError: if the file is damaged or of something else.
        ConfigError: for images of another shape or of other fields; for galaxies of which it cannot be told whether
            they were trained on.
    """
    _check_out(out, [out], overwrite)
    network, meta = load_autoencoder(path, device=resolve_device(bench.device))
    images, resolved = _open(name, options, given)
    for what, own, other in (
        ("images", tuple(network.event_shape), tuple(images.event_shape)),
        ("fields", tuple(meta["names"]), tuple(images.names)),
    ):
        if own != other:
            raise ConfigError(f"{path} is of {what} {own}; those of {name} are {other}")
    parts, recognised = seen(images, meta, path, name, new)
    with cpu_threads(bench.threads):
        latents = _latents(network, images, meta["view"])
        _write_table(out, _rows(ids_of(images).values(), 0, parts, latents), network.config.latents)
        total = 0.0
        for part in images.x.split(CHUNK):
            u, found = reconstructed(network, part)
            total += float((found - u).double().square().sum())
    return Encoded(
        total / images.x.numel(), recognised, len(parts), differing(meta["data"], {"name": name, **resolved})
    )


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
            galaxy = ids_of(given)[int(given.groups[row])]
            raise ConfigError(f"{name}: image {row}, of galaxy '{galaxy}', is not finite; mend it or leave it out")
    return given, resolved


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


def _fold_files(out: Path) -> list[Path]:
    """The autoencoders of an earlier run that would lie beside this table."""
    pattern = re.compile(rf"{re.escape(out.stem)}\.fold\d+\.safetensors")
    there = out.parent.iterdir() if out.parent.is_dir() else ()
    return sorted(path for path in there if pattern.fullmatch(path.name))


def _unfinished(path: Path) -> Path:
    """Where an autoencoder lies until all folds are done."""
    return path.with_name(f"{path.name}.part")


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
    make_writable(out.parent)
