"""Monotone rational-quadratic splines with linear tails (Durkan et al. 2019, arXiv:1906.04032, section 3)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

MIN_BIN = 1e-3  # of the whole interval: no bin can vanish, so no division by its width can overflow
MIN_SLOPE = 1e-3


def num_parameters(num_bins: int) -> int:
    """Numbers per dimension that a spline takes: K widths, K heights, K - 1 inner slopes."""
    return 3 * num_bins - 1


def rational_quadratic(x: Tensor, parameters: Tensor, *, bound: float, inverse: bool = False) -> tuple[Tensor, Tensor]:
    """Transform each number by its own spline; the identity outside [-bound, bound].

    Args:
        x: ``(...)`` inputs.
        parameters: ``(..., 3 K - 1)`` unconstrained; all zero is the identity.
        bound: half-width of the interval that is transformed.
        inverse: apply the inverse spline.

    Returns:
        ``(...)`` outputs and the log-derivative of the direction performed.
    """
    if inverse and x.dtype == torch.float32 and x.device.type != "mps":
        # The discriminant cancels where a bin is steep. Sampling is one pass: it can afford float64 (MPS has none).
        out, log_slope = rational_quadratic(x.double(), parameters.double(), bound=bound, inverse=True)
        return out.float(), log_slope.float()
    num_bins = (parameters.shape[-1] + 1) // 3
    # Bins along the first axis: what is done to all numbers at once lies together there, at half the time in all.
    sizes, slopes = parameters.movedim(-1, 0).contiguous().split([2 * num_bins, num_bins - 1])
    inner = _inner_edges(sizes.unflatten(0, (2, num_bins)), bound)
    # softplus shifted so that a parameter of zero is a slope of one, which also is the slope of the tails
    slopes = MIN_SLOPE + F.softplus(slopes + math.log(math.expm1(1 - MIN_SLOPE)))

    inside = x.abs() < bound
    clamped = x.clamp(-bound, bound)
    k = (inner[1 if inverse else 0] <= clamped).sum(0)
    end, one = torch.full_like(inner[:, :1], bound), torch.ones_like(slopes[:1])
    x0, y0 = _pick(torch.cat([-end, inner], 1), k)
    x1, y1 = _pick(torch.cat([inner, end], 1), k)
    d0, d1 = _pick(torch.stack([torch.cat([one, slopes]), torch.cat([slopes, one])]), k)
    w, h = x1 - x0, y1 - y0
    s = h / w
    curve = d0 + d1 - 2 * s
    if inverse:
        dy = clamped - y0
        a = h * (s - d0) + dy * curve
        b = h * d0 - dy * curve
        c = -s * dy
        # The discriminant is non-negative in exact arithmetic; rounding can take it just below zero.
        t = 2 * c / (-b - (b.square() - 4 * a * c).clamp_min(0).sqrt())
        out = x0 + t * w
    else:
        t = (clamped - x0) / w
    t = t.clamp(0, 1)
    rest = t * (1 - t)
    denominator = s + curve * rest
    if not inverse:
        out = y0 + h * (s * t.square() + d0 * rest) / denominator
    log_slope = 2 * s.log() + (d1 * t.square() + 2 * s * rest + d0 * (1 - t).square()).log() - 2 * denominator.log()
    log_slope = -log_slope if inverse else log_slope
    return torch.where(inside, out, x), torch.where(inside, log_slope, torch.zeros_like(log_slope))


def _inner_edges(raw: Tensor, bound: float) -> Tensor:
    """``(2, K, ...)`` numbers to the K - 1 edges between the bins of either axis, ``(2, K - 1, ...)``."""
    num_bins = raw.shape[1]
    share = (MIN_BIN + (1 - MIN_BIN * num_bins) * raw.softmax(1)).split([num_bins - 1, 1], 1)[0]
    return share.cumsum(1) * (2 * bound) - bound


def _pick(table: Tensor, k: Tensor) -> Tensor:
    """Of ``(2, K, ...)`` the two in bin k ``(...)``."""
    return table.gather(1, k.expand(2, 1, *k.shape)).squeeze(1)
