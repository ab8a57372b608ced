"""How far the observations of a training reached, and which others lie far beyond."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from flowzoo.bijectors import Bijector, Whiten
from flowzoo.data import Splits

# Of the range of the training, by which one may lie outside: of a normal column that are six standard deviations or
# more from the mean, of a heavy tail more, of a uniform one less. A range, unlike a spread, knows tails and ends.
BEYOND = 0.5
COLUMNS = 4096  # a wider vector is not looked at
LEAST = 0.1  # of its spread, about which the mean of an image may always vary, and its log spread


def reach_of(splits: Splits) -> dict[str, list[float]] | None:
    """The lowest and the highest in training of each number that is looked at; None of a vector that is too wide.

    Looked at are the columns of a vector, and of an image the mean and the log standard deviation of each channel: of
    its pixels some one is always the highest.
    """
    data, train = splits.data, splits.train
    every = train.contexts[train.context_index.unique()] if data.theta == "event" else train.x
    if every.ndim < 4 and data.observation_shape.numel() > COLUMNS:
        return None
    ends = [torch.stack([n.amin(0), n.amax(0)]) for n in (_numbers(p + data.half_level) for p in every.split(1024))]
    low, high = torch.stack([end[0] for end in ends]).amin(0), torch.stack([end[1] for end in ends]).amax(0)
    return {"low": low.tolist(), "high": high.tolist()}


def far_off(
    x: Tensor, reach: Mapping[str, Any] | None, names: Sequence[str] = (), units: Bijector | None = None
) -> list[str]:
    """A line if observations lie far outside what was trained on: how many, and of the farthest what it is.

    Args:
        x: ``(K, *observation)``.
        reach: as ``reach_of`` gives it; None says nothing.
        names: of the columns of a vector, or the channels of an image.
        units: the flow's map of a vector to network units, where outliers of a logarithmic column are none.
    """
    if reach is None:
        return []
    x, image = x.cpu(), x.ndim >= 4
    found, low, high = _numbers(x), *(torch.tensor(reach[end], dtype=torch.float64) for end in ("low", "high"))
    if image:
        spread = high.chunk(2)[1].exp()
        least = torch.cat([LEAST * spread, torch.full_like(spread, LEAST)])
        off = _off(found, low, high, least)
    else:
        ends = torch.stack([low, high]).to(x).reshape(2, *x.shape[1:])
        mapped = _mapped(torch.cat([x, ends]), units).flatten(1).double()
        least = 1e-6 * mapped[-2:].abs().amax(0)  # of float32 numbers
        # What the map cannot take, no training event was.
        off = _off(mapped[:-2], mapped[-2], mapped[-1], least).nan_to_num(nan=torch.inf)
    bad = (off > 1).any(1)
    if not bool(bad.any()):
        return []
    k, j = divmod(int(off.argmax()), off.shape[1])
    what, value, of = "", found[k, j], (low[j], high[j])
    count = off.shape[1] // 2 if image else off.shape[1]
    channel = j % count
    called = names[channel] if len(names) == count else f"{'channel' if image else 'column'} {channel}"
    if image:
        what = "the mean of " if j < count else "the standard deviation of "
        value, of = (value, of) if j < count else (value.exp(), (low[j].exp(), high[j].exp()))
    some = f"{int(bad.sum())} of {len(bad)} observations lie" if len(bad) > 1 else "the observation lies"
    return [
        f"{some} far outside what the flow was trained on: in observation {k} {what}{called} is {float(value):.4g}, "
        f"and in training it was {float(of[0]):.4g} to {float(of[1]):.4g}; what a flow says there means nothing: "
        "look at units and preparation, or train on simulations that reach there"
    ]


def _off(found: Tensor, low: Tensor, high: Tensor, least: Tensor) -> Tensor:
    """By how many times what is allowed numbers ``(K, F)`` lie beyond their range."""
    room = torch.maximum(BEYOND * (high - low), least).clamp_min(1e-300)
    return torch.maximum(low - found, found - high) / room


def _mapped(x: Tensor, units: Bijector | None) -> Tensor:
    """In network units, if these are of each column by itself."""
    if units is None or any(isinstance(part, Whiten) for part in units.modules()):
        return x
    device = next(units.buffers(), x).device
    return units.to_latent(x.to(device))[0].cpu()


def _numbers(x: Tensor) -> Tensor:
    """``(K, *observation)`` to what is looked at, ``(K, F)``."""
    if x.ndim < 4:
        return x.flatten(1).double()
    pixels = x.double().flatten(2)
    return torch.cat([pixels.mean(2), pixels.std(2).clamp_min(1e-30).log()], 1)
