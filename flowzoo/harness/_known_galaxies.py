"""Which galaxies an autoencoder was made with: what they are called, and how they are known again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from flowzoo.config import ConfigError
from flowzoo.data import Data
from flowzoo.data._catalogue_files import key

_PLACES = ("path", "root", "maps", "params", "parameters", "latents", "images")  # options that say where data lie


def ids_of(images: Data) -> dict[int, str]:
    """What each group is called, in the order of the groups."""
    assert images.groups is not None
    names = images.group_names
    ids = {group: str(names[group]) if names else str(group) for group in torch.unique(images.groups).tolist()}
    known: set[str] = set()
    for one in ids.values():
        if key(one.strip()) in known:
            raise ConfigError(f"two galaxies are called '{one}'; latents are joined by the name, which must be of one")
        known.add(key(one.strip()))
    return ids


def keys_of(images: Data) -> list[str]:
    """What each group is known by in other data: its name, or else a digest of its images (a number says nothing)."""
    if images.group_names:
        return [key(one.strip()) for one in ids_of(images).values()]
    assert images.groups is not None
    return [
        hashlib.sha256(images.x[images.groups == group].contiguous().numpy().tobytes()).hexdigest()[:16]
        for group in torch.unique(images.groups)
    ]


def seen(images: Data, meta: Mapping[str, Any], path: Path, name: str, new: bool) -> tuple[list[str], int]:
    """What each galaxy was to the autoencoder, and how many of them were known."""
    named = bool(images.group_names)
    parts = {key(one.strip()) if named else one: part for one, part in meta["parts"].items()}
    keys = keys_of(images)
    count, total = sum(one in parts for one in keys), len(keys)
    if new and count and not named:  # a name can be that of another galaxy, an image cannot
        raise ConfigError(
            f"{count} of {total} galaxies of {name} are those of {path}, by their images; leave out --new"
        )
    if not new and not (named and meta.get("named", True)) and count < total:
        raise ConfigError(
            f"{path} knows {count} of {total} galaxies of {name} by their {'names' if named else 'images'}, and it may "
            "have been trained on the others: give the data of the training, unchanged, or --new if none was among them"
        )
    if new:
        return ["test"] * total, 0
    return [parts.get(one, "test") for one in keys], count


def differing(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Options of the dataset that are not as they were."""
    now = json.loads(json.dumps(now, default=str))
    names = [name for name in dict.fromkeys([*was, *now]) if name not in _PLACES]
    return [f"{n} was {was.get(n)!r}, is {now.get(n)!r}" for n in names if was.get(n) != now.get(n)]
