"""What the field statistics share: which maps they look at, in chunks of bounded memory, and in what halves."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from flowzoo.metrics._metric import Ensembles, Evaluation, NotComputed
from flowzoo.seeding import generator

SMALLEST = 16  # pixels a side; below it three octaves of scales do not fit
CHUNK = 2**20  # pixels at a time: tens of megabytes with what is made of them


def images(evaluation: Evaluation, what: str) -> Ensembles:
    """The ensembles of an evaluation, if they are finite images that are large enough for ``what``.

    Raises:
        NotComputed: with the reason, if they are not.
    """
    shape = tuple(evaluation.x.shape[1:])
    if len(shape) != 3:
        raise NotComputed(f"events are {shape}, not images (C, H, W)")
    if min(shape[1:]) < SMALLEST:
        raise NotComputed(f"{shape[1]} x {shape[2]} pixels are too few for {what}: {SMALLEST} x {SMALLEST} are needed")
    found = evaluation.ensembles
    if found is None:
        raise NotComputed(evaluation.ensembles_missing)
    for name, maps, least in (("real maps", found.real, 4), ("draws", found.drawn, 2)):
        if maps.shape[1] < least:
            raise NotComputed(f"{maps.shape[1]} {name} at a context; {least} are needed for {what}")
        finite = torch.cat([part.isfinite().flatten(1).all(1) for part in maps.flatten(0, 1).split(_rows(maps))])
        if not finite.all():
            raise NotComputed(f"{int((~finite).sum())} of {len(finite)} {name} are not finite")
    return found


def in_chunks(function: Callable[[Tensor], Tensor], maps: Tensor, pixels: int = CHUNK) -> Tensor:
    """A function of maps ``(N, C, H, W) -> (N, ...)``, applied to so many pixels at a time."""
    return torch.cat([function(part) for part in maps.split(_rows(maps, pixels))])


def moments(real: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the pixels of ``(K, M, C, H, W)`` per context and channel, ``(K, 1, C, 1, 1)``.

    Raises:
        NotComputed: if the maps of a context are constant, so that there is no unit of height.
    """
    # Context by context, so that no copy of all the maps is made.
    mean = torch.stack([maps.mean((0, 2, 3), keepdim=True) for maps in real])
    std = torch.stack([maps.std((0, 2, 3), keepdim=True) for maps in real])
    if not (std > 0).all():
        raise NotComputed(f"the real maps are constant at {int((std <= 0).any(2).sum())} of {len(real)} contexts")
    return mean, std


def per_context(function: Callable[[Tensor], Tensor], maps: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """A function of maps ``(S, C, H, W) -> (S, ...)`` in the units of ``moments``, stacked over contexts."""
    return torch.stack([function((part - m) / s) for part, m, s in zip(maps, mean, std, strict=True)])


def shuffled(count: int, evaluation: Evaluation) -> Tensor:
    """``(count,)`` a random order of the real maps of a context, the same for every statistic and model of a seed.

    Neighbours may be slices of one box, so halves in the order of the file would be less alike than random ones. The
    stream is a new one with the evaluation's seed: a draw from the evaluation's own would move other metrics' numbers.
    """
    source = generator(evaluation.generator.initial_seed(), "halves")
    return torch.randperm(count, generator=source).to(evaluation.x.device)


def quarters(real: Tensor, drawn: Tensor, order: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Two halves of the real maps and two sets of draws, all of one size, so that their distances can be compared.

    Args:
        real: ``(K, M, ...)`` maps or what was computed of each.
        drawn: ``(K, S, ...)`` the same of the draws.
        order: of the real maps.

    Returns:
        Four tensors ``(K, n, ...)`` with n = min(M // 2, S). Where S < 2 n the two sets of draws overlap.
    """
    size = min(real.shape[1] // 2, drawn.shape[1])
    return real[:, order[:size]], real[:, order[size : 2 * size]], drawn[:, :size], drawn[:, -size:]


def scatter_within(parts: Sequence[Tensor]) -> Tensor:
    """Standard deviation of the real maps about the mean of their own half, ``(K, ...)``: a unit for differences.

    About the mean of both halves it would know how far these are apart, and bound their difference but not that of
    the draws: of eight maps the floor would be a seventh too low.
    """
    a, b = parts[:2]
    return ((a.var(1) + b.var(1)) / 2).sqrt()


def compare(parts: Sequence[Tensor], distance: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Distance of draws to real maps, and its floor, from what ``quarters`` gives.

    With halves A and B of the real maps and as many draws in each of two sets, the values are d(A, draws) and
    d(B, other draws), the floors d(A, B) and d(B, A). Each compares n maps with n maps, so for a sampler without fault
    all four have the same distribution. They are not averaged here, because the median over contexts of a mean of two
    is not that of one of them: of the modulus of a normal variable it is a fifth higher.

    Args:
        parts: the four tensors.
        distance: of its second argument from the first, the reference; ``(...)``, such as ``(K,)``.

    Returns:
        Values and floors, ``(2, ...)`` each.
    """
    a, b, first, second = parts
    return torch.stack([distance(a, first), distance(b, second)]), torch.stack([distance(a, b), distance(b, a)])


def results(name: str, value: Tensor, floor: Tensor, found: Ensembles) -> dict[str, float | Tensor | str]:
    """A column and its floor, the medians of what ``compare`` gave ``(2, K)``, and for figures both by context."""
    return {
        name: median(value),
        f"{name}_floor": median(floor),
        "by_context": value.mean(0),
        "floor_by_context": floor.mean(0),
        "context": found.context,
    }


def curves(real: Tensor, drawn: Tensor) -> dict[str, float | Tensor | str]:
    """For figures, mean and scatter over the maps of a context of ``(K, M, C, ...)``; of one channel without C."""
    return {
        "real_mean": real.mean(1).squeeze(1),
        "real_std": real.std(1).squeeze(1),
        "drawn_mean": drawn.mean(1).squeeze(1),
        "drawn_std": drawn.std(1).squeeze(1),
    }


def median(values: Tensor) -> float:
    """The median of all elements; of two in the middle their mean, where ``torch.median`` takes the lower."""
    return float(values.flatten().double().quantile(0.5))


def _rows(maps: Tensor, pixels: int = CHUNK) -> int:
    """How many maps have so many pixels, at least one."""
    # An accelerator has more memory than a CPU has cache, and idles between small chunks.
    return max(1, pixels * (8 if maps.is_cuda else 1) // maps.shape[-3:].numel())
