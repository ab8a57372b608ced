"""Find what makes a GPU's host wait, on any machine."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class NoHostSync(TorchDispatchMode):
    """Raises at any operation whose result or shape the host must wait for, on whatever device."""

    WAITING = frozenset(
        {"_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "allclose", "_unique2", "bincount"}
        # what torch.linalg looks at after cholesky, inv and solve
        | {"_linalg_check_errors"}
    )

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Look at the operation, then let it pass."""
        name = func.overloadpacket.__name__
        index = args[1] if name in ("index", "index_put", "index_put_", "_index_put_impl_") else ()
        masks = [i for i in index if isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8)]
        if name in self.WAITING or masks:
            raise AssertionError(f"a training step calls aten::{name}, for which a GPU's host has to wait")
        return func(*args, **(kwargs or {}))
