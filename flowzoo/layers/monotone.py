"""The inverse of an increasing function of one variable, without a bound that clips."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

MAX_DOUBLINGS = 64


@torch.no_grad()
def solve(f: Callable[[Tensor], Tensor], y: Tensor, start: float = 8.0) -> Tensor:
    """x with f(x) = y, elementwise, for increasing f.

    The bracket starts at [-start, start] and doubles until it holds; then it is bisected down to the resolution of
    the dtype.

    Args:
        f: increasing, elementwise on tensors of the shape of ``y``.
        y: the values to reach.
        start: half-width of the first bracket.

    Returns:
        The solution; NaN where no bracket holds, because f never reaches y: nothing is clipped.
    """
    low, high = torch.full_like(y, -start), torch.full_like(y, start)
    for _ in range(MAX_DOUBLINGS):
        low_fails, high_fails = ~(f(low) <= y), ~(f(high) >= y)
        if not bool((low_fails | high_fails).any()):
            break
        low, high = torch.where(low_fails, 2 * low, low), torch.where(high_fails, 2 * high, high)
    held = (f(low) <= y) & (f(high) >= y)
    for _ in range(math.ceil(math.log2(2 / torch.finfo(y.dtype).eps)) + 3):
        middle = (low + high) / 2
        below = f(middle) < y
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return torch.where(held, (low + high) / 2, torch.nan)


def inverse(f: Callable[[Tensor], Tensor], y: Tensor) -> Tensor:
    r"""As ``solve``, and differentiable in ``y`` and in whatever f depends on.

    By the implicit function theorem one Newton step from the solution,
    :math:`x - (f(x) - y) / f'(x)` with :math:`f'` held constant, has the right first derivatives.
    """
    x = solve(f, y)
    if not torch.is_grad_enabled():
        return x
    leaf = x.detach().requires_grad_()
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(f(leaf).sum(), leaf)
    return x - (f(x) - y) / slope
