"""What the point statistics share: which clouds they look at, value and floor of a distance, pairs in chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from flowzoo.metrics._metric import Clouds, Evaluation, NotComputed

PAIRS = 2**22  # distances at a time: 32 MiB
WIDEST = 1024  # columns, above which distances take minutes and say little: such events are images or spectra


def points(
    evaluation: Evaluation, what: str, *, least: int = 2, most: int | None = None, widest: int | None = WIDEST
) -> Clouds:
    """The clouds of an evaluation in float64, if their draws are finite and their halves large enough for ``what``.

    Args:
        evaluation: whose clouds are looked at.
        what: the statistic, for the reason why there is none.
        least: points in a half that it needs.
        most: points of a half that it looks at: the first, since points come in random order.
        widest: columns at most; None for any number.

    Raises:
        NotComputed: with the reason, if there are no such clouds.
    """
    found = evaluation.clouds
    if found is None:
        raise NotComputed(evaluation.clouds_missing)
    columns = found.real.shape[-1]
    if widest is not None and columns > widest:
        raise NotComputed(f"{columns} columns; {what} looks at {widest} at most")
    for side, which in ((found.drawn, "draws"), (found.real, "test events")):
        finite = side.isfinite().all(-1)
        if not finite.all():
            raise NotComputed(f"{int((~finite).sum())} of {finite.numel()} {which} are not finite")
    size = found.real.shape[2]
    if size < least:
        raise NotComputed(f"{size} points in half a cloud; {least} are needed for {what}")
    # In float64, because a product of float32 matrices, which distances are made of, may be cut to fewer digits.
    return replace(found, real=found.real[:, :, :most].double(), drawn=found.drawn[:, :, :most].double())


def compare(
    found: Clouds, distance: Callable[[Tensor, Tensor], Tensor], *, symmetric: bool = True
) -> tuple[Tensor, Tensor]:
    r"""Distance of drawn to real points in each cloud, and its floor.

    With halves A and B of the real points and A', B' of the draws at the same contexts,

    .. math:: v_k = \tfrac12 \bigl(d(A_k, B'_k) + d(B_k, A'_k)\bigr), \qquad f_k = d(A_k, B_k) .

    Each d is of m points from m points of the other half. So for a flow without fault all of them have one
    distribution, whatever d is and however biased: E v = E f. Draws that copy the real points gain nothing.

    Args:
        found: K clouds.
        distance: of its second argument from the first, the reference; a scalar, or one tensor per pair.
        symmetric: whether it is the same with its arguments exchanged; if not, the floor too is the mean of both.

    Returns:
        Values and floors, ``(K, ...)`` each.
    """
    values, floors = [], []
    for (a, b), (drawn_a, drawn_b) in zip(found.real, found.drawn, strict=True):
        values.append((distance(a, drawn_b) + distance(b, drawn_a)) / 2)
        floors.append(distance(a, b) if symmetric else (distance(a, b) + distance(b, a)) / 2)
    return torch.stack(values), torch.stack(floors)


def results(names: Sequence[str], value: Tensor, floor: Tensor, found: Clouds) -> dict[str, float | Tensor | str]:
    """Columns and their floors, the means over clouds, and beside them the values by group for figures.

    Args:
        names: of the columns.
        value: ``(K,)``, or ``(K, len(names))`` for several columns.
        floor: the same.
        found: the clouds.
    """
    columns: dict[str, float | Tensor | str] = {}
    for i, name in enumerate(names):
        of, least = (value, floor) if value.ndim == 1 else (value[:, i], floor[:, i])
        columns |= {name: float(of.mean()), f"{name}_floor": float(least.mean())}
    return columns | {"by_group": value, "floor_by_group": floor, "group": found.groups}


def distances(a: Tensor, b: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Euclidean distances of ``(n, D)`` to ``(m, D)``, in chunks of bounded memory: rows of ``a``, and ``(c, m)``.

    By matrix products, which lose digits far from the origin: hence about the middle of ``b``, where one wild draw does
    not move it.
    """
    middle = b.sort(0).values[len(b) // 2]
    a, b = a - middle, b - middle
    size = max(1, PAIRS // len(b))
    for start in range(0, len(a), size):
        rows = slice(start, start + size)
        yield rows, torch.cdist(a[rows], b)


def mean_over_pairs(function: Callable[[Tensor], Tensor], a: Tensor, b: Tensor) -> Tensor:
    """Mean of a function of the distance over all pairs of a point of ``a`` and a point of ``b``."""
    return torch.stack([function(part).sum() for _, part in distances(a, b)]).sum() / (len(a) * len(b))


def mean_within(function: Callable[[Tensor], Tensor], a: Tensor) -> Tensor:
    """Mean of a function of the distance over all pairs of two different points of ``a``: what makes it unbiased."""
    n = len(a)
    itself = function(a.new_zeros(()))
    return (mean_over_pairs(function, a, a) * n - itself) / (n - 1)
