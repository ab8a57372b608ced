"""Wavelet scattering coefficients of draws against those of real maps: shapes that a spectrum does not see."""

from __future__ import annotations

import math
from dataclasses import dataclass
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
from flowzoo.metrics._metric import Column, Evaluation, NotComputed
from flowzoo.registry import METRICS

ANGLES = 4


@METRICS.register
@dataclass(frozen=True)
class Scattering:
    r"""RMS difference of the mean logarithms of scattering coefficients, in units of the scatter of the real maps.

    .. math:: d = \Bigl\langle \Bigl( \frac{\overline{\log S_i}^\mathrm{drawn} - \overline{\log S_i}^\mathrm{real}}
              {\mathrm{std} \log S_i^\mathrm{real}} \Bigr)^2 \Bigr\rangle_i^{1/2}

    over the coefficients i of ``scattering``, of first and second order; the standard deviation is that from one real
    map of the context to the next. Of n maps against n the floor is about sqrt(2 / n). Median over contexts; halves and
    floor as in ``_fields.compare``.

    Args:
        max_maps: at most so many maps in each half, and twice as many draws; this is the dearest of the statistics.
        isotropic: average over directions, for fields that have none, which lowers the scatter.
    """

    max_maps: int = 128
    isotropic: bool = False

    needs: ClassVar[tuple[str, ...]] = ("ensembles",)
    columns: ClassVar[tuple[Column, ...]] = (
        Column(
            "scattering_distance",
            "lower",
            "RMS difference of mean log scattering coefficients, standard deviations of one real map",
            "scattering_distance_floor",
        ),
        Column("scattering_distance_floor", "none", "the same between two halves of the real maps"),
    )

    def __call__(self, evaluation: Evaluation) -> dict[str, float | Tensor | str]:
        """See the class."""
        found = images(evaluation, "scattering")
        chosen = shuffled(found.real.shape[1], evaluation)[: 2 * self.max_maps]
        real, drawn = (
            torch.stack([scattering(maps, isotropic=self.isotropic).log() for maps in part])
            for part in (found.real[:, chosen], found.drawn[:, : 2 * self.max_maps])
        )
        if not (real.std(1) > 0).all():
            raise NotComputed("the real maps of a context do not vary: there is no unit for a difference")
        parts = quarters(real, drawn, torch.arange(len(chosen), device=real.device))
        unit = scatter_within(parts)
        value, floor = compare(parts, lambda a, b: ((a.mean(1) - b.mean(1)) / unit).square().mean(1).sqrt())
        return results("scattering_distance", value, floor, found) | curves(real, drawn)


