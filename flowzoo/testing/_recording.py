"""What stands for a CUDA graph: operations that were done, to be done again on the same tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

Operation = Callable[..., Any]


class Recording:
    """Stands for ``torch.cuda.CUDAGraph``."""

    def __init__(self) -> None:
        self.steps: list[tuple[Operation, tuple[Any, ...], dict[str, Any], list[tuple[Tensor, int]]]] = []

    def add(self, func: Operation, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        """Record an operation and what it gave."""
        if "empty" in func.__name__:  # who fills it writes into it
            return
        places = {_place(part) for part in pytree.tree_leaves((args, kwargs)) if isinstance(part, Tensor)}
        made = [
            (part, number)
            for number, part in enumerate(pytree.tree_leaves(out))
            # A view of what was given, or what was written into, is there already.
            if isinstance(part, Tensor) and _place(part) not in places
        ]
        self.steps.append((func, args, kwargs, made))

    def replay(self) -> None:
        """Do them again; each writes where it wrote."""
        with torch.inference_mode():  # which may write into tensors of either kind
            for func, args, kwargs, made in self.steps:
                out = pytree.tree_leaves(func(*args, **kwargs))
                for part, number in made:
                    part.copy_(out[number])


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
