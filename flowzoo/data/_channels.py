"""Maps on disk as the channels of images: their logarithms in dex, or their pixels as they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowzoo.config import ConfigError
from flowzoo.data._camels import MapsFile
from flowzoo.data._values import Moments, resolved
from flowzoo.seeding import generator

# The default floor is for masses. Of a field a thousand times fainter, log10(map + floor) keeps less than 0.0005 dex.
HIDDEN = 1e-3
# Spreads of the pixels in the noise: at 2 a fifth of the variance is noise, below it an image is mostly that.
DROWNED = 2.0
AMOUNTS = ("noise", "floor", "noise_dex", "context_floor")  # options of numbers, one for all fields or one for each
FAINT = 10.0  # spreads in the noise, below which a note says so
AS_THEY_ARE = "set `{prefix}log=false` for images that are signed, or logarithms already"


class Channels:
    """Maps of one or more fields, on disk, as the channels of images.

    Args:
        files: one per channel.
        arrays: their maps, ``(n, H, W)``, equal in shape.
        floors: one per channel, in the units of the maps.
        factor: mean over blocks of this many pixels a side.
        log: whether log10(map + floor) is taken, or the map as it is, without the floor.
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
        log: bool = True,
        prefix: str = "",
    ) -> None:
        height, width = arrays[0].shape[1:]
        if factor < 1 or height % factor or width % factor:
            raise ConfigError(f"{prefix}downsample must divide {height} x {width} pixels; got {factor}")
        self.files, self.arrays, self.floors = files, arrays, floors
        self.factor, self.log, self.prefix = factor, log, prefix
        self.hidden = [False] * len(files)  # whether the floor was above every pixel
        self.spreads = [math.inf] * len(files)  # of the pixels before the noise
        self.names = [f"log10 {file.field}" if log else file.field for file in files]
        self.units = ["dex" if log else ""] * len(files)
        self.shape = (len(files), height // factor, width // factor)

    def write(self, out: Tensor, index: np.ndarray, noise: Sequence[float] = (), seed: int = 0) -> None:
        """Fill ``out``, ``(n, C, h, w)``, with the maps at ``index``; one map at a time, because files are large.

        Args:
            out: float32, written to.
            index: ``(n,)`` positions in the files.
            noise: standard deviation per channel, in dex or without the logarithm in the units of the map; none adds
                none.
            seed: of the noise, which has a stream per map and channel: it does not depend on which maps are read.

        Raises:
            ValueError: if a pixel is not finite or has no logarithm, the noise hides the maps, the floor is a thousand
                times the largest pixel, or float32 cannot resolve them.
        """
        for channel in range(len(self.files)):
            moments = self._write(channel, out, index, noise[channel] if noise else 0.0, seed)
            self._check(channel, moments, noise[channel] if noise else 0.0)

    def beside(self, vectors: Tensor, index: np.ndarray) -> Tensor:
        """Rows ``(n, P + C h w)``: the vectors ``(n, P)``, and after each the maps at ``index``."""
        width = vectors.shape[1]
        rows = torch.empty(len(index), width + math.prod(self.shape))
        rows[:, :width] = vectors
        self.write(rows[:, width:].unflatten(1, self.shape), index)
        return rows

    @property
    def remedy(self) -> str:
        """What the options can do about pixels that are exactly equal."""
        return f"Give it {'a floor and noise in dex (`floor`, `noise_dex`)' if self.log else 'noise (`noise`)'}."

    def _write(self, channel: int, out: Tensor, index: np.ndarray, noise: float, seed: int) -> Moments:
        """One channel; returns the moments of its pixels before the noise, as they are written."""
        _, height, width = self.shape
        array, f = self.arrays[channel], self.factor
        floor = self.floors[channel] if self.log else 0.0
        moments, negative, strange, nan, spoilt = Moments(), 0, 0, 0, list[int]()
        for position, i in enumerate(index.tolist()):
            pooled = array[i].astype(np.float64).reshape(height, f, width, f).mean((1, 3)) + floor
            if not np.isfinite(pooled).all():
                strange += int((~np.isfinite(pooled)).sum())
                nan += int(np.isnan(pooled).sum())
                spoilt.append(i)
            bad = int((pooled <= 0).sum()) if self.log else 0
            if bad or negative or strange:
                negative += bad
                continue
            x = torch.from_numpy(np.log10(pooled) if self.log else pooled)
            moments.add(x.numpy())
            if noise:
                # The first channel's stream has no number: it is that of a single field.
                names = ("noise", i, channel) if channel else ("noise", i)
                x = x + noise * torch.randn(height, width, generator=generator(seed, *names), dtype=torch.float64)
            out[position, channel] = x
        name, pixels = self.files[channel].path.name, len(index) * height * width
        if strange:
            raise ValueError(
                f"{name}: {strange} of {pixels} pixels are not finite ({nan} NaN), in {len(spoilt)} of the maps, the "
                f"first of them map {spoilt[0]}; leave their simulations out, maps and rows, or fill them"
            )
        if negative:
            raise ValueError(
                f"{name}: {negative} of {pixels} pixels are <= 0 after adding the floor of {floor:g}, which has no "
                f"logarithm; raise `{self.prefix}floor` (in the units of the map), or "
                f"{AS_THEY_ARE.format(prefix=self.prefix)}"
            )
        return moments

    def _check(self, channel: int, moments: Moments, noise: float) -> None:
        """Refuse a channel of which little but the floor and the noise is left."""
        self.spreads[channel] = moments.spread
        name, prefix, unit = self.files[channel].path.name, self.prefix, " dex" if self.log else ""
        what, cure = "its pixels spread", f"lower `{prefix}noise`"
        if self.log:
            floor = self.floors[channel]
            low, high = (10 ** min(value, 308.0) - floor for value in (moments.low, moments.high))
            self.hidden[channel] = high < floor
            what = f"its pixels go from {low:.3g} to {high:.3g}, and log10(map + {floor:g}) spreads"
            cure = f"lower `{prefix}floor` and `{prefix}noise_dex`, or {AS_THEY_ARE.format(prefix=prefix)}"
            if high < HIDDEN * floor and not noise:
                raise ValueError(
                    f"{name}: its largest pixel, {high:.6g}, is far below the floor of {floor:g}, which hides the "
                    f"field; lower `{prefix}floor` (in the units of the map), or {AS_THEY_ARE.format(prefix=prefix)}"
                )
        else:
            resolved(self.names[channel], max(abs(moments.low), abs(moments.high)), moments.spread)
        if noise and moments.spread < DROWNED * noise:
            raise ValueError(
                f"{name}: {what} by {moments.spread:.2g}{unit} (one standard deviation), which the noise of "
                f"{noise:g}{unit} would hide; {cure}"
            )

    def notes(self, noise: Sequence[float] = (), seed: int = 0) -> list[str]:
        """What was done to the maps; after ``write``, which finds out what the floor hides."""
        names = [file.field for file in self.files] if len(self.files) > 1 or not noise else ["map"]
        notes = [f"mean over {self.factor} x {self.factor} pixels"] if self.factor > 1 else []
        for channel, (name, floor) in enumerate(zip(names, self.floors, strict=True)):
            unit, amount = " dex" if self.log else "", noise[channel] if noise else 0.0
            added = f", plus N(0, {amount:g}{unit}), seed {seed}" if noise and (self.log or amount) else ""
            notes.append((f"log10({name} + {floor:g})" if self.log else f"{name} as it is, no logarithm") + added)
            if self.hidden[channel]:
                notes.append(f"the floor of {floor:g} is above every pixel of {name}")
            if self.spreads[channel] < FAINT * amount:
                notes.append(f"the pixels of {name} spread by {self.spreads[channel]:.2g}{unit} before that noise")
        return notes


def check_amounts(options: Any) -> None:
    """Refuse amounts of ``maps`` that are out of range, or of a logarithm that is not taken.

    Raises:
        ConfigError: naming the option.
    """
    for name in AMOUNTS:
        found, scale = getattr(options, name), name.startswith("noise")
        if not np.isfinite(found).all() or (scale and min(found, default=0) < 0):
            raise ConfigError(f"{name} must be finite{', and at least 0' if scale else ''}; got {shown(found)}")
        log = options.context_log if name.startswith("context_") else options.log
        if log == (name == "noise") and found != getattr(type(options), name):
            without = f"{'context_' if name.startswith('context_') else ''}log={str(log).lower()}"
            other = "; with the logarithm it is noise_dex" if name == "noise" else ""
            raise ConfigError(f"{name} is nothing with {without}{other}; leave it out")


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
