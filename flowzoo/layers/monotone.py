"""The inverse of an increasing function of one variable, without a bound that clips."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

MAX_DOUBLINGS = 64
MAX_STEPS = 200  # halving alone needs as many as the dtype has bits, and is chosen every time that the rest is slow


@torch.no_grad()
def solve(f: Callable[[Tensor], Tensor], y: Tensor, start: float = 8.0) -> Tensor:
    """x with f(x) = y, elementwise, for increasing f.

    The bracket starts at [-start, start] and doubles until it holds. Within it the next point is that of inverse
    quadratic interpolation where three points look like a smooth function, else the middle (Chandrupatla 1997, Adv.
    Eng. Softw. 28, 145), down to the resolution of the dtype.

    Args:
        f: increasing, elementwise on tensors of the shape of ``y``.
        y: the values to reach.
        start: half-width of the first bracket.

    Returns:
        The solution; NaN where no bracket holds, because f never reaches y: nothing is clipped.
    """
    a, b = torch.full_like(y, -start), torch.full_like(y, start)
    fa, fb = f(a) - y, f(b) - y
    for _ in range(MAX_DOUBLINGS):
        low, high = ~(fa <= 0), ~(fb >= 0)
        if not bool((low | high).any()):
            break
        a, b = torch.where(low, 2 * a, a), torch.where(high, 2 * b, b)
        fa, fb = f(a) - y, f(b) - y
    held = (fa <= 0) & (fb >= 0)
    eps = torch.finfo(y.dtype).eps
    # b is the last point, the root lies between it and a, and c is the one before.
    c, fc, t = a, fa, torch.full_like(y, 0.5)
    best, least = torch.where(fa.abs() < fb.abs(), a, b), torch.minimum(fa.abs(), fb.abs())
    for _ in range(MAX_STEPS):
        x = b + t * (a - b)
        fx = f(x) - y
        same = (fx > 0) == (fb > 0)
        c, fc = torch.where(same, b, a), torch.where(same, fb, fa)
        a, fa = torch.where(same, a, b), torch.where(same, fa, fb)
        b, fb = x, fx
        best, least = torch.where(fx.abs() < least, x, best), torch.minimum(fx.abs(), least)
        # Of the whole bracket, what may be left.
        room = (eps * best.abs() + 0.25 * eps) / (a - b).abs()
        if bool(((room > 0.5) | (least == 0) | ~held).all()):
            break
        xi, phi = (b - a) / (c - a), (fb - fa) / (fc - fa)
        smooth = (phi.square() < xi) & ((1 - phi).square() < 1 - xi)
        t = fb / (fa - fb) * (fc / (fa - fc)) + (c - b) / (a - b) * (fb / (fc - fb)) * (fa / (fc - fa))
        t = torch.where(smooth & t.isfinite(), t, 0.5)
        t = torch.minimum(torch.maximum(t, room), 1 - room).clamp(0, 1)
    return torch.where(held, best, torch.nan)


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
