"""How far a training reached, in contexts, observations and parameters, and what lies far beyond."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flowzoo.bijectors import Bijector, Whiten
from flowzoo.data import Splits
from flowzoo.inference._inferred import of_observations

# Of the range of the training, by which one may lie outside: of a normal column that are six standard deviations or
# more from the mean, of a heavy tail more, of a uniform one less. A range, unlike a spread, knows tails and ends.
BEYOND = 0.5
COLUMNS = 4096  # a wider vector is not looked at
LEAST = 0.1  # of its spread, about which the mean of an image may always vary, and its log spread
BLOCK = 2**22  # numbers that are looked at together
SHARE = 0.05  # of a posterior, that may lie where no theta of the training was
RIM = 0.01  # of the range of the thetas, by which it ends short of the prior's: they are finitely many


def reach_of(splits: Splits) -> dict[str, dict[str, list[float]]]:
    """The lowest and the highest in training of each number that is looked at, of the ``context`` and the ``event``.

    Looked at are the columns of a vector, and of an image the mean and the log standard deviation of each channel: of
    its pixels some one is always the highest. A side that is empty, or a vector that is too wide, is left out, and so
    are events of data without a prior, which are neither observations nor parameters.
    """
    data, train = splits.data, splits.train
    found = {"context": _ends(train.contexts, train.context_index.unique(), 0.0)}
    if data.prior is not None:
        found["event"] = _ends(train.x, None, data.half_level)
    return {side: ends for side, ends in found.items() if ends is not None}


def reach_in(meta: Mapping[str, Any], side: str) -> dict[str, list[float]] | None:
    """What a flow's file says of the reach of a ``side``, ``context`` or ``event``; None if nothing."""
    found: dict[str, dict[str, list[float]]] = meta.get("reach") or {}
    return found.get(side)


