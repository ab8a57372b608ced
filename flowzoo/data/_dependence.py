"""Columns that follow from others by a line: their density is infinite, however low an NLL a flow reports."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from flowzoo.bijectors import Bijector, Standardize
from flowzoo.data._labels import shortened
from flowzoo.seeding import generator

# Of a column's spread: some hundred steps of float32. That of 64 pixels whose mean was subtracted in float32 is 1.5e-5,
# that of a multiple written with six digits 2e-6.
RESIDUAL = 3e-5
WIDEST = 256  # columns that are looked at; more take seconds
_ROWS, _PER_COLUMN = 1000, 10  # rows looked at, at least: a line through so many is one through all
_SHARE = 1e-3  # of a spread, from which another column is said to play a part


def refuse_dependent(x: Tensor, x_map: Bijector | None, names: Sequence[str]) -> None:
    r"""Refuse a column whose residual from the best line through those before it is rounding, in network units.

    With ``u`` the mapped columns in units of their spread and ``u = QR``, :math:`|R_{jj}| / \sqrt n` is that residual
    for column j. A row far out can make two columns look alike, so the medians over the rows have to agree.

    Args:
        x: ``(N, D)`` events.
        x_map: unfitted map to network units; None standardises.
        names: of the columns.

    Raises:
        ValueError: naming the column and those from which it follows.
    """
    count, width = x.shape
    if not 1 < width <= WIDEST or count <= 2 * width:
        return
    rows = torch.randperm(count, generator=generator(0, "dependence"))[: max(_ROWS, _PER_COLUMN * width)]
    part = x[rows].float()
    fitted = Standardize((width,)) if x_map is None else copy.deepcopy(x_map)
    try:
        fitted.fit(part, names)
    except ValueError:
        return  # which is said of all rows, where the map is fitted for good
    u = fitted.to_latent(part)[0].double()
    spread = u.std(0)
    if not bool(torch.isfinite(spread).all() and (spread > 0).all()):
        return
    u = (u - u.mean(0)) / spread
    residuals = torch.linalg.qr(u, mode="r")[1].diagonal().abs() / len(u) ** 0.5
    for j in (residuals < RESIDUAL).nonzero().flatten().tolist():
        slopes = torch.linalg.lstsq(u[:, :j], u[:, j : j + 1], driver="gelsd").solution[:, 0]
        left, whole = _middle(u[:, j] - u[:, :j] @ slopes), _middle(u[:, j])
        if left < RESIDUAL * whole:
            others = shortened(names[i] for i in (slopes.abs() > _SHARE).nonzero().flatten().tolist())
            raise ValueError(
                f"column '{names[j]}' follows from {others} by a line (to {left / whole:.1g} of its spread, in network "
                "units), so x has no density: the true NLL is minus infinity. Leave one of these columns out of x."
            )


def _middle(values: Tensor) -> float:
    """The median distance from the median."""
    return float((values - values.median()).abs().median())
