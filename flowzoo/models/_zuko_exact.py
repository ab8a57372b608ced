"""What the families of transforms in closed form share: constants in whatever dtype, and value with slope."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from torch import Tensor, get_default_dtype, nn

from flowzoo.models import _quiet_zuko  # noqa: F401

# isort: split
from zuko.transforms import MonotonicTransform


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


class WithSlope(MonotonicTransform):
    """A transform that knows its slope with its value: a subclass has ``f_and_g``, of both."""

    def f_and_g(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The value and the slope, elementwise."""
        raise NotImplementedError

    def f(self, x: Tensor) -> Tensor:
        """The value."""
        return self.f_and_g(x)[0]

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The value and the logarithm of the slope."""
        value, slope = self.f_and_g(x)
        return value, slope.log()
