"""Power spectrum of draws against that of real maps, across held-out contexts and beside its floor."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from flowzoo.metrics._fields import compare, curves, images, in_chunks, median, quarters, shuffled
from flowzoo.metrics._fourier import ROUNDING, multiplicity, transform, wavenumbers
from flowzoo.metrics._metric import Column, Evaluation
from flowzoo.registry import METRICS

CONTEXTS = 3  # from two contexts a variance across contexts is that of their difference alone


@METRICS.register
@dataclass(frozen=True)
class PowerSpectrum:
    r"""Do the draws have the power of real maps on every scale, and does it follow the context?

    With :math:`\bar P_c(k)` the mean of P over maps at context c and :math:`s_c(k)` its standard deviation,

    .. math:: R^2(k) = 1 - \frac{\sum_c (\log \bar P_c^\mathrm{drawn} - \log \bar P_c^\mathrm{real})^2}
              {\sum_c (\log \bar P_c^\mathrm{real} - \langle \log \bar P^\mathrm{real} \rangle_c)^2}, \qquad
              e = \lvert \bar P_c^\mathrm{drawn} / \bar P_c^\mathrm{real} - 1 \rvert .

    ``pk_mean_r2`` is the median of R^2 over k (and channels), ``pk_std_r2`` the same of :math:`\log s_c`, ``pk_error``
    the median of e over k and contexts. The mean and the scatter of P(k) and their R^2 are what Hassan et al. 2022
    (HIFlow), ApJ 937, 83, judge by. Here the variance in R^2 is that of the truth, so that a model gains nothing by
    scatter of its own, and it is taken per k, so that the trend along k, which every model has, does not count. P is
    that of x in data units: of log10 of the field where the dataset says so, and not of the field.

    The real maps of a context are cut into random halves A and B of n maps. The value is the median over those of
    (A, n draws) and (B, other n draws) together, the floor that over (A, B) and (B, A). A mean over half of the maps
    has twice the variance of one over all, so value and floor alike lie below the R^2 (above the error) that all maps
    together would give.
    R^2 = 0 is what the same spectrum at every context would reach at best; it has no lower end.

    Args:
        std_maps: least number of real maps and of draws at a context for a standard deviation.
    """

    std_maps: int = 500

    conformance: ClassVar[dict[str, Any]] = {"options": {"std_maps": 40}}
    needs: ClassVar[tuple[str, ...]] = ("ensembles",)
    columns: ClassVar[tuple[Column, ...]] = (
        # 0.9 is the level that HIFlow claims for itself; at 0 the context is not used.
        Column(
            "pk_mean_r2", "higher", "R^2 over contexts of log mean P(k), median over k", "pk_mean_r2_floor", 0.9, 0.0
        ),
        Column("pk_mean_r2_floor", "none", "the same of one half of the real maps against the other"),
        Column(
            "pk_std_r2", "higher", "R^2 over contexts of log std of P(k), median over k", "pk_std_r2_floor", 0.9, 0.0
        ),
        Column("pk_std_r2_floor", "none", "the same of one half of the real maps against the other"),
        Column("pk_error", "lower", "|mean P(k) drawn / real - 1|, median over k and contexts", "pk_error_floor"),
        Column("pk_error_floor", "none", "the same of one half of the real maps against the other"),
    )

    def __call__(self, evaluation: Evaluation) -> dict[str, float | Tensor | str]:
        """See the class."""
        found = images(evaluation, "the power spectrum")
        size = (found.real.shape[1], found.drawn.shape[1])
        k, real = power_spectrum(found.real.flatten(0, 1), evaluation.side)
        _, drawn = power_spectrum(found.drawn.flatten(0, 1), evaluation.side)
        real, drawn = real.unflatten(0, (-1, size[0])), drawn.unflatten(0, (-1, size[1]))
        values: dict[str, float | Tensor | str] = {
            "context": found.context,
            "k": k,
            **curves(real, drawn),
        }
        parts = quarters(real, drawn, shuffled(size[0], evaluation))
        error, floor = compare(parts, lambda a, b: (_mean(b) / _mean(a) - 1).abs())
        values |= {"pk_error": median(error), "pk_error_floor": median(floor)}
        values |= {
            "by_context": error.transpose(0, 1).flatten(1).quantile(0.5, 1),
            "floor_by_context": floor.transpose(0, 1).flatten(1).quantile(0.5, 1),
        }
        for name, of, needed in (("pk_mean_r2", _mean, 2), ("pk_std_r2", _std, self.std_maps)):
            reason = ""
            if len(real) < CONTEXTS:
                reason = f"{len(real)} contexts; {CONTEXTS} are needed for a variance across contexts"
            elif min(size) < needed:
                what = "real maps" if size[0] < needed else "draws"
                reason = f"{min(size)} {what} at a context; {needed} are needed for a standard deviation"
            if reason:
                values |= {name: reason, f"{name}_floor": reason}
                continue
            r2, r2_floor = compare(parts, lambda a, b, of=of: r_squared(of(a).log(), of(b).log()))  # type: ignore[misc]
            values |= {name: median(r2), f"{name}_floor": median(r2_floor)}
        return values


def power_spectrum(maps: Tensor, side: float = 1.0) -> tuple[Tensor, Tensor]:
    r"""Isotropic power spectrum of maps, taken as periodic.

    .. math:: P(k) = \frac{a}{N} \bigl\langle \lvert \mathrm{FFT}(x)_{\mathbf k} \rvert^2 \bigr\rangle_{\lvert \mathbf k
              \rvert \in [k - k_f/2,\; k + k_f/2)}, \qquad k_f = \frac{2\pi}{\mathrm{side}}

    with a the area of a pixel, a square, and N the number of pixels. White noise of variance s^2 has P = s^2 a. Annuli
    are k_f wide and centred on 1, 2, ... k_f up to the Nyquist wavenumber pi / pixel; the mean of a map and the corners
    beyond the last annulus are left out, and so are the waves longer than 2 sides of a map that is higher than wide.

    Args:
        maps: ``(N, C, H, W)``.
        side: length of the last axis; 1 / side is the unit of k.

    Returns:
        k ``(B,)``, the mean |k| of the modes of each annulus, and P ``(N, C, B)`` in units of x^2 area, in float64.

    >>> k, p = power_spectrum(torch.randn(100, 1, 32, 32), side=32.0)
    >>> len(k), 0.9 < float(p.mean()) < 1.1
    (16, True)
    """
    height, width = maps.shape[-2:]
    modes = wavenumbers(height, width, maps.device)
    counts = multiplicity(width, maps.device).expand_as(modes).flatten()
    annulus = (modes + 0.5 + ROUNDING).floor().flatten()
    members = (annulus[:, None] == torch.arange(1, width // 2 + 1, device=maps.device)) * counts[:, None]
    members = members[:, members.sum(0) > 0]
    members = members / members.sum(0)
    area = (side / width) ** 2

    def binned(part: Tensor) -> Tensor:
        fourier = transform(part)
        power = fourier.real.square() + fourier.imag.square()
        # In float64, because a product of float32 matrices may be cut to fewer digits on an accelerator.
        return power.flatten(-2).double() @ members

    spectrum = in_chunks(binned, maps) * (area / (height * width))
    return 2 * math.pi / side * (modes.flatten() @ members), spectrum


def r_squared(truth: Tensor, found: Tensor) -> Tensor:
    """Coefficient of determination across the first axis, with the variance of the truth in its denominator."""
    residual = (truth - found).square().sum(0)
    return 1 - residual / (truth - truth.mean(0)).square().sum(0)


def _mean(power: Tensor) -> Tensor:
    """Over maps; not zero, which constant draws would have and no logarithm could take."""
    return power.mean(1).clamp_min(torch.finfo(power.dtype).tiny)


def _std(power: Tensor) -> Tensor:
    """As ``_mean``."""
    return power.std(1).clamp_min(torch.finfo(power.dtype).tiny)
