"""Inverse of an autoregressive transform: feature by feature, in its order."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor


def invert(
    parameters: Callable[[Tensor], Sequence[Tensor]],
    solve: Callable[[Sequence[Tensor], Tensor, Tensor], Tensor],
    y: Tensor,
    steps: Sequence[Tensor],
) -> Tensor:
    r"""x with :math:`y_i = f(x_i; \phi_i(x_{<i}))`.

    Each step evaluates the network on what is known so far, and sends only the features that are due through the
    univariate inverse.

    Args:
        parameters: ``(N, D) -> `` tensors ``(N, D, ...)``, row i of which depends on earlier features alone.
        solve: ``(parameters of the due features, their y, their index) -> x`` of the due features.
        y: ``(N, D)``.
        steps: for each step the index of the features that it solves; together all of them.
    """
    x = y.new_zeros(y.shape)
    for due in steps:
        phi = [p.index_select(1, due) for p in parameters(x)]
        x = x.index_copy(1, due, solve(phi, y.index_select(1, due), due))
    return x
