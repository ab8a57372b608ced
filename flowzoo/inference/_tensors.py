"""The tensors of a flow: where they are, and whether they were written to."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


def tensors(flow: Any) -> list[Tensor]:
    """Its parameters, then its buffers of floats, which are all that a flow in closed form has; none of no module."""
    if not isinstance(flow, nn.Module):
        return []
    return [*flow.parameters(), *(b for b in flow.buffers() if b.is_floating_point())]


def writes(flow: Any) -> list[tuple[int, int]]:
    """Of each tensor its memory, and how often that was written to: another list once the flow was trained on."""
    # One that was made for inference alone does not count.
    return [(t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors(flow)]
