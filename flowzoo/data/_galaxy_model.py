r"""A galaxy of disc, bulge and halo: ten properties of a star given four of its galaxy, density and draws.

The equations are in ``docs/galaxies.md``. Every factor is smooth, in the star and in the galaxy: nothing diverges, and
no velocity or direction is undefined on the axis, where x = y = 0.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

COMPONENTS = ("disc", "bulge", "halo")
AGE = 13.8  # Gyr, of the universe: ages lie between 0 and this
SOLAR = 0.0134  # Z of the Sun (Asplund et al. 2009, arXiv:0909.0948)

_PIVOT = (10.25, 6.5)  # log10 M_star and tau50 of the middle of the prior
_Z10 = 1.2816  # a normal has a tenth of its mass beyond this many standard deviations on one side
_DEGREES = 6  # nu of the spheroids' Student t; even, so that a chi-square is the logarithm of uniforms
_CORE, _HEIGHT = 0.5, 0.18  # of the disc, in scale lengths
_TURN = 0.6  # of the rotation curve, in scale lengths
_COLD, _HOT, _VERTICAL = 0.12, 0.25, 0.6  # dispersions of the disc, in units of v_0 and of sigma_R
_SPHEROID = ((0.9, 7.0), (0.25, 0.2), (0.6, 0.55))  # bulge, halo: size in kpc, its slope with mass, dispersion / v_0

# One column a component, as in COMPONENTS.
_WEIGHT = ((0.0, -0.8, -1.6), (0.0, 0.6, 0.3), (0.0, 0.15, 0.1))  # logit, slopes with log10 M_star and tau50
_AGE = ((-0.3, 0.35, 0.8), (0.95, 0.85, 0.6))  # shift and width of logit(age), in those of the galaxy
_FEH = ((0.05, 0.15, -0.6), (-0.1, -0.08, -0.08), (-0.03, -0.02, -0.02), (0.18, 0.25, 0.35))
_OFE = ((0.06, 0.18, 0.25), (-0.15, -0.15, -0.05), (0.015, 0.01, 0.005), (0.06, 0.07, 0.09))
_OFE_TAU = 0.02  # dex/Gyr
_OXYGEN, _Z_SCATTER = 0.7, 0.1  # of log10 Z: share of [O/Fe], and standard deviation
_MEAN_RADIUS = (_CORE**2 + 2 * _CORE + 2) / (_CORE + 1)  # of the disc, softened, in scale lengths
_MEAN_LOG = 0.6869  # of the spheroids, of ln(1 + r^2 / s^2) / 2


class _Galaxy(NamedTuple):
    """What theta says of a galaxy; ``(...)``, or ``(..., 3)`` for the components, ``(..., 2)`` for the spheroids."""

    log_weight: Tensor  # (..., 3)
    length: Tensor  # scale length of the disc in kpc
    speed: Tensor  # v_0 in km/s
    size: Tensor  # (..., 2) in kpc
    dispersion: Tensor  # (..., 2) in the centre, km/s
    age_mean: Tensor  # (..., 3) of logit(age)
    age_width: Tensor  # (..., 3)
    tau50: Tensor  # Gyr
    feh: Tensor  # (..., 3), the mean of [Fe/H] at the mean radius and the age tau50


def _galaxy(theta: Tensor) -> _Galaxy:
    """The galaxy of each theta ``(..., 4)``, float64."""
    mass, tau50, tau10, feh = theta.unbind(-1)
    m, old = mass - _PIVOT[0], tau50 - _PIVOT[1]
    logit, of_mass, of_tau = (_constant(row, theta) for row in _WEIGHT)
    speed = 180 * 10 ** (0.25 * m)
    size, slope, dispersion = (_constant(row, theta) for row in _SPHEROID)
    middle = torch.logit(tau50 / AGE)
    width = (middle - torch.logit(tau10 / AGE)) / _Z10
    log_weight = (logit + of_mass * m[..., None] + of_tau * old[..., None]).log_softmax(-1)
    weight = log_weight.exp()
    # Over all three, logit(age) has the mean `middle` and the standard deviation `width`, and [Fe/H] the mean of theta,
    # whatever the weights.
    shift, share = (_constant(row, theta) for row in _AGE)
    shift = shift - (weight * shift).sum(-1, keepdim=True)
    left = 1 - (weight * shift.square()).sum(-1, keepdim=True)
    share = share * (left / (weight * share.square()).sum(-1, keepdim=True)).sqrt()
    start = _constant(_FEH[0], theta)
    return _Galaxy(
        log_weight=log_weight,
        length=3.3 * 10 ** (0.3 * m),
        speed=speed,
        size=size * 10 ** (slope * m[..., None]),
        dispersion=dispersion * speed[..., None],
        age_mean=middle[..., None] + shift * width[..., None],
        age_width=share * width[..., None],
        tau50=tau50,
        feh=feh[..., None] + start - (weight * start).sum(-1, keepdim=True),
    )


def log_components(x: Tensor, theta: Tensor) -> Tensor:
    """log of w_k p_k(x | theta) in nats: ``(..., 10)`` and ``(..., 4)``, float64, to ``(..., 3)``.

    Beyond the support (Z <= 0, an age outside of 0 to 13.8 Gyr) it is -inf.
    """
    g = _galaxy(theta)
    position, velocity = x[..., :3], x[..., 3:6]
    metals, feh, ofe, age = x[..., 6], x[..., 7:8], x[..., 8:9], x[..., 9]
    inside = (metals > 0) & (age > 0) & (age < AGE)
    # Any other value in the place of those outside: no NaN comes back from them.
    metals, age = torch.where(inside, metals, SOLAR), torch.where(inside, age, 0.5 * AGE)

    disc = _disc_position(position, g) + _disc_velocity(position, velocity, g)
    spheroids = _spheroid_position(position, g) + _spheroid_velocity(position, velocity, g)
    share = (age / AGE)[..., None]
    log_age = _normal(torch.logit(share), g.age_mean, g.age_width) - (share * (1 - share)).log() - math.log(AGE)
    mean_feh, mean_ofe = _chemistry(position, feh, age, g)
    log_feh = _normal(feh, mean_feh, _constant(_FEH[3], x))
    log_ofe = _normal(ofe, mean_ofe, _constant(_OFE[3], x))
    log_z = _normal(metals.log10(), _log_metals(feh[..., 0], ofe[..., 0]), torch.full_like(metals, _Z_SCATTER))
    log_z = log_z - metals.log() - math.log(math.log(10))
    total = g.log_weight + torch.cat([disc[..., None], spheroids], -1) + log_age + log_feh + log_ofe + log_z[..., None]
    return torch.where(inside[..., None], total, -math.inf)


def draw(theta: Tensor, generator: torch.Generator) -> Tensor:
    """A star ``(N, 10)`` for each theta ``(N, 4)``, float64; the generator may be on another device."""
    device = generator.device
    normal = torch.randn(len(theta), 10, generator=generator, device=device, dtype=torch.float64).to(theta.device)
    uniform = torch.rand(len(theta), 6, generator=generator, device=device, dtype=torch.float64).to(theta.device)
    uniform = uniform.clamp(2.0**-53, 1 - 2.0**-53)  # 0 has no logarithm
    g = _galaxy(theta)
    chosen = (uniform[:, :1] > g.log_weight.exp().cumsum(-1)[:, :2]).sum(-1, keepdim=True)
    disc_position = _draw_disc(uniform[:, 1:], g)
    disc = torch.cat([disc_position, _draw_disc_velocity(disc_position, normal[:, 3:6], g)], -1)

    chi_square = -2 * uniform[:, 1 : 1 + _DEGREES // 2].log().sum(-1, keepdim=True)
    which = (chosen - 1).clamp_min(0)
    round_position = g.size.gather(-1, which) * normal[:, :3] * (_DEGREES / chi_square).sqrt()
    width = _spheroid_dispersion(round_position, g).gather(-1, which)
    spheroid = torch.cat([round_position, width * normal[:, 3:6]], -1)

    body = torch.where(chosen == 0, disc, spheroid)
    age = AGE * torch.sigmoid(g.age_mean.gather(-1, chosen) + g.age_width.gather(-1, chosen) * normal[:, 6:7])
    mean_feh, _ = _chemistry(body[:, :3], age, age[:, 0], g)
    feh = mean_feh.gather(-1, chosen) + _constant(_FEH[3], theta)[chosen] * normal[:, 7:8]
    _, mean_ofe = _chemistry(body[:, :3], feh, age[:, 0], g)
    ofe = mean_ofe.gather(-1, chosen) + _constant(_OFE[3], theta)[chosen] * normal[:, 8:9]
    metals = 10 ** (_log_metals(feh, ofe) + _Z_SCATTER * normal[:, 9:])
    return torch.cat([body, metals, feh, ofe, age], -1)


def _disc_position(position: Tensor, g: _Galaxy) -> Tensor:
    """Exponential in sqrt(R^2 + a^2), sech^2 in z."""
    soft = _soft_radius(position, g.length)
    height = _HEIGHT * g.length
    # ln sech^2 w = 2 (ln 2 - |w| - ln(1 + exp(-2 |w|)))
    w = (position[..., 2] / height).abs()
    log_sech2 = 2 * (math.log(2) - w - torch.log1p(torch.exp(-2 * w)))
    normalisation = 2 * math.pi * g.length.square() * (1 + _CORE) * math.exp(-_CORE)
    return -soft / g.length - normalisation.log() + log_sech2 - (2 * height).log()


def _draw_disc(uniform: Tensor, g: _Galaxy) -> Tensor:
    """Of the softened radius u the density is u exp(-u / R_d) beyond a: a gamma or an exponential above a."""
    first, second = -uniform[:, 0].log(), -uniform[:, 1].log()
    soft = _CORE + first + torch.where(uniform[:, 2] < 1 / (1 + _CORE), second, 0.0)
    radius = (soft.square() - _CORE**2).clamp_min(0).sqrt() * g.length
    angle = 2 * math.pi * uniform[:, 3]
    z = 0.5 * _HEIGHT * g.length * torch.logit(uniform[:, 4])
    return torch.stack([radius * angle.cos(), radius * angle.sin(), z], -1)


class _Orbits(NamedTuple):
    """Velocities of the disc at a place. The pull towards the axis is even in R: no direction is needed at R = 0."""

    mean: Tensor  # (..., 2) km/s
    sigma: Tensor  # radial dispersion, km/s
    squeeze: Tensor  # b / R^2, in which sigma_phi^2 = sigma_R^2 (1 - b)
    b: Tensor


def _orbits(position: Tensor, g: _Galaxy) -> _Orbits:
    x, y = position[..., 0], position[..., 1]
    square, turn = x.square() + y.square(), (_TURN * g.length).square()
    mean = torch.stack([-y, x], -1) * (g.speed / (square + turn).sqrt())[..., None]
    sigma = g.speed * (_COLD + _HOT * torch.exp(-0.5 * _soft_radius(position, g.length) / g.length))
    squeeze = 0.5 / (square + turn)
    return _Orbits(mean, sigma, squeeze, squeeze * square)


def _disc_velocity(position: Tensor, velocity: Tensor, g: _Galaxy) -> Tensor:
    """Normal about the rotation curve, the narrower along phi the further out."""
    at = _orbits(position, g)
    d = velocity[..., :2] - at.mean
    turn = position[..., 0] * d[..., 1] - position[..., 1] * d[..., 0]  # R times the part of d along phi
    quadratic = (d.square().sum(-1) + at.squeeze / (1 - at.b) * turn.square()) / at.sigma.square()
    plane = -0.5 * quadratic - 2 * at.sigma.log() - 0.5 * torch.log1p(-at.b) - math.log(2 * math.pi)
    return plane + _normal(velocity[..., 2], torch.zeros_like(at.sigma), _VERTICAL * at.sigma)


def _draw_disc_velocity(position: Tensor, normal: Tensor, g: _Galaxy) -> Tensor:
    at = _orbits(position, g)
    around = torch.stack([-position[:, 1], position[:, 0]], -1)
    # sqrt(1 - b) - 1 = -b / (1 + sqrt(1 - b)), divided by R^2 as the two factors of R in phi phi^T are not
    pull = at.squeeze / (1 + (1 - at.b).sqrt()) * (around * normal[:, :2]).sum(-1)
    plane = at.mean + at.sigma[:, None] * (normal[:, :2] - pull[:, None] * around)
    return torch.cat([plane, (_VERTICAL * at.sigma * normal[:, 2])[:, None]], -1)


def _spheroid_position(position: Tensor, g: _Galaxy) -> Tensor:
    """Multivariate Student t with nu degrees of freedom, of scale s: a Plummer sphere has nu = 2."""
    nu = _DEGREES
    constant = math.lgamma(0.5 * (nu + 3)) - math.lgamma(0.5 * nu) - 1.5 * math.log(nu * math.pi)
    return constant - 3 * g.size.log() - 0.5 * (nu + 3) * torch.log1p(_scaled_square(position, g) / nu)


def _spheroid_dispersion(position: Tensor, g: _Galaxy) -> Tensor:
    """``(..., 2)`` in km/s: falls as that of a Plummer sphere of scale s."""
    return g.dispersion * (1 + _scaled_square(position, g)) ** -0.25


def _spheroid_velocity(position: Tensor, velocity: Tensor, g: _Galaxy) -> Tensor:
    sigma = _spheroid_dispersion(position, g)
    square = velocity.square().sum(-1, keepdim=True)
    return -0.5 * square / sigma.square() - 3 * sigma.log() - 1.5 * math.log(2 * math.pi)


def _chemistry(position: Tensor, feh: Tensor, age: Tensor, g: _Galaxy) -> tuple[Tensor, Tensor]:
    """Means ``(..., 3)`` of [Fe/H] at a place and an age, and of [O/Fe] at [Fe/H] ``(..., 1)`` and an age."""
    disc = _soft_radius(position, g.length) / g.length - _MEAN_RADIUS
    where = torch.cat([disc[..., None], 0.5 * torch.log1p(_scaled_square(position, g)) - _MEAN_LOG], -1)
    older = (age - g.tau50)[..., None]
    _, gradient, slope, _ = (_constant(row, position) for row in _FEH)
    mean_feh = g.feh + gradient * where + slope * older
    start, of_feh, slope, _ = (_constant(row, position) for row in _OFE)
    late = _OFE_TAU * (g.tau50 - _PIVOT[1])[..., None]
    return mean_feh, start + of_feh * feh + slope * older + late


def _log_metals(feh: Tensor, ofe: Tensor) -> Tensor:
    """The mean of log10 Z."""
    return math.log10(SOLAR) + feh + _OXYGEN * ofe


def _soft_radius(position: Tensor, length: Tensor) -> Tensor:
    """sqrt(R^2 + a^2) in kpc: R, without its cusp at 0."""
    return (position[..., :2].square().sum(-1) + (_CORE * length).square()).sqrt()


def _scaled_square(position: Tensor, g: _Galaxy) -> Tensor:
    """``(..., 2)``: r^2 / s^2 of both spheroids."""
    return position.square().sum(-1, keepdim=True) / g.size.square()


def _normal(value: Tensor, mean: Tensor, sigma: Tensor) -> Tensor:
    return -0.5 * ((value - mean) / sigma).square() - sigma.log() - 0.5 * math.log(2 * math.pi)


def _constant(row: tuple[float, ...], like: Tensor) -> Tensor:
    return torch.tensor(row, dtype=torch.float64, device=like.device)
