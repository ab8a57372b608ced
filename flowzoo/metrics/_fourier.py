"""Fourier modes of real maps: their wavenumbers, how often each counts, and the transform."""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDING = 1e-9  # k_f; modes on the edge between two annuli belong to the outer one on every machine


def wavenumbers(height: int, width: int, device: torch.device | None = None) -> Tensor:
    r"""|k| of the modes that ``rfft2`` gives, in units of :math:`k_f = 2\pi/\mathrm{side}`; pixels are square.

    Returns:
        ``(H, W // 2 + 1)`` float64; 1 is one wave along the last axis.
    """
    rows = torch.fft.fftfreq(height, 1 / height, dtype=torch.float64, device=device).round()
    columns = torch.arange(width // 2 + 1, dtype=torch.float64, device=device)
    return torch.hypot(rows[:, None] * (width / height), columns)


def multiplicity(width: int, device: torch.device | None = None) -> Tensor:
    """How many modes of the full transform each column of ``rfft2`` stands for, ``(W // 2 + 1,)`` float64.

    A column stands for itself and for its conjugate, apart from the first, and the last of an even width, which hold
    both members of each of their pairs.

    >>> multiplicity(4).tolist(), multiplicity(5).tolist()
    ([1.0, 2.0, 1.0], [1.0, 2.0, 2.0])
    """
    counts = torch.full((width // 2 + 1,), 2.0, dtype=torch.float64, device=device)
    counts[0] = 1
    if width % 2 == 0:
        counts[-1] = 1
    return counts


def transform(maps: Tensor) -> Tensor:
    """``rfft2`` of ``(..., H, W)`` about their means: an offset of many spreads would cost digits of every mode."""
    maps = maps if maps.dtype == torch.float64 else maps.float()
    return torch.fft.rfft2(maps - maps.mean((-2, -1), keepdim=True))
