r"""The linear matter power spectrum and its growth in a flat LCDM universe, batched over cosmologies, in float64.

Wavenumbers are in h/Mpc, spectra in (Mpc/h)^3 at z = 0, and all functions broadcast over (Omega_m, sigma_8). Baryons,
h and n_s are fixed to the values of CAMELS (Villaescusa-Navarro et al. 2021, ApJ 915, 71, section 3) unless a
``Background`` says otherwise. Neutrinos have no mass, and radiation enters through T_CMB and z_eq alone, never through
the expansion.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from flowzoo.inference import Box

CONTEXT_NAMES = ("Omega_m", "sigma_8")
LOW, HIGH = (0.1, 0.6), (0.5, 1.0)  # the prior of CAMELS on the two

# The integral for sigma_8, from 1e-5 to 100 h/Mpc; 128 times as many points over a wider range move P by 2e-7.
_SIGMA_POINTS = 512
_RADIUS = 8.0  # Mpc/h


@dataclass(frozen=True)
class Background:
    """What is the same in every universe: h, Omega_b, n_s and the temperature of the CMB in K (Fixsen 2009)."""

    h: float = 0.6711
    omega_b: float = 0.049
    n_s: float = 0.9624
    t_cmb: float = 2.7255

    def __post_init__(self) -> None:
        for name in ("h", "omega_b", "t_cmb"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be a positive number; got {value}")


CAMELS = Background()


class Scales(NamedTuple):
    """The numbers of Eisenstein & Hu (1998) that depend on the cosmology alone; lengths in Mpc, without h."""

    k_eq: Tensor
    sound_horizon: Tensor
    k_silk: Tensor
    alpha_c: Tensor
    beta_c: Tensor
    alpha_b: Tensor
    beta_b: Tensor
    beta_node: Tensor


def prior() -> Box:
    """Uniform on [0.1, 0.5] x [0.6, 1.0] in (Omega_m, sigma_8)."""
    return Box(LOW, HIGH)


def linear_power(k: Tensor, omega_m: Tensor, sigma_8: Tensor, background: Background = CAMELS) -> Tensor:
    r"""The linear matter power spectrum at z = 0.

    .. math:: P(k) = A\,k^{n_s}\,T(k)^2,\qquad
              \sigma_8^2 = \int \frac{dk}{k} \frac{k^3 P(k)}{2\pi^2} W(8k)^2,\qquad
              W(y) = \frac{3 (\sin y - y\cos y)}{y^3}

    with T of ``transfer``; A follows from sigma_8.

    Args:
        k: ``(K,)`` in h/Mpc, not negative; P(0) is 0.
        omega_m: ``(...)``, of all matter, baryons included.
        sigma_8: ``(...)``.
        background: what is held fixed.

    Returns:
        ``(..., K)`` in (Mpc/h)^3, in float64.

    Raises:
        ValueError: if there are more baryons than matter, or sigma_8 is not positive.

    >>> k = torch.tensor([0.1, 1.0])
    >>> [round(float(p), 1) for p in linear_power(k, torch.tensor(0.3), torch.tensor(0.8))]
    [5483.3, 62.2]
    """
    omega_m, sigma_8 = omega_m.double(), sigma_8.double()
    if not bool((sigma_8 > 0).all()):
        raise ValueError(f"sigma_8 must be positive; got {float(sigma_8.min()):g}")
    k = k.double().to(omega_m.device)
    grid = torch.logspace(-5, 2, _SIGMA_POINTS, dtype=torch.float64, device=k.device)
    y = _RADIUS * grid
    # Below y = 0.01 the difference of sine and cosine is rounding; the series is exact there to 1e-10.
    window = torch.where(y < 0.01, 1 - y.square() / 10, 3 * (y.sin() - y * y.cos()) / y**3)
    shape = grid ** (background.n_s + 3) * transfer(grid, omega_m, background).square() / (2 * math.pi**2)
    variance = torch.trapezoid(shape * window.square(), grid.log(), dim=-1)
    amplitude = sigma_8.square() / variance
    return amplitude[..., None] * k**background.n_s * transfer(k, omega_m, background).square()


def transfer(k: Tensor, omega_m: Tensor, background: Background = CAMELS) -> Tensor:
    r"""The transfer function of Eisenstein & Hu 1998 (ApJ 496, 605; astro-ph/9709112), with baryon oscillations.

    .. math:: T(k) = \frac{\Omega_b}{\Omega_m} T_b(k) + \frac{\Omega_c}{\Omega_m} T_c(k)

    their equation 16, with T_c of equations 17 to 20 and T_b of 21 to 24.

    Args:
        k: ``(K,)`` in h/Mpc.
        omega_m: ``(...)``.
        background: what is held fixed.

    Returns:
        ``(..., K)``, 1 at k = 0, in float64.

    Raises:
        ValueError: if there are more baryons than matter.
    """
    omega_m = omega_m.double()[..., None]
    k = k.double().to(omega_m.device) * background.h  # in 1/Mpc, as the paper
    p = _scales(omega_m, background)
    fraction = background.omega_b / omega_m
    q = k / (13.41 * p.k_eq)  # equation 10
    ks = k * p.sound_horizon
    one = torch.ones_like(omega_m)
    f = 1 / (1 + (ks / 5.4) ** 4)  # 18
    cold = f * _pressureless(q, one, p.beta_c) + (1 - f) * _pressureless(q, p.alpha_c, p.beta_c)  # 17
    shifted = ks / (1 + (p.beta_node / ks) ** 3) ** (1 / 3)  # k s-tilde, equation 22
    damped = p.alpha_b / (1 + (p.beta_b / ks) ** 3) * torch.exp(-((k / p.k_silk) ** 1.4))
    baryons = _pressureless(q, one, one) / (1 + (ks / 5.2) ** 2) + damped
    baryons = baryons * torch.sinc(shifted / math.pi)  # 21; torch's sinc(x) is sin(pi x) / (pi x)
    return fraction * baryons + (1 - fraction) * cold


def _pressureless(q: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """T-tilde_0 of equations 19 and 20."""
    log = (math.e + 1.8 * beta * q).log()
    return log / (log + (14.2 / alpha + 386 / (1 + 69.9 * q**1.08)) * q.square())


def _scales(omega_m: Tensor, background: Background) -> Scales:
    """Equations 2 to 7, 11, 12, 14, 15, 23 and 24."""
    if not bool((omega_m > background.omega_b).all()):
        raise ValueError(
            f"Omega_m must exceed Omega_b = {background.omega_b:g}, which is part of it; got {float(omega_m.min()):g}"
        )
    m, b = omega_m * background.h**2, background.omega_b * background.h**2
    fraction = background.omega_b / omega_m
    theta = background.t_cmb / 2.7
    z_eq = 2.5e4 * m * theta**-4  # 2
    k_eq = 7.46e-2 * m * theta**-2  # 3
    b1 = 0.313 * m**-0.419 * (1 + 0.607 * m**0.674)
    b2 = 0.238 * m**0.223
    z_d = 1291 * m**0.251 / (1 + 0.659 * m**0.828) * (1 + b1 * b**b2)  # 4, the end of the drag epoch
    r_eq, r_d = (31.5 * b * theta**-4 * 1e3 / z for z in (z_eq, z_d))  # 5
    root = (1 + r_d).sqrt() + (r_d + r_eq).sqrt()
    sound_horizon = 2 / (3 * k_eq) * (6 / r_eq).sqrt() * (root / (1 + r_eq.sqrt())).log()  # 6
    k_silk = 1.6 * b**0.52 * m**0.73 * (1 + (10.4 * m) ** -0.95)  # 7
    a1 = (46.9 * m) ** 0.670 * (1 + (32.1 * m) ** -0.532)
    a2 = (12.0 * m) ** 0.424 * (1 + (45.0 * m) ** -0.582)
    alpha_c = a1**-fraction * a2 ** -(fraction**3)  # 11
    c1 = 0.944 / (1 + (458 * m) ** -0.708)
    c2 = (0.395 * m) ** -0.0266
    beta_c = 1 / (1 + c1 * ((1 - fraction) ** c2 - 1))  # 12
    y = (1 + z_eq) / (1 + z_d)
    s = (1 + y).sqrt()
    g = y * (-6 * s + (2 + 3 * y) * ((s + 1) / (s - 1)).log())  # 15
    alpha_b = 2.07 * k_eq * sound_horizon * (1 + r_d) ** -0.75 * g  # 14
    beta_b = 0.5 + fraction + (3 - 2 * fraction) * ((17.2 * m).square() + 1).sqrt()  # 24
    return Scales(k_eq, sound_horizon, k_silk, alpha_c, beta_c, alpha_b, beta_b, 8.41 * m**0.435)  # 23


def omega_m_at(omega_m: Tensor, redshift: float) -> Tensor:
    """Omega_m(z) of a flat universe, in float64, of the shape of ``omega_m``."""
    matter = omega_m.double() * (1 + redshift) ** 3
    return matter / (matter + 1 - omega_m.double())


def growth(omega_m: Tensor, redshift: float) -> tuple[Tensor, Tensor]:
    r"""The growing mode D(z) with D(0) = 1, and its rate f = dlnD / dlna, without radiation.

    .. math:: G(a) = \frac{5\,\Omega_m}{2} E(a) \int_0^a \frac{da'}{(a' E(a'))^3},\qquad
              D = \frac{G(a)}{G(1)},\qquad f = \Omega_m(a) \left(\frac{5 a}{2 G(a)} - \frac{3}{2}\right)

    with E = H / H_0 (Heath 1977, MNRAS 179, 351).

    Args:
        omega_m: ``(...)``, today.
        redshift: z.

    Returns:
        D and f, each ``(...)``, in float64.
    """
    omega_m = omega_m.double()
    a = 1 / (1 + redshift)
    now = _unnormalised(omega_m, a)
    rate = omega_m_at(omega_m, redshift) * (2.5 * a / now - 1.5)
    return now / _unnormalised(omega_m, 1.0), rate


def second_order(omega_m: Tensor, redshift: float) -> Tensor:
    r"""D_2 / D^2 = -3/7 Omega_m(z)^(-1/143), of the shape of ``omega_m`` (Bouchet et al. 1995, A&A 296, 575)."""
    return -3 / 7 * omega_m_at(omega_m, redshift) ** (-1 / 143)


def _unnormalised(omega_m: Tensor, a: float) -> Tensor:
    """G(a), which is a in a universe of matter alone."""
    nodes, weights = (torch.from_numpy(array).to(omega_m.device) for array in _legendre())
    # With a' = a t^2 the integrand is a polynomial in t over a smooth function; 32 nodes reach rounding.
    t = 0.5 * (nodes + 1)
    dark = 1 - omega_m[..., None]
    integrand = 2 * a**2.5 * t**4 / (omega_m[..., None] + dark * (a * t.square()) ** 3) ** 1.5
    expansion = (omega_m / a**3 + 1 - omega_m).sqrt()
    return 2.5 * omega_m * expansion * 0.5 * (integrand * weights).sum(-1)


@cache
def _legendre() -> tuple[np.ndarray, np.ndarray]:
    return np.polynomial.legendre.leggauss(32)
