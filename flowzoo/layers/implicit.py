"""Gradients of what was solved for, by the implicit function theorem."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def attach(
    f: Callable[[Tensor], tuple[Tensor, Tensor]], x: Tensor, y: Tensor, steps: int, tolerance: float = 8.0
) -> Tensor:
    r"""The solution x of f(x) = y, with the first derivatives that it has as such; higher ones are an error.

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
        ctx.save_for_backward(residual)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _no_further(-ctx.solve(grad.detach()), grad, *ctx.saved_tensors), None, None


def first_derivatives_only(x: Tensor) -> Tensor:
    """x, whose gradient is right and whose gradient's gradient would not be: to ask for that is an error."""
    found: Tensor = _FirstOnly.apply(x) if x.requires_grad else x
    return found


class _FirstOnly(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _no_further(grad, grad, *ctx.saved_tensors)


def _no_further(gradient: Tensor, *causes: Tensor) -> Tensor:
    """A gradient that depends on other tensors in a way that nobody knows.

    torch's ``once_differentiable`` raises in ``backward()`` alone: ``torch.autograd.grad`` finds no way through it to
    what it is asked for, and returns what other ways give.
    """
    found: Tensor = _Unknown.apply(gradient, *causes)
    return found


class _Unknown(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(gradient: Tensor, *causes: Tensor) -> Tensor:
        return gradient.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        raise RuntimeError("what was solved for (the inverse of this flow, or its ODE) has first derivatives only")
