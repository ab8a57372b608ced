"""``ConditionalFlow``: a density q(x | context) in the units of the data.

A model implements two maps on flat batches in network units, ``_to_latent`` and ``_to_data`` (and, if it has one,
a learned ``_base`` and a data-dependent ``_initialize``). Everything that a user calls is built here, once: shape
checks, broadcasting, chunking, the maps between data units and network units, the generator.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Any, ClassVar

import torch
from torch import Size, Tensor, nn

from flowzoo.arguments import as_index, as_shape, batch_of, common_batch, in_floats
from flowzoo.base import DiagonalNormal
from flowzoo.bijectors import Bijector, Identity
from flowzoo.chunks import Parts, by_context, in_chunks

MAX_ROWS = 2**14  # per chunk: a network's activations are wider than a small event


class ConditionalFlow(nn.Module):
    r"""A conditional normalizing flow.

    .. math:: \log q(x \mid c) = \log p_z\bigl(f(m(x); c)\bigr)
              + \log\lvert\det \partial f/\partial m\rvert + \log\lvert\det \partial m/\partial x\rvert

    with f the model, m the fixed map ``x_map`` and :math:`p_z` the base (Papamakarios et al. 2021, section 2). The
    model is given c after the fixed map ``context_map`` and, if one is attached, an embedding network trained with it.

    Args:
        event_shape: what the density is over, such as ``(10,)`` or ``(1, 64, 64)``.
        context_shape: what it is conditioned on; ``(0,)`` is unconditional, and then ``context=None`` is allowed.
        x_map: fixed map between data units and network units; the identity by default.
        context_map: the same for the context (its Jacobian plays no part in the density).
    """

    #: how many training events ``initialize`` is shown; None: all of them
    init_events: ClassVar[int | None] = 4096
    #: network passes that must follow one another to draw an event
    sequential_passes: int = 1
    #: whether the model takes ``flowzoo.nets.Shared`` contexts too, which it gets where events share them
    shares_contexts: ClassVar[bool] = False
    #: numbers per chunk when no gradient is wanted: bounds the memory of sampling and scoring
    chunk_elements: int = 2**19

    def __init__(
        self,
        event_shape: Sequence[int],
        context_shape: Sequence[int] = (0,),
        *,
        x_map: Bijector | None = None,
        context_map: Bijector | None = None,
    ) -> None:
        super().__init__()
        self.event_shape = Size(event_shape)
        self.context_shape = Size(context_shape)
        if len(self.event_shape) == 0 or prod(self.event_shape) == 0:
            raise ValueError(f"event_shape must have at least one dimension; got {tuple(event_shape)}")
        if len(self.context_shape) == 0:
            raise ValueError("context_shape must have at least one dimension; got (): (0,) is for no context")
        self.x_map = x_map if x_map is not None else Identity()
        self.context_map = context_map if context_map is not None else Identity()
        self.context_net: nn.Module | None = None
        # Set by `flowzoo.build`, so that a checkpoint can build the same flow again.
        self.recipe: dict[str, Any] | None = None

    def attach(self, context_net: nn.Module, context_shape: Sequence[int]) -> None:
        """Put an embedding network between the map of the context and the model.

        The model was built for the features that the network returns, and does not know. From here on
        ``context_shape`` is that of the data. The flow cannot be saved, as nothing knows how to build the network
        again: the option ``embed`` of a model is for that.

        Args:
            context_net: ``(N, *context)`` in network units to ``(N, F)``, the contexts that the model was built for.
            context_shape: of the data.
        """
        self.context_net, self.context_shape, self.recipe = context_net, Size(context_shape), None

    # -- what a model implements, on (N, *event) and (N, *context) in network units ------------------------------

    def _to_latent(self, u: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """Network units to latent: ``(N, *event)`` and the log|det| ``(N,)``."""
        raise NotImplementedError

    def _to_data(self, z: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """Latent to network units: ``(N, *event)`` and the log|det| ``(N,)`` of this direction."""
        raise NotImplementedError

    def _base(self, c: Tensor) -> DiagonalNormal:
        """The base given the context, in network units."""
        return DiagonalNormal()

    def _initialize(self, u: Tensor, c: Tensor) -> None:
        """Data-dependent initialisation; nothing by default."""

    def regularization(self) -> Tensor | None:
        """What is added to the training loss beside the mean NLL (never to ``log_prob``); None by default."""
        return None

    def prepare(self, x: Tensor, context: Tensor | None = None) -> None:
        """What a flow measures to keep its next steps right; nothing by default.

        The training calls it now and then, outside a step, with as many training events as a step takes, in data
        units. What it sets must follow from the weights and these events alone, so that a resumed training goes on as
        it would have.
        """

    def prepares(self, batch: int) -> bool:
        """Whether steps of so many events depend on what ``prepare`` measured."""
        return type(self).prepare is not ConditionalFlow.prepare

    # -- what a user calls ----------------------------------------------------------------------------------------

    def forward(self, x: Tensor, context: Tensor | None = None, index: Tensor | None = None) -> Tensor:
        """The log-density; the training path, so that hooks, DDP and ``torch.compile`` see it. See ``log_prob``."""
        x, c, index, batch = self._match(x, context, "x", self.event_shape, index)

        def score(x: Tensor, c: Any) -> tuple[Tensor]:
            z, log_det = self._encode(x, c, scored=True)
            return (self._base(c).log_prob(z) + log_det,)

        return self._each(score, x, c, index)[0].reshape(batch)

    def log_prob(self, x: Tensor, context: Tensor | None = None, index: Tensor | None = None) -> Tensor:
        """log q(x | context) in nats per event, in data units.

        Args:
            x: ``(*B, *event)``; batch shapes broadcast against the context's.
            context: ``(*B, *context)``, or None for an unconditional flow.
            index: ``(*B,)``, where events share contexts: then ``context`` is ``(G, *context)``, event i has row
                ``index[i]`` of it, and networks of the context alone see each row once.

        Returns:
            ``(*B,)``; minus infinity where ``x_map`` takes no such value (a logarithm of 0). A non-finite event gives a
            non-finite score, and spoils no other.

        Raises:
            ValueError: if a shape does not end as the flow was built, if batch shapes do not broadcast, or for an index
                that is none into the contexts.
        """
        return self(x, context, as_index(index, context, self.context_shape))

    def to_latent(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Data to latent, with the log|det| of that map, x_map included; shapes as in ``log_prob``."""
        x, c, index, batch = self._match(x, context, "x", self.event_shape)
        z, log_det = self._each(self._encode, x, c, index)
        return z.reshape(batch + self.event_shape), log_det.reshape(batch)

    def to_data(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Latent to data, with the log|det| of that map, x_map included; the inverse of ``to_latent``."""
        z, c, index, batch = self._match(z, context, "z", self.event_shape)
        x, log_det = self._each(self._decode, z, c, index)
        return x.reshape(batch + self.event_shape), log_det.reshape(batch)

    def sample(
        self,
        context: Tensor | None = None,
        shape: int | Sequence[int] = (),
        *,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw events, without gradient.

        Args:
            context: ``(*B, *context)``; None for an unconditional flow (then ``B`` is empty).
            shape: how many draws per context, a number or several.
            temperature: factor on the standard deviation of the base; 1 samples the density itself.
            generator: source of the noise, on any device; its draws do not depend on the chunking.

        Returns:
            ``(*shape, *B, *event)`` in data units. Where a flow has no inverse for a base draw the event is NaN and
            a warning counts them: nothing is clipped or drawn again in silence.

        Raises:
            ValueError: for a context of another shape, or a temperature below 0.
        """
        if not 0 <= temperature < math.inf:
            raise ValueError(f"temperature must be a number >= 0; got {temperature}")
        with torch.no_grad():
            return self._draw(context, shape, generator, temperature)[0]

    def rsample(
        self,
        context: Tensor | None = None,
        shape: int | Sequence[int] = (),
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """As ``sample``, with the pathwise gradient (to the context and the parameters).

        Of an inverse that was solved for there are first derivatives, and an error for those of a higher order.
        """
        return self._draw(context, shape, generator, 1.0)[0]

    def sample_and_log_prob(
        self,
        context: Tensor | None = None,
        shape: int | Sequence[int] = (),
        *,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Draws ``(*shape, *B, *event)`` and their log q ``(*shape, *B)`` in one pass, with pathwise gradient."""
        return self._draw(context, shape, generator, 1.0)

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None, index: Tensor | None = None) -> None:
        """Data-dependent initialisation (actnorm, closed-form baselines), once, before the first step.

        Args:
            x: ``(N, *event)`` training events in data units.
            context: ``(N, *context)``.
            index: as in ``log_prob``.
        """
        index = as_index(index, context, self.context_shape)
        x, c, index, _ = self._match(x, context, "x", self.event_shape, index)
        self._initialize(self.x_map.to_latent(x)[0], c if index is None else c[index])

    # -- built once -----------------------------------------------------------------------------------------------

    def _given(self, context: Tensor) -> Tensor:
        """Contexts ``(G, *context)`` through the fixed map and the embedding network."""
        if self.context_net is None:
            return self.context_map.to_latent(context)[0]

        def embed(part: Tensor) -> tuple[Tensor]:
            return (self.context_net(self.context_map.to_latent(part)[0]),)  # type: ignore[misc]

        return self._chunked(embed, context)[0]

    def _encode(self, x: Tensor, c: Any, *, scored: bool = False) -> tuple[Tensor, Tensor]:
        u, log_slope = self.x_map.to_latent(x)
        if scored and self.x_map.partial:
            # The density is 0 where the map has no value. The model is asked of a place where it has one.
            outside = ~(torch.isfinite(u) | torch.isnan(x))
            u, log_slope = u.masked_fill(outside, 0.0), log_slope.masked_fill(outside, -math.inf)
        z, log_det = self._to_latent(u, c)
        return z, log_det + log_slope.flatten(1).sum(1)

    def _decode(self, z: Tensor, c: Any) -> tuple[Tensor, Tensor]:
        u, log_det = self._to_data(z, c)
        x, log_slope = self.x_map.to_data(u)
        return x, log_det + log_slope.flatten(1).sum(1)

    def _draw(
        self,
        context: Tensor | None,
        shape: int | Sequence[int],
        generator: torch.Generator | None,
        temperature: float,
    ) -> tuple[Tensor, Tensor]:
        like = next(self._tensors(), torch.empty(0))
        if context is None and prod(self.context_shape) == 0:
            context = like.new_zeros(self.context_shape)
        batch = as_shape(shape) + batch_of(context, "context", self.context_shape)
        source = generator.device if generator is not None else like.device
        noise = torch.randn(*batch, *self.event_shape, generator=generator, device=source, dtype=like.dtype)
        noise, c, index, batch = self._match(noise.to(like.device), context, "noise", self.event_shape)

        def draw(noise: Tensor, c: Any) -> tuple[Tensor, Tensor]:
            base = self._base(c)
            z = base.from_noise(noise * temperature)
            x, log_det = self._decode(z, c)
            return x, base.log_prob(z) - log_det

        x, log_prob = self._each(draw, noise, c, index)
        if x.device.type != "meta":
            lost = int((~torch.isfinite(x)).flatten(1).any(1).sum())
            if lost:
                warnings.warn(
                    f"{lost} of {len(x)} draws have no finite preimage and are NaN: the flow's inverse failed there",
                    stacklevel=3,
                )
        return x.reshape(batch + self.event_shape), log_prob.reshape(batch)

    def _match(
        self, x: Tensor, context: Tensor | None, name: str, event_shape: Size, index: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None, Size]:
        """Check and flatten: ``(N, *event)``, what the model is given of contexts, their index, and the batch shape.

        The index is None where each event has a context of its own. Elsewhere contexts are not repeated: a million
        draws for one image cost one pass of an embedding network, and no million images.
        """
        batch = batch_of(x, name, event_shape)
        in_floats(x, name)
        if context is None and prod(self.context_shape) == 0:
            context = x.new_zeros(batch + self.context_shape)
        context_batch = batch_of(context, "context", self.context_shape)
        assert context is not None
        dtype = next(self._tensors(), x).dtype
        rows = context.to(dtype).reshape(prod(context_batch), *self.context_shape)
        shape = context_batch if index is None else index.shape
        if batch != shape:
            if index is None:
                index = torch.arange(len(rows), device=x.device).reshape(shape)
            batch = common_batch(name, batch, shape)
            x, index = x.expand(batch + event_shape), index.expand(batch)
        count = prod(batch)
        x, index = x.to(dtype).reshape(count, *event_shape), index if index is None else index.reshape(count)
        if index is not None and (len(rows) > count or not count):  # of a table of contexts, those that are asked for
            rows, index = rows[index], None
        return x, self._given(rows), index, batch

    def _each(self, function: Callable[[Tensor, Any], Parts], x: Tensor, c: Tensor, index: Tensor | None) -> Parts:
        """The function of events and of what the model is given for each."""
        if index is None:
            return self._chunked(function, x, c)
        if self.shares_contexts:
            return by_context(function, self._chunk(x), x, c, index)
        return self._chunked(lambda x, index: function(x, c[index]), x, index)

    def _chunked(self, function: Callable[..., Parts], *flat: Tensor) -> Parts:
        return in_chunks(function, self._chunk(flat[0]), *flat)

    def _chunk(self, x: Tensor) -> int:
        """How many events at a time, where no gradient is wanted."""
        return max(1, min(MAX_ROWS, self.chunk_elements // max(1, prod(x.shape[1:]))))

    def _tensors(self) -> Iterator[Tensor]:
        yield from self.parameters()
        yield from (b for b in self.buffers() if b.is_floating_point())