def _ends(values: Tensor, index: Tensor | None, shift: float) -> dict[str, list[float]] | None:
    """The range of each number that is looked at in ``(N, *shape)``, or in these rows of it."""
    width = values.shape[1:].numel()
    if not width or (values.ndim < 4 and width > COLUMNS):
        return None
    size = max(1, BLOCK // width)
    parts = values.split(size) if index is None else (values[rows] for rows in index.split(size))
    ends = [torch.stack([n.amin(0), n.amax(0)]) for n in (_numbers(part + shift) for part in parts)]
    low, high = torch.stack([end[0] for end in ends]).amin(0), torch.stack([end[1] for end in ends]).amax(0)
    return {"low": low.tolist(), "high": high.tolist()}


@dataclass
class Far:
    """How many of those that were added lie far outside what was trained on, and which of them lies farthest.

    Args:
        reach: of their side, as ``reach_in`` gives it; None says nothing.
        names: of the columns of a vector, or the channels of an image.
        units: the flow's map of a vector to network units, where outliers of a logarithmic column are none.
        noun: what they are.
        place: what one of them is called before its label; by default the noun.
        show: its label in words.
    """

    reach: Mapping[str, Any] | None
    names: Sequence[str] = ()
    units: Bijector | None = None
    noun: str = "observation"
    place: str = ""
    show: Callable[[Any], str] = str
    total: int = 0
    count: int = 0
    worst: float = 1.0
    where: str = ""

    def add(self, x: Tensor, labels: Sequence[Any] | np.ndarray | None = None) -> None:
        """Look at more of them.

        Args:
            x: ``(K, *shape)``, finite.
            labels: K of them; by default numbers, from 0.
        """
        if self.reach is None or not len(x):
            return
        start, self.total = self.total, self.total + len(x)
        low, high = (torch.tensor(self.reach[end], dtype=torch.float64) for end in ("low", "high"))
        found = _numbers(x.cpu())
        if bool(((found >= low) & (found <= high)).all()):
            return
        off = self._off(x.cpu(), found, low, high)
        self.count += int((off > 1).any(1).sum())
        if off.max() > self.worst:
            k, j = divmod(int(off.argmax()), off.shape[1])
            here = f"{self.place or self.noun} {self.show(start + k if labels is None else labels[k])}"
            told = self._told(j, x.ndim >= 4, found[k, j], low, high)
            self.worst, self.where = float(off[k, j]), f"in {here} {told}"

    def said(self) -> list[str]:
        """A line, if any lie far outside."""
        if not self.count:
            return []
        some = f"{self.count} of {self.total} {self.noun}s lie" if self.total > 1 else f"the {self.noun} lies"
        return [
            f"{some} far outside what the flow was trained on: {self.where}; what a flow says there means nothing: "
            "look at units and preparation, or train on data that reach there"
        ]

    def _off(self, x: Tensor, found: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """By how many times what is allowed each number lies beyond its range, ``(K, F)``."""
        if x.ndim >= 4:
            spread = high.chunk(2)[1].exp()
            return _off(found, low, high, torch.cat([LEAST * spread, torch.full_like(spread, LEAST)]))
        ends = torch.stack([low, high]).to(x).reshape(2, *x.shape[1:])
        mapped = _mapped(torch.cat([x, ends]), self.units).flatten(1).double()
        least = 1e-6 * mapped[-2:].abs().amax(0)  # of float32 numbers
        # What the map cannot take, no training event was.
        return _off(mapped[:-2], mapped[-2], mapped[-1], least).nan_to_num(nan=torch.inf)

    def _told(self, j: int, image: bool, value: Tensor, low: Tensor, high: Tensor) -> str:
        """What number j is, and what it was in training."""
        count = len(low) // 2 if image else len(low)
        called, of = self._called(j % count, count, "channel" if image else "column"), (low[j], high[j])
        if image:
            called = f"the {'mean' if j < count else 'standard deviation'} of {called}"
            value, of = (value, of) if j < count else (value.exp(), (low[j].exp(), high[j].exp()))
        return f"{called} is {float(value):.4g}, and in training it was {float(of[0]):.4g} to {float(of[1]):.4g}"

    def _called(self, j: int, count: int, what: str) -> str:
        return self.names[j] if len(self.names) == count else f"{what} {j}"


def far_off(
    x: Tensor, reach: Mapping[str, Any] | None, names: Sequence[str] = (), units: Bijector | None = None
) -> list[str]:
    """A line if observations ``(K, *observation)`` lie far outside what was trained on; see ``Far``."""
    far = Far(reach, names, units)
    far.add(x)
    return far.said()


def beyond_thetas(
    theta: Tensor, reach: Mapping[str, Any] | None, names: Sequence[str] = (), units: Bijector | None = None
) -> list[str]:
    """A line for each parameter of which posteriors lie where the flow was trained on no theta.

    Parameters are looked at one by one: a corner of their box that the training did not reach is not seen.

    Args:
        theta: ``(L, K, D)`` draws; those of an observation without a posterior are NaN.
        reach: of theta, as ``reach_in`` gives it; None says nothing.
        names: of the D parameters.
        units: the flow's map of theta to network units.
    """
    if reach is None:
        return []
    names = names if len(names) == theta.shape[-1] else [f"theta{d + 1}" for d in range(theta.shape[-1])]
    ends = torch.tensor([reach["low"], reach["high"]], dtype=torch.float64)
    low, high = _with_rim(ends, units)
    said = []
    for d, name in enumerate(names):
        share = ((theta[..., d] < low[d].item()) | (theta[..., d] > high[d].item())).double().mean(0)
        lost = share > SHARE
        if bool(lost.any()):
            most, many = f"{float(share.max()):.0%}", len(lost) > 1
            said.append(
                f"{'up to ' if many else ''}{most} of the posterior of {name} lies beyond the thetas that the flow was "
                f"trained on ({float(ends[0, d]):.4g} to {float(ends[1, d]):.4g})"
                f"{f', for {of_observations(lost)}' if many else ''}: simulate there and train again"
            )
    return said


def _with_rim(ends: Tensor, units: Bijector | None) -> Tensor:
    """A range ``(2, D)`` made a little wider, in network units where these are of each column by itself."""
    each = units is not None and _by_column(units)
    mapped = _mapped(ends, units).double()
    rim = RIM * (mapped[1] - mapped[0]).abs()
    wider = torch.stack([mapped.amin(0) - rim, mapped.amax(0) + rim])
    if each:
        assert units is not None
        wider = units.to_data(wider.to(_like(units, wider)))[0].cpu().double()
    wider = torch.where(wider.isfinite(), wider, ends).sort(0).values
    # Where rounding of the map is more than the rim: never narrower than what was there.
    return torch.stack([torch.minimum(wider[0], ends[0]), torch.maximum(wider[1], ends[1])])


def _off(found: Tensor, low: Tensor, high: Tensor, least: Tensor) -> Tensor:
    """By how many times what is allowed numbers ``(K, F)`` lie beyond their range."""
    room = torch.maximum(BEYOND * (high - low), least).clamp_min(1e-300)
    return torch.maximum(low - found, found - high) / room


def _by_column(units: Bijector) -> bool:
    return not any(isinstance(part, Whiten) for part in units.modules())


def _like(units: Bijector, x: Tensor) -> Tensor:
    """A tensor of the device and precision that a map takes."""
    return next((buffer for buffer in units.buffers() if buffer.is_floating_point()), x)


def _mapped(x: Tensor, units: Bijector | None) -> Tensor:
    """In network units, if these are of each column by itself."""
    if units is None or not _by_column(units):
        return x
    return units.to_latent(x.to(_like(units, x).device))[0].cpu()


def _numbers(x: Tensor) -> Tensor:
    """``(K, *observation)`` to what is looked at, ``(K, F)``."""
    if x.ndim < 4:
        return x.flatten(1).double()
    pixels = x.double().flatten(2)
    return torch.cat([pixels.mean(2), pixels.std(2).clamp_min(1e-30).log()], 1)
