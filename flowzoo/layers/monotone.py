"""The inverse of an increasing function of one variable, without a bound that clips."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from flowzoo.layers.implicit import first_derivatives_only
from flowzoo.layers.rounds import until

MAX_DOUBLINGS = 64
FAR = 8.0 * 2.0**MAX_DOUBLINGS
MAX_STEPS = 200  # halving alone needs as many as the dtype has bits, and is chosen every time that the rest is slow


@torch.no_grad()
def solve(
    f: Callable[[Tensor], Tensor],
    y: Tensor,
    start: float = 8.0,
    with_slope: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None,
) -> Tensor:
    """x with f(x) = y, elementwise, for increasing f.

    If the slope is given, Newton's method within a bracket that begins without ends and is as wide as what was tried.
    Else the bracket starts at [-start, start] and doubles until it holds; within it the next point is that of inverse
    quadratic interpolation where three points look like a smooth function, else the middle (Chandrupatla 1997,
    Adv. Eng. Softw. 28, 145). So down to the resolution of the dtype.

    Args:
        f: increasing, elementwise on tensors of the shape of ``y``.
        y: the values to reach.
        start: half-width of the first bracket.
        with_slope: f and its slope, elementwise.

    Returns:
        The solution; NaN where no bracket holds, because f never reaches y: nothing is clipped.
    """
    if with_slope is not None:
        none = torch.full_like(y, torch.inf)
        return _newton(with_slope, y, torch.zeros_like(y), -none, none, y.abs(), start=start)
    a, b = torch.full_like(y, -start), torch.full_like(y, start)
    fa, fb = f(a) - y, f(b) - y
    enough = until(MAX_DOUBLINGS)
    for _ in range(MAX_DOUBLINGS):
        low, high = ~(fa <= 0), ~(fb >= 0)
        if enough(~(low | high).any()):
            break
        a, b = torch.where(low, 2 * a, a), torch.where(high, 2 * b, b)
        fa, fb = f(a) - y, f(b) - y
    held = (fa <= 0) & (fb >= 0)
    return torch.where(held, _chandrupatla(f, y, a, b, fa, fb, held), torch.nan)


@torch.no_grad()
def solve_between(
    with_slope: Callable[[Tensor], tuple[Tensor, Tensor]], y: Tensor, nodes: Tensor, table: Tensor
) -> Tensor:
    """x with f(x) = y, elementwise, for increasing f that is known at some points.

    Newton's method, from where the cubic between two of them meets y.

    Args:
        with_slope: f and its slope, elementwise.
        y: the values to reach ``(...)``, not beyond the known ones; f goes on there for some way.
        nodes: ``(M,)``, increasing.
        table: f and its slope at these ``(2, M, ...)``, where leading axes of ``y`` may be missing.
    """
    table = table.reshape(2, len(nodes), *[1] * (y.ndim + 2 - table.ndim), *table.shape[2:])
    table = table.expand(2, len(nodes), *y.shape)
    index = (table[0, 1:-1] <= y).sum(0)
    low, high = nodes[index], nodes[index + 1]
    ends = table.gather(1, torch.stack([index, index + 1]).expand(2, 2, *y.shape))
    (f_low, f_high), (g_low, g_high) = ends
    rise, run = f_high - f_low, high - low
    u = (y - f_low) / rise
    # The inverse, by its slopes at the ends; of more than three times the mean it would turn back between.
    bent_low, bent_high = (rise / (run * ends[1])).clamp(max=3) - 1
    rest = 1 - u
    x = low + run * (u + u * rest * (bent_low * rest - bent_high * u))
    x = torch.where((x >= low) & (x <= high), x, (low + high) / 2)
    bend = (g_high - g_low).abs() / run
    # The table is rounded otherwise than f is: a solution at a node may be on its other side.
    return _newton(with_slope, y, x, low - run / 8, high + run / 8, torch.maximum(f_low.abs(), f_high.abs()), bend)


def _newton(
    f: Callable[[Tensor], tuple[Tensor, Tensor]],
    y: Tensor,
    x: Tensor,
    low: Tensor,
    high: Tensor,
    around: Tensor,
    bend: Tensor | None = None,
    start: float = 0.0,
) -> Tensor:
    """From x in the bracket, of values like those ``around``, where the slope changes by about ``bend`` in a unit.

    Without ``bend`` the bracket may be open: it grows from ``start`` and doubles until it is closed.
    """
    eps = torch.finfo(y.dtype).eps
    noise = eps * around
    before, last_x, last_slope = torch.full_like(y, torch.inf), x, x
    solved, over = torch.zeros_like(y, dtype=torch.bool), ~y.isfinite()
    enough = until(MAX_STEPS)
    for _ in range(MAX_STEPS):
        value, slope = f(x)
        fx = value - y
        low, high = torch.where(fx <= 0, x, low), torch.where(fx >= 0, x, high)
        step, left, scale = fx / slope, fx.abs(), x.abs()
        ahead, size = x - step, step.abs()
        inside = (ahead >= low) & (ahead <= high)
        if bend is not None:
            bent, middle = bend, (low + high) / 2
        else:
            reach = 2 * (scale + start)
            inside &= size <= reach
            middle = (torch.maximum(low, x - reach) + torch.minimum(high, x + reach)) / 2
            bent = ((slope - last_slope) / (x - last_x)).abs()  # infinite in the beginning
            last_x, last_slope = x, slope
        allowed = eps * scale + 0.25 * eps
        # What is left after this step is half of bend / slope times its square; twice that is asked for.
        near = (size <= 0.25 * eps**0.5 * (scale + 0.25)) & (bent * size.square() <= slope * allowed)
        done = (inside & (near | (size <= allowed))) | (left <= noise) | (high - low <= allowed)
        # Along a flat stretch Newton's method creeps, or goes to and fro: the bracket is halved then.
        good = inside & (left <= 0.5 * before)
        x = torch.where(over, x, torch.where(inside & (done | good), ahead, torch.where(done, x, middle)))
        before = left
        solved = torch.where(over, solved, done)
        over = solved | over | left.isnan() | (x.abs() > FAR)
        if enough(over.all()):
            break
    return torch.where(solved, x, torch.nan)


def _chandrupatla(
    f: Callable[[Tensor], Tensor], y: Tensor, a: Tensor, b: Tensor, fa: Tensor, fb: Tensor, held: Tensor
) -> Tensor:
    eps = torch.finfo(y.dtype).eps
    # b is the last point, the root lies between it and a, and c is the one before.
    c, fc, t = a, fa, torch.full_like(y, 0.5)
    best, least = torch.where(fa.abs() < fb.abs(), a, b), torch.minimum(fa.abs(), fb.abs())
    enough = until(MAX_STEPS)
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
        if enough(((room > 0.5) | (least == 0) | ~held).all()):
            break
        xi, phi = (b - a) / (c - a), (fb - fa) / (fc - fa)
        smooth = (phi.square() < xi) & ((1 - phi).square() < 1 - xi)
        t = fb / (fa - fb) * (fc / (fa - fc)) + (c - b) / (a - b) * (fb / (fc - fb)) * (fa / (fc - fa))
        t = torch.where(smooth & t.isfinite(), t, 0.5)
        t = torch.minimum(torch.maximum(t, room), 1 - room).clamp(0, 1)
    return best


def inverse(
    f: Callable[[Tensor], Tensor],
    y: Tensor,
    with_slope: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None,
    solution: Tensor | None = None,
) -> Tensor:
    r"""As ``solve``, and differentiable in ``y`` and in whatever f depends on.

    By the implicit function theorem one Newton step from the solution,
    :math:`x - (f(x) - y) / f'(x)` with :math:`f'` held constant, has the right first derivatives. Higher ones are an
    error.

    Args:
        f: as in ``solve``.
        y: as in ``solve``.
        with_slope: as in ``solve``.
        solution: where it is known already.
    """
    x = solve(f, y, with_slope=with_slope) if solution is None else solution
    if not torch.is_grad_enabled():
        return x
    leaf = x.detach().requires_grad_()
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(f(leaf).sum(), leaf)
    return first_derivatives_only(x - (f(x) - y) / slope)
