"""Simulated galaxies: ten properties of stars given four of their galaxy, with the exact joint density."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Independent, Transform, TransformedDistribution, Uniform, constraints
from torch.quasirandom import SobolEngine

from flowzoo.bijectors import Columns, Compose, Log, Logit, SoftLog, Standardize
from flowzoo.data import _galaxy_model as model
from flowzoo.data._data import Data
from flowzoo.registry import DATASETS
from flowzoo.seeding import derive, generator

NAMES = ("x", "y", "z", "vx", "vy", "vz", "Z", "feh", "ofe", "age")
UNITS = ("kpc", "kpc", "kpc", "km/s", "km/s", "km/s", "", "dex", "dex", "Gyr")
CONTEXT_NAMES = ("log10 M_star", "tau50", "tau10", "mean [Fe/H]")
CONTEXT_UNITS = ("dex", "Gyr", "Gyr", "dex")

# log10 M_star, tau50, tau10, and the distance from the mass-metallicity relation
LOW, HIGH = (9.75, 5.5, 1.75, -0.25), (10.75, 7.5, 2.75, 0.25)
_RELATION = (-0.35, 0.35, 10.25)  # mean [Fe/H] = -0.35 + 0.35 (log10 M_star - 10.25), before the scatter

_CHUNK = 2**17  # stars scored at a time: some 60 numbers of 8 bytes for each


class MassMetallicity(Transform):
    """From the distance from the mass-metallicity relation to the mean [Fe/H]; a shear, of log|det| 0."""

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MassMetallicity)

    def _call(self, x: Tensor) -> Tensor:
        return torch.cat([x[..., :3], x[..., 3:] + _mean_feh(x)], -1)

    def _inverse(self, y: Tensor) -> Tensor:
        return torch.cat([y[..., :3], y[..., 3:] - _mean_feh(y)], -1)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Zero."""
        return x.new_zeros(x.shape[:-1])


def _mean_feh(theta: Tensor) -> Tensor:
    level, slope, pivot = _RELATION
    return level + slope * (theta[..., :1] - pivot)


def prior() -> TransformedDistribution:
    """Uniform in mass, tau50, tau10 and the distance from the mass-metallicity relation; log p is -inf outside."""
    uniform = Uniform(torch.tensor(LOW), torch.tensor(HIGH), validate_args=False)
    return TransformedDistribution(
        Independent(uniform, 1, validate_args=False), [MassMetallicity()], validate_args=False
    )


