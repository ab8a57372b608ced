"""Sums of squares of polynomials, expanded once. Coefficients are along the first axis, where each lies together."""

from __future__ import annotations

import torch
from torch import Tensor


def pairs(k: int, n: int) -> Tensor:
    """How the products of ``mean_square`` make up coefficients: ``(2 n - 1, K n (n + 1) / 2)`` in float64."""
    found = torch.zeros(2 * n - 1, n, n, dtype=torch.float64)
    for i in range(n):
        for j in range(i, n):
            found[i + j, i, j] = (1 if i == j else 2) / k
    above = torch.ones(n, n).triu().bool()
    return found[:, above].repeat(1, k)


def mean_square(polynomials: Tensor, collect: Tensor) -> Tensor:
    r"""Coefficients of :math:`\frac1K \sum_k p_k(t)^2`.

    Args:
        polynomials: ``(K, n, ...)``, the coefficients of K polynomials, the constant first.
        collect: ``pairs(K, n)`` in their dtype.

    Returns:
        ``(2 n - 1, ...)``.
    """
    # Every pair once, and all sums of them as one matrix product: few operations, as each is small.
    products = [polynomials[:, i, None] * polynomials[:, i:] for i in range(polynomials.shape[1])]
    return (collect @ torch.cat(products, 1).reshape(collect.shape[1], -1)).unflatten(1, polynomials.shape[2:])


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
