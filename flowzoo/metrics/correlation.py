"""Correlations between the columns of the draws against those of the test events."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from flowzoo.metrics._metric import Column, Evaluation, NotComputed
from flowzoo.metrics._points import compare, points, results
from flowzoo.registry import METRICS


@METRICS.register
@dataclass(frozen=True)
class Correlation:
    r"""Frobenius norm of the difference of two correlation matrices.

    .. math:: \lVert R^\mathrm{real} - R^\mathrm{drawn} \rVert_F = \Bigl(\sum_{ij}
              (R^\mathrm{real}_{ij} - R^\mathrm{drawn}_{ij})^2\Bigr)^{1/2}, \qquad
              R_{ij} = \frac{\mathrm{cov}(x_i, x_j)}{s_i s_j}

    Every pair counts twice, as both R_ij and R_ji; one pair off by d gives sqrt(2) d. Means and spreads of the columns
    do not enter. A constant column has no correlation: its rows count as zero, its diagonal as one. For independent
    columns the floor is near sqrt(2 D (D - 1) / m), because R_ij of m points has the variance 1 / m. Pearson's R: a
    few far outliers decide it.
    """

    needs: ClassVar[tuple[str, ...]] = ("clouds",)
    columns: ClassVar[tuple[Column, ...]] = (
        Column(
            "correlation_error",
            "lower",
            "Frobenius norm of the difference of the correlation matrices of draws and test events",
            "correlation_error_floor",
        ),
        Column("correlation_error_floor", "none", "the same between two halves of the test events"),
    )

    def __call__(self, evaluation: Evaluation) -> dict[str, float | Tensor | str]:
        """See the class."""
        found = points(evaluation, "correlations", least=3)
        if found.real.shape[-1] < 2:
            raise NotComputed("one column has no correlations")
        value, floor = compare(found, correlation_distance)
        return results(["correlation_error"], value, floor, found)


def correlation_distance(a: Tensor, b: Tensor) -> Tensor:
    """Frobenius norm of the difference of the correlation matrices of two samples.

    Args:
        a: ``(N, D)``.
        b: ``(M, D)``.

    Returns:
        A scalar tensor.
    """
    za, zb = _standard(a), _standard(b)
    if a.shape[1] <= max(len(a), len(b)):
        difference = za.T @ za - zb.T @ zb
        return difference.fill_diagonal_(0).square().sum().sqrt()
    # More columns than points, as images have: the same sum by way of matrices of points, a square of N or M.
    squares = (za @ za.T).square().sum() + (zb @ zb.T).square().sum() - 2 * (za @ zb.T).square().sum()
    diagonal = (za.square().sum(0) - zb.square().sum(0)).square().sum()
    return (squares - diagonal).clamp_min(0).sqrt()


def _standard(x: Tensor) -> Tensor:
    """Columns of mean zero and length 1, so that R = z.T z; constant ones are zero."""
    z = x - x.mean(0)
    z[:, x.amax(0) == x.amin(0)] = 0  # rounding of the mean would leave them a spread
    length = z.norm(dim=0)
    return z / length.where(length > 0, 1.0)
