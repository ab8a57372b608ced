"""One optimiser step after another on resident data; nothing in a step waits for the host."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from flowzoo import distributed
from flowzoo.data import Split
from flowzoo.descent import Descent
from flowzoo.distributed import DistributedError
from flowzoo.engine import choose
from flowzoo.flow import ConditionalFlow
from flowzoo.seeding import generator
from flowzoo.train_config import FitConfig


class Stepper:
    """Takes steps of a flow on batches by index, with its own order of the events and its own noise.

    An epoch is a permutation of the training events cut into batches of equal size; the remainder waits for another
    epoch. Of a balanced split an event is a random one of a random group: a weight on the loss would leave the small
    groups to a few heavy events.

    Of several processes (``flowzoo.distributed``) each draws the whole batch with its noise and takes its own part of
    it, so that together they take the steps that one process would, up to rounding.

    Args:
        flow: on the device of the split.
        split: training data.
        config: how to train.
        seed: of the order and of the noise.

    Raises:
        DistributedError: if a batch cannot be cut into equal parts for the processes.
        EngineError: if the config asks for an engine that this flow or this machine cannot have.
    """

    def __init__(self, flow: ConditionalFlow, split: Split, config: FitConfig, seed: int) -> None:
        self.flow, self.split = flow, split
        self.device = split.x.device
        self.descent = Descent([p for p in flow.parameters() if p.requires_grad], config)
        self.context_noise, self.context_dropout = config.noise_levels[0], config.context_dropout
        self.order = generator(seed, "order", device=self.device)
        self.noise = generator(seed, "noise", device=self.device)
        self.batch_size = min(config.batch_size, len(split))
        self.batches = len(split) // self.batch_size
        processes = distributed.world().size
        if self.batch_size % processes:
            raise DistributedError(
                f"train.batch_size must be a multiple of the number of processes, {processes}, and no larger than the "
                f"{len(split)} training events; it is {config.batch_size}"
            )
        self.own = distributed.share_of(self.batch_size)
        self.engine = choose(config.engine, flow, self.descent, self.batch_size)
        self.count = 0  # of steps taken, on the host
        self.epoch_start = self.order.get_state()
        self.permutation: Tensor | None = None
        self.shared = self._shared_contexts()
        self.rows_of_group = _RowsOfGroup(split.groups) if split.balanced else None

    def step(self) -> None:
        """Take one step."""
        self.engine(*self.take())
        self.count += 1

    def take(self) -> tuple[Tensor, ...]:
        """The arguments of the flow for the next step: events and contexts, and the index of these if it has one."""
        rows = self._next_index()
        if self.shared is None:
            x, context = self.split.batch(rows, self.noise)
            return x[self.own], self._blurred(context)[self.own]
        x = self.split.events(rows, self.noise)
        return x[self.own], self._blurred(self.shared.contexts), self.shared.index[rows][self.own]

    def tensors(self) -> dict[str, Tensor]:
        """Everything that the next steps depend on, the flow's weights apart."""
        return {
            "epoch_start": self.epoch_start,
            "order": self.order.get_state(),
            "noise": self.noise.get_state(),
            **self.descent.tensors(),
        }

    def restore(self, held: dict[str, Tensor]) -> None:
        """Take up what ``tensors`` gave."""
        self.descent.restore(held)
        self.count = int(held["count"])
        self.noise.set_state(held["noise"])
        self.epoch_start = held["epoch_start"]
        self.order.set_state(held["order"])
        # The permutation is not stored (35 million rows would be 280 MB): it is drawn again from its own state.
        if self.count % self.batches and self.rows_of_group is None:
            self.order.set_state(self.epoch_start)
            self.permutation = torch.randperm(len(self.split), generator=self.order, device=self.device)

    def _shared_contexts(self) -> _SharedContexts | None:
        """Where networks of the context shall see each context once a step, not once for every event that has it."""
        if self.split.theta_is_event and self.split.symmetries:  # each event has a context of its own each time
            return None
        if self.flow.context_net is None and not (self.flow.shares_contexts and self._leaves_contexts):
            return None
        shared = _SharedContexts(self.split)
        return shared if len(shared.contexts) <= self.batch_size else None

    @property
    def _leaves_contexts(self) -> bool:
        """Whether contexts are what the data say. Noise is each event's own, where no embedding network is too dear."""
        return not (self.context_noise or self.context_dropout) or not prod(self.flow.context_shape)

    def _blurred(self, context: Tensor) -> Tensor:
        """Contexts with noise, and some without what they say: 0 in network units, the mean where they are scaled."""
        if self._leaves_contexts:
            return context
        with torch.no_grad():
            c = self.flow.context_map.to_latent(context)[0]
            if self.context_noise:
                c = c + self.context_noise * torch.randn(c.shape, generator=self.noise, device=c.device, dtype=c.dtype)
            if self.context_dropout:
                kept = torch.rand(len(c), generator=self.noise, device=c.device) >= self.context_dropout
                c = c * kept.reshape(-1, *(1 for _ in self.flow.context_shape))
            return self.flow.context_map.to_data(c)[0]

    def _next_index(self) -> Tensor:
        if self.rows_of_group is not None:
            return self.rows_of_group.draw(self.batch_size, self.order)
        position = self.count % self.batches
        if position == 0 or self.permutation is None:
            self.epoch_start = self.order.get_state()
            self.permutation = torch.randperm(len(self.split), generator=self.order, device=self.device)
        return self.permutation[position * self.batch_size : (position + 1) * self.batch_size]


class _SharedContexts:
    """The contexts of a split, each once, and which of them each event has."""

    def __init__(self, split: Split) -> None:
        found, self.index = torch.unique(split.context_index, return_inverse=True)
        self.contexts = split.contexts[found]


class _RowsOfGroup:
    """Draws events such that every group comes equally often."""

    def __init__(self, groups: Tensor) -> None:
        _, index, self.counts = torch.unique(groups, return_inverse=True, return_counts=True)
        self.rows = torch.argsort(index, stable=True)
        self.starts = self.counts.cumsum(0) - self.counts

    def draw(self, size: int, source: torch.Generator) -> Tensor:
        """``(size,)`` rows: of a group drawn at random, one drawn at random."""
        device = self.counts.device
        group = torch.randint(len(self.counts), (size,), generator=source, device=device)
        # In float64: float32 does not reach every row of a large group, and can round up to one past the last.
        along = torch.rand(size, generator=source, device=device, dtype=torch.float64) * self.counts[group]
        return self.rows[self.starts[group] + along.long()]
