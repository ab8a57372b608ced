"""How many local maxima draws and real maps have above a height, context by context."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from flowzoo.metrics._fields import (
    compare,
    curves,
    images,
    in_chunks,
    moments,
    per_context,
    quarters,
    results,
    shuffled,
)
from flowzoo.metrics._metric import Column, Evaluation
from flowzoo.registry import METRICS


@METRICS.register
@dataclass(frozen=True)
class Peaks:
    r"""Mean number of peaks per map above nu, compared on a logarithmic scale.

    .. math:: e = \Bigl\langle \bigl\lvert \log(1 + n_\mathrm{drawn}(\nu)) - \log(1 + n_\mathrm{real}(\nu)) \bigr\rvert
              \Bigr\rangle_\nu

    A peak is a pixel above its eight neighbours (Jain and Van Waerbeke 2000, ApJ 530, L1); n counts, per map, those
    above nu standard deviations of the real pixels at that context from their mean. Where peaks are many e is a
    relative error (0.1: a tenth too many or too few); where there is less than one per map it is the absolute
    difference, so that a single peak in the tail does not outweigh the rest. Mean over nu and channels, median over
    contexts; halves and floor as in ``_fields.compare``. Pixels at the border have unknown neighbours and are never
    peaks; a plateau is none either.

    Args:
        lowest: first threshold.
        highest: last threshold.
        number: how many, equally spaced.
    """

    lowest: float = -1.0
    highest: float = 5.0
    number: int = 13

    needs: ClassVar[tuple[str, ...]] = ("ensembles",)
    columns: ClassVar[tuple[Column, ...]] = (
        Column("peaks_error", "lower", "difference of log(1 + peaks per map), mean over heights", "peaks_error_floor"),
        Column("peaks_error_floor", "none", "the same between two halves of the real maps"),
    )

    def __call__(self, evaluation: Evaluation) -> dict[str, float | Tensor | str]:
        """See the class."""
        found = images(evaluation, "peaks")
        unit = moments(found.real)
        nu = torch.linspace(self.lowest, self.highest, self.number, device=found.real.device)
        real, drawn = (
            per_context(lambda maps: peak_counts(maps, nu), maps, *unit).double() for maps in (found.real, found.drawn)
        )
        parts = quarters(real, drawn, shuffled(real.shape[1], evaluation))
        error, floor = compare(parts, lambda a, b: (a.mean(1).log1p() - b.mean(1).log1p()).abs().mean((1, 2)))
        return results("peaks_error", error, floor, found) | {"nu": nu} | curves(real, drawn)


def peak_counts(maps: Tensor, thresholds: Tensor) -> Tensor:
    """Number of pixels, the border apart, that exceed their eight neighbours and a threshold.

    Args:
        maps: ``(N, C, H, W)``.
        thresholds: ``(T,)`` in the units of the maps.

    Returns:
        ``(N, C, T)`` integers.

    >>> one = torch.zeros(1, 1, 5, 5)
    >>> one[..., 2, 3] = 2.0
    >>> peak_counts(one, torch.tensor([-1.0, 1.0, 3.0])).tolist()
    [[[1, 1, 0]]]
    """

    def counted(part: Tensor) -> Tensor:
        beside = torch.maximum(part[..., :-2, :], part[..., 2:, :])  # above and below
        column = torch.maximum(beside, part[..., 1:-1, :])
        around = torch.maximum(torch.maximum(column[..., :-2], column[..., 2:]), beside[..., 1:-1])
        inner = part[..., 1:-1, 1:-1]
        heights = torch.where(inner > around, inner, -torch.inf).flatten(-2)
        return torch.stack([(heights > t).sum(-1) for t in thresholds], -1)

    return in_chunks(counted, maps)
