"""Find what makes a GPU's host wait, on any machine."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

WAITING = frozenset(
    {"_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "allclose", "bincount"}
    | {"_unique2", "unique_dim", "unique_consecutive", "repeat_interleave"}
    # what torch.linalg looks at: after cholesky, inv and solve, and for how often to square
    | {"_linalg_check_errors", "linalg_matrix_exp"}
)


def waits_for_the_host(func: Any, args: tuple[Any, ...]) -> bool:
    """Whether the host must wait for the result or the shape of an operation of torch on a GPU."""
    name = func.overloadpacket.__name__
    index = args[1] if name in ("index", "index_put", "index_put_", "_index_put_impl_") else ()
    masks = any(isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in index)
    return masks or name in WAITING


class NoHostSync(TorchDispatchMode):
    """Raises at any operation whose result or shape the host must wait for, on whatever device."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Look at the operation, then let it pass."""
        if waits_for_the_host(func, args):
            name = func.overloadpacket.__name__
            raise AssertionError(f"a training step calls aten::{name}, for which a GPU's host has to wait")
        return func(*args, **(kwargs or {}))
