"""Minkowski functionals of draws against those of real maps: area, boundary and holes above a height."""

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
class Minkowski:
    r"""Mean difference of the three functionals of the region above nu, in units of the highest of each real curve.

    .. math:: e = \frac13 \sum_{j=0}^{2} \frac{\langle \lvert V_j^\mathrm{drawn}(\nu) - V_j^\mathrm{real}(\nu) \rvert
              \rangle_\nu}{\max_\nu \lvert V_j^\mathrm{real}(\nu) \rvert}

    V_j are means over maps of what ``functionals`` gives, at heights in standard deviations of the real pixels of that
    context from their mean; so an error of scale or offset counts, unlike where each map is standardised by itself. The
    curves are those of Schmalzing and Gorski 1998, MNRAS 297, 355, section 2. The maximum is over all real maps of the
    context, the same for value and floor. Mean over channels, median over contexts; halves and floor as in
    ``_fields.compare``.

    Args:
        highest: thresholds go from minus this to this.
        number: how many, equally spaced.
    """

    highest: float = 3.0
    number: int = 13

    needs: ClassVar[tuple[str, ...]] = ("ensembles",)
    columns: ClassVar[tuple[Column, ...]] = (
        Column(
            "minkowski_error",
            "lower",
            "difference of V0, V1 and V2, mean over heights, in units of the maximum of each",
            "minkowski_error_floor",
        ),
        Column("minkowski_error_floor", "none", "the same between two halves of the real maps"),
    )

    def __call__(self, evaluation: Evaluation) -> dict[str, float | Tensor | str]:
        """See the class."""
        found = images(evaluation, "Minkowski functionals")
        unit = moments(found.real)
        nu = torch.linspace(-self.highest, self.highest, self.number, device=found.real.device)
        real, drawn = (
            per_context(lambda maps: functionals(maps, nu), maps, *unit) for maps in (found.real, found.drawn)
        )
        largest = real.mean(1).abs().amax(-1).clamp_min(torch.finfo(real.dtype).tiny)  # (K, C, 3)
        parts = quarters(real, drawn, shuffled(real.shape[1], evaluation))
        error, floor = compare(parts, lambda a, b: ((a.mean(1) - b.mean(1)).abs().mean(-1) / largest).mean((1, 2)))
        return results("minkowski_error", error, floor, found) | {"nu": nu} | curves(real, drawn)


def functionals(maps: Tensor, thresholds: Tensor) -> Tensor:
    r"""V0, V1 and V2 per unit area of the region above each threshold; lengths in pixels.

    .. math:: V_0 = \langle \Theta(u - \nu) \rangle, \qquad
              V_1 = \tfrac14 \langle \delta(u - \nu) \lvert \nabla u \rvert \rangle, \qquad V_2 = \chi

    V0 is the fraction of pixels. V1, a quarter of the length of the boundary, has central differences for the gradient
    and a bin as wide as the spacing of the thresholds, centred on each, for the delta function. V2, the Euler
    characteristic (regions less holes), counts: pixels above, less pairs of neighbours both above, plus squares of four
    all above, with neighbours along rows and columns; it needs no derivatives, and so bears noise. Nothing is assumed
    beyond the border of a map: the gradient is taken at inner pixels, and V2 counts at the (H - 1) (W - 1) pixels that
    have a neighbour below and to the right, so that a stationary field has the same expectation in a map of any size.

    Args:
        maps: ``(N, C, H, W)``.
        thresholds: ``(T,)`` equally spaced, at least two, in the units of the maps.

    Returns:
        ``(N, C, 3, T)`` float64.

    >>> spot = torch.zeros(1, 1, 11, 11)
    >>> spot[..., 3:8, 3:8] = 1.0
    >>> round(float(functionals(spot, torch.tensor([0.4, 0.6]))[0, 0, 2, 0]) * 10**2)  # one region
    1
    >>> spot[..., 5, 5] = 0.0
    >>> round(float(functionals(spot, torch.tensor([0.4, 0.6]))[0, 0, 2, 0]) * 10**2)  # with one hole
    0
    """
    width = float(thresholds[1] - thresholds[0])

    def above(heights: Tensor) -> Tensor:
        """Fraction of heights above each threshold, ``(N, C, T)``."""
        flat = heights.flatten(-2)
        counts = [(flat > t).sum(-1, dtype=torch.int32) for t in thresholds]
        return torch.stack(counts, -1).double() / flat.shape[-1]

    def measured(part: Tensor) -> Tensor:
        corner = part[..., :-1, :-1]
        down = torch.minimum(part[..., 1:, :], part[..., :-1, :])
        right = torch.minimum(corner, part[..., :-1, 1:])
        square = torch.minimum(down[..., 1:], down[..., :-1])
        area = above(part)
        euler = above(corner) - above(down[..., :-1]) - above(right) + above(square)
        rows = part[..., 2:, 1:-1] - part[..., :-2, 1:-1]
        columns = part[..., 1:-1, 2:] - part[..., 1:-1, :-2]
        slope = ((rows.square() + columns.square()).sqrt() / 2).flatten(-2).double()
        # Bin i + 1 is that of threshold i; the first and the last take what lies beyond all of them.
        bins = ((part[..., 1:-1, 1:-1] - thresholds[0]) / width + 1.5).clamp(0, len(thresholds) + 1).long().flatten(-2)
        sums = slope.new_zeros(*slope.shape[:2], len(thresholds) + 2).scatter_add_(-1, bins, slope)
        length = sums[..., 1:-1] / (4 * width * slope.shape[-1])
        return torch.stack([area, length, euler], -2)

    return in_chunks(measured, maps)