@DATASETS.register
@dataclass(frozen=True)
class Galaxies:
    r"""p(star | galaxy): ten properties given four parameters, with the density in closed form.

    A star is of the disc, the bulge or the halo, k, with a weight that depends on the galaxy, theta:

    .. math:: p(x \mid \theta) = \sum_k w_k(\theta)\, p_k(\mathbf r)\, p_k(\mathbf v \mid \mathbf r)\, p_k(\tau)\,
              p_k(\mathrm{[Fe/H]} \mid \mathbf r, \tau)\, p_k(\mathrm{[O/Fe]} \mid \mathrm{[Fe/H]}, \tau)\,
              p(Z \mid \mathrm{[Fe/H]}, \mathrm{[O/Fe]})

    The disc is exponential, with sech^2 across it, and rotates; bulge and halo are spheres, of a Student t; velocities
    are normal about that; the age tau has a normal logit on (0, 13.8 Gyr); abundances are normal, Z is log-normal.
    ``docs/galaxies.md`` has all equations and numbers. The ten columns and four parameters are those of Wolf and Buck
    2023, arXiv:2312.05960; the galaxies are ours, and no fit to any.

    theta = (log10 M_star, tau50, tau10, mean [Fe/H]): stellar mass in M_sun, median and 10th percentile of the stellar
    ages in Gyr (to 0.5 and 0.2 Gyr), and mean [Fe/H] (to 0.02 dex). Their prior is uniform in mass, tau50,
    tau10 and the distance from a mass-metallicity relation; the galaxies are a scrambled Sobol sequence in it.

    ``references`` of its ``Data`` hold ``"components"``, the method ``log_components``.

    Args:
        num_galaxies: parameters drawn from the prior.
        stars_per_galaxy: of each; the median, if they differ.
        count_scatter: standard deviation of the log10 of the number of stars; 0 gives all galaxies the same.
        seed: of the parameters, the numbers and the stars.
    """

    num_galaxies: int = 200
    stars_per_galaxy: int = 2000
    count_scatter: float = 0.0
    seed: int = 0

    def load(self) -> Data:
        """Draw galaxies, and stars of each.

        Raises:
            ValueError: if an option is out of range.
        """
        self._check()
        theta = self._parameters()
        counts = self._counts()
        index = torch.arange(self.num_galaxies).repeat_interleave(counts)
        return Data(
            x=self.simulate(theta[index], generator(self.seed, "x")),
            context=theta,
            context_index=index,
            groups=index,
            names=NAMES,
            units=UNITS,
            context_names=CONTEXT_NAMES,
            context_units=CONTEXT_UNITS,
            # Far stars are few, metals positive and ages bounded; the map says so, the density stays in these units.
            x_map=Compose(
                Columns([0, 1, 2], SoftLog(1.0)),
                Columns([6], Log()),
                Columns([9], Logit(0.0, model.AGE, 1e-3)),
                Standardize((len(NAMES),)),
            ),
            group_names=tuple(f"galaxy {i}" for i in range(self.num_galaxies)),
            roles={
                "position": NAMES[:3],
                "velocity": NAMES[3:6],
                "metallicity": ("feh", "Z"),
                "age": ("age",),
            },
            simulate=self.simulate,
            true_log_prob=self.true_log_prob,
            references={"components": self.log_components, "prior": prior()},
            notes=(
                f"{self.num_galaxies} simulated galaxies of disc, bulge and halo, by a scrambled Sobol sequence",
                f"{self.stars_per_galaxy} stars a galaxy, scatter {self.count_scatter:g} dex; seed {self.seed}",
            ),
        )

    def simulate(self, theta: Tensor, generator: torch.Generator) -> Tensor:
        """Draw a star ``(..., 10)`` for each theta ``(..., 4)``; the generator may be on another device.

        Raises:
            ValueError: if theta is that of no galaxy.
        """
        flat = _checked(theta)
        return model.draw(flat, generator).to(theta.dtype).reshape(*theta.shape[:-1], len(NAMES))

    def true_log_prob(self, x: Tensor, context: Tensor) -> Tensor:
        """log p(x | theta) in nats, ``(..., 10)`` and ``(..., 4)`` to ``(...)``, in float64 inside.

        It is -inf for Z <= 0 and for ages outside of 0 to 13.8 Gyr.

        Raises:
            ValueError: if x has other columns, or theta is that of no galaxy.
        """
        return self._scored(x, context).logsumexp(-1).to(x.dtype)

    def log_components(self, x: Tensor, context: Tensor) -> Tensor:
        """log w_k p_k(x | theta) in nats, ``(..., 3)``: disc, bulge, halo. Its softmax is p(k | x, theta).

        Raises:
            ValueError: as ``true_log_prob``.
        """
        return self._scored(x, context).to(x.dtype)

    def _scored(self, x: Tensor, context: Tensor) -> Tensor:
        """``log_components`` in float64, in chunks."""
        if x.shape[-1:] != (len(NAMES),):
            raise ValueError(f"x must end in ({len(NAMES)},), the columns {', '.join(NAMES)}; got {tuple(x.shape)}")
        theta = _checked(context).reshape(context.shape)
        batch = torch.broadcast_shapes(x.shape[:-1], context.shape[:-1])
        flat = x.double().expand(*batch, -1).reshape(-1, len(NAMES))
        theta = theta.expand(*batch, -1).reshape(-1, len(CONTEXT_NAMES))
        parts = [
            model.log_components(rows, of_galaxy)
            for rows, of_galaxy in zip(flat.split(_CHUNK), theta.split(_CHUNK), strict=True)
        ]
        return torch.cat(parts).reshape(*batch, len(model.COMPONENTS))

    def _parameters(self) -> Tensor:
        """``(num_galaxies, 4)``: more evenly spread than independent draws, each of them one of the prior."""
        sobol = SobolEngine(len(LOW), scramble=True, seed=derive(self.seed, "theta"))
        low, high = torch.tensor(LOW), torch.tensor(HIGH)
        return MassMetallicity()(low + (high - low) * sobol.draw(self.num_galaxies))

    def _counts(self) -> Tensor:
        """Stars of each galaxy, one at least."""
        noise = torch.randn(self.num_galaxies, generator=generator(self.seed, "counts"), dtype=torch.float64)
        return (self.stars_per_galaxy * 10 ** (self.count_scatter * noise)).round().clamp_min(1).long()

    def _check(self) -> None:
        for name in ("num_galaxies", "stars_per_galaxy"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")
        if not 0 <= self.count_scatter < math.inf:
            raise ValueError(f"count_scatter must be a number of dex, 0 or more; got {self.count_scatter}")


def _checked(theta: Tensor) -> Tensor:
    """As ``(N, 4)`` in float64."""
    if theta.shape[-1:] != (len(CONTEXT_NAMES),):
        raise ValueError(f"theta must end in (4,), {', '.join(CONTEXT_NAMES)}; got {tuple(theta.shape)}")
    flat = theta.double().reshape(-1, len(CONTEXT_NAMES))
    tau50, tau10 = flat[:, 1], flat[:, 2]
    good = flat.isfinite().all(1) & (tau10 > 0) & (tau10 < tau50) & (tau50 < model.AGE)
    if not bool(good.all()):
        raise ValueError(
            f"theta must be finite with 0 < tau10 < tau50 < {model.AGE} Gyr; {int((~good).sum())} of {len(flat)} rows "
            "are not"
        )
    return flat
