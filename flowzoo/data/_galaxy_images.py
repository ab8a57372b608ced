"""An image of each galaxy of a catalogue, as context."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from flowzoo.config import ConfigError
from flowzoo.data._catalogue_files import key
from flowzoo.data._numpy_files import load_npy
from flowzoo.data._readers import expanded

Image = tuple[int, int, int]


def read_images(
    path: str, per_galaxy: int, floor: float | None, galaxies: Sequence[tuple[str, str]]
) -> tuple[Tensor, Image]:
    """``(G, C H W)`` float32 and ``(C, H, W)``: the image of each galaxy, the first where it has several.

    Args:
        path: an ``.npy`` of all images, ``(G V, H, W)`` or ``(G V, C, H, W)``, those of galaxy i from row V i on; or a
            folder with an ``.npy`` of one image for each galaxy, called by its id.
        per_galaxy: V.
        floor: lower values are raised to it, and log10 is taken; None takes the values as they are.
        galaxies: id and file of each.

    Raises:
        FileNotFoundError: if there is no such file or folder.
        ConfigError, ValueError: naming the galaxy, for one that has no image, an image of another shape, or one with
            values that are not finite.
    """
    place = expanded(path)
    if not place.exists():
        raise FileNotFoundError(f"no such file or folder: {path}")
    found: list[np.ndarray] = []
    origin = [path] * len(galaxies)
    if place.is_dir():
        files = {key(file.stem): file for file in sorted(place.glob("*.npy"))}
        for galaxy, source in galaxies:
            if key(galaxy) not in files:
                raise ValueError(f"{path}: no image for galaxy '{galaxy}' ({source}); expected {galaxy}.npy")
            found.append(_channels(_load(files[key(galaxy)]), str(files[key(galaxy)])))
        origin = [str(files[key(galaxy)]) for galaxy, _ in galaxies]
    else:
        every = _load(place)
        if every.ndim not in (3, 4) or len(every) % per_galaxy:
            raise ConfigError(
                f"{path}: expected (G * {per_galaxy}, H, W) or (G * {per_galaxy}, C, H, W) images; got {every.shape}; "
                "image_views says how many a galaxy has"
            )
        for galaxy, source in galaxies:
            number = key(galaxy)
            if not number.isdigit() or int(number) * per_galaxy >= len(every):
                raise ValueError(
                    f"{path}: no image for galaxy '{galaxy}' ({source}): it has those of galaxies 0 to "
                    f"{len(every) // per_galaxy - 1}, {per_galaxy} each (image_views)"
                )
            found.append(_channels(every[int(number) * per_galaxy], path))
    shape = found[0].shape
    images = np.empty((len(found), *shape), dtype=np.float32)
    for i, (image, file, (galaxy, _)) in enumerate(zip(found, origin, galaxies, strict=True)):
        if image.shape != shape:
            raise ValueError(
                f"{file}: the image of galaxy '{galaxy}' is {image.shape}; that of the first, '{galaxies[0][0]}' in "
                f"{origin[0]}, is {shape}"
            )
        values = image.astype(np.float64)
        if not np.isfinite(values).all():
            lost = int((~np.isfinite(values)).sum())
            raise ValueError(f"{file}: the image of galaxy '{galaxy}' has {lost} pixels that are not finite")
        images[i] = values if floor is None else np.log10(np.maximum(values, floor))
    return torch.from_numpy(images.reshape(len(found), -1)), shape


def _channels(image: np.ndarray, path: str) -> np.ndarray:
    """As ``(C, H, W)``."""
    if image.ndim == 2:
        return image[None]
    if image.ndim != 3:
        raise ConfigError(f"{path}: an image must be (H, W) or (C, H, W); got {image.shape}")
    return image


def _load(file: Path) -> np.ndarray:
    array = load_npy(file)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{file}: expected an .npy of numbers")
    return array
