"""Maps of neutral hydrogen from our own simulations: second-order Lagrangian perturbation theory in a periodic box."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from flowzoo.data._cosmology import CAMELS, CONTEXT_NAMES, growth, linear_power, prior, second_order
from flowzoo.data._data import Data
from flowzoo.data._direction import Direction, directed
from flowzoo.held import held_on
from flowzoo.registry import DATASETS
from flowzoo.seeding import derive, generator

# Particles stand at whole multiples of 2^-14 of a cell. Their shares of mass are then whole multiples of 2^-42, and
# those add up exactly, in any order: 64-bit integers would hold all 64^3 particles in one cell.
_BITS = 14

# Critical density today over h^2 in g/cm^3, mass of a hydrogen atom in g, Mpc in cm (PDG 2022, table 2.1).
_CRITICAL, _HYDROGEN, _MPC = 1.87834e-29, 1.67353e-24, 3.08568e24


class _Modes(NamedTuple):
    """Wavevectors of the half space of ``rfftn``."""

    k: Tensor  # (3, n, n, n // 2 + 1) in h/Mpc, zero at the Nyquist modes, whose derivative has no phase
    inverse_square: Tensor  # 1 / k^2, zero at k = 0
    shells: Tensor  # (K,) the different lengths, ascending from 0
    shell: Tensor  # (n, n, n // 2 + 1), the place in shells of each mode


@DATASETS.register
@dataclass(frozen=True)
class HISim:
    r"""x = log10 N_HI in cm^-2, maps 1 x n x n of a box of ``side`` Mpc/h, given (Omega_m, sigma_8).

    1. White noise coloured by the linear P(k) of Eisenstein & Hu 1998 times D(z)^2: the linear density delta on n^3
       cells, one particle a cell.
    2. Second-order Lagrangian perturbation theory (Bouchet et al. 1995, A&A 296, 575; equations of Scoccimarro 1998,
       MNRAS 299, 1097, appendix D):

       .. math:: \mathbf x = \mathbf q - \nabla\phi_1 - \tfrac37\,\Omega_m(z)^{-1/143}\,\nabla\phi_2,\qquad
                 \nabla^2\phi_1 = \delta,\qquad
                 \nabla^2\phi_2 = \sum_{i>j} \big(\phi_{1,ii}\phi_{1,jj} - \phi_{1,ij}^2\big)

    3. Mass to the cells by cloud in cell, gives 1 + delta, of mean 1 exactly. Its window is left in.
    4. Neutral hydrogen follows the density with scatter, in each cell on its own:

       .. math:: m = \max(1 + \delta,\, 0.01)^{b}\; e^{s\,\epsilon - s^2/2},\qquad \epsilon \sim N(0, 1)

       b = 2 is photo-ionisation equilibrium at one temperature, where recombinations go with the density squared.
    5. The column through a slab, one of ``slabs`` equal ones across the box, physical (not comoving):

       .. math:: N_{HI} = \bar N\,\frac{\langle m\rangle_{column}}{\langle m\rangle_{box}},\qquad
                 \bar N = \frac{\Omega_{HI}\,\rho_{c,0}}{m_H}\,\frac{\mathrm{side}}{\mathrm{slabs}}\,(1 + z)^2

    The mean over the slabs of a box is :math:`\bar N` in every simulation: the maps tell of theta by their
    fluctuations alone. There are no redshift-space distortions, no radiative transfer and no halos.

    Args:
        num_simulations: boxes, each with a theta of its own from the prior on [0.1, 0.5] x [0.6, 1.0].
        maps_per_simulation: 3 x ``slabs`` at most: the slabs across the first axis, then the second, the third.
        grid: cells, particles and pixels a side.
        side: length of the box in Mpc/h.
        slabs: into how many the box is cut; divides ``grid``.
        redshift: z.
        bias: exponent b.
        scatter: s, natural logarithm; without it two cells may be equal.
        omega_hi: comoving density of neutral hydrogen in units of the critical density today.
        seed: of theta, and by the number of the simulation of its noise: more simulations leave the first ones as
            they are.
        direction: ``posterior``: the events are theta, given a map.
    """

    num_simulations: int = 500
    maps_per_simulation: int = 12
    grid: int = 64
    side: float = 25.0
    slabs: int = 4
    redshift: float = 5.99
    bias: float = 2.0
    scatter: float = 0.3
    omega_hi: float = 1e-3
    seed: int = 0
    direction: Direction = "likelihood"

    def load(self) -> Data:
        """Run the simulations; the same bits for the same seed, whatever else is run.

        Raises:
            ValueError: if an option is out of range.
        """
        self._check()
        theta = prior().sample(self.num_simulations, generator(self.seed, "theta"))
        seeds = [derive(self.seed, "simulation", i) for i in range(self.num_simulations)]
        maps = self._run(theta, seeds, torch.device("cpu"), self.maps_per_simulation)
        simulation = torch.arange(self.num_simulations).repeat_interleave(self.maps_per_simulation)
        data = Data(
            x=maps.reshape(-1, 1, self.grid, self.grid),
            context=theta,
            context_index=simulation,
            groups=simulation,
            names=("log10 N_HI/cm^-2",),
            units=("dex",),
            context_names=CONTEXT_NAMES,
            periodic=(1, 2),
            side=(self.side, "Mpc/h"),
            augment=("flip", "quarter_turn", "shift"),
            prior=prior(),
            simulate=self.simulate,
            notes=(
                f"2LPT of {self.grid}^3 particles in {self.side:g} Mpc/h at z = {self.redshift:g}, "
                f"slabs of {self.side / self.slabs:g} Mpc/h",
                f"n_HI ~ (1 + delta)^{self.bias:g}, scatter {self.scatter:g}, Omega_HI {self.omega_hi:g}, "
                f"seed {self.seed}",
            ),
        )
        return directed(data, self.direction)

    def simulate(self, theta: Tensor, generator: torch.Generator) -> Tensor:
        """Draw a map ``(..., 1, n, n)`` for each theta ``(..., 2)``.

        Equal theta in a row share boxes, ``maps_per_simulation`` maps of each, as the events of the dataset do: a box
        costs as much as all of its maps.

        Args:
            theta: on the device where the simulations shall run.
            generator: on any device; it gives each box its seed.

        Raises:
            ValueError: if Omega_m or sigma_8 is not that of a universe.
        """
        flat, per, shape = theta.reshape(-1, 2), self.maps_per_simulation, (*theta.shape[:-1], 1, self.grid, self.grid)
        if not len(flat):
            return theta.new_empty(shape)
        different, counts = torch.unique_consecutive(flat, dim=0, return_counts=True)
        boxes = (counts + per - 1) // per
        seeds = torch.randint(2**62, (int(boxes.sum()),), generator=generator, device=generator.device).tolist()
        # The box is isotropic: of the last one of a run any maps are as good as the others.
        maps = self._run(different.repeat_interleave(boxes, 0), seeds, generator.device, min(per, int(counts.max())))
        runs = maps.split(boxes.tolist())
        chosen = [run.flatten(0, 1)[:count] for run, count in zip(runs, counts.tolist(), strict=True)]
        return torch.cat(chosen).reshape(shape)

    def _run(self, theta: Tensor, seeds: Sequence[int], source: torch.device, count: int) -> Tensor:
        """``(G, count, n, n)`` maps of the boxes of theta ``(G, 2)``, noise drawn on the device ``source``."""
        maps = theta.new_empty(len(theta), count, self.grid, self.grid)
        for i, seed in enumerate(seeds):
            # One box at a time: the FFT of a batch has other last bits than that of one, and is no faster on a CPU.
            white, epsilon = self._noise(seed, source).to(theta.device).unsqueeze(1)
            columns = self.hydrogen(self.density(theta[i : i + 1], white), epsilon)
            maps[i] = columns[0, :count].to(theta.dtype)
        return maps

    def _noise(self, seed: int, device: torch.device) -> Tensor:
        source = torch.Generator(device=device).manual_seed(seed)
        return torch.randn(2, *(self.grid,) * 3, generator=source, device=device)

    def linear_density(self, theta: Tensor, white: Tensor) -> Tensor:
        """The Fourier modes (``rfftn``) of the linear delta at z ``(B, n, n, n // 2 + 1)``, of white noise.

        Args:
            theta: ``(B, 2)``.
            white: ``(B, n, n, n)``, N(0, 1).
        """
        modes = self._modes_on(white.device)
        power = linear_power(modes.shells, theta[:, 0], theta[:, 1])
        power = power * growth(theta[:, 0], self.redshift)[0].square()[:, None]
        volume = (self.side / self.grid) ** 3  # of a cell: noise of variance 1 in each has the spectrum P = volume
        return _forward(white) * (power / volume).sqrt().to(white.dtype)[:, modes.shell]

    def displacement(self, linear: Tensor, ratio: Tensor) -> Tensor:
        """Psi(q) in Mpc/h, ``(B, 3, n, n, n)``, of the particles that start at the corners of the cells.

        Args:
            linear: ``(B, n, n, n // 2 + 1)``, modes of the linear delta.
            ratio: ``(B,)``, D_2 / D^2; 0 gives the Zel'dovich approximation.
        """
        modes, shape = self._modes_on(linear.device), (self.grid,) * 3
        potential = -linear * modes.inverse_square  # of phi_1
        second = {
            (i, j): torch.fft.irfftn(-modes.k[i] * modes.k[j] * potential, s=shape, dim=(1, 2, 3))
            for i in range(3)
            for j in range(i + 1)
        }
        source = sum(second[i, i] * second[j, j] - second[i, j].square() for i in range(3) for j in range(i))
        assert isinstance(source, Tensor)
        correction = -_forward(source) * modes.inverse_square
        total = ratio.to(source.dtype)[:, None, None, None] * correction - potential
        return torch.stack([torch.fft.irfftn(1j * k * total, s=shape, dim=(1, 2, 3)) for k in modes.k], 1)

    def density(self, theta: Tensor, white: Tensor) -> Tensor:
        """1 + delta of the displaced particles, ``(B, n, n, n)``, for theta ``(B, 2)`` and noise ``(B, n, n, n)``."""
        linear = self.linear_density(theta, white)
        return self.cloud_in_cell(self.displacement(linear, second_order(theta[:, 0], self.redshift)))

    def cloud_in_cell(self, displacement: Tensor) -> Tensor:
        """Mass in units of the mean, ``(B, n, n, n)``, of particles displaced by ``(B, 3, n, n, n)`` Mpc/h.

        Each particle gives to the eight cells about it by their overlap with a cell centred on it (Hockney &
        Eastwood 1988, section 5-2). No mass is lost, and the bits do not depend on the order of adding.
        """
        n, batch = self.grid, len(displacement)
        box = n**3 * torch.arange(batch, device=displacement.device).view(-1, 1, 1, 1)
        rows, shares = [], []  # per axis: offsets of the cell below the particle and of the one above, their shares
        for i in range(3):
            home = torch.arange(n, device=displacement.device).view([-1 if j == i else 1 for j in range(3)])
            steps = (displacement[:, i] * (n / self.side * 2**_BITS)).round().long()
            low, above = (steps >> _BITS) + home, steps & (2**_BITS - 1)
            rows.append((low % n * n ** (2 - i), (low + 1) % n * n ** (2 - i)))
            shares.append((2**_BITS - above, above))
        mass = torch.zeros(batch * n**3, dtype=torch.long, device=displacement.device)
        for a, b, c in product(range(2), repeat=3):
            cell = box + rows[0][a] + rows[1][b] + rows[2][c]
            mass.index_add_(0, cell.flatten(), (shares[0][a] * shares[1][b] * shares[2][c]).flatten())
        return (mass.double() / 2 ** (3 * _BITS)).to(displacement.dtype).view(batch, n, n, n)

    def hydrogen(self, density: Tensor, epsilon: Tensor) -> Tensor:
        """log10 of the columns in cm^-2, ``(B, 3 slabs, n, n)``, of 1 + delta and N(0, 1) noise ``(B, n, n, n)``."""
        n = self.grid
        painted = density.double().clamp_min(0.01) ** self.bias
        painted = painted * (self.scatter * epsilon.double() - 0.5 * self.scatter**2).exp()
        # Axis by axis: a sum over a whole box is split among threads, and its last bits with it.
        painted = painted / painted.mean(3, True).mean(2, True).mean(1, True)
        cut = (self.slabs, n // self.slabs)
        columns = [painted.movedim(i, 1).reshape(-1, *cut, n, n).mean(2) for i in (1, 2, 3)]
        return torch.cat(columns, 1).log10() + math.log10(self.mean_column)

    @property
    def mean_column(self) -> float:
        """The mean column density of a slab in cm^-2."""
        h = CAMELS.h
        atoms = self.omega_hi * _CRITICAL * h**2 / _HYDROGEN  # in a comoving cm^3
        return atoms * self.side / h / self.slabs * _MPC * (1 + self.redshift) ** 2

    @cached_property
    def _modes(self) -> _Modes:
        n = self.grid
        full, half = torch.fft.fftfreq(n, 1 / n).round().long(), torch.arange(n // 2 + 1)
        whole = torch.stack(torch.meshgrid(full, full, half, indexing="ij"))
        values, index = torch.unique(whole.square().sum(0), return_inverse=True)
        unit = 2 * math.pi / self.side
        k = unit * torch.where(2 * whole.abs() == n, 0, whole).float()
        shells = unit * values.double().sqrt()
        inverse_square = torch.where(shells > 0, 1 / shells.square(), 0).float()[index]
        return _Modes(k, inverse_square, shells, index)

    def _modes_on(self, device: torch.device) -> _Modes:
        return _Modes(*(held_on(part, device) for part in self._modes))

    def _check(self) -> None:
        for name, least in (("num_simulations", 1), ("grid", 4), ("slabs", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}; got {getattr(self, name)}")
        if self.grid % self.slabs:
            raise ValueError(f"slabs must divide grid = {self.grid}; got {self.slabs}")
        if not 1 <= self.maps_per_simulation <= 3 * self.slabs:
            raise ValueError(
                f"maps_per_simulation must be from 1 to {3 * self.slabs}, three times slabs; "
                f"got {self.maps_per_simulation}"
            )
        for name in ("side", "omega_hi"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a positive number; got {getattr(self, name)}")
        for name in ("redshift", "scatter"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be 0 or more; got {getattr(self, name)}")
        if not math.isfinite(self.bias):
            raise ValueError(f"bias must be a number; got {self.bias}")


def _forward(x: Tensor) -> Tensor:
    """``rfftn`` over the last three axes, by way of the complex transform.

    The real one of the usual CPU library has other last bits with other numbers of threads, and the data would have
    another hash.
    """
    return torch.fft.fftn(x.to(x.dtype.to_complex()), dim=(1, 2, 3))[..., : x.shape[-1] // 2 + 1]
