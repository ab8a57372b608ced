"""Our flows and the libraries' own of the same architecture: the same layers, the same weights.

The libraries' objects are used as their documentation says: a zuko flow called with a context is a distribution,
nflows' ``Flow`` and normflows' ``ConditionalNormalizingFlow`` have ``log_prob`` and ``sample``. They are trained by an
eager loop: gradients, clip, AdamW, batches of a ``DataLoader``; or, so that the loader and the rest can be told
apart, of an index into tensors ("resident").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import flowzoo
from flowzoo import FitConfig, Splits
from flowzoo.data import configure
from flowzoo.flow import ConditionalFlow
from flowzoo.seeding import generator
from flowzoo.stepper import Stepper

CONTEXT = 4
WIDE = {"hidden_features": [1024, 1024]}  # a masked network must be as wide as the event, or it leaves features out


@dataclass(frozen=True)
class Model:
    """A flow of the zoo, the library that has it too, and its options where they are not the default ones.

    ``wide`` are those at 784 dimensions: one transform of a spline over them has more weights than five affine ones.
    """

    name: str
    library: str
    wide: dict[str, Any] = field(default_factory=dict)

    def options(self, dim: int) -> dict[str, Any]:
        """At this dimension."""
        return self.wide if dim > 128 else {}


MODELS = (
    Model("maf", "zuko", WIDE),
    Model("nsf", "zuko", {**WIDE, "num_steps": 1}),
    Model("sospf", "zuko", {**WIDE, "num_steps": 1}),
    Model("realnvp", "zuko", {"hidden_features": [256, 256]}),
    Model("nflows-nsf", "nflows"),
    Model("normflows-nsf", "normflows"),
)


def gaussian(dim: int, events: int, device: torch.device, context: int = CONTEXT) -> Splits:
    """So many training events of the linear Gaussian."""
    data = configure("linear_gaussian", {"num_events": events + 20, "dim": dim, "context_dim": context}).load()
    part = torch.zeros(events + 20, dtype=torch.long)
    part[-20:-10], part[-10:] = 1, 2
    return Splits.make(replace(data, given_split=part), device=device)


def ours(name: str, splits: Splits, options: dict[str, Any], seed: int = 0) -> ConditionalFlow:
    """A flow of the zoo for these data, at the weights from which training begins."""
    x_map, context_map = splits.maps()
    shapes, source = (splits.data.event_shape, splits.data.context_shape), generator(seed, "init")
    flow = flowzoo.build(name, *shapes, x_map=x_map, context_map=context_map, generator=source, **options)
    return flow.to(splits.train.x.device)


def shake(flow: ConditionalFlow, splits: Splits, steps: int) -> None:
    """Take some steps of training: an inverse of a flow that is still the identity costs nothing."""
    stepper = Stepper(flow, splits.train, FitConfig(batch_size=64), 0)
    for _ in range(steps):
        stepper.step()


class Peer(nn.Module):
    """A library's own flow: one method to score and one to draw, in network units."""

    def __init__(
        self, flow: nn.Module, score: Callable[[Tensor, Tensor], Tensor], draw: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.flow, self.score, self.draw = flow, score, draw


def peer(flow: ConditionalFlow) -> Peer:
    """The library's own flow with the layers and the weights of ours."""
    assert flow.recipe is not None
    name, options = flow.recipe["model"], flow.recipe["config"]
    features, context = flow.event_shape.numel(), flow.context_shape.numel()
    if name == "nflows-nsf":
        return _nflows(flow, features)
    if name == "normflows-nsf":
        return _normflows(flow, features)
    from zuko import flows

    classes: dict[str, Any] = {"maf": flows.MAF, "nsf": flows.NSF, "sospf": flows.SOSPF, "realnvp": flows.NICE}
    # zuko's NICE is affine by default; its activation is that of our default.
    renamed = {"num_steps": "transforms", "hidden_features": "hidden_features", "num_bins": "bins"}
    renamed |= {"degree": "degree", "polynomials": "polynomials"}
    made = classes[name](features, context, **{renamed[key]: options[key] for key in renamed if key in options})
    made.transform.transforms.load_state_dict(flow.transforms.state_dict())  # type: ignore[operator, union-attr]
    return zukos(made.to(next(flow.parameters()).device))


def zukos(flow: Any) -> Peer:
    """A flow of zuko."""
    return Peer(flow, lambda x, c: flow(c).log_prob(x), lambda c: flow(c).sample())


def _nflows(flow: Any, features: int) -> Peer:
    from nflows.distributions import StandardNormal
    from nflows.flows import Flow

    made = Flow(deepcopy(flow.transform), StandardNormal([features])).to(next(flow.parameters()).device)
    return Peer(made, made.log_prob, lambda c: made.sample(1, c).squeeze(1))


def _normflows(flow: Any, features: int) -> Peer:
    import normflows

    base = normflows.distributions.DiagGaussian(features, trainable=False)
    layers = list(deepcopy(flow.transform).layers)
    made = normflows.ConditionalNormalizingFlow(base, layers).to(next(flow.parameters()).device)
    return Peer(made, made.log_prob, lambda c: made.sample(len(c), c)[0])


def eager_step(
    each: Peer, batches: Iterator[tuple[Tensor, Tensor]], optimizer: Callable[..., Any] = torch.optim.AdamW
) -> Callable[[], None]:
    """One step of the loop that everybody writes."""
    parameters = [p for p in each.flow.parameters() if p.requires_grad]
    chosen = optimizer(parameters, lr=1e-5)  # so small that the weights stay where they are

    def step() -> None:
        x, c = next(batches)
        loss = -each.score(x, c).mean()
        chosen.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 5.0)
        chosen.step()

    return step


def loaded(x: Tensor, c: Tensor, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of a ``DataLoader``, epoch after epoch, moved to the device of the data."""
    device = x.device
    loader = DataLoader(TensorDataset(x.cpu(), c.cpu()), batch_size=batch, shuffle=True, drop_last=True)
    while True:
        for events, contexts in loader:
            yield events.to(device), contexts.to(device)


def resident(x: Tensor, c: Tensor, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of an index, on the device of the data."""
    while True:
        for rows in torch.randperm(len(x), device=x.device).split(batch):
            if len(rows) == batch:
                yield x[rows], c[rows]
