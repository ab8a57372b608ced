"""A table of latents: what an autoencoder of images knows of each galaxy, for every fold of a cross-validation.

CSV with the columns ``id``, ``fold`` (0 to F - 1), ``part`` (train, validation, test) and ``latent_0``, ``latent_1``,
...; a row for each galaxy and fold. ``part`` says which galaxies the autoencoder of that fold has seen, so a catalogue
that takes its latents must be split in the same way.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from flowzoo.config import ConfigError
from flowzoo.data._catalogue_files import as_ids, in_file, key
from flowzoo.data._data import Fold
from flowzoo.data._readers import open_table
from flowzoo.data._values import numbers, parts, single


@dataclass(frozen=True)
class Latents:
    """The latents of some galaxies.

    Args:
        names: ``latent_0``, ``latent_1``, ...
        vectors: ``(F, G, k)`` float64.
        part: ``(F, G)`` uint8 of 0 (train), 1 (validation), 2 (test).
    """

    names: list[str]
    vectors: np.ndarray
    part: Tensor

    def splits(self, context: Tensor, groups: Tensor) -> tuple[Tensor, Tensor | None, list[Fold]]:
        """Context with the latents of the first fold, the given split if that is the only one, and else the folds.

        Args:
            context: ``(G, C)``, the other columns.
            groups: ``(N,)``, the galaxy of each event.

        Raises:
            ValueError: for a latent that float32 cannot resolve.
        """
        contexts = [torch.cat([context, torch.from_numpy(single(v, self.names))], 1) for v in self.vectors]
        events = [part[groups] for part in self.part]
        if len(contexts) == 1:
            return contexts[0], events[0], []
        return contexts[0], None, [Fold(*pair) for pair in zip(events, contexts, strict=True)]


def read_latents(path: str, galaxies: Sequence[tuple[str, str]]) -> Latents:
    """The latents of these galaxies, by their ids; others in the table are left alone.

    Args:
        path: the table.
        galaxies: id and file of each.

    Raises:
        FileNotFoundError: if there is no such file.
        ConfigError, ValueError: naming the table and the galaxy, for one that lacks a row in some fold or has two, and
            for latents that are not finite.
    """
    with in_file(path), open_table(path) as source:
        names = sorted((n for n in source.arrays if re.fullmatch(r"latent_\d+", n)), key=lambda n: int(n[7:]))
        if not names or names != [f"latent_{i}" for i in range(len(names))]:
            listing = ", ".join(names) or "none"
            raise ConfigError(f"{path}: a table of latents has columns latent_0, latent_1, ...; this has {listing}")
        if not len(source.column("id")):
            raise ValueError(f"{path} has no rows")
        ids = [key(galaxy) for galaxy in as_ids(source.column("id"), "id")]
        folds = numbers(source.column("fold"), "fold")
        values = np.stack([numbers(source.column(name), name) for name in names], 1)
        part = parts(source.column("part"), "part").to(torch.uint8)
    count = len(np.unique(folds))
    if not np.array_equal(np.unique(folds), np.arange(count)):
        raise ValueError(f"{path}: 'fold' must be 0, 1, ..., each there; it holds {_some(np.unique(folds))}")
    row: dict[tuple[str, int], int] = {}
    for i, pair in enumerate(zip(ids, folds.astype(int).tolist(), strict=True)):
        if row.setdefault(pair, i) != i:
            raise ValueError(f"{path}: galaxy '{pair[0]}' has two rows in fold {pair[1]}; one is needed")
    for fold in range(count):
        for galaxy, file in galaxies:
            if (key(galaxy), fold) not in row:
                raise ValueError(f"{path}: no latents for galaxy '{galaxy}' ({file}) in fold {fold}")
    chosen = np.array([[row[key(galaxy), fold] for galaxy, _ in galaxies] for fold in range(count)])
    bad = np.argwhere(~np.isfinite(values[chosen]))
    if len(bad):
        fold, g, i = bad[0]
        what = f"'{names[i]}' of galaxy '{galaxies[g][0]}' ({galaxies[g][1]}) in fold {fold}"
        raise ValueError(f"{path}: {what} is {values[chosen][fold, g, i]:g}; every latent must be finite")
    return Latents(names, values[chosen], part[torch.from_numpy(chosen)])


def _some(values: np.ndarray) -> str:
    return ", ".join(f"{value:g}" for value in values[:10])
