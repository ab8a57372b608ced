"""Symmetries of an image that leave its density unchanged, drawn per sample, on the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

SYMMETRIES = ("flip", "quarter_turn", "shift", "mirror")


def augment(x: Tensor, symmetries: Sequence[str], generator: torch.Generator) -> Tensor:
    """Apply a random member of each symmetry to each image of ``(N, C, H, W)``.

    Args:
        x: images.
        symmetries: any of ``"flip"`` (both axes), ``"quarter_turn"`` (square images), ``"shift"`` (periodic) and
            ``"mirror"`` (left and right alone, for images that have an up and a down).
        generator: on the device of ``x``.

    Raises:
        ValueError: for an unknown symmetry, or quarter turns of an image that is not square.
    """
    count, height, width = len(x), x.shape[-2], x.shape[-1]

    def coin() -> Tensor:
        return torch.rand(count, 1, 1, 1, generator=generator, device=x.device) < 0.5

    for symmetry in symmetries:
        if symmetry == "flip":
            x = torch.where(coin(), x.flip(-1), x)
            x = torch.where(coin(), x.flip(-2), x)
        elif symmetry == "mirror":
            x = torch.where(coin(), x.flip(-1), x)
        elif symmetry == "quarter_turn":
            if height != width:
                raise ValueError(f"quarter turns need square images; got {height} x {width}")
            x = torch.where(coin(), x.transpose(-1, -2).flip(-1), x)
        elif symmetry == "shift":
            for axis, size in ((-2, height), (-1, width)):
                offset = torch.randint(size, (count, 1), generator=generator, device=x.device)
                index = (torch.arange(size, device=x.device) + offset) % size
                index = index[:, None, :, None] if axis == -2 else index[:, None, None, :]
                x = x.gather(axis, index.expand_as(x))
        else:
            raise ValueError(f"unknown symmetry '{symmetry}'; known are {', '.join(SYMMETRIES)}")
    return x
