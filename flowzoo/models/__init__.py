"""The zoo: one file a model. A model's file registers a frozen config with ``build`` and ``suggest``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Protocol

import torch

from flowzoo import config as configs
from flowzoo import embeddings
from flowzoo.arguments import as_shape
from flowzoo.bijectors import Bijector
from flowzoo.flow import ConditionalFlow
from flowzoo.models._embeds import Embeds
from flowzoo.registry import EMBEDDINGS, MODELS
from flowzoo.seeding import initialisation


class ModelConfig(Protocol):
    """What a model's file registers: a frozen dataclass of its options with this interface."""

    family: ClassVar[str]
    backend: ClassVar[str]
    events: ClassVar[str]
    contexts: ClassVar[str]
    inverse: ClassVar[str]
    paper: ClassVar[str]

    def build(
        self,
        event_shape: Sequence[int],
        context_shape: Sequence[int],
        *,
        x_map: Bijector | None = None,
        context_map: Bijector | None = None,
    ) -> ConditionalFlow:
        """The flow, with fresh weights. Raises ValueError for shapes that the model cannot take."""
        ...

    @classmethod
    def suggest(cls, trial: Any) -> ModelConfig:
        """A config drawn from the model's search space by an Optuna trial."""
        ...


def configure(name: str, options: dict[str, Any]) -> ModelConfig:
    """The config of a model by name, from its options.

    Raises:
        UnknownName, MissingDependency, ConfigError: in one line each, with what exists.
    """
    config: ModelConfig = configs.make(MODELS.get(name), options, MODELS.resolve(name))
    for option, value in configs.to_dict(config).items():
        counts = value if isinstance(value, list) else [value]
        if any(type(count) is int and count < 1 for count in counts):
            raise configs.ConfigError(f"{MODELS.resolve(name)}.{option}: counts must be at least 1; got {value}")
    if isinstance(config, Embeds) and config.embed is not None:
        EMBEDDINGS.resolve(config.embed)
    return config


def adapt(
    config: ModelConfig, *, periodic: Sequence[int] = (), context_image: tuple[int, int, int] | None = None
) -> ModelConfig:
    """The config with what it leaves to the dataset filled in.

    Args:
        config: of any model; one that has a method ``adapted`` with these arguments is asked, others stay as they are.
        periodic: axes of an event along which it is periodic.
        context_image: shape of the image that the last columns of a flat context are.
    """
    adapted = getattr(config, "adapted", None)
    return config if adapted is None else adapted(periodic=tuple(periodic), context_image=context_image)


def build(
    name: str,
    event_shape: int | Sequence[int],
    context_shape: int | Sequence[int] = (0,),
    *,
    x_map: Bijector | None = None,
    context_map: Bijector | None = None,
    generator: torch.Generator | None = None,
    **config: Any,
) -> ConditionalFlow:
    """Build a flow of the zoo by name.

    Args:
        name: one of ``flowzoo.MODELS.names()``.
        event_shape: what the density is over.
        context_shape: what it is conditioned on; ``(0,)`` for nothing.
        x_map: fitted map from data units to network units (see ``flowzoo.bijectors``).
        context_map: the same for the context.
        generator: source of the initial weights; torch's process-wide generator by default.
        **config: options of the model.

    Raises:
        UnknownName: for a name that is not in the zoo.
        MissingDependency: if the model's backend is not installed.
        ConfigError: for an option that the model does not have, or a value that does not fit.
        ValueError: for an event or a context that the model cannot take.

    >>> import torch, flowzoo
    >>> flow = flowzoo.build("maf", (2,), (3,), num_steps=2, generator=torch.Generator().manual_seed(0))
    >>> flow.sample(torch.zeros(5, 3), (4,)).shape
    torch.Size([4, 5, 2])
    """
    return build_from(configure(name, config), event_shape, context_shape, x_map, context_map, generator)


def build_from(
    config: ModelConfig,
    event_shape: int | Sequence[int],
    context_shape: int | Sequence[int],
    x_map: Bijector | None = None,
    context_map: Bijector | None = None,
    generator: torch.Generator | None = None,
) -> ConditionalFlow:
    """As ``build``, from a config object; where it says ``embed``, with that network before the model."""
    event_shape, context_shape = _lengths(event_shape, "event_shape"), _lengths(context_shape, "context_shape")
    with initialisation(generator):
        if isinstance(config, Embeds) and config.embed is not None:
            net, features = embeddings.make(
                config.embed, context_shape, features=config.embed_features, image=config.context_image
            )
            # What the model sees is a vector, whatever the context is.
            flow = replace(config, context_image=None).build(
                event_shape, (features,), x_map=x_map, context_map=context_map
            )
            flow.attach(net, context_shape)
        else:
            flow = config.build(event_shape, context_shape, x_map=x_map, context_map=context_map)
    flow.recipe = {"model": MODELS.name_of(config), "config": configs.to_dict(config)}
    return flow


def _lengths(shape: int | Sequence[int], name: str) -> torch.Size:
    found = as_shape(shape)
    if not found or min(found) < 0:
        raise ValueError(f"{name} must be one length or several, and none below 0; got {shape}")
    return found
