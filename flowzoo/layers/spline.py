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
    widths, heights, slopes = parameters.split([num_bins, num_bins, num_bins - 1], dim=-1)
    x_edges, widths = _edges(widths, bound)
    y_edges, heights = _edges(heights, bound)
    # softplus shifted so that a parameter of zero is a slope of one, which also is the slope of the tails
    slopes = MIN_SLOPE + F.softplus(slopes + math.log(math.expm1(1 - MIN_SLOPE)))
    slopes = F.pad(slopes, (1, 1), value=1.0)

    inside = x.abs() < bound
    clamped = x.clamp(-bound, bound)
    edges = y_edges if inverse else x_edges
    k = (edges[..., 1:-1] <= clamped[..., None]).sum(-1, keepdim=True)

    def pick(t: Tensor) -> Tensor:
        return t.gather(-1, k).squeeze(-1)

    x0, w, y0, h = pick(x_edges[..., :-1]), pick(widths), pick(y_edges[..., :-1]), pick(heights)
    d0, d1 = pick(slopes[..., :-1]), pick(slopes[..., 1:])
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


def _edges(raw: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    num_bins = raw.shape[-1]
    sizes = MIN_BIN + (1 - MIN_BIN * num_bins) * raw.softmax(-1)
    edges = F.pad(sizes.cumsum(-1)[..., :-1], (1, 1), value=0.0) * (2 * bound) - bound
    # The last edge is the bound itself, not a cumulative sum that rounds to something near it.
    edges = torch.cat([edges[..., :-1], torch.full_like(edges[..., :1], bound)], -1)
    return edges, edges.diff(dim=-1)
