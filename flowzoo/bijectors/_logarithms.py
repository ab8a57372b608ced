"""Logarithms of positive and signed data: nothing in them is fitted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from flowzoo.bijectors._base import Bijector, column_name


class Log(Bijector):
    r"""Logarithm of strictly positive data: :math:`u = \log_b x`, of log-slope :math:`-\log x - \log\log b`.

    Args:
        base: b > 1; None is the natural logarithm. (A ``Standardize`` after it absorbs the difference; without one the
            base is the unit of a spline's interval, and of what a person reads.)

    Raises:
        ValueError: unless the base is finite and above 1.
    """

    def __init__(self, base: float | None = None) -> None:
        super().__init__()
        if base is not None and not (math.isfinite(base) and base > 1):
            raise ValueError(f"log needs a finite base > 1, or None for the natural logarithm; got {base}")
        self.base = None if base is None else float(base)
        self._unit = 1.0 if base is None else math.log(base)

    @property
    def partial(self) -> bool:
        """Of positive values."""
        return True

    def fit(self, x: Tensor, names: Sequence[str] | None = None) -> None:
        """Check that the data are positive."""
        bad = (x <= 0).reshape(len(x), -1)
        if bool(bad.any()):
            column = int(bad.any(0).nonzero()[0])
            raise ValueError(
                f"{column_name(names, column, bad.shape[1])}: {int(bad[:, column].sum())} of {len(x)} rows are <= 0, "
                "which has no logarithm. Add a stated floor, or do not take the log of this column."
            )

    def to_latent(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logarithm."""
        natural = x.log()
        return natural / self._unit, -natural - math.log(self._unit)

    def to_data(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Power of the base."""
        natural = u * self._unit
        return natural.exp(), natural + math.log(self._unit)

    def describe(self) -> dict[str, Any]:
        """See the base class."""
        return {"kind": "log"} if self.base is None else {"kind": "log", "base": self.base}


class SoftLog(Bijector):
    r"""Identity near zero, logarithm far from it, for signed data with long tails (velocities, charges, residuals).

    .. math:: u = \begin{cases} x & |x| < \tau \\
              \mathrm{sign}(x)\,\bigl(\tau + \log(1 + |x| - \tau)\bigr) & |x| \ge \tau \end{cases}
              \qquad \log\frac{du}{dx} = -\log\bigl(1 + \max(0, |x| - \tau)\bigr)

    Value and slope are continuous at :math:`\pm\tau`. With tau = 0 it is the bi-symmetric logarithm of Webber 2013
    (Meas. Sci. Technol. 24, 027001) with C = 1; the exactly linear core is ours.

    Args:
        tau: half-width of the linear core, >= 0, in the units of the data (or of the map before, in a ``Compose``).

    Raises:
        ValueError: if tau is negative or not finite.
    """

    def __init__(self, tau: float) -> None:
        super().__init__()
        if not (math.isfinite(tau) and tau >= 0):
            raise ValueError(f"soft log needs a finite tau >= 0; got {tau}")
        self.tau = float(tau)

    def to_latent(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compress the tails."""
        # relu has slope 0 where clamp has slope 1, so that autograd finds 1 at |x| = tau, not 2.
        tail = torch.log1p(F.relu(x.abs() - self.tau))
        return x.clamp(-self.tau, self.tau) + x.sign() * tail, -tail

    def to_data(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Stretch the tails."""
        tail = F.relu(u.abs() - self.tau)
        return u.clamp(-self.tau, self.tau) + u.sign() * torch.expm1(tail), tail

    def describe(self) -> dict[str, Any]:
        """See the base class."""
        return {"kind": "soft_log", "tau": self.tau}


class Tanh(Bijector):
    r"""Compresses without limit: :math:`u = b \tanh(x / b)`, the tanh smoothing of GalacticFlow.

    .. math:: \log\frac{du}{dx} = \log\bigl(1 - \tanh^2 t\bigr) = 2 \bigl(\log 2 - |t| - \log(1 + e^{-2|t|})\bigr),
              \qquad t = x / b

    An exact map of the real line **onto the open interval** (-b, b), and no further: a u with |u| >= b has no preimage.
    ``to_data`` gives NaN there and clips nothing, so a flow loses the mass that it puts beyond the bound: its draws
    there are NaN, and its density in data units integrates to less than one by that mass. ``SoftLog`` compresses tails
    too and is onto; take it unless a published setting is to be repeated. After Wolf and Buck 2023, arXiv:2312.05960,
    and its code.

    Args:
        bound: b > 0, in the units of the data (or of the map before, in a ``Compose``).

    Raises:
        ValueError: unless the bound is finite and above 0.
    """

    def __init__(self, bound: float) -> None:
        super().__init__()
        if not (math.isfinite(bound) and bound > 0):
            raise ValueError(f"tanh needs a finite bound > 0; got {bound}")
        self.bound = float(bound)

    def fit(self, x: Tensor, names: Sequence[str] | None = None) -> None:
        """Check that no row lies so far out that it rounds to the bound, from where nothing comes back."""
        bad = (self.to_latent(x)[0].abs() >= self.bound).reshape(len(x), -1)
        if bool(bad.any()):
            column = int(bad.any(0).nonzero()[0])
            raise ValueError(
                f"{column_name(names, column, bad.shape[1])}: {int(bad[:, column].sum())} of {len(x)} rows are rounded "
                f"to the bound {self.bound:g} of the tanh. Give a larger bound, or take a soft log."
            )

    def to_latent(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compress."""
        t = x / self.bound
        far = t.abs()  # 1 - tanh^2 itself is 0 in float32 from |t| = 9
        return self.bound * torch.tanh(t), 2 * (math.log(2) - far - F.softplus(-2 * far))

    def to_data(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Stretch; NaN where there is no preimage."""
        t = (u / self.bound).masked_fill(u.abs() >= self.bound, math.nan)
        return self.bound * torch.atanh(t), -torch.log1p(t) - torch.log1p(-t)

    def describe(self) -> dict[str, Any]:
        """See the base class."""
        return {"kind": "tanh", "bound": self.bound}
