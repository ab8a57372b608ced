"""What the checks of flows are run on: a model with small options, trained a little."""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flowzoo import config as configs
from flowzoo.bijectors import Standardize
from flowzoo.flow import ConditionalFlow
from flowzoo.models import build
from flowzoo.registry import MODELS
from flowzoo.seeding import generator

# The relative error that a float32 computation of some depth may show.
TOLERANCE = 1e-4
TRAINING_STEPS = 60


@dataclass(frozen=True)
class Case:
    """What a check is run on: a model with small options, and shapes that it takes.

    A config may set any of these but the name by a class attribute ``conformance``, a dict.

    Args:
        name: registered name of the model.
        options: of the model; small, so that the suite is quick.
        event: event shape of the checks in which it does not matter.
        context: context shape of the same.
        line: event shape of one dimension, or None if the model takes none.
        plane: event shape of two dimensions, or None.
        tolerance: relative error that counts as rounding.
        steps: of the training before the checks.
    """

    name: str
    options: tuple[tuple[str, Any], ...] = ()
    event: tuple[int, ...] = (3,)
    context: tuple[int, ...] = (2,)
    line: tuple[int, ...] | None = (1,)
    plane: tuple[int, ...] | None = (2,)
    tolerance: float = TOLERANCE
    steps: int = TRAINING_STEPS

    def build(self, event: tuple[int, ...] | None = None, context: tuple[int, ...] | None = None) -> ConditionalFlow:
        """A flow that has been trained a little, because at its neutral start a flow hides its faults."""
        shapes = event or self.event, self.context if context is None else context
        return copy.deepcopy(_trained(self.name, self.options, self.steps, *shapes))


@functools.cache
def _trained(
    name: str, options: tuple[tuple[str, Any], ...], steps: int, event: tuple[int, ...], context: tuple[int, ...]
) -> ConditionalFlow:
    source = generator(0, "conformance", name)
    flow = build(name, event, context, generator=source, **dict(options))
    x, c = inputs(flow, 2048, source)
    flow.initialize(x, c)
    parameters = [p for p in flow.parameters() if p.requires_grad]
    if parameters:
        optimizer = torch.optim.Adam(parameters, lr=3e-3)
        for i in range(steps):
            rows = slice(128 * (i % 16), 128 * (i % 16 + 1))
            optimizer.zero_grad()
            (-flow(x[rows], c[rows]).mean()).backward()
            torch.nn.utils.clip_grad_norm_(parameters, 5.0)
            optimizer.step()
    return flow.eval()


def inputs(flow: ConditionalFlow, count: int, source: torch.Generator) -> tuple[Tensor, Tensor]:
    """Contexts, and events that depend on them and on one another, with unit spread or so."""
    c = torch.randn(count, *flow.context_shape, generator=source)
    noise = torch.randn(count, flow.event_shape.numel(), generator=source)
    x = 0.7 * noise + 0.4 * torch.tanh(2 * noise.roll(1, 1))
    if flow.context_shape.numel():
        x = x + 0.4 * torch.sin(c.flatten(1).sum(1, keepdim=True))
    return x.reshape(count, *flow.event_shape), c


def case_of(name: str) -> Case:
    """The case of a registered model."""
    config = MODELS.get(name)
    small = {"num_steps": 2, "hidden_features": 32}
    options = {key: value for key, value in small.items() if key in configs.fields(config)}
    given = dict(getattr(config, "conformance", {}))
    options |= given.pop("options", {})
    return Case(name, tuple(sorted(options.items())), **given)


def standardize(shape: tuple[int, ...], mean: float, std: float) -> Standardize:
    """A map fitted to data of this mean and spread."""
    bijector = Standardize(shape)
    bijector.mean.fill_(mean)
    bijector.std.fill_(std)
    return bijector
