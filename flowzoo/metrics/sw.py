"""Sliced Wasserstein distance between draws and test events, beside its real-against-real floor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from flowzoo.metrics._metric import Column, Evaluation, NotComputed
from flowzoo.registry import METRICS


@METRICS.register
@dataclass(frozen=True)
class SlicedWasserstein:
    r"""Mean one-dimensional Wasserstein-1 distance over random directions, in units of the training spread.

    .. math:: \mathrm{SW}(P, Q) = \mathbb E_{\theta \in S^{D-1}} \int_0^1
              \lvert F_{\theta P}^{-1}(t) - F_{\theta Q}^{-1}(t) \rvert \, dt

    (Bonneel et al. 2015, J. Math. Imaging Vis. 51, section 3, with the exponent 1.) The test groups are cut into two
    halves A and B, and the draws with them. ``sw`` is the mean of SW(A, draws at B's contexts) and SW(B, draws at
    A's); ``sw_floor`` is SW(A, B), the same comparison between real and real: the same sizes, the same difference
    of contexts. A flow without fault has sw near sw_floor, neither above nor below.

    Args:
        num_projections: directions, the same for every comparison.
        max_events: at most this many events per half.
    """

    num_projections: int = 512
    max_events: int = 5000

    needs: ClassVar[tuple[str, ...]] = ("samples",)
    columns: ClassVar[tuple[Column, ...]] = (
        Column(
            "sw",
            "lower",
            "sliced Wasserstein-1 distance of draws to test events, training spreads",
            "sw_floor",
        ),
        Column("sw_floor", "none", "the same between two halves of the test events"),
    )

    def __call__(self, evaluation: Evaluation) -> dict[str, float]:
        """See the class."""
        if evaluation.samples is None:
            raise NotComputed(evaluation.samples_missing)
        samples = evaluation.samples
        count = len(samples)
        lost = int((~samples.isfinite()).flatten(1).any(1).sum())
        if lost:
            raise NotComputed(f"{lost} of {count} draws are not finite")
        rows = torch.arange(count, device=samples.device) if evaluation.rows is None else evaluation.rows
        labels, group = torch.unique(evaluation.groups[rows], return_inverse=True)
        if len(labels) < 2:
            raise NotComputed("one test group: no second half to compare with")
        source = evaluation.generator
        order = torch.randperm(len(labels), generator=source, device=source.device).to(group.device)
        in_a = (order < len(labels) // 2)[group]
        real = (evaluation.x[rows] / evaluation.scale).flatten(1)
        drawn = (samples / evaluation.scale).flatten(1)
        directions = torch.randn(
            real.shape[1], self.num_projections, generator=source, device=source.device, dtype=real.dtype
        ).to(real.device)
        directions = directions / directions.norm(dim=0)
        halves = [(t[in_a][: self.max_events], t[~in_a][: self.max_events]) for t in (real, drawn)]
        (real_a, real_b), (drawn_a, drawn_b) = halves
        sw = 0.5 * (sliced_wasserstein(real_a, drawn_b, directions) + sliced_wasserstein(real_b, drawn_a, directions))
        return {"sw": float(sw), "sw_floor": float(sliced_wasserstein(real_a, real_b, directions))}


def sliced_wasserstein(a: Tensor, b: Tensor, directions: Tensor) -> Tensor:
    """SW-1 between two samples of any sizes.

    Args:
        a: ``(N, D)``.
        b: ``(M, D)``.
        directions: ``(D, K)`` unit vectors.

    Returns:
        A scalar tensor, in the units of ``a`` and ``b``.
    """
    sorted_a, sorted_b = (a @ directions).sort(0).values, (b @ directions).sort(0).values
    # Exact for unequal sizes: both quantile functions are constant between the union of their jumps.
    n, m = len(a), len(b)
    jumps_a = torch.arange(1, n + 1, device=a.device, dtype=torch.float64) / n
    jumps_b = torch.arange(1, m + 1, device=a.device, dtype=torch.float64) / m
    jumps = torch.cat([jumps_a, jumps_b]).sort().values
    widths = torch.diff(jumps, prepend=jumps.new_zeros(1))
    middle = jumps - widths / 2
    at_a = sorted_a[(middle * n).long().clamp(0, n - 1)]
    at_b = sorted_b[(middle * m).long().clamp(0, m - 1)]
    return ((at_a - at_b).abs() * widths[:, None].to(a.dtype)).sum(0).mean()
