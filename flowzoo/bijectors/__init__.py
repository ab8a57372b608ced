r"""Fixed elementwise maps between data units and network units, with their log-derivatives.

A flow holds two of these as submodules: ``x_map`` for the event and ``context_map`` for the context. They are
fitted on the training split alone, their constants are buffers (so they travel with the weights), and the
log-derivatives of ``x_map`` are part of the flow's density, so that every NLL is in the units of the data.

All maps act on the last axes of a tensor, leave its shape alone and return ``(value, log_slope)``, where ``log_slope``
has that shape too and sums over an event to the log|det| of the map. ``to_latent`` goes from data units to network
units, ``to_data`` back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flowzoo.bijectors._affine import Rescale, Standardize, Whiten
from flowzoo.bijectors._base import Bijector, Identity
from flowzoo.bijectors._bounded import Arcsine, Logit
from flowzoo.bijectors._logarithms import Log, SoftLog, Tanh
from flowzoo.bijectors._parts import Columns, Compose, VectorAndImage

__all__ = [
    "Arcsine",
    "Bijector",
    "Columns",
    "Compose",
    "Identity",
    "Log",
    "Logit",
    "Rescale",
    "SoftLog",
    "Standardize",
    "Tanh",
    "VectorAndImage",
    "Whiten",
    "from_description",
]


def from_description(description: Mapping[str, Any]) -> Bijector:
    """Build the map that ``describe`` described; its constants come with the state dict.

    Raises:
        ValueError: for a kind that is not known.
    """
    options = {k: v for k, v in description.items() if k != "kind"}
    match description["kind"]:
        case "identity":
            return Identity()
        case "standardize":
            return Standardize(**options)
        case "whiten":
            return Whiten(**options)
        case "rescale":
            return Rescale(**options)
        case "log":
            return Log(**options)
        case "soft_log":
            return SoftLog(**options)
        case "tanh":
            return Tanh(**options)
        case "arcsine":
            return Arcsine(**options)
        case "logit":
            return Logit(**options)
        case "compose":
            return Compose(*(from_description(m) for m in options["maps"]))
        case "columns":
            return Columns(options["columns"], from_description(options["bijector"]))
        case "vector_and_image":
            parts = from_description(options["vector"]), from_description(options["pixels"])
            return VectorAndImage(options["image"], *parts)
    raise ValueError(f"unknown bijector '{description['kind']}'")
