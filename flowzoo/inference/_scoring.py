"""Log-densities of many (theta, x) pairs, in batches that fit a device, and an account of what was not finite."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
from torch import Tensor

from flowzoo.arguments import in_tensor
from flowzoo.inference._inferred import of_observations

#: ``(R, M, D)`` parameters, and the ``(R,)`` observations of the rows (None: all K in their order), to ``(R, M)``.
Target = Callable[..., Tensor]

PAIRS = 2**16  # in one call of the flow, which cuts them further by itself
NUMBERS = 2**23  # of observations that are repeated beside their thetas in one call, 32 MiB


class NoPosterior(ValueError):
    """Some observations have no posterior that could be found; of the others nothing is said.

    Args:
        why: in words that go before "for 1 of 3 observations".
        lost: ``(K,)`` booleans, which.
        cure: what to do.
    """

    def __init__(self, why: str, lost: Tensor, cure: str) -> None:
        first = int(lost.nonzero()[0])
        super().__init__(f"{why} for {of_observations(lost)} (the first is observation {first}); {cure}")
        self.why, self.lost, self.cure = why, lost, cure


class Scorer:
    """A log-density of pairs, of K observations and any thetas; NaN and +inf become -inf, and are counted.

    Args:
        pairs: ``(theta (P, D), rows (P,)) -> (P,)``, in nats.
        count: number of observations K.
        width: numbers that a pair takes in memory.
    """

    def __init__(self, pairs: Callable[[Tensor, Tensor], Tensor], count: int, width: int, device: torch.device) -> None:
        self._pairs, self.size = pairs, max(1, min(PAIRS, NUMBERS // max(1, width)))
        self.bad = torch.zeros(count, dtype=torch.long, device=device)
        self.tried, self.finite = torch.zeros_like(self.bad), torch.zeros_like(self.bad)

    @torch.no_grad()
    def __call__(self, theta: Tensor, rows: Tensor | None = None) -> Tensor:
        """``(R, M, D)`` to ``(R, M)`` in float64, of the observations ``rows`` ``(R,)``, by default all."""
        rows = torch.arange(len(self.bad), device=theta.device) if rows is None else rows
        flat, which = theta.flatten(0, 1), rows.repeat_interleave(theta.shape[1])
        parts = [self._pairs(*part) for part in zip(flat.split(self.size), which.split(self.size), strict=True)]
        found = torch.cat(parts).double() if parts else theta.new_zeros(0)
        wrong = found.isnan() | found.isposinf()
        self.tried.index_add_(0, which, torch.ones_like(which))
        self.bad.index_add_(0, which, wrong.long())
        self.finite.index_add_(0, which, found.isfinite().long())
        return found.masked_fill(wrong, -torch.inf).reshape(theta.shape[:2])

    @property
    def nowhere(self) -> Tensor:
        """``(K,)`` booleans: observations whose density was looked at, and finite nowhere."""
        return (self.tried > 0) & (self.finite == 0)

    def check(self) -> list[str]:
        """What to say of densities that were not finite.

        Raises:
            NoPosterior: if observations have no other.
        """
        lost = (self.bad > 0) & (self.bad == self.tried)
        if bool(lost.any()):
            raise NoPosterior(
                "the flow's log_prob is NaN or infinite at every theta tried", lost, "look for far-off values in x"
            )
        wrong = int(self.bad.sum())
        if not wrong:
            return []
        return [
            f"the flow's log_prob is NaN or +inf at {wrong} of {int(self.tried.sum())} thetas, in "
            f"{of_observations(self.bad > 0)}; they were given no mass: look at the flow there, or narrow the prior"
        ]


@contextmanager
def evaluating(flow: Any) -> Iterator[None]:
    """Dropout and batch statistics off, and back afterwards as they were."""
    was = getattr(flow, "training", False)
    if was:
        flow.eval()
    try:
        yield
    finally:
        if was:
            flow.train()


def observations(x: Tensor, shape: torch.Size) -> tuple[Tensor, str | None]:
    """``(K, *obs)`` of what was given, which may be a single ``(*obs,)``; and what to say of that.

    Raises:
        ValueError: for another shape, no observation, or one that is not finite.
    """
    in_tensor(x, "x")
    said = None
    if x.shape == shape:
        x, said = x[None], "x has no axis of observations; it was taken as a single one, x[None]"
    if x.shape[1:] != shape or x.ndim != len(shape) + 1:
        wanted = ", ".join(["K", *map(str, shape)])
        raise ValueError(f"x must be K observations, ({wanted}), as the flow was built; got {tuple(x.shape)}")
    if len(x) == 0:
        raise ValueError("x has no observations; got K = 0")
    lost = ~x.isfinite().flatten(1).all(1) if prod(shape) else torch.zeros(len(x), dtype=torch.bool)
    if bool(lost.any()):
        first = int(lost.nonzero()[0])
        raise ValueError(
            f"{of_observations(lost)} have values that are not finite (the first is {first}); leave them out"
        )
    return x, said
