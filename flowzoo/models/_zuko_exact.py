"""Constants of a family of transforms, in whatever dtype it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from torch import Tensor, get_default_dtype, nn


class Constants(nn.Module):
    """Keeps constants as buffers that follow its device and dtype, and rounds them anew from float64 each time.

    In float64 they would otherwise be what float32 has left of them. They are in no checkpoint.

    Args:
        exact: by name, in float64.
    """

    def __init__(self, exact: dict[str, Tensor]) -> None:
        super().__init__()
        self._exact = exact
        for name, value in exact.items():
            self.register_buffer(name, value.to(get_default_dtype()), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        for name, value in self._exact.items():
            getattr(self, name).copy_(value)
        return self
