"""From pairs (theta, x) for a likelihood p(x | theta) to pairs for a posterior p(theta | x)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator
from torch import Tensor

from flowzoo.bijectors import Bijector, Columns, Compose, Log, Logit, Standardize
from flowzoo.config import ConfigError
from flowzoo.data._data import Data
from flowzoo.data._labels import shortened
from flowzoo.inference import Prior, from_description

Direction = Literal["likelihood", "posterior"]
_QUOTED = " \t\n'\""  # around a word
_SHOWN = 3  # parameters in a message
EDGE = 1e-6  # of a bounded parameter's range, which the logit keeps from infinity: all that can leak out of it


def directed(data: Data, direction: str) -> Data:
    """The data as they are for ``likelihood``, with theta as the event for ``posterior``.

    Raises:
        ConfigError: for another direction.
        ValueError: as ``toward_theta``.
    """
    if direction not in ("likelihood", "posterior"):
        raise ConfigError(f"direction must be likelihood or posterior; got {direction!r}")
    return toward_theta(data) if direction == "posterior" else data


def prior_texts(value: Any) -> Any:
    """A text for each parameter, from a mapping or from text with commas inside and between.

    >>> prior_texts("{Omega_m: uniform(0.1, 0.5), sigma_8: norm(0.8, 0.1)}")
    {'Omega_m': 'uniform(0.1, 0.5)', 'sigma_8': 'norm(0.8, 0.1)'}
    >>> prior_texts("theta[0]=uniform(0, 1), 'theta[1]'='uniform(0, 1)'")
    {'theta[0]': 'uniform(0, 1)', 'theta[1]': 'uniform(0, 1)'}
    """
    if isinstance(value, Mapping):
        # YAML in braces cuts at every comma: uniform(0.1, 0.5) comes as a value and a key that has none.
        value = ", ".join(str(key) if text is None else f"{key}: {text}" for key, text in value.items())
    if not isinstance(value, str):
        return value
    text = value.strip().removeprefix("{").removesuffix("}")
    if not text.strip():
        return None
    found = dict[str, str]()
    for part in re.split(r",(?![^()]*\))", text):  # commas outside of brackets
        name, sign, prior = part.partition(":" if ":" in part else "=")
        if not sign:
            raise ValueError(f"expected parameter: distribution, with commas between several; got '{part.strip()}'")
        found[name.strip(_QUOTED)] = prior.strip(_QUOTED)
    return found


PriorTexts = Annotated[dict[str, str] | None, BeforeValidator(prior_texts)]


def side_of_theta(
    prior: Mapping[str, str] | None, found: Sequence[str], columns: Sequence[str]
) -> Literal["context", "event"]:
    """Which of x and the context the parameters of a prior are.

    Raises:
        ConfigError: if they are neither.
    """
    if prior is None or sorted(prior) == sorted(columns):
        return "context"
    if sorted(prior) == sorted(found):
        return "event"
    sides = []
    for side, flow, names in (("x", "posterior", found), ("the context", "likelihood", columns)):
        lacks = shortened(name for name in names if name not in prior)
        near = f", of which it lacks {lacks}" if set(prior) < set(names) else ""
        sides.append(f"each column of {side} (for a {flow} flow: {shortened(names)}{near})")
    raise ConfigError(f"prior must have a text for {', or for '.join(sides)}; it has {shortened(prior)}")


def prior_of(texts: Mapping[str, str], names: Sequence[str], values: Tensor) -> Prior:
    """A prior from a text for each parameter, in the order of the data.

    Args:
        texts: parameter to distribution.
        names: of the parameters.
        values: ``(N, D)`` of the data, which it has to cover; rows that are not finite are refused elsewhere.

    Raises:
        ConfigError: if the names differ, a text is none, or values lie outside.
    """
    if sorted(texts) != sorted(names):
        wanted, came = shortened(names), shortened(texts)
        raise ConfigError(f"prior must have a text for each of the parameters {wanted}; it has {came}")
    try:
        prior = from_description({name: texts[name] for name in names})
    except ValueError as error:
        raise ConfigError(f"prior: {error}") from None
    total, values = len(values), values[values.isfinite().all(1)]
    if bad := int((~prior.covers(values)).sum()):
        low, high = prior.bounds()
        outside = (~((values.double() >= low) & (values.double() <= high))).sum(0).tolist()
        found = [
            f"'{name}' ({values[:, i].min():g} to {values[:, i].max():g}) is outside {texts[name]} in {outside[i]}"
            for i, name in enumerate(names)
            if outside[i]
        ]
        more = f", and so are {len(found) - _SHOWN} others" if len(found) > _SHOWN else ""
        raise ConfigError(
            f"prior excludes the parameters of {bad} of {total} simulations: {', '.join(found[:_SHOWN])}{more}"
        )
    return prior


def toward_theta(data: Data) -> Data:
    """The same pairs with theta as the event and what was the event as the context.

    Each event keeps its group, so a theta of several observations is not torn apart. Parameters go through a map that
    sends the support of the prior to the whole line, so that no flow can leak out of it.

    Raises:
        ValueError: if the data have no prior, theta is the event already, or the observations are integers.
    """
    if data.prior is None or data.theta != "context":
        raise ValueError("direction 'posterior' needs data whose context is a parameter with a prior")
    if data.levels is not None:
        raise ValueError("direction 'posterior' needs continuous observations; these are integers")
    assert data.context is not None
    assert data.context_index is not None
    return replace(
        data,
        x=data.context[data.context_index],
        context=data.x,
        context_index=torch.arange(len(data)),
        names=data.context_names,
        units=data.context_units,
        context_names=data.names,
        context_units=data.units,
        x_map=support_map(data.prior),
        context_map=data.x_map,
        theta="event",
        # What is known of x says nothing of theta, but for its symmetries.
        periodic=(),
        side=None,
        true_log_prob=None,
        references={},
        remedy="Leave the parameter out.",
    )


def support_map(prior: Prior) -> Bijector:
    """The support of a prior onto the line, column by column, then standardised.

    The one end of a half-line that does not begin at 0 stays; what a flow leaks over it, ``Posterior`` draws again.
    """
    maps: list[Bijector] = []
    for i, (low, high) in enumerate(zip(prior.low.tolist(), prior.high.tolist(), strict=True)):
        if low > float("-inf") and high < float("inf"):
            maps.append(Columns([i], Logit(low, high, EDGE)))
        elif low == 0:
            maps.append(Columns([i], Log()))
    return Compose(*maps, Standardize((prior.dim,)))
