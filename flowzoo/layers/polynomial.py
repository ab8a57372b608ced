"""Sums of squares of polynomials, expanded once. Coefficients are along the first axis, where each lies together."""

from __future__ import annotations

import torch
from torch import Tensor


def mean_square(polynomials: Tensor) -> Tensor:
    r"""Coefficients of :math:`\frac1K \sum_k p_k(t)^2`.

    Args:
        polynomials: ``(..., K, n)``, the coefficients of K polynomials, the constant first.

    Returns:
        ``(2 n - 1, ...)``.
    """
    # A handful of products of contiguous slices, not one outer product: this is bound by memory, not by arithmetic.
    slices = polynomials.movedim(-1, 0).contiguous().unbind(0)
    n = len(slices)
    sums: list[Tensor | None] = [None] * (2 * n - 1)
    for i in range(n):
        for j in range(i, n):
            product = (slices[i] * slices[j]).mean(-1)
            term = product if i == j else 2 * product
            known = sums[i + j]
            sums[i + j] = term if known is None else known + term
    return torch.stack([s for s in sums if s is not None])


def antiderivative(coefficients: Tensor) -> Tensor:
    """Coefficients of the integral from 0, which has no constant term: ``(n, ...)`` to those of t, t^2, ..., t^n."""
    degree = torch.arange(1, len(coefficients) + 1, dtype=coefficients.dtype, device=coefficients.device)
    return coefficients / degree.reshape(-1, *[1] * (coefficients.ndim - 1))


def horner(coefficients: Tensor, t: Tensor) -> Tensor:
    """The polynomial at ``t``: coefficients ``(n, ...)``, the constant first, and ``(...)``."""
    terms = coefficients.unbind(0)
    value = terms[-1]
    for term in terms[-2::-1]:
        value = torch.addcmul(term, value, t)
    return value
