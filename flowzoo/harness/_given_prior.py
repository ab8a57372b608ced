"""The prior of ``flowzoo infer``: of a file, matched to the flow's parameters by name, or that of its training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flowzoo import inference
from flowzoo.config import ConfigError
from flowzoo.data._direction import prior_texts
from flowzoo.data._labels import shortened
from flowzoo.harness.settings import read_mapping
from flowzoo.inference import Prior


def read_prior(path: Path) -> dict[str, Any]:
    """A prior as YAML: a line for each parameter, all of them in braces, or a kind and its options.

    Raises:
        ConfigError: with its line, if it cannot be read.
    """
    try:
        return read_mapping(path)
    except ConfigError:
        # In braces YAML cuts uniform(0.1, 0.5) at the comma, and two parameters may end alike.
        text = path.read_text(encoding="utf-8", errors="replace").strip() if path.is_file() else ""
        try:
            if text.startswith("{") and (found := prior_texts(" ".join(text.split()))):
                return dict(found)
        except ValueError:
            pass
        raise


def prior_of(
    given: Mapping[str, Any] | None, known: Mapping[str, Any], names: Sequence[str], path: Path
) -> tuple[Prior | None, list[str]]:
    """The prior that was given, or that of the training data, and what to say of it.

    Args:
        given: as a person writes it, its parameters by name; None takes that of the training.
        known: what the flow's file says of its inference: ``theta``, ``prior``.
        names: of the parameters.
        path: the flow's file.

    Raises:
        ConfigError: if there is none, it cannot be read, or reaches to where a posterior flow has learnt nothing.
    """
    theta = known.get("theta", "context")
    description = known.get("prior") if given is None else _in_order(given, names)
    if description is None and theta == "context":
        raise ConfigError(
            f"{path} was trained without a prior, so its context may be no parameter; give one with --prior FILE, "
            "YAML such as {Omega_m: 'uniform(0.1, 0.5)', sigma_8: 'norm(0.8, 0.1)'}"
        )
    if description is None:
        return None, []
    try:
        with np.errstate(all="ignore"):  # scipy of an infinite width
            found = inference.from_description(description)
            middle = found.from_unit(torch.full((found.dim,), 0.5, dtype=torch.float64))
    except (ValueError, TypeError, RuntimeError) as error:
        raise ConfigError(f"prior: {error}") from None
    if not bool(middle.isfinite().all()):
        raise ConfigError(f"prior: the median of each parameter must be finite; got {middle.tolist()}; bound it")
    return found, [] if given is None else beside_training(found, known, names, path)


def beside_training(prior: Prior, known: Mapping[str, Any], names: Sequence[str], path: Path) -> list[str]:
    """What to say of a prior that is not the one of the training: nothing for a likelihood, which has learnt none.

    Args:
        prior: of the parameters.
        known: as for ``prior_of``.
        names: of the parameters.
        path: the flow's file.

    Raises:
        ConfigError: if it reaches to where a posterior flow has learnt nothing.
    """
    if known.get("theta", "context") == "context" or known.get("prior") is None:
        return []
    try:
        return list(inference.check_truncates(prior, inference.from_description(known["prior"]), names))
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None


def _in_order(given: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """A prior with its parameters in the order of the flow's: their names say which is which, not their places."""
    kind = given.get("kind", "product")
    if not isinstance(kind, str):
        raise ConfigError(f"prior: kind must be a word such as box; got {kind!r}")
    if kind != "product":
        return {key: value if key == "kind" else _numeric(value) for key, value in given.items()}
    texts = given.get("marginals", {key: value for key, value in given.items() if key != "kind"})
    if isinstance(texts, Sequence) and not isinstance(texts, str):
        return {"kind": kind, "marginals": list(texts)}
    try:
        if isinstance(texts, Mapping) and (bad := [key for key in texts if isinstance(texts[key], Mapping | list)]):
            raise ValueError(f"'{bad[0]}' must be text such as 'uniform(0.1, 0.5)'; got {texts[bad[0]]!r}")
        found = prior_texts(texts) or {}
        if not isinstance(found, Mapping):
            raise ValueError(f"expected a text for each parameter; got {texts!r}")
    except ValueError as error:
        raise ConfigError(f"prior: {error}") from None
    if sorted(found) != sorted(names):
        wanted, came = shortened(names), shortened(found)
        raise ConfigError(f"prior must have a text for each of the parameters {wanted}; it has {came}")
    return {"kind": kind, "marginals": [found[name] for name in names]}


def _numeric(value: Any) -> Any:
    """Numbers that YAML takes for text, such as 1e-4, as numbers."""
    if isinstance(value, list | tuple):
        return [_numeric(part) for part in value]
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        raise ConfigError(f"prior: expected numbers; got {value!r}") from None
