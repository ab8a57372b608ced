"""Constants on a GPU: copied there once, because every copy from the host is a wait."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

_copies = WeakTensorKeyDictionary()  # tensor to, by device, how often it had been written to and its copy


def held_on(tensor: Tensor, device: torch.device | str) -> Tensor:
    """``tensor.to(device)``, the same each time it is asked for: not to be written to."""
    device = torch.device(device)
    if tensor.device == device or tensor.is_inference():
        return tensor.to(device)
    kept = _copies.setdefault(tensor, {})
    if device not in kept or kept[device][0] != tensor._version:
        with torch.inference_mode(False):  # a copy that is met in training later
            kept[device] = tensor._version, tensor.detach().to(device)
    found: Tensor = kept[device][1]
    return found
