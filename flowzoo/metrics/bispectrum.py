"""Bispectrum of draws against that of real maps: the first statistic that a Gaussian field does not have."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from flowzoo.metrics._fields import (
    CHUNK,
    compare,
    curves,
    images,
    in_chunks,
    quarters,
    results,
    scatter_within,
    shuffled,
)
from flowzoo.metrics._fourier import ROUNDING, multiplicity, transform, wavenumbers
from flowzoo.metrics._metric import Column, Evaluation, NotComputed
from flowzoo.registry import METRICS

SHELLS = 8


@METRICS.register
@dataclass(frozen=True)
class Bispectrum:
    r"""Mean difference of the mean bispectra, in units of the scatter of the real maps.

    .. math:: e = \Bigl\langle \frac{\lvert \bar B^\mathrm{drawn}(t) - \bar B^\mathrm{real}(t) \rvert}
              {\mathrm{std}\, B^\mathrm{real}(t)} \Bigr\rangle_t

    over the equilateral and squeezed triangles t of ``bispectrum``. The unit is the standard deviation of B from one
    real map of that context to the next: it is finite for Gaussian data, where B itself is zero and a relative error
    has no meaning. A difference of 0.1 is as large as the standard error of the mean of 100 maps. Of n maps against n
    the floor is about sqrt(4 / (pi n)). B is of x in data units. Mean over channels, median over contexts; halves and
    floor as in ``_fields.compare``.
    """

    needs: ClassVar[tuple[str, ...]] = ("ensembles",)
    columns: ClassVar[tuple[Column, ...]] = (
        Column(
            "bispectrum_error",
            "lower",
            "difference of mean bispectra, mean over triangles, standard deviations of one real map",
            "bispectrum_error_floor",
        ),
        Column("bispectrum_error_floor", "none", "the same between two halves of the real maps"),
    )

    def __call__(self, evaluation: Evaluation) -> dict[str, float | Tensor | str]:
        """See the class."""
        found = images(evaluation, "the bispectrum")
        size = (found.real.shape[1], found.drawn.shape[1])
        k, real = bispectrum(found.real.flatten(0, 1), evaluation.side)
        _, drawn = bispectrum(found.drawn.flatten(0, 1), evaluation.side)
        real, drawn = real.unflatten(0, (-1, size[0])), drawn.unflatten(0, (-1, size[1]))
        if not (real.std(1) > 0).all():
            raise NotComputed("the real maps of a context do not vary: there is no unit for a difference")
        parts = quarters(real, drawn, shuffled(size[0], evaluation))
        unit = scatter_within(parts)
        error, floor = compare(parts, lambda a, b: ((a.mean(1) - b.mean(1)).abs() / unit).mean((1, 2)))
        return results("bispectrum_error", error, floor, found) | {"k": k} | curves(real, drawn)


def bispectrum(maps: Tensor, side: float = 1.0) -> tuple[Tensor, Tensor]:
    r"""Equilateral and squeezed bispectrum of maps, taken as periodic.

    .. math:: B(b_1, b_2, b_3) = \frac{a^2}{N} \bigl\langle F_{\mathbf k_1} F_{\mathbf k_2} F_{\mathbf k_3}
              \bigr\rangle_{\mathbf k_1 + \mathbf k_2 + \mathbf k_3 = 0,\; \mathbf k_i \in b_i}
              = \frac{a^2}{N} \, \frac{\sum_{\mathbf r} \prod_i D_{b_i}(\mathbf r)}
              {\sum_{\mathbf r} \prod_i I_{b_i}(\mathbf r)}

    with F the FFT, a the area of a pixel, N the number of pixels, D_b the map with the modes of shell b alone and I_b
    the transform of the indicator of that shell: the denominator counts the triangles (Scoccimarro 2000, ApJ 544, 597;
    Watkinson et al. 2017, MNRAS 472, 2436, section 2). White noise with the third cumulant c has B = c a^2, and
    x = g + f (g^2 - <g^2>) has B = 2 f (P1 P2 + P2 P3 + P3 P1) to first order in f.

    Shells are equally wide, at most 8, each some 2 k_f or wider, from k_f / 2 to two thirds of the Nyquist wavenumber,
    beyond which three modes can add up to a whole sampling frequency and pass for a triangle. Configurations:
    equilateral (b, b, b) for every shell, then squeezed (1, b, b) for every shell but the first.

    Args:
        maps: ``(N, C, H, W)``.
        side: length of the last axis; 1 / side is the unit of k.

    Returns:
        k ``(T, 3)``, the mean |k| of each shell of each configuration, and B ``(N, C, T)`` in units of x^3 area^2, in
        float64.

    >>> k, b = bispectrum(torch.randn(4, 1, 32, 32), side=32.0)
    >>> k.shape, b.shape
    (torch.Size([9, 3]), torch.Size([4, 1, 9]))
    """
    height, width = maps.shape[-2:]
    modes = wavenumbers(height, width, maps.device)
    number = max(1, min(SHELLS, width // 6))
    edges = torch.linspace(0.5, width / 3, number + 1, dtype=torch.float64).tolist()
    masks = [(modes + ROUNDING >= low) & (modes + ROUNDING < high) for low, high in pairwise(edges)]
    counts = multiplicity(width, maps.device).expand_as(modes)
    shells = torch.stack([(modes * counts)[m].sum() / counts[m].sum() for m in masks])
    triples = [(b, b, b) for b in range(number)] + [(0, b, b) for b in range(1, number)]
    size = (height, width)
    waves = [torch.fft.irfft2(mask.double(), s=size) for mask in masks]
    triangles = [(waves[i] * waves[j] * waves[k]).sum() for i, j, k in triples]

    def summed(part: Tensor) -> Tensor:
        fourier = transform(part)
        soft, *hard = shells_of = [torch.fft.irfft2(fourier * mask, s=size) for mask in masks]
        equilateral = [(shell.square() * shell).sum((-2, -1)) for shell in shells_of]
        squeezed = [(shell.square() * soft).sum((-2, -1)) for shell in hard]
        return torch.stack(equilateral + squeezed, -1).double()

    area = (side / width) ** 2
    scale = area**2 / (height * width) / torch.stack(triangles)
    k = 2 * math.pi / side * torch.stack([shells[list(triple)] for triple in triples])
    return k, in_chunks(summed, maps, CHUNK // 2) * scale
