"""Distribution of the pixels of draws against that of real maps, context by context."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from flowzoo.metrics._fields import compare, images, quarters, results, shuffled
from flowzoo.metrics._metric import Column, Evaluation
from flowzoo.registry import METRICS


@METRICS.register
@dataclass(frozen=True)
class PixelPDF:
    r"""Wasserstein-1 distance between all pixels of the draws and all pixels of the real maps at a context.

    .. math:: W_1 = \int_0^1 \lvert F_\mathrm{real}^{-1}(t) - F_\mathrm{drawn}^{-1}(t) \rvert \, dt

    (Villani 2003, Topics in Optimal Transportation, section 2.2), per channel, in units of the spread of the training
    pixels, the mean over channels and the median over contexts. A shift of every pixel by d spreads has W1 = d. The
    comparison is of n maps with n maps, so it is the mean absolute difference of sorted pixels; halves and floor as in
    ``_fields.compare``. Pixels of a map are correlated, so the floor falls with the number of maps, not of pixels.

    Args:
        bins: of the histograms for a figure, equally wide, from the lowest to the highest real pixel of all contexts.
    """

    bins: int = 100

    needs: ClassVar[tuple[str, ...]] = ("ensembles",)
    columns: ClassVar[tuple[Column, ...]] = (
        Column(
            "pixel_w1", "lower", "Wasserstein-1 distance of the pixels at a context, training spreads", "pixel_w1_floor"
        ),
        Column("pixel_w1_floor", "none", "the same between two halves of the real maps"),
    )

    def __call__(self, evaluation: Evaluation) -> dict[str, float | Tensor | str]:
        """See the class."""
        found = images(evaluation, "the pixel distribution")
        order = shuffled(found.real.shape[1], evaluation)
        values, floors = [], []
        for real, drawn in zip(
            found.real[:, None], found.drawn[:, None], strict=True
        ):  # one context's pixels at a time
            in_order = [sorted_pixels(maps[0] / evaluation.scale) for maps in quarters(real, drawn, order)]
            value, least = compare(in_order, lambda p, q: (p - q).abs().mean(dtype=torch.float64))
            values.append(value)
            floors.append(least)
        error, floor = torch.stack(values, 1), torch.stack(floors, 1)
        low, high = found.real.amin((0, 1, 3, 4)), found.real.amax((0, 1, 3, 4))
        steps = torch.linspace(0, 1, self.bins + 1, dtype=low.dtype, device=low.device)
        return results("pixel_w1", error, floor, found) | {
            "edges": (low[:, None] + (high - low)[:, None] * steps).squeeze(0),
            "real": self._densities(found.real, low, high),
            "drawn": self._densities(found.drawn, low, high),
        }

    def _densities(self, maps: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Histograms ``(K, B)`` or ``(K, C, B)``, per unit of x; pixels outside the bins count as pixels."""
        rows = []
        for context in maps:
            for channel, (start, end) in enumerate(zip(low.tolist(), high.tolist(), strict=True)):
                pixels = context[:, channel]
                counts = torch.histc(pixels.float(), self.bins, start, end)
                rows.append(counts / (pixels.numel() * max(end - start, 1e-30) / self.bins))
        return torch.stack(rows).unflatten(0, maps.shape[0:3:2]).squeeze(1)


def sorted_pixels(maps: Tensor) -> Tensor:
    """Pixels of ``(n, C, H, W)`` per channel in rising order, ``(C, n H W)``."""
    return maps.transpose(0, 1).flatten(1).sort(1).values
