r"""Fixed elementwise maps between data units and network units, with their log-derivatives.

A flow holds two of these as submodules: ``x_map`` for the event and ``context_map`` for the context. They are
fitted on the training split alone, their constants are buffers (so they travel with the weights), and the
log-derivatives of ``x_map`` are part of the flow's density, so that every NLL is in the units of the data.

All maps act on the last axes of a tensor, leave its shape alone and return ``(value, log_slope)``, where ``log_slope``
has that shape too and sums over an event to the log|det| of the map. ``to_latent`` goes from data units to network
units, ``to_data`` back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Size, Tensor, nn


class Bijector(nn.Module):
    """A fixed invertible map. A subclass implements ``to_latent``, ``to_data`` and ``describe``.

    Bijectors that learn constants from data override ``fit`` and create their buffers in ``__init__`` with the
    event's shape, so that a checkpoint loads into a freshly built map.
    """

    def fit(self, x: Tensor, names: Sequence[str] | None = None) -> Tensor:
        """Set the constants from training data ``(N, *event)``; returns the mapped data.

        Raises:
            ValueError: if the data do not fit the map, naming the column and counting the rows.
        """
        return self.to_latent(x)[0]

    def to_latent(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Data units to network units, with its log-derivative."""
        raise NotImplementedError

    def to_data(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Network units to data units, with its log-derivative."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """What ``from_description`` needs to build the same map, constants apart."""
        raise NotImplementedError


class Identity(Bijector):
    """Leaves the data as they are: one-hot classes, or data already in network units."""

    def to_latent(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Identity."""
        return x, torch.zeros_like(x)

    def to_data(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Identity."""
        return u, torch.zeros_like(u)

    def describe(self) -> dict[str, Any]:
        """See the base class."""
        return {"kind": "identity"}


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

    def fit(self, x: Tensor, names: Sequence[str] | None = None) -> Tensor:
        """Take mean and standard deviation over the events (and pixels of a channel)."""
        # Two passes in float64: (x - mean)^2 of large offsets in float32 loses the variance.
        wide = x.double()
        mean = wide.mean(self._reduce, keepdim=True)
        std = (wide - mean).square().mean(self._reduce, keepdim=True).sqrt()
        flat = (std <= 1e-7 * mean.abs()).flatten() | (std == 0).flatten()
        if bool(flat.any()):
            columns = ", ".join(_column(names, int(i), len(flat)) for i in flat.nonzero().flatten()[:5])
            raise ValueError(
                f"{columns}: constant over all {len(x)} training rows, so no scale can be fitted. Leave the column out."
            )
        self.mean.copy_(mean[0])
        self.std.copy_(std[0])
        return self.to_latent(x)[0]

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

    def fit(self, x: Tensor, names: Sequence[str] | None = None) -> Tensor:
        """Take the mean and the eigenvectors of the correlation matrix."""
        scale = Standardize(self.shape)
        standard = scale.to(x.device).fit(x, names).double()
        values, vectors = torch.linalg.eigh(standard.T @ standard / len(x))
        root = values.clamp_min(self.FLOOR * float(values[-1])).sqrt()
        self.mean.copy_(scale.mean)
        self.matrix.copy_((vectors / root).T / scale.std)
        self.inverse.copy_(scale.std[:, None] * (vectors * root))
        self.log_slope.copy_(-(scale.std.double().log().sum() + root.log().sum()) / len(root))
        return self.to_latent(x)[0]

    def to_latent(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Subtract the mean, rotate and scale."""
        return (x - self.mean) @ self.matrix.T, self.log_slope.expand_as(x)

    def to_data(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """The inverse."""
        return u @ self.inverse.T + self.mean, -self.log_slope.expand_as(u)

    def describe(self) -> dict[str, Any]:
        """See the base class."""
        return {"kind": "whiten", "shape": list(self.shape)}


class Log(Bijector):
    """Natural logarithm of strictly positive data. (log10 differs by a constant that a Standardize absorbs.)"""

    def fit(self, x: Tensor, names: Sequence[str] | None = None) -> Tensor:
        """Check that the data are positive."""
        bad = (x <= 0).reshape(len(x), -1)
        if bool(bad.any()):
            column = int(bad.any(0).nonzero()[0])
            raise ValueError(
                f"{_column(names, column, bad.shape[1])}: {int(bad[:, column].sum())} of {len(x)} rows are <= 0, "
                "which has no logarithm. Add a stated floor, or do not take the log of this column."
            )
        return x.log()

    def to_latent(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logarithm."""
        u = x.log()
        return u, -u

    def to_data(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Exponential."""
        return u.exp(), u

    def describe(self) -> dict[str, Any]:
        """See the base class."""
        return {"kind": "log"}


class Logit(Bijector):
    r"""Logit of bounded data: :math:`u = \mathrm{logit}(\alpha + (1 - 2\alpha)\,(x - \ell)/(h - \ell))`.

    With :math:`\alpha > 0` the ends are finite (Dinh et al. 2017, section 4.1, where alpha is 0.05).

    Args:
        low: lower end of the data.
        high: upper end of the data.
        alpha: distance kept from 0 and 1, in (0, 0.5).
    """

    def __init__(self, low: float, high: float, alpha: float = 0.05) -> None:
        super().__init__()
        if not high > low or not 0 < alpha < 0.5:
            raise ValueError(f"logit needs low < high and 0 < alpha < 0.5; got {low}, {high}, {alpha}")
        self.low, self.high, self.alpha = float(low), float(high), float(alpha)
        self._slope = (1 - 2 * self.alpha) / (self.high - self.low)

    def fit(self, x: Tensor, names: Sequence[str] | None = None) -> Tensor:
        """Check that the data lie within the bounds."""
        bad = ((x < self.low) | (x > self.high)).reshape(len(x), -1)
        if bool(bad.any()):
            column = int(bad.any(0).nonzero()[0])
            raise ValueError(
                f"{_column(names, column, bad.shape[1])}: {int(bad[:, column].sum())} of {len(x)} rows lie outside "
                f"[{self.low:g}, {self.high:g}], the bounds given for the logit."
            )
        return self.to_latent(x)[0]

    def to_latent(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scale into (0, 1), then logit."""
        p = self.alpha + self._slope * (x - self.low)
        u = torch.logit(p)
        # d logit(p)/dp = 1/(p(1-p)), and -log p(1-p) = softplus(u) + softplus(-u)
        return u, math.log(self._slope) + F.softplus(u) + F.softplus(-u)

    def to_data(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Sigmoid, then scale back."""
        x = (torch.sigmoid(u) - self.alpha) / self._slope + self.low
        return x, -math.log(self._slope) - F.softplus(u) - F.softplus(-u)

    def describe(self) -> dict[str, Any]:
        """See the base class."""
        return {"kind": "logit", "low": self.low, "high": self.high, "alpha": self.alpha}


class Compose(Bijector):
    """One map after another, in the order in which ``to_latent`` applies them."""

    def __init__(self, *maps: Bijector) -> None:
        super().__init__()
        self.maps = nn.ModuleList(maps)

    def fit(self, x: Tensor, names: Sequence[str] | None = None) -> Tensor:
        """Fit each map on what the ones before it return."""
        for bijector in self.maps:
            x = bijector.fit(x, names)  # type: ignore[operator]
        return x

    def to_latent(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """All maps in order."""
        total = torch.zeros_like(x)
        for bijector in self.maps:
            x, log_slope = bijector.to_latent(x)  # type: ignore[operator]
            total = total + log_slope
        return x, total

    def to_data(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """All maps in reverse."""
        total = torch.zeros_like(u)
        for bijector in reversed(self.maps):
            u, log_slope = bijector.to_data(u)  # type: ignore[operator]
            total = total + log_slope
        return u, total

    def describe(self) -> dict[str, Any]:
        """See the base class."""
        return {"kind": "compose", "maps": [m.describe() for m in self.maps]}  # type: ignore[operator]


class Columns(Bijector):
    """A map on some columns of a vector, the others untouched.

    Args:
        columns: positions along the last axis.
        bijector: the map for them.
    """

    def __init__(self, columns: Sequence[int], bijector: Bijector) -> None:
        super().__init__()
        self.columns = [int(c) for c in columns]
        self.bijector = bijector

    def fit(self, x: Tensor, names: Sequence[str] | None = None) -> Tensor:
        """Fit the inner map on its columns."""
        if names is None or len(names) != x.shape[-1]:
            # Without names a column is called by its position in the event, not in the part.
            names = [str(c) for c in range(x.shape[-1])]
        self.bijector.fit(x[..., self.columns], [names[c] for c in self.columns])
        return self.to_latent(x)[0]

    def to_latent(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The inner map on its columns."""
        return self._merge(x, *self.bijector.to_latent(x[..., self.columns]))

    def to_data(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """The inverse of the inner map on its columns."""
        return self._merge(u, *self.bijector.to_data(u[..., self.columns]))

    def describe(self) -> dict[str, Any]:
        """See the base class."""
        return {"kind": "columns", "columns": self.columns, "bijector": self.bijector.describe()}

    def _merge(self, x: Tensor, part: Tensor, log_slope: Tensor) -> tuple[Tensor, Tensor]:
        value, total = x.clone(), torch.zeros_like(x)
        value[..., self.columns] = part
        total[..., self.columns] = log_slope
        return value, total


def from_description(description: Mapping[str, Any]) -> Bijector:
    """Build the map that ``describe`` described; its constants come with the state dict."""
    options = {k: v for k, v in description.items() if k != "kind"}
    match description["kind"]:
        case "identity":
            return Identity()
        case "standardize":
            return Standardize(**options)
        case "whiten":
            return Whiten(**options)
        case "log":
            return Log()
        case "logit":
            return Logit(**options)
        case "compose":
            return Compose(*(from_description(m) for m in options["maps"]))
        case "columns":
            return Columns(options["columns"], from_description(options["bijector"]))
    raise ValueError(f"unknown bijector '{description['kind']}'")


def _column(names: Sequence[str] | None, index: int, total: int) -> str:
    if names is not None and len(names) == total:
        return f"column '{names[index]}'"
    return f"column {index}"
