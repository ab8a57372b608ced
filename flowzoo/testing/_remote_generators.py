"""Generators of a device that is pretended: their numbers are those of the CPU, and they say where they belong."""

from __future__ import annotations

import weakref
from typing import Any

import torch

_REAL: Any = torch.Generator
_MARK = torch.tensor([*b"pretended"], dtype=torch.uint8)  # after a state, whose size is not that of the CPU's
_remote: set[int] = set()  # by the object of torch that they wrap: operations see that in another wrapping


def generators_of(own: torch.device) -> type:
    """What may stand for ``torch.Generator``, and makes generators of this device too."""

    class Remote(_REAL):
        def __new__(cls) -> Remote:
            made: Remote = super().__new__(cls)
            _remote.add(made._cdata)
            weakref.finalize(made, _remote.discard, made._cdata)
            return made

        def get_state(self) -> torch.Tensor:
            return torch.cat([super().get_state(), _MARK])

        def set_state(self, state: torch.Tensor) -> Remote:
            if not torch.equal(state[-len(_MARK) :], _MARK):
                raise RuntimeError("RNG state is wrong size")  # as a GPU says of one of the CPU
            super().set_state(state[: -len(_MARK)])
            return self

    Remote.device = property(lambda self: own)

    class AnyGenerator(metaclass=_Kind):
        def __new__(cls, device: torch.device | str = "cpu") -> Any:
            return Remote() if torch.device(device).type == own.type else _REAL(device=device)

    return AnyGenerator


class _Kind(type):
    """Of a class that stands for torch's generators: they are its instances."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, _REAL)


def is_generator(part: object) -> bool:
    """Whether it is one, of whatever device."""
    return isinstance(part, _REAL)


def is_remote(generator: Any) -> bool:
    """Whether it was made for the device."""
    return generator._cdata in _remote
