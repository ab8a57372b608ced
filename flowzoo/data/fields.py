"""Gaussian and lognormal random maps given two cosmological parameters, with their exact density and posterior."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from flowzoo.bijectors import Compose, Log, Standardize
from flowzoo.data import _field_posterior
from flowzoo.data._cosmology import CONTEXT_NAMES, HIGH, LOW, linear_power, prior
from flowzoo.data._data import Data
from flowzoo.data._direction import Direction, directed
from flowzoo.held import held_on
from flowzoo.registry import DATASETS
from flowzoo.seeding import generator

_CHUNK = 2**21  # pixels transformed at a time: 16 MB in float64, and as much again for each step


class _Shells(NamedTuple):
    """The Fourier modes by the length of their wavevector."""

    k: Tensor  # (K,) in h/Mpc, ascending; the first is the zero mode
    multiplicity: Tensor  # (K,) modes of the full plane, so that they add up to H W
    weight: Tensor  # (H, W // 2 + 1) modes of the full plane for which one of the half plane stands: 1 or 2
    shell: Tensor  # (H, W // 2 + 1), the shell of each mode of the half plane


class _Summary(NamedTuple):
    """All that the density needs to know of a map: a sufficient statistic for theta."""

    power: Tensor  # (B, K) sum over each shell of |v|^2, without the zero mode
    zero: Tensor  # (B,) the zero mode v(0), which is real
    log_jacobian: Tensor  # (B,) log|det dg/dx|


@DATASETS.register
@dataclass(frozen=True)
class Fields:
    r"""p(x | Omega_m, sigma_8), periodic maps 1 x H x W with H = W = ``size``, without units, and the truth.

    A stationary Gaussian field g of zero mean is diagonal in the orthonormal discrete Fourier transform v:

    .. math:: v(k) = \frac{1}{\sqrt{HW}} \sum_r g(r) e^{-i k r},\qquad
              \langle |v(k)|^2 \rangle = \lambda(k) = s(k) + \mathrm{floor}\,\frac{1}{HW}\sum_{k'} s(k'),\qquad
              s(k) = \frac{P_{3D}(k)}{\mathrm{depth}\; a}

    with P_3D the linear spectrum of Eisenstein & Hu 1998 at z = 0, normalised to sigma_8 (``_cosmology``), and
    :math:`a = (\mathrm{side}/H)^2` the area of a pixel. P_3D / depth is the spectrum of a periodic box of that depth
    projected onto its face. The zero mode has the s of the lowest other mode, :math:`2\pi/\mathrm{side}`. Then

    .. math:: \log p(g \mid \theta) = -\frac12 \sum_k \Big[\frac{|v(k)|^2}{\lambda(k)} + \ln 2\pi\lambda(k)\Big]

    over all H W modes, in which a pair k, -k stands for the two real numbers that it has, and the modes that are
    their own conjugate (k = 0 and the Nyquist modes) for one. ``kind`` says what x is:

    - gaussian: x = g,
    - lognormal: :math:`x = \exp(g - \sigma^2/2)`, a density in units of its mean, with :math:`\sigma^2` the variance
      of a pixel, the mean of lambda; then :math:`\log p(x \mid \theta) = \log p(g \mid \theta) - \sum_r \ln x(r)`
      (Coles & Jones 1991, MNRAS 248, 1). The linear spectrum is that of g = ln x + sigma^2/2, not of x.

    ``references`` of its ``Data`` hold

    - ``"nll"``: the entropy of x given theta in nats, averaged over the prior: the best NLL that can be expected,
    - ``"posterior"``: the method ``posterior``, exact, on a grid.

    ``reference_posteriors`` are ten maps by a seed of their own with 2000 draws each of the posterior on a fine grid.

    Args:
        kind: ``"gaussian"`` or ``"lognormal"``.
        size: pixels a side.
        num_contexts: cosmologies, drawn from the uniform prior on [0.1, 0.5] x [0.6, 1.0].
        maps_per_context: maps of each; they share a context and a group.
        side: length of a map in Mpc/h.
        depth: of the projected slab in Mpc/h. The default is the side: a whole cube, projected.
        floor: variance of white noise, as a fraction of that of a pixel without it.
        seed: of the cosmologies and the maps.
        direction: ``posterior``: the events are theta, given a map.
    """

    kind: Literal["gaussian", "lognormal"] = "gaussian"
    size: int = 32
    num_contexts: int = 1000
    maps_per_context: int = 15
    side: float = 25.0
    depth: float = 25.0
    floor: float = 1e-2
    seed: int = 0
    direction: Direction = "likelihood"

    def load(self) -> Data:
        """Draw cosmologies from the prior and maps of each.

        Raises:
            ValueError: if an option is out of range, or the lognormal maps do not fit into float32.
        """
        self._check()
        context = prior().sample(self.num_contexts, generator(self.seed, "theta"))
        index = torch.arange(self.num_contexts).repeat_interleave(self.maps_per_context)
        x = self._draw(context, index, generator(self.seed, "x"))
        lognormal = self.kind == "lognormal"
        if lognormal and not bool(((x > 0) & x.isfinite()).all()):
            raise ValueError(
                f"depth must be large enough for exp(g) to fit into float32; got {self.depth:g} Mpc/h, with "
                f"which ln x has a variance of up to {float(self._spectrum(context)[1].max()):.0f}"
            )
        mode = "that of the lowest other mode"
        data = Data(
            x=x,
            context=context,
            context_index=index,
            groups=index,
            names=("1 + delta" if lognormal else "g",),
            context_names=CONTEXT_NAMES,
            periodic=(1, 2),
            side=(self.side, "Mpc/h"),
            augment=("flip", "quarter_turn", "shift"),
            x_map=Compose(Log(), Standardize(x.shape[1:])) if lognormal else None,
            prior=prior(),
            simulate=self.simulate,
            true_log_prob=self.true_log_prob,
            references={"nll": self._entropy(), "posterior": self.posterior},
            reference_posteriors=partial(_field_posterior.references, self),
            notes=(
                f"{self.kind} field, linear P(k) of Eisenstein & Hu 1998 at z = 0, divided by {self.depth:g} Mpc/h",
                f"white floor of {self.floor:g} of the variance; variance of the zero mode: {mode}; seed {self.seed}",
            ),
        )
        if self.direction == "likelihood":
            return data
        return replace(
            directed(data, self.direction),
            true_log_prob=partial(_field_posterior.log_prob, self),
            references={"posterior": self.posterior},
        )

    def simulate(self, theta: Tensor, generator: torch.Generator) -> Tensor:
        """Draw a map ``(..., 1, H, W)`` for each theta ``(..., 2)``; the generator may be on another device.

        Raises:
            ValueError: if Omega_m or sigma_8 is not that of a universe.
        """
        flat = theta.reshape(-1, 2)
        rows, index = torch.unique(flat, dim=0, return_inverse=True)
        return self._draw(rows, index, generator).reshape(*theta.shape[:-1], 1, self.size, self.size)

    def true_log_prob(self, x: Tensor, context: Tensor) -> Tensor:
        """log p(x | theta) in nats, ``(..., 1, H, W)`` and ``(..., 2)`` to ``(...)``, in float64 inside.

        It takes a transform of each map and a spectrum of each different context: O(N log N), no N x N matrix.

        Raises:
            ValueError: if the maps have another shape, or Omega_m or sigma_8 is not that of a universe.
        """
        rows, index = torch.unique(context.reshape(-1, 2), dim=0, return_inverse=True)
        index = index.reshape(context.shape[:-1])
        spectrum, variance = self._spectrum(rows)
        constant = (self._shells_on(x.device).multiplicity * (2 * math.pi * spectrum).log()).sum(-1)
        summary = self._summary(x)
        zero = summary.zero + self._shift(variance)[index]
        quadratic = (summary.power / spectrum[index]).sum(-1) + zero.square() / spectrum[index, 0]
        return (summary.log_jacobian - 0.5 * (quadratic + constant[index])).to(x.dtype)

    def posterior(self, x: Tensor, points: int = 64) -> tuple[Tensor, Tensor]:
        r"""The exact posterior of theta given each map, under the uniform prior, at the centres of a grid of cells.

        .. math:: \log p(\theta \mid x) = \log p(x \mid \theta) - \ln \sum_{\theta'} p(x \mid \theta') \Delta

        with Delta the area of a cell; the sum takes the place of the integral over the prior.

        Args:
            x: ``(..., 1, H, W)``.
            points: of the grid along each parameter.

        Returns:
            theta ``(points, points, 2)``, Omega_m along the first axis and sigma_8 along the second, and
            log p(theta | x) ``(..., points, points)``, per unit of both; both in float64.

        Raises:
            ValueError: if the maps have another shape, or there are no points.
        """
        if points < 1:
            raise ValueError(f"points must be at least 1; got {points}")
        summary, shells = self._summary(x), self._shells_on(x.device)
        centre = (torch.arange(points, dtype=torch.float64, device=x.device) + 0.5) / points
        omega_m, sigma_8 = (low + (high - low) * centre for low, high in zip(LOW, HIGH, strict=True))
        theta = torch.stack(torch.meshgrid(omega_m, sigma_8, indexing="ij"), -1)
        # lambda and the variance are those of sigma_8 = 1 times sigma_8^2: one spectrum for each Omega_m will do.
        spectrum, variance = self._spectrum(torch.stack([omega_m, torch.ones_like(omega_m)], -1))
        constant = (shells.multiplicity * (2 * math.pi * spectrum).log()).sum(-1, keepdim=True)
        constant = constant + self.size**2 * sigma_8.square().log()
        zero = summary.zero[..., None, None] + self._shift(variance)[:, None] * sigma_8.square()
        quadratic = (summary.power @ (1 / spectrum).T)[..., None] + zero.square() / spectrum[:, :1]
        log_p = (-0.5 * (quadratic / sigma_8.square() + constant)).flatten(-2)
        cell = math.prod(high - low for low, high in zip(LOW, HIGH, strict=True)) / points**2
        log_p = log_p - log_p.logsumexp(-1, keepdim=True) - math.log(cell)
        return theta, log_p.reshape(*x.shape[:-3], points, points)

    def _draw(self, theta: Tensor, index: Tensor, source: torch.Generator) -> Tensor:
        """A map for each entry of ``index``, ``(N,)`` rows of theta."""
        shape = (len(index), self.size, self.size)
        noise = torch.randn(shape, generator=source, device=source.device).to(theta.device)
        shells, (spectrum, variance) = self._shells_on(theta.device), self._spectrum(theta)
        maps = torch.empty(len(index), 1, *shape[1:], dtype=theta.dtype, device=theta.device)
        for start in range(0, len(index), self._chunk):
            part = slice(start, start + self._chunk)
            # White noise coloured by the root of the spectrum; the orthonormal transform leaves its variance at 1.
            modes = torch.fft.rfft2(noise[part].double(), norm="ortho") * spectrum[index[part]].sqrt()[:, shells.shell]
            g = torch.fft.irfft2(modes, s=shape[1:], norm="ortho")
            if self.kind == "lognormal":
                g = (g - 0.5 * variance[index[part], None, None]).exp()
            maps[part, 0] = g.to(theta.dtype)
        return maps

    def _summary(self, x: Tensor) -> _Summary:
        """The statistics of maps ``(..., 1, H, W)``."""
        event = (1, self.size, self.size)
        if x.shape[-3:] != event:
            raise ValueError(f"x must end in {event}; got {tuple(x.shape)}. The option size of fields is {self.size}")
        shells = self._shells_on(x.device)
        maps = x.double().reshape(-1, self.size, self.size)
        power, zero, log_jacobian = [], [], []
        for part in maps.split(self._chunk):
            log_slope = part.new_zeros(len(part))
            if self.kind == "lognormal":
                part = part.log()
                log_slope = -part.sum((1, 2))
            modes = torch.fft.rfft2(part, norm="ortho")
            square = (shells.weight * modes.abs().square()).flatten(1)
            # The zero mode of a lognormal map depends on theta, so it is kept apart.
            square[:, 0] = 0
            total = part.new_zeros(len(part), len(shells.k))
            power.append(total.index_add_(1, shells.shell.flatten(), square))
            zero.append(modes[:, 0, 0].real)
            log_jacobian.append(log_slope)
        batch = x.shape[:-3]
        return _Summary(
            torch.cat(power).reshape(*batch, -1), torch.cat(zero).reshape(batch), torch.cat(log_jacobian).reshape(batch)
        )

    def _shift(self, variance: Tensor) -> Tensor:
        """What turns the zero mode of x, or of ln x, into that of g."""
        return 0.5 * variance * self.size if self.kind == "lognormal" else torch.zeros_like(variance)

    def _spectrum(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """lambda ``(G, K)`` of each shell and the variance ``(G,)`` of a pixel, for theta ``(G, 2)``."""
        shells = self._shells_on(theta.device)
        power = linear_power(shells.k[1:], theta[:, 0], theta[:, 1])
        signal = torch.cat([power[:, :1], power], 1) / (self.depth * (self.side / self.size) ** 2)
        mean = (shells.multiplicity * signal).sum(-1) / self.size**2
        return signal + self.floor * mean[:, None], (1 + self.floor) * mean

    def _entropy(self) -> float:
        """The entropy of x in nats, averaged over the prior by Gauss-Legendre quadrature; it is smooth in theta."""
        nodes, weights = np.polynomial.legendre.leggauss(16)
        unit = torch.from_numpy(np.stack(np.meshgrid(nodes, nodes, indexing="ij"), -1)).reshape(-1, 2)
        low, high = torch.tensor(LOW, dtype=torch.float64), torch.tensor(HIGH, dtype=torch.float64)
        spectrum, variance = self._spectrum(low + 0.5 * (high - low) * (unit + 1))
        entropy = 0.5 * (self._shells.multiplicity * (2 * math.pi * math.e * spectrum).log()).sum(-1)
        if self.kind == "lognormal":
            # The mean of the log-Jacobian sum ln x = sum (g - variance / 2).
            entropy = entropy - 0.5 * self.size**2 * variance
        return float((entropy * torch.from_numpy(np.outer(weights, weights)).flatten()).sum() / 4)

    @property
    def _chunk(self) -> int:
        """Maps transformed at a time."""
        return max(1, _CHUNK // self.size**2)

    @cached_property
    def _shells(self) -> _Shells:
        n = self.size
        row, column = torch.fft.fftfreq(n, 1 / n).round().long(), torch.arange(n // 2 + 1)
        square = row[:, None].square() + column.square()
        weight = torch.full((n, n // 2 + 1), 2.0, dtype=torch.float64)
        weight[:, 0] = 1
        if n % 2 == 0:
            weight[:, -1] = 1
        values, index = torch.unique(square, return_inverse=True)
        count = torch.zeros(len(values), dtype=torch.float64).index_add_(0, index.flatten(), weight.flatten())
        return _Shells(2 * math.pi / self.side * values.double().sqrt(), count, weight, index)

    def _shells_on(self, device: torch.device) -> _Shells:
        return _Shells(*(held_on(part, device) for part in self._shells))

    def _check(self) -> None:
        if self.kind not in ("gaussian", "lognormal"):
            raise ValueError(f"kind must be 'gaussian' or 'lognormal'; got {self.kind!r}")
        for name, least in (("size", 2), ("num_contexts", 1), ("maps_per_context", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}; got {getattr(self, name)}")
        for name in ("side", "depth"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a positive length in Mpc/h; got {getattr(self, name)}")
        if not 0 <= self.floor < math.inf:
            raise ValueError(f"floor must be a fraction, 0 or more; got {self.floor}")
