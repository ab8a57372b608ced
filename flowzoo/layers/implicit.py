"""Gradients of what was solved for, by the implicit function theorem."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def attach(
    f: Callable[[Tensor], tuple[Tensor, Tensor]], x: Tensor, y: Tensor, steps: int, tolerance: float = 8.0
) -> Tensor:
    r"""The solution x of f(x) = y, with the first derivatives that it has as such.

    By the implicit function theorem :math:`dx = J^{-1} (dy - df)`, with :math:`J = \partial f / \partial x` at the
    solution and df what the parameters of f change. Backward, :math:`J^T v = g` is solved by iteration on the slopes,
    the diagonal of J: :math:`v \leftarrow v + \mathrm{diag}(J)^{-1} (g - J^T v)`. J is triangular in the order of the
    features, so S iterations are exact; mostly a few do.

    Args:
        f: ``(N, D)`` to y ``(N, D)`` and the logarithms of the slopes ``(N, D)``, differentiable.
        x: the solution ``(N, D)``.
        y: what f shall give.
        steps: S, features that wait for one another.
        tolerance: of the residual, in roundings of the largest gradient.
    """
    leaf = x.detach().requires_grad_()
    with torch.enable_grad():
        value, log_slope = f(leaf)
    inverse_slope = torch.exp(-log_slope.detach())

    def solve(g: Tensor) -> Tensor:
        v = g * inverse_slope
        least = tolerance * torch.finfo(g.dtype).eps * g.abs().amax()
        for _ in range(steps):
            (product,) = torch.autograd.grad(value, leaf, v, retain_graph=True)
            left = g - product
            if bool((left.abs() <= least).all()):
                break
            v = v + left * inverse_slope
        return v

    return _Attached.apply(f(x.detach())[0] - y, x.detach(), solve)


class _Attached(torch.autograd.Function):
    """x, which falls as the residual f(x) - y rises."""

    @staticmethod
    def forward(ctx: Any, residual: Tensor, x: Tensor, solve: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.solve = solve
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return -ctx.solve(grad), None, None
