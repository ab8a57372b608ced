"""Maps of data between two known ends: onto the line, or to the scale on which counts are equally noisy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from flowzoo.bijectors._base import Bijector, column_name, pieces


class Bounded(Bijector):
    r"""What maps of data between two ends share: :math:`p = \alpha + (1 - 2\alpha)\,(x - \ell)/(h - \ell)`.

    Args:
        low: lower end of the data.
        high: upper end of the data.
        alpha: distance kept from 0 and 1, in (0, 0.5).

    Raises:
        ValueError: unless low < high and 0 < alpha < 0.5.
    """

    kind: ClassVar[str]

    def __init__(self, low: float, high: float, alpha: float) -> None:
        super().__init__()
        if not high > low or not 0 < alpha < 0.5:
            raise ValueError(f"{self.kind} needs low < high and 0 < alpha < 0.5; got {low}, {high}, {alpha}")
        self.low, self.high, self.alpha = float(low), float(high), float(alpha)
        self._slope = (1 - 2 * self.alpha) / (self.high - self.low)

    @property
    def partial(self) -> bool:
        """Of values between the ends, and as far beyond as ``alpha`` reaches."""
        return True

    def fit(self, x: Tensor, names: Sequence[str] | None = None) -> None:
        """Check that the data lie within the bounds."""
        bad = ((x < self.low) | (x > self.high)).reshape(len(x), -1)
        if bool(bad.any()):
            column = int(bad.any(0).nonzero()[0])
            raise ValueError(
                f"{column_name(names, column, bad.shape[1])}: {int(bad[:, column].sum())} of {len(x)} rows lie outside "
                f"[{self.low:g}, {self.high:g}], the bounds given for the {self.kind}."
            )

    def describe(self) -> dict[str, Any]:
        """See the base class."""
        return {"kind": self.kind, "low": self.low, "high": self.high, "alpha": self.alpha}


class Logit(Bounded):
    r"""Logit of bounded data: :math:`u = \mathrm{logit}(\alpha + (1 - 2\alpha)\,(x - \ell)/(h - \ell))`.

    With :math:`\alpha > 0` the ends are finite (Dinh et al. 2017, section 4.1, where alpha is 0.05).

    Args:
        low: lower end of the data.
        high: upper end of the data.
        alpha: distance kept from 0 and 1, in (0, 0.5).
    """

    kind = "logit"

    def __init__(self, low: float, high: float, alpha: float = 0.05) -> None:
        super().__init__(low, high, alpha)

    def fit(self, x: Tensor, names: Sequence[str] | None = None) -> None:
        """Check that the data lie within the bounds, and that alpha keeps them from infinity in their precision."""
        super().fit(x, names)
        bad = torch.cat([~torch.isfinite(self.to_latent(part)[0]) for part in pieces(x)]).reshape(len(x), -1)
        if bool(bad.any()):
            column = int(bad.any(0).nonzero()[0])
            raise ValueError(
                f"{column_name(names, column, bad.shape[1])}: {int(bad[:, column].sum())} of {len(x)} rows have no "
                f"finite logit, so near a bound and with alpha {self.alpha:g}. Give a larger alpha."
            )

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


class Arcsine(Bounded):
    r"""Variance-stabilising map of a binomial: :math:`u = 2\arcsin\sqrt p,\ p = \alpha + (1 - 2\alpha)(x - l)/(h - l)`.

    Of x ~ Binomial(n, q) with l = 0, h = n the variance of u is near 1/n whatever q; with
    :math:`\alpha = \tfrac38 / (n + \tfrac34)` nearer (Anscombe 1948, Biometrika 35, 246, section 3). Its log-slope is
    :math:`\log\frac{1 - 2\alpha}{h - l} - \tfrac12\log p(1 - p)`.

    Args:
        low: lower end of the data.
        high: upper end of the data.
        alpha: distance kept from 0 and 1, in (0, 0.5).

    Raises:
        ValueError: unless low < high and 0 < alpha < 0.5.
    """

    kind = "arcsine"

    def to_latent(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scale into (0, 1), then the arcsine of the root; NaN beyond the bounds."""
        p = self.alpha + self._slope * (x - self.low)
        # atan2 and not asin, whose slope is infinite at 1.
        return 2 * torch.atan2(p.sqrt(), (1 - p).sqrt()), math.log(self._slope) - 0.5 * (p * (1 - p)).log()

    def to_data(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Square of the sine, then scale back; NaN where there is no preimage."""
        inside = (u > 0) & (u < math.pi)
        p = torch.sin(u.where(inside, math.nan) / 2).square()
        return (p - self.alpha) / self._slope + self.low, 0.5 * (p * (1 - p)).log() - math.log(self._slope)
