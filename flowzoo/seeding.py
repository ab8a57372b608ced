"""One seed, many independent streams.

A run has one integer seed. Every use of randomness draws from a generator of its own, named after what it is for
(``"init"``, ``"order"``, ``"noise"``, ...), so adding a draw in one place moves no number in another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit seed for a named stream: the head of SHA-256 over the seed and the names.

    >>> derive(0, "init") == derive(0, "init")
    True
    >>> derive(0, "init") == derive(0, "order")
    False
    """
    text = "\x1f".join([str(int(seed)), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator for one named stream of a seed, on the device where its draws are wanted."""
    return torch.Generator(device=device).manual_seed(derive(seed, *names))


@contextmanager
def initialisation(source: torch.Generator | None) -> Iterator[None]:
    """Draw the initial weights made inside this block from ``source``.

    torch's modules initialise themselves from the process-wide generator and take no other. This is the one place
    that seeds it, and it is put back afterwards. With ``None`` the process-wide generator is used as it stands.
    """
    if source is None:
        yield
        return
    seed = int(torch.randint(2**62, (), generator=source, device=source.device))
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would seed every accelerator too, and nothing would put those back.
        torch.default_generator.manual_seed(seed)
        yield
