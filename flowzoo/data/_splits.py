"""``Splits``: train, validation and test, frozen by group and seed, hashed, on the device once."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any

import torch
from torch import Tensor

from flowzoo.bijectors import Bijector, Compose, Logit, Standardize, VectorAndImage
from flowzoo.data._assignment import assign, own_fold
from flowzoo.data._augment import augment
from flowzoo.data._checks import check
from flowzoo.data._column_maps import DefaultScale
from flowzoo.data._context import default_context_map
from flowzoo.data._data import Data, Levels
from flowzoo.seeding import generator as make_generator

FRACTIONS = (0.7, 0.1, 0.2)


@dataclass(frozen=True)
class Split:
    """One part of the data, resident on one device. Contexts are stored once and looked up by index.

    ``symmetries`` move the observation: the events, or where these are theta (``theta_is_event``) their contexts.
    """

    x: Tensor
    contexts: Tensor
    context_index: Tensor
    groups: Tensor
    levels: Levels | None
    symmetries: Sequence[str]
    noise_seed: int
    balanced: bool = False
    theta_is_event: bool = False

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, index: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Events and contexts of a training batch, freshly dequantised and augmented; never waits for the host.

        Args:
            index: ``(n,)`` positions in this split, on its device.
            generator: on its device too.
        """
        x, context = self.events(index, generator), self.contexts[self.context_index[index]]
        if self.symmetries and self.theta_is_event:
            context = augment(context, self.symmetries, generator)
        return x, context

    def events(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """As ``batch``, the events alone."""
        x = self.x[index]
        if self.levels is not None:
            noise = torch.rand(x.shape, generator=generator, device=x.device)
            x = x + self.levels.step * noise
        if self.symmetries and not self.theta_is_event:
            x = augment(x, self.symmetries, generator)
        return x

    @cached_property
    def fixed(self) -> Tensor:
        """All events with one fixed draw of dequantisation noise, for evaluation."""
        if self.levels is None:
            return self.x
        source = make_generator(self.noise_seed, "dequantise")
        return self.x + self.levels.step * torch.rand(self.x.shape, generator=source).to(self.x.device)

    @cached_property
    def weights(self) -> Tensor | None:
        """``(n,)`` of mean 1: what an event counts where every group counts the same; None where every event does."""
        if not self.balanced:
            return None
        _, index, counts = torch.unique(self.groups, return_inverse=True, return_counts=True)
        return (len(self) / len(counts) / counts.double())[index]

    @property
    def context(self) -> Tensor:
        """The context of every event, ``(n, *context)``."""
        return self.contexts[self.context_index]


@dataclass(frozen=True)
class Splits:
    """The three parts of a dataset and the maps fitted on the first.

    ``hash`` is the SHA-256 of the data, of what it declares (levels, symmetries, maps, side, periodic axes, the
    image in a context) and of which event went where: two results are comparable if it is equal.
    """

    train: Split
    validation: Split
    test: Split
    data: Data
    hash: str
    seed: int

    @classmethod
    def make(
        cls,
        data: Data,
        *,
        seed: int = 0,
        fractions: tuple[float, float, float] = FRACTIONS,
        device: torch.device | str = "cpu",
        fold: tuple[int, int] | None = None,
        checked: bool = False,
    ) -> Splits:
        """Check the data, split it by group, move it to the device.

        Args:
            data: what a dataset's ``load`` returns.
            seed: of the permutation of the groups; the same seed gives the same split on every machine.
            fractions: of the groups that go to train, validation and test.
            device: where the tensors will live.
            fold: (k, K): the k-th of K equal parts of the permuted groups is the test part, so that over k = 0 .. K - 1
                every group is tested once; of the fractions, the first two say how the others are shared.
            checked: whether the data were checked before, for another fold.

        Raises:
            ValueError: if the data has no density (see ``flowzoo.data``), or too few groups; for folds of data that has
                an official split, or other folds of its own.
        """
        if not checked:
            check(data)
        if data.leak and data.leak not in data.notes:
            data = replace(data, notes=(*data.notes, data.leak))
        if data.folds:
            data, fold = own_fold(data, fold), None
        elif fold is not None and data.given_split is not None:
            table = " (a table of data.latents without folds gives one)" if "latent_0" in data.context_names else ""
            raise ValueError(f"the data has an official split{table}, and so no folds; leave them out: --folds 0")
        part = assign(data, seed, fractions, fold)
        digest = hashlib.sha256()
        for tensor in (data.x, data.context, data.context_index, data.groups, part):
            assert tensor is not None
            digest.update(str((tensor.dtype, tuple(tensor.shape))).encode())
            digest.update(tensor.contiguous().flatten().numpy().data)
        digest.update(repr(_declared(data)).encode())
        # One tensor of contexts serves all three parts.
        contexts = data.context.float().to(device)  # type: ignore[union-attr]
        splits = []
        for k in range(3):
            rows = (part == k).nonzero().flatten()
            chosen = data.select(rows)
            assert chosen.context_index is not None
            assert chosen.groups is not None
            splits.append(
                Split(
                    x=_resident(chosen.x).to(device),
                    contexts=contexts,
                    context_index=chosen.context_index.to(device),
                    groups=chosen.groups.to(device),
                    levels=data.levels,
                    symmetries=tuple(data.augment) if k == 0 else (),
                    noise_seed=seed * 3 + k,
                    balanced=data.balanced,
                    theta_is_event=data.theta == "event",
                )
            )
        train, validation, test = splits
        return cls(train, validation, test, data=data, hash=digest.hexdigest()[:16], seed=seed)

    def without_context(self) -> Splits:
        """The same events, split the same way, with a context of no columns."""
        bare = replace(
            self.data,
            context=None,
            context_index=None,
            context_names=(),
            context_units=(),
            context_map=None,
            context_image=None,
            prior=None,  # there is no theta left, or nothing that tells of it
            reference_posteriors=None,
        )
        train, validation, test = (
            replace(
                part,
                contexts=part.contexts.new_zeros(1, 0),
                context_index=torch.zeros_like(part.context_index),
                symmetries=() if part.theta_is_event else part.symmetries,
            )
            for part in (self.train, self.validation, self.test)
        )
        return Splits(train, validation, test, data=bare, hash=f"{self.hash} without context", seed=self.seed)

    def maps(self) -> tuple[Bijector, Bijector]:
        """Fresh ``(x_map, context_map)``, fitted on the training split alone."""
        data, train = self.data, self.train
        x_map = copy.deepcopy(data.x_map) if data.x_map is not None else _default_map(data)
        # Each context row counts once, however many events share it.
        contexts = train.contexts[torch.bincount(train.context_index, minlength=len(train.contexts)) > 0]
        context_map = copy.deepcopy(data.context_map)
        if context_map is None:
            context_map = _default_context_map(data, contexts)
        else:
            context_map = _with_scale(context_map, contexts)
        device = train.x.device
        x_map, context_map = x_map.to(device), context_map.to(device)
        x_map.fit(train.fixed, data.names)
        context_map.fit(contexts, data.context_names)
        return x_map, context_map


def _declared(data: Data) -> list[Any]:
    """What the data says of itself that a result depends on, beside its numbers."""
    maps = [None if m is None else (m.describe(), _constants(m)) for m in (data.x_map, data.context_map)]
    declared: list[Any] = [data.levels, tuple(data.augment), *maps]
    # What is not declared leaves no trace: hashes are older than these.
    if data.periodic:
        declared.append(("periodic", tuple(int(axis) for axis in data.periodic)))
    if data.side is not None:
        declared.append(("side", float(data.side[0]), str(data.side[1])))
    if data.balanced:
        declared.append("balanced")
    if data.context_image is not None:
        declared.append(("context_image", tuple(int(size) for size in data.context_image)))
    return declared


def _constants(bijector: Bijector) -> list[tuple[str, list[Any]]]:
    return [(name, value.flatten().tolist()) for name, value in bijector.state_dict().items()]


def _resident(x: Tensor) -> Tensor:
    """As float32, but integers of one or two bytes as they are: dequantisation makes floats of each batch of them."""
    return x if not x.is_floating_point() and x.element_size() < 4 else x.float()


def _default_map(data: Data) -> Bijector:
    if data.levels is None:
        return Standardize(data.event_shape)
    low, step, count = data.levels
    return Compose(Logit(low, low + step * count), Standardize(data.event_shape))


def _default_context_map(data: Data, contexts: Tensor) -> Bijector:
    """For the different contexts of the training split."""
    if data.context_image is None:
        return default_context_map(data.context_shape, len(contexts))
    # The vector as if it stood alone, however many images each has; of the image one scale for each channel.
    width = data.context_shape[0] - prod(data.context_image)
    rows = len(torch.unique(contexts[:, :width], dim=0)) if width else 0
    vector = default_context_map((width,), rows)
    return VectorAndImage(data.context_image, vector, Standardize(data.context_image))


def _with_scale(context_map: Bijector, contexts: Tensor) -> Bijector:
    """The map, with the default scale for these training contexts where it leaves that open."""
    if isinstance(context_map, VectorAndImage):
        vectors = contexts[:, : contexts.shape[1] - prod(context_map.image)]
        if vectors.shape[1]:  # else images are all that there is, and rows without columns have no order
            context_map.vector = _with_scale(context_map.vector, torch.unique(vectors, dim=0))
    elif isinstance(context_map, Compose):
        *others, last = context_map.maps
        return Compose(*others, _with_scale(last, contexts))  # type: ignore[arg-type]
    elif isinstance(context_map, DefaultScale):
        return default_context_map(context_map.shape, len(contexts))
    return context_map
