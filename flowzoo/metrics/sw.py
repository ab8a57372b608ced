"""Sliced Wasserstein distance between draws and test events, beside its real-against-real floor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from flowzoo.metrics._metric import Column, Evaluation
from flowzoo.metrics._points import compare, points, results
from flowzoo.registry import METRICS
from flowzoo.seeding import generator

BLOCK = 2**22  # numbers in a block of projections or of directions


@METRICS.register
@dataclass(frozen=True)
class SlicedWasserstein:
    r"""Mean one-dimensional Wasserstein-1 distance over random directions, in units of the training spread.

    .. math:: \mathrm{SW}(P, Q) = \mathbb E_{\theta \in S^{D-1}} \int_0^1
              \lvert F_{\theta P}^{-1}(t) - F_{\theta Q}^{-1}(t) \rvert \, dt

    (Bonneel et al. 2015, J. Math. Imaging Vis. 51, section 3, with the exponent 1.) It is a mean of absolute
    differences, never zero for samples: of m points it falls as 1 / sqrt(m). ``_points.compare`` has halves and floor.

    Args:
        num_projections: directions, the same for every comparison, model and cell.
        max_points: at most this many points of a half.
    """

    num_projections: int = 500
    max_points: int = 5000

    needs: ClassVar[tuple[str, ...]] = ("clouds",)
    columns: ClassVar[tuple[Column, ...]] = (
        Column(
            "sw",
            "lower",
            "sliced Wasserstein-1 distance of draws to test events, training spreads",
            "sw_floor",
        ),
        Column("sw_floor", "none", "the same between two halves of the test events"),
    )

    def __call__(self, evaluation: Evaluation) -> dict[str, float | Tensor | str]:
        """See the class."""
        found = points(evaluation, "a sliced Wasserstein distance", least=1, most=self.max_points, widest=None)
        size = found.real.shape[-1]
        # A fixed seed: no difference between two models is one of directions.
        directions = torch.randn(size, self.num_projections, generator=generator(0, "sw", size), dtype=torch.float32)
        directions = (directions / directions.norm(dim=0)).to(found.real.device)
        value, floor = compare(found, lambda a, b: sliced_wasserstein(a, b, directions))
        return results(["sw"], value, floor, found)


def sliced_wasserstein(a: Tensor, b: Tensor, directions: Tensor) -> Tensor:
    """SW-1 between two samples of any sizes.

    Args:
        a: ``(N, D)``.
        b: ``(M, D)``.
        directions: ``(D, K)`` unit vectors.

    Returns:
        A scalar tensor, in the units of ``a`` and ``b``.
    """
    block = max(1, BLOCK // max(len(a), len(b), len(directions)))
    if directions.shape[1] > block:  # of images: their directions alone are gigabytes in float64
        parts = directions.split(block, 1)
        means = [sliced_wasserstein(a, b, part) * part.shape[1] for part in parts]
        return torch.stack(means).sum() / directions.shape[1]
    directions = directions.to(a.dtype)
    sorted_a, sorted_b = ((directions.T @ t.T).sort(1).values for t in (a, b))
    n, m = len(a), len(b)
    if n == m:
        return (sorted_a - sorted_b).abs().mean()
    # Exact for unequal sizes: both quantile functions are constant between the union of their jumps.
    jumps_a = torch.arange(1, n + 1, device=a.device, dtype=torch.float64) / n
    jumps_b = torch.arange(1, m + 1, device=a.device, dtype=torch.float64) / m
    jumps = torch.cat([jumps_a, jumps_b]).sort().values
    widths = torch.diff(jumps, prepend=jumps.new_zeros(1))
    middle = jumps - widths / 2
    at_a = sorted_a[:, (middle * n).long().clamp(0, n - 1)]
    at_b = sorted_b[:, (middle * m).long().clamp(0, m - 1)]
    return ((at_a - at_b).abs() * widths.to(a.dtype)).sum(1).mean()
