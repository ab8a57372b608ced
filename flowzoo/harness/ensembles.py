"""Many real and many drawn images at the same held-out contexts: what field statistics are taken over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from flowzoo.data import Splits
from flowzoo.flow import ConditionalFlow
from flowzoo.metrics import MIN_SIDE, Ensembles
from flowzoo.seeding import generator

MAX_ELEMENTS = 2**28  # numbers in an ensemble, 1 GiB in float32: of larger images fewer are drawn
LEAST = 4  # test events at a context from which there are two halves worth comparing
EXAMPLES = (4, 4)  # contexts, and images at each, that are kept for a picture


@dataclass(frozen=True)
class RealEnsembles:
    """Real events at held-out contexts, or one for each of many contexts.

    Args:
        context: ``(K, *context)``; of each event where ``paired``, ``(M, *context)``.
        real: ``(K, M, *event)``; K is 1 where ``paired``.
        note: where they are from.
        paired: each event has a context of its own, as a map given a map has: all are one population.
    """

    context: Tensor
    real: Tensor
    note: str
    paired: bool = False


def real_ensembles(splits: Splits, contexts: int, count: int) -> RealEnsembles | str:
    """Test events by context, or fresh events at test contexts where the dataset can simulate.

    Args:
        splits: whose test part is looked at.
        contexts: K at most; a seeded choice, the same for every model.
        count: M at most.

    Returns:
        The ensembles, or the reason why there are none.
    """
    data, test = splits.data, splits.test
    shape = data.event_shape
    if len(shape) != 3:
        return "field statistics are of images (C, H, W)"
    if min(shape[1:]) < MIN_SIDE:
        return f"{shape[1]} x {shape[2]} pixels are too few for field statistics, which take {MIN_SIDE} a side"
    count = min(count, max(2, MAX_ELEMENTS // (contexts * shape.numel())))
    rows, of_event, counts = torch.unique(test.context_index, return_inverse=True, return_counts=True)
    order = torch.randperm(len(rows), generator=generator(splits.seed, "ensembles")).to(rows.device)
    if data.simulate is not None:
        chosen = order[:contexts]
        context = test.contexts[rows[chosen]]
        source = generator(splits.seed, "ensembles", "simulate", device=context.device)
        # Context by context, so that the memory is that of one.
        fresh = [data.simulate(c.expand(count, *c.shape), source) for c in context]
        return RealEnsembles(context, torch.stack(fresh), f"{count} fresh simulations at {len(chosen)} test contexts")
    enough = order[counts[order] >= LEAST]
    if len(enough) == 0:
        if len(rows) < LEAST:
            return f"no test context has {LEAST} events, and there are {len(rows)} contexts"
        some = torch.sort(order[:count])[0]
        first = torch.stack([test.fixed[of_event == row][0] for row in some])
        note = f"{len(some)} test events, each with a context of its own, as one population"
        return RealEnsembles(test.contexts[rows[some]], first[None], note, paired=True)
    # All have as many as the one that has fewest: a rare class does not decide for the others.
    chosen = enough[counts[enough] >= counts[enough].median() / 2][:contexts]
    count = min(count, int(counts[chosen].min()))
    real = torch.stack([test.fixed[of_event == row][:count] for row in chosen])
    return RealEnsembles(test.contexts[rows[chosen]], real, f"{count} test events at each of {len(chosen)} contexts")


@torch.no_grad()
def drawn_ensembles(flow: ConditionalFlow, known: RealEnsembles, count: int, seed: int) -> Ensembles:
    """As many draws as asked for at each context of the real ones, one where each real one has its own."""
    source = generator(seed, "ensembles")
    if known.paired:
        everywhere = torch.full_like(known.context[:1], torch.inf)  # a population is at no one context
        return Ensembles(everywhere, known.real, flow.sample(known.context, generator=source)[None])
    count = min(count, max(2, MAX_ELEMENTS // known.real[:, 0].numel()))
    drawn = flow.sample(known.context, (count,), generator=source)
    return Ensembles(known.context, known.real, drawn.transpose(0, 1).contiguous())


def examples(ensembles: Ensembles, known: RealEnsembles, image: Sequence[int] | None = None) -> dict[str, Tensor]:
    """A few of both, for a picture; and what was given where that is an image, or its last numbers are one."""
    contexts, each = EXAMPLES
    real, drawn, context = ensembles.real, ensembles.drawn, known.context[:contexts].cpu()
    if known.paired:
        real, drawn = real.transpose(0, 1), drawn.transpose(0, 1)
    kept = {"examples.real": real[:contexts, :each].cpu(), "examples.drawn": drawn[:contexts, :each].cpu()}
    if context.ndim == 4:
        context, kept["examples.given"] = context.new_zeros(len(context), 0), context
    elif image is not None:
        context, pixels = context.split([context.shape[1] - prod(image), prod(image)], 1)
        kept["examples.given"] = pixels.unflatten(1, tuple(image))
    return kept | {"examples.context": context.contiguous()}
