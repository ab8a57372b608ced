"""The inverse of an increasing function of one variable, without a bound that clips."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

MAX_DOUBLINGS = 64
MAX_STEPS = 200  # halving alone needs as many as the dtype has bits, and is chosen every time that the rest is slow


@torch.no_grad()
def solve(
    f: Callable[[Tensor], Tensor],
    y: Tensor,
    start: float = 8.0,
    with_slope: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None,
) -> Tensor:
    """x with f(x) = y, elementwise, for increasing f.

    The bracket starts at [-start, start] and doubles until it holds. Within it the next point is Newton's, if the slope
    is given and it lies inside; else that of inverse quadratic interpolation where three points look like a smooth
    function, else the middle (Chandrupatla 1997, Adv. Eng. Softw. 28, 145). So down to the resolution of the dtype.

    Args:
        f: increasing, elementwise on tensors of the shape of ``y``.
        y: the values to reach.
        start: half-width of the first bracket.
        with_slope: f and its slope, elementwise.

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
    found = (
        _chandrupatla(f, y, a, b, fa, fb, held) if with_slope is None else _newton(with_slope, y, a, b, fa, fb, held)
    )
    return torch.where(held, found, torch.nan)


def _newton(
    f: Callable[[Tensor], tuple[Tensor, Tensor]],
    y: Tensor,
    low: Tensor,
    high: Tensor,
    f_low: Tensor,
    f_high: Tensor,
    held: Tensor,
) -> Tensor:
    eps = torch.finfo(y.dtype).eps
    # Where the chord meets y: of what is nearly straight, nearly the solution.
    x = low - f_low / (f_high - f_low) * (high - low)
    x = torch.where((x >= low) & (x <= high), x, (low + high) / 2)
    before = torch.full_like(y, torch.inf)
    for _ in range(MAX_STEPS):
        value, slope = f(x)
        fx = value - y
        low, high = torch.where(fx <= 0, x, low), torch.where(fx >= 0, x, high)
        step = x - fx / slope
        inside = (step >= low) & (step <= high)
        done = (inside & ((step - x).abs() <= eps * x.abs() + 0.25 * eps)) | (fx == 0)
        # Along a flat stretch Newton's method creeps, or goes to and fro: the bracket is halved then.
        good = inside & (fx.abs() <= 0.5 * before)
        x = torch.where(done, x, torch.where(good, step, (low + high) / 2))
        before = fx.abs()
        if bool((done | ~held | (high - low <= eps * x.abs())).all()):
            break
    return x


def _chandrupatla(
    f: Callable[[Tensor], Tensor], y: Tensor, a: Tensor, b: Tensor, fa: Tensor, fb: Tensor, held: Tensor
) -> Tensor:
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
    return best


def inverse(
    f: Callable[[Tensor], Tensor], y: Tensor, with_slope: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None
) -> Tensor:
    r"""As ``solve``, and differentiable in ``y`` and in whatever f depends on.

    By the implicit function theorem one Newton step from the solution,
    :math:`x - (f(x) - y) / f'(x)` with :math:`f'` held constant, has the right first derivatives.
    """
    x = solve(f, y, with_slope=with_slope)
    if not torch.is_grad_enabled():
        return x
    leaf = x.detach().requires_grad_()
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(f(leaf).sum(), leaf)
    return x - (f(x) - y) / slope
