"""Whether parameters are draws from the prior that was declared for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from flowzoo.data._copies import first_equal
from flowzoo.inference import Prior
from flowzoo.seeding import generator

SURPRISE = 1e-6  # probability below which parameters are said to be from another prior
_ROWS = 100_000  # that are looked at; scipy takes its time for some distributions


def other_prior(prior: Prior, texts: Mapping[str, str], names: Sequence[str], theta: Tensor) -> list[str]:
    r"""A note for each parameter whose values are no draws from its marginal, by Kolmogorov's test.

    Its statistic is :math:`\max_k \mathrm{dist}(C_k, [F(v_k), F(v_{k+1})])` for the different values v, the share C of
    rows up to each, and the declared distribution function F: that of the test less what rounding, or a grid, makes
    of it. Equal rows of parameters count once, and rows that are not finite never.

    Args:
        prior: as declared.
        texts: parameter to its distribution, for the message.
        names: of the parameters.
        theta: ``(N, D)`` values.
    """
    from scipy.stats import kstwo

    first = first_equal(theta.numpy())
    rows = theta if first is None else theta[torch.from_numpy(np.unique(first))]
    rows = rows[rows.isfinite().all(1)].double()
    rows = rows[torch.randperm(len(rows), generator=generator(0, "prior"))[:_ROWS]]
    if not len(rows):
        return []
    units, notes = prior.to_unit(rows).numpy(), list[str]()
    ends = torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64)[:, None].expand(3, prior.dim)
    declared, found = prior.from_unit(ends).numpy(), rows.numpy()
    for i, name in enumerate(names):
        p = float(kstwo.sf(_distance(units[:, i]), len(rows)))
        if p >= SURPRISE:
            continue
        low, median, high = np.quantile(found[:, i], [0.05, 0.5, 0.95])
        wanted = declared[:, i]
        notes.append(
            f"the simulations' '{name}' runs from {found[:, i].min():.4g} to {found[:, i].max():.4g}, with median "
            f"{median:.4g} and 90 % in {low:.4g} to {high:.4g}, and the prior {texts[name]} says median "
            f"{wanted[1]:.4g} and 90 % in {wanted[0]:.4g} to {wanted[2]:.4g} (KS p {_power(p)}): "
            "posteriors hold for the prior that the simulations were drawn from"
        )
    return notes


def _distance(u: np.ndarray) -> float:
    """Of numbers that should be uniform from 0 to 1: the statistic."""
    values, counts = np.unique(u, return_counts=True)
    share = counts.cumsum() / len(u)
    after = np.append(values[1:], 1.0)
    return float(max(0.0, (values - share).max(), (share - after).max()))


def _power(p: float) -> str:
    return f"{p:.0e}" if p > 1e-300 else "below 1e-300"
