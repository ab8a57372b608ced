"""Monotone rational-quadratic splines with linear tails (Durkan et al. 2019, arXiv:1906.04032, section 3)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

MIN_BIN = 1e-3  # of the whole interval: no bin can vanish, so no division by its width can overflow
MIN_SLOPE = 1e-3


def num_parameters(num_bins: int) -> int:
    """Numbers per dimension that a spline takes: K widths, K heights, K - 1 inner slopes."""
    return 3 * num_bins - 1


def rational_quadratic(
    x: Tensor, parameters: Tensor, *, bound: float, inverse: bool = False, dim: int = -1
) -> tuple[Tensor, Tensor]:
    """Transform each number by its own spline; the identity outside [-bound, bound].

    Args:
        x: ``(...)`` inputs.
        parameters: ``(..., 3 K - 1)`` unconstrained; all zero is the identity.
        bound: half-width of the interval that is transformed.
        inverse: apply the inverse spline.
        dim: of ``parameters`` along which the 3 K - 1 lie. 1 needs no copy, and wants all but few numbers to lie in the
            dimensions after it.

    Returns:
        ``(...)`` outputs and the log-derivative of the direction performed.
    """
    # What is done to all numbers at once lies together if they are last: at half the time in all.
    flat = x.flatten(1) if dim == 1 else x.reshape(1, -1)
    parameters = parameters.flatten(2) if dim == 1 else parameters.movedim(dim, 0).flatten(1)[None]
    # The discriminant cancels where a bin is steep. Sampling is one pass: it can afford float64 (MPS has none).
    if inverse and x.dtype == torch.float32 and x.device.type != "mps":
        y, log_slope = (out.to(x.dtype) for out in _to_x(flat.double(), parameters.double(), bound))
    else:
        y, log_slope = (_to_x if inverse else _to_y)(flat, parameters, bound)
    return y.reshape(x.shape), log_slope.reshape(x.shape)


def _to_y(x: Tensor, parameters: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    """``(A, B)`` and ``(A, 3 K - 1, B)`` to two ``(A, B)``."""
    inside = x.abs() < bound
    known = torch.where(inside, x, 0.0)
    part = _part(known, parameters, bound, 0)
    t = (known - part.x) / part.w
    numerator, denominator, rise = part.curve(t)
    log_slope = rise.log() + 2 * (part.s / denominator).log()
    return torch.where(inside, part.y + part.h * (numerator / denominator), x), log_slope * inside


def _to_x(y: Tensor, parameters: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    """The inverse."""
    inside = y.abs() < bound
    known = torch.where(inside, y, 0.0)
    part = _part(known, parameters, bound, 1)
    bend, dy = part.d0 + part.d1 - 2 * part.s, known - part.y
    a = part.h * (part.s - part.d0) + dy * bend
    b = part.h * part.d0 - dy * bend
    c = -part.s * dy
    # The discriminant is non-negative in exact arithmetic; rounding can take it just below zero.
    t = (2 * c / (-b - (b.square() - 4 * a * c).clamp_min(0).sqrt())).clamp(0, 1)
    _, denominator, rise = part.curve(t)
    log_slope = -rise.log() - 2 * (part.s / denominator).log()
    return torch.where(inside, part.x + t * part.w, y), log_slope * inside


class _Part(NamedTuple):
    """The bin of each number: lower corner, size, mean slope and the slopes at both ends; each ``(A, B)``."""

    x: Tensor
    y: Tensor
    w: Tensor
    h: Tensor
    s: Tensor
    d0: Tensor
    d1: Tensor

    def curve(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """At t in [0, 1] of the width: n, m and q, where n / m of the height is reached, with the slope q (s / m)^2.

        Sums of nothing negative, so that no digits cancel.
        """
        r = 1 - t
        u, v = self.s * t + self.d0 * r, self.d1 * t + self.s * r
        numerator = t * u
        return numerator, numerator + r * v, t * v + r * u


def _part(known: Tensor, parameters: Tensor, bound: float, axis: int) -> _Part:
    """Where x (axis 0) or y (axis 1) lies, within the interval."""
    count, num_bins = len(known), (parameters.shape[1] + 1) // 3
    sizes, slopes = parameters.split([2 * num_bins, num_bins - 1], 1)
    shares = sizes.reshape(2 * count, num_bins, -1).softmax(1)
    # A product of matrices takes a fraction of the time of a cumulative sum, forward and backward.
    edges = torch.bmm(_sums(num_bins, bound, known).expand(2 * count, -1, -1), shares).unflatten(0, (count, 2))
    k = (edges[:, axis, 1:-1] <= known[:, None]).sum(1, dtype=torch.int32).long()
    ends = torch.stack([k, k + 1], 1)
    x0, x1, y0, y1 = edges.gather(2, ends[:, None].expand(-1, 2, -1, -1)).flatten(1, 2).unbind(1)
    # softplus shifted so that a parameter of zero is a slope of one, which also is the slope of the tails
    raw = F.pad(slopes, (0, 0, 1, 1)).gather(1, ends)
    d0, d1 = (MIN_SLOPE + F.softplus(raw + math.log(math.expm1(1 - MIN_SLOPE)))).unbind(1)
    w, h = x1 - x0, y1 - y0
    return _Part(x0, y0, w, h, h / w, d0, d1)


def _sums(num_bins: int, bound: float, like: Tensor) -> Tensor:
    """The matrix ``(K + 1, K)`` that makes all edges, from -bound to bound, of shares whose sum is one."""
    sizes = torch.eye(num_bins, dtype=like.dtype, device=like.device) * (1 - MIN_BIN * num_bins) + MIN_BIN
    return F.pad(sizes, (0, 0, 1, 0)).cumsum(0) * (2 * bound) - bound
