"""A watch over the process-wide generators: randomness comes from the generator that is given, and from no other."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

SEED = 918_273_645  # that nobody seeds a process with


@contextmanager
def own_chance(what: str, seed: int = SEED) -> Iterator[None]:
    """Refuses what draws from, or seeds, the process-wide generators of torch, numpy or Python.

    Args:
        what: is watched, for the message.
        seed: of those generators inside; they are put back afterwards.

    Raises:
        AssertionError: with the generators that were not left alone.
    """
    kept = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every accelerator too
        np.random.seed(seed)  # noqa: NPY002 # the process-wide one is what is watched
        random.seed(seed)
        before = _states()
        yield
        moved = [name for name, state in _states().items() if state != before[name]]
    finally:
        torch.set_rng_state(kept[0])
        np.random.set_state(kept[1])  # noqa: NPY002
        random.setstate(kept[2])
    if moved:
        raise AssertionError(f"{what} moved the process-wide generator of {' and of '.join(moved)}; take the one given")


def _states() -> dict[str, str]:
    legacy = np.random.get_state()  # noqa: NPY002
    numpy = [part.tolist() if isinstance(part, np.ndarray) else part for part in legacy]
    return {
        "torch": torch.get_rng_state().numpy().tobytes().hex(),
        "numpy": str(numpy),
        "Python": str(random.getstate()),
    }
