"""Affine maps: fitted to the training data, or fixed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Size, Tensor

from flowzoo.bijectors._base import Bijector, column_name, pieces


def _weighted(shares: Sequence[float], values: Iterable[Tensor]) -> Tensor:
    """The sum of shares times values, one value in memory at a time."""
    total: Tensor | None = None
    for share, value in zip(shares, values, strict=True):
        total = share * value if total is None else total + share * value
    assert total is not None
    return total


class Standardize(Bijector):
    r"""Zero mean and unit variance: :math:`u = (x - \mu) / \sigma`.

    Args:
        shape: shape of an event. The constants are per column of a vector, and per channel of an image
            ``(C, H, W)``, because a per-pixel scale would break the symmetry that a convolution relies on.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = Size(shape)
        constants = (shape[0], *(1,) * (len(shape) - 1)) if len(shape) >= 3 else tuple(shape)
        self._reduce = (0, *range(2, len(shape) + 1)) if len(shape) >= 3 else (0,)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(constants))
        self.register_buffer("std", torch.ones(constants))

    def fit(self, x: Tensor, names: Sequence[str] | None = None) -> None:
        """Take mean and standard deviation over the events (and pixels of a channel)."""
        # Two passes in float64: (x - mean)^2 of large offsets in float32 loses the variance.
        parts = pieces(x)
        shares = [len(part) / max(1, len(x)) for part in parts]
        mean = _weighted(shares, (p.double().mean(self._reduce, keepdim=True) for p in parts))
        squares = ((p.double() - mean).square().mean(self._reduce, keepdim=True) for p in parts)
        std = _weighted(shares, squares).sqrt()
        flat = (std <= 1e-7 * mean.abs()).flatten() | (std == 0).flatten()
        if bool(flat.any()):
            columns = ", ".join(column_name(names, int(i), len(flat)) for i in flat.nonzero().flatten()[:5])
            raise ValueError(
                f"{columns}: constant over all {len(x)} training rows, so no scale can be fitted. Leave the column out."
            )
        self.mean.copy_(mean[0])
        self.std.copy_(std[0])

    def to_latent(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Subtract the mean, divide by the standard deviation."""
        return (x - self.mean) / self.std, (-self.std.log()).expand_as(x)

    def to_data(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Multiply by the standard deviation, add the mean."""
        return u * self.std + self.mean, self.std.log().expand_as(u)

    def describe(self) -> dict[str, Any]:
        """See the base class."""
        return {"kind": "standardize", "shape": list(self.shape)}


class Whiten(Bijector):
    r"""Zero mean and unit covariance of a vector: :math:`u = W (x - \mu)`, W the PCA whitening of the training data.

    For contexts whose columns are nearly copies of one another (magnitudes in six bands, whose differences are the
    colours that matter), a network sees each direction at the same scale.

    Args:
        shape: shape of the vector.
    """

    FLOOR = 1e-6  # smallest variance of a direction, relative to the largest: below it there is only rounding

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        if len(shape) != 1:
            raise ValueError(f"only vectors can be whitened; got shape {tuple(shape)}")
        self.shape = Size(shape)
        self.mean: Tensor
        self.matrix: Tensor
        self.inverse: Tensor
        self.log_slope: Tensor  # every column carries an equal share of the log|det|
        self.register_buffer("mean", torch.zeros(shape[0]))
        self.register_buffer("matrix", torch.eye(shape[0]))
        self.register_buffer("inverse", torch.eye(shape[0]))
        self.register_buffer("log_slope", torch.zeros(()))

    def fit(self, x: Tensor, names: Sequence[str] | None = None) -> None:
        """Take the mean and the eigenvectors of the correlation matrix."""
        scale = Standardize(self.shape).to(x.device)
        scale.fit(x, names)
        standard = scale.to_latent(x)[0].double()
        values, vectors = torch.linalg.eigh(standard.T @ standard / len(x))
        root = values.clamp_min(self.FLOOR * float(values[-1])).sqrt()
        self.mean.copy_(scale.mean)
        self.matrix.copy_((vectors / root).T / scale.std)
        self.inverse.copy_(scale.std[:, None] * (vectors * root))
        self.log_slope.copy_(-(scale.std.double().log().sum() + root.log().sum()) / len(root))

    def to_latent(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Subtract the mean, rotate and scale."""
        return (x - self.mean) @ self.matrix.T, self.log_slope.expand_as(x)

    def to_data(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """The inverse."""
        return u @ self.inverse.T + self.mean, -self.log_slope.expand_as(u)

    def describe(self) -> dict[str, Any]:
        """See the base class."""
        return {"kind": "whiten", "shape": list(self.shape)}


class Rescale(Bijector):
    r"""A bounded range to :math:`[-\frac12, \frac12]`, whatever the data: :math:`u = (x - \ell)/(h - \ell) - \frac12`.

    What Glow does to its pixels (Kingma and Dhariwal 2018, arXiv:1807.03039, section 5 and their code). Nothing is
    fitted, and nothing is refused: the map is the same line outside its range.

    Args:
        low: lower end of the data.
        high: upper end of the data.

    Raises:
        ValueError: unless low < high.
    """

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        if not high > low or not math.isfinite(high - low):
            raise ValueError(f"rescale needs finite low < high; got {low}, {high}")
        self.low, self.high = float(low), float(high)
        self._width = self.high - self.low

    def to_latent(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Shift and scale."""
        u = (x - self.low) / self._width - 0.5
        return u, torch.full_like(u, -math.log(self._width))

    def to_data(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """The inverse."""
        x = (u + 0.5) * self._width + self.low
        return x, torch.full_like(x, math.log(self._width))

    def describe(self) -> dict[str, Any]:
        """See the base class."""
        return {"kind": "rescale", "low": self.low, "high": self.high}