def scattering(maps: Tensor, *, isotropic: bool = False) -> Tensor:
    r"""Scattering coefficients of first and second order, averaged over the map.

    .. math:: S_1(j, l) = \langle \lvert x \star \psi_{j,l} \rvert \rangle, \qquad
              S_2(j_1, l_1, j_2, l_2) = \frac{\langle \lvert \lvert x \star \psi_{j_1,l_1} \rvert \star \psi_{j_2,l_2}
              \rvert \rangle}{S_1(j_1, l_1)}, \quad j_2 > j_1

    (Bruna and Mallat 2013, IEEE TPAMI 35, 1872; the reduction by S_1 as in Cheng et al. 2020, MNRAS 499, 5902) with
    Morlet wavelets of 4 directions and 3 scales, 4 from 64 pixels a side. Maps are taken as periodic. What a wavelet of
    scale j lets through is far below the Nyquist frequency, so it is evaluated at every 2^(j-1)-th pixel.

    Args:
        maps: ``(N, C, H, W)``.
        isotropic: average S_1 over l, and S_2 over l_1 at equal l_2 - l_1.

    Returns:
        ``(N, C F)`` float64, F = 4 J + 16 J (J - 1) / 2, or J + 4 J (J - 1) / 2; S_1 with l fastest, then, pair of
        scales by pair, S_2 with l_2 fastest (isotropic: l_2 - l_1). S_1 is in the units of x, S_2 has none.

    >>> x = torch.randn(5, 1, 32, 32)
    >>> scattering(x).shape, scattering(x, isotropic=True).shape
    (torch.Size([5, 60]), torch.Size([5, 15]))
    """
    height, width = maps.shape[-2:]
    scales = scale_count(height, width)
    wavelets = morlets(height, width, scales, device=maps.device)
    real = torch.promote_types(maps.dtype, torch.float32)
    # Complex, because torch would turn a real factor into a complex one again at each product.
    wavelets = wavelets.to(real.to_complex())
    strides = [math.gcd(2 ** max(0, j - 1), height, width) for j in range(scales)]
    cut = [_low(w, s) for w, s in zip(wavelets, strides, strict=True)]
    turned = (torch.arange(ANGLES)[:, None] + torch.arange(ANGLES)) % ANGLES  # l_2 of each l_1 and l_2 - l_1

    def coefficients(part: Tensor) -> Tensor:
        part = part.to(real)
        fourier = torch.fft.fft2(part - part.mean((-2, -1), keepdim=True))
        first, second = [], []
        for j in range(scales):
            modulus = _modulus(_low(fourier, strides[j])[..., None, :, :] * (cut[j] / strides[j] ** 2))
            s1 = _average(modulus)  # (n, C, L)
            first.append(s1.mean(-1, keepdim=True) if isotropic else s1)
            again = torch.fft.fft2(modulus)
            for other in range(j + 1, scales):
                step = strides[other] // strides[j]
                s2 = _average(_modulus(_low(again, step)[..., None, :, :] * (cut[other] / step**2))) / s1[..., None]
                if isotropic:
                    s2 = s2.gather(-1, turned.to(s2.device).expand_as(s2)).mean(-2)
                second.append(s2.flatten(2))
        return torch.cat(first + second, -1).flatten(1)

    return in_chunks(coefficients, maps, CHUNK // 16)


def scale_count(height: int, width: int) -> int:
    """Three scales, four where the wavelet of the fourth, some 40 pixels long, fits in."""
    return 4 if min(height, width) >= 64 else 3


def morlets(height: int, width: int, scales: int, device: torch.device | None = None) -> Tensor:
    r"""Fourier transforms of Morlet wavelets, which are real.

    .. math:: \hat\psi_{j,l}(\omega) = e^{-\sigma_j^2 \lvert \omega - \xi_{j,l} \rvert^2 / 2}
              - \kappa_j e^{-\sigma_j^2 \lvert \omega \rvert^2 / 2}, \qquad \sigma_j = 0.8 \cdot 2^j, \quad
              \xi_{j,l} = \tfrac{3\pi}{4} 2^{-j} (\cos \tfrac{\pi l}{4}, \sin \tfrac{\pi l}{4})

    summed over the aliases of omega, as befits a wavelet known at pixels; kappa makes its mean zero. The constants are
    those of Bruna and Mallat 2013, section 2.1, with a round envelope, which for four directions covers the plane.

    Returns:
        ``(J, L, H, W)`` float64 in the order of ``fft2``; omega is in radians per pixel, its first component along W.
    """
    rows = 2 * math.pi * torch.fft.fftfreq(height, dtype=torch.float64, device=device)
    columns = 2 * math.pi * torch.fft.fftfreq(width, dtype=torch.float64, device=device)
    turns = [2 * math.pi * i for i in range(-2, 3)]

    def bell(sigma: float, x: float, y: float) -> Tensor:
        """A sum over aliases of a round Gaussian is the product of two such sums."""
        along = sum((-(sigma**2) * (columns + t - x).square() / 2).exp() for t in turns)
        across = sum((-(sigma**2) * (rows + t - y).square() / 2).exp() for t in turns)
        return across[:, None] * along

    found = []
    for j in range(scales):
        sigma, xi = 0.8 * 2**j, 0.75 * math.pi / 2**j
        centred = bell(sigma, 0, 0)
        for angle in range(ANGLES):
            turn = math.pi * angle / ANGLES
            wave = bell(sigma, xi * math.cos(turn), xi * math.sin(turn))
            found.append(wave - wave[0, 0] / centred[0, 0] * centred)
    return torch.stack(found).unflatten(0, (scales, ANGLES))


def _low(spectrum: Tensor, stride: int) -> Tensor:
    """The low frequencies of ``(..., H, W)`` that a grid of every so-manyth pixel holds; stride^2 times its FFT."""
    if stride == 1:
        return spectrum
    for axis in (-2, -1):
        size = spectrum.shape[axis]
        kept = size // stride
        ends = (spectrum.narrow(axis, 0, (kept + 1) // 2), spectrum.narrow(axis, size - kept // 2, kept // 2))
        spectrum = torch.cat(ends, axis)
    return spectrum


def _modulus(spectrum: Tensor) -> Tensor:
    """|inverse FFT|; three times as fast as ``abs`` on a CPU."""
    field = torch.fft.ifft2(spectrum)
    return (field.real * field.real).addcmul_(field.imag, field.imag).sqrt_()


def _average(field: Tensor) -> Tensor:
    """Over the map, in float64; not zero, which constant draws would have and no logarithm could take."""
    return field.mean((-2, -1)).double().clamp_min(torch.finfo(field.dtype).tiny)
