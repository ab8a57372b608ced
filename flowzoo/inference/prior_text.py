"""Priors as a person writes them in YAML, and as they travel with a trained flow. Nothing in a text is executed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from flowzoo.inference._scipy_priors import Product, Samples
from flowzoo.inference.priors import Box, Gaussian, LogNormal, Prior


def from_description(description: Mapping[str, Any]) -> Prior:
    """A prior from what ``describe`` gives, or a person writes in YAML.

    Besides the kinds ``box``, ``gaussian``, ``lognormal``, ``product`` and ``samples``, a mapping without ``kind`` is
    one text per parameter: ``{Omega_m: uniform(0.1, 0.5), sigma_8: norm(0.8, 0.1)}``, where ``uniform`` is between
    two bounds and any other name is a distribution of ``scipy.stats`` with its own arguments.

    Raises:
        ValueError: for a kind, an option or a distribution that is not known.
    """
    options = {key: value for key, value in description.items() if key != "kind"}
    kinds: dict[str, Any] = {"box": Box, "gaussian": Gaussian, "lognormal": LogNormal, "samples": Samples}
    kind = description.get("kind", "product")
    if kind == "product":
        texts = options.get("marginals", options)
        texts = list(texts.values()) if isinstance(texts, Mapping) else list(texts)
        bounds = [_bounds(str(text)) for text in texts]
        if texts and all(bounds):
            return Box(*zip(*[pair for pair in bounds if pair], strict=True))
        return Product([_marginal(str(text)) for text in texts])
    if kind not in kinds:
        raise ValueError(f"unknown prior '{kind}'; the kinds are product, {', '.join(kinds)}")
    try:
        made: Prior = kinds[kind](**options)
    except TypeError as error:
        raise ValueError(f"prior '{kind}': {error}") from None
    return made


_CALL = re.compile(r"\s*(?:scipy\.stats\.)?([a-z_0-9]+)\s*\(([^()]*)\)\s*")


def _call(text: str) -> tuple[str, list[float], dict[str, float]]:
    """``name(1, 2, scale=3)`` as its parts; nothing is executed."""
    match = _CALL.fullmatch(text)
    try:
        if match is None:
            raise ValueError
        parts = [part.strip() for part in match[2].split(",") if part.strip()]
        positional = [float(part) for part in parts if "=" not in part]
        keywords = {k.strip(): float(v) for k, v in (part.split("=") for part in parts if "=" in part)}
    except ValueError:
        raise ValueError(
            f"a prior of a parameter is text such as 'uniform(0.1, 0.5)' or 'norm(0.8, scale=0.1)'; got {text!r}"
        ) from None
    return match[1], positional, keywords


def _bounds(text: str) -> tuple[float, float] | None:
    """The bounds of ``uniform(low, high)``; None for another distribution."""
    name, positional, keywords = _call(text)
    if name != "uniform" or keywords:
        return None
    if len(positional) != 2:
        raise ValueError(f"uniform needs a lower and an upper bound; got {text!r}")
    return positional[0], positional[1]


def _marginal(text: str) -> Any:
    import scipy.stats

    name, positional, keywords = _call(text)
    pair = _bounds(text)
    if pair is not None:
        return scipy.stats.uniform(pair[0], pair[1] - pair[0])
    made = getattr(scipy.stats, name, None)
    if not isinstance(made, scipy.stats.rv_continuous):
        raise ValueError(f"scipy.stats has no continuous distribution '{name}' (prior {text!r})")
    try:
        frozen = made(*positional, **keywords)
        known = bool(np.isfinite(frozen.mean()) or np.isfinite(frozen.median()))
    except TypeError as error:
        raise ValueError(f"prior {text!r}: {error}") from None
    if not known:
        raise ValueError(f"prior {text!r}: its arguments are out of range")
    return frozen
