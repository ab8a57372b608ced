"""Maps on disk as the channels of images in dex."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from flowzoo.config import ConfigError
from flowzoo.data._camels import MapsFile
from flowzoo.seeding import generator

# The default floor is for masses. Of a field a thousand times fainter, log10(map + floor) keeps less than 0.0005 dex,
# and the noise would be all that is left.
HIDDEN = 1e-3


class Channels:
    """Maps of one or more fields, on disk, as the channels of images in dex.

    Args:
        files: one per channel.
        arrays: their maps, ``(n, H, W)``, equal in shape.
        floors: one per channel, in the units of the maps.
        factor: mean over blocks of this many pixels a side.
        prefix: of the options that messages name.

    Raises:
        ConfigError: if the factor does not divide height and width.
    """

    def __init__(
        self,
        files: Sequence[MapsFile],
        arrays: Sequence[np.ndarray],
        floors: Sequence[float],
        factor: int,
        prefix: str = "",
    ) -> None:
        height, width = arrays[0].shape[1:]
        if factor < 1 or height % factor or width % factor:
            raise ConfigError(f"{prefix}downsample must divide {height} x {width} pixels; got {factor}")
        self.files, self.arrays, self.floors = files, arrays, floors
        self.factor, self.option = factor, f"{prefix}floor"
        self.hidden = [False] * len(files)  # whether the floor was above every pixel
        self.names = [f"log10 {file.field}" for file in files]
        self.shape = (len(files), height // factor, width // factor)

    def write(self, out: Tensor, index: np.ndarray, noise: Sequence[float] = (), seed: int = 0) -> None:
        """Fill ``out``, ``(n, C, h, w)``, with the maps at ``index``; one map at a time, because files are large.

        Args:
            out: float32, written to.
            index: ``(n,)`` positions in the files.
            noise: standard deviation in dex per channel; none adds none.
            seed: of the noise, which has a stream per map and channel: it does not depend on which maps are read.

        Raises:
            ValueError: if a pixel is not finite or has no logarithm, or the floor is a thousand times the largest.
        """
        _, height, width = self.shape
        f = self.factor
        for channel, (array, floor) in enumerate(zip(self.arrays, self.floors, strict=True)):
            negative, largest, strange, nan = 0, -math.inf, 0, 0
            for position, i in enumerate(index.tolist()):
                pooled = array[i].astype(np.float64).reshape(height, f, width, f).mean((1, 3)) + floor
                if not np.isfinite(pooled).all():
                    strange += int((~np.isfinite(pooled)).sum())
                    nan += int(np.isnan(pooled).sum())
                bad = int((pooled <= 0).sum())
                if bad or negative or strange:
                    negative += bad
                    continue
                largest = max(largest, float(pooled.max()) - floor)
                x = torch.from_numpy(np.log10(pooled))
                if noise:
                    # The first channel's stream has no number: it is that of a single field.
                    names = ("noise", i, channel) if channel else ("noise", i)
                    source = generator(seed, *names)
                    x = x + noise[channel] * torch.randn(height, width, generator=source, dtype=torch.float64)
                out[position, channel] = x
            name = self.files[channel].path.name
            if strange:
                raise ValueError(
                    f"{name}: {strange} of {len(index) * height * width} pixels are not finite ({nan} NaN); "
                    "leave these maps out of the file"
                )
            if negative:
                raise ValueError(
                    f"{name}: {negative} of {len(index) * height * width} pixels are <= 0 after adding the floor of "
                    f"{floor:g}, which has no logarithm; raise `{self.option}` (in the units of the map)"
                )
            self.hidden[channel] = largest < floor
            if largest < HIDDEN * floor:
                raise ValueError(
                    f"{name}: its largest pixel, {largest:g}, is far below the floor of {floor:g}, which hides the "
                    f"field; lower `{self.option}` (in the units of the map)"
                )

    def notes(self, noise: Sequence[float] = (), seed: int = 0) -> list[str]:
        """What was done to the maps; after ``write``, which finds out what the floor hides."""
        names = [file.field for file in self.files] if len(self.files) > 1 or not noise else ["map"]
        notes = [f"mean over {self.factor} x {self.factor} pixels"] if self.factor > 1 else []
        for channel, (name, floor) in enumerate(zip(names, self.floors, strict=True)):
            added = f", plus N(0, {noise[channel]:g} dex), seed {seed}" if noise else ""
            notes.append(f"log10({name} + {floor:g}){added}")
            if self.hidden[channel]:
                notes.append(f"the floor of {floor:g} is above every pixel of {name}")
        return notes


def each(option: str, numbers: tuple[float, ...], files: Sequence[MapsFile]) -> list[float]:
    """One number per field, from one for all or one for each.

    Raises:
        ConfigError: if they are neither.
    """
    if len(numbers) not in (1, len(files)):
        fields = ", ".join(file.field for file in files)
        raise ConfigError(f"{option} must be one number or one for each of {fields}; got {shown(numbers)}")
    return list(numbers) * (len(files) if len(numbers) == 1 else 1)


def shown(numbers: Sequence[float]) -> str:
    """Numbers for a message."""
    return ", ".join(f"{number:g}" for number in numbers) or "none"
