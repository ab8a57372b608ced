"""Small evaluations whose densities are known: of a flow that is the truth, and of one that is wrong in all it says."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Binomial, Normal

from flowzoo.metrics import Clouds, Ensembles, Evaluation, Posteriors, ReferenceDraws
from flowzoo.seeding import generator
from flowzoo.testing import _linear_gaussian as simulator

SIDE = 16  # pixels of the images, the fewest that field statistics take
MAPS = 40  # of each context, real and drawn
LEVELS = 16  # above the lowest, of the integers


class Density(NamedTuple):
    """What a flow can do, of events ``(n, *event)`` given ``(n, *context)``."""

    log_prob: Callable[[Tensor, Tensor], Tensor]
    draw: Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class World:
    """Contexts of events, the density that they have, and another one.

    Args:
        contexts: ``(G, *context)``.
        index: ``(N,)``, which of them each event has.
        groups: ``(N,)``.
        true: density of the events.
        wrong: one that is off in place, width and shape, and deaf to the context.
        given: further fields of an ``Evaluation``.
        by_group: whether each group has clouds of its own.
        maps: real and drawn events at each context; 0 for none.
    """

    contexts: Tensor
    index: Tensor
    groups: Tensor
    true: Density
    wrong: Density
    given: dict[str, Any] = field(default_factory=dict)
    by_group: bool = False
    maps: int = 0


def bare_evaluation(x: Tensor, seed: int = 0, **given: Any) -> Evaluation:
    """An evaluation of events that knows nothing of a flow but what is given.

    Args:
        x: ``(N, *event)``.
        seed: of its generator.
        given: other fields of the ``Evaluation``.
    """
    values = {
        "x": x,
        "contexts": torch.zeros(1, 1),
        "context_index": torch.zeros(len(x), dtype=torch.long),
        "groups": torch.arange(len(x)),
        "scale": torch.ones(1),
        "log_prob": None,
        "scores": torch.zeros(len(x)),
        "samples": None,
        "samples_missing": "",
        "true_scores": None,
        "step": None,
        "generator": generator(seed, "metrics"),
    }
    return Evaluation(**values | given)


@lru_cache(256)
def evaluation(world: str, seed: int = 0, *, right: bool = True) -> Evaluation:
    """The evaluation of the true density of a world by name, or of its wrong one, at events that are the same for both.

    It is shared: who changes it makes a copy.
    """
    made = WORLDS[world](seed, right)
    flow = made.true if right else made.wrong
    x = made.true.draw(made.contexts[made.index], generator(seed, world, "events"))

    def log_prob(x: Tensor, context: Tensor, index: Tensor | None = None) -> Tensor:
        return flow.log_prob(x, context if index is None else context[index])

    order = torch.randperm(len(x), generator=generator(seed, world, "draws"))
    over = (0,) if x.ndim == 2 else (0, *range(2, x.ndim))
    scale = x.std(over, keepdim=True)[0]
    values: dict[str, Any] = {
        "contexts": made.contexts,
        "context_index": made.index,
        "groups": made.groups,
        "scale": scale,
        "log_prob": log_prob,
        "scores": log_prob(x, made.contexts, made.index),
        "samples": flow.draw(made.contexts[made.index[order]], generator(seed, world, "samples")),
        "true_scores": made.true.log_prob(x, made.contexts[made.index]),
        "rows": order,
        "names": tuple(f"x{i + 1}" for i in range(x.shape[1])) if x.ndim == 2 else (),
        "clouds": _clouds(made, x, flow, scale, generator(seed, world, "clouds")),
        "ensembles_missing": "field statistics are of images (C, H, W)",
    }
    if made.maps:
        source, each = generator(seed, world, "ensembles"), made.contexts.repeat_interleave(made.maps, 0)
        sides = (density.draw(each, source).unflatten(0, (-1, made.maps)) for density in (made.true, flow))
        values["ensembles"] = Ensembles(made.contexts, *sides)
    return bare_evaluation(x, seed, **values | made.given)


def _clouds(made: World, x: Tensor, flow: Density, scale: Tensor, source: torch.Generator) -> Clouds:
    """One cloud of all events, of other groups in each half, or one of each group beside a population."""
    order = torch.randperm(len(x), generator=source)
    labels, of = torch.unique(made.groups, return_inverse=True)
    nothing = torch.zeros(0, dtype=torch.long)
    if made.by_group:
        size = int(torch.bincount(of).min()) // 2
        rows = torch.stack([order[of[order] == g][: 2 * size].reshape(2, size) for g in range(len(labels))])
    else:
        half = of[order] < len(labels) // 2
        size = min(int(half.sum()), int((~half).sum()))
        rows, labels = torch.stack([order[half][:size], order[~half][:size]])[None], nothing
    context = made.contexts[made.index[rows[:, 0, 0]]] if made.by_group else made.contexts[:0]
    population, width = torch.zeros(0, 0, x[0].numel()), made.contexts[:0]
    if made.by_group:
        width = torch.cat([made.contexts, made.contexts + 0.5])  # the groups, and as many that were not tested
        population = (made.true.draw(width.repeat_interleave(50, 0), source) / scale).flatten(1).unflatten(0, (-1, 50))
    drawn = flow.draw(made.contexts[made.index[rows.flatten()]], source)
    real, fake = ((part / scale).flatten(1).reshape(*rows.shape, -1) for part in (x[rows.flatten()], drawn))
    return Clouds(real, fake, labels, context, population, width)


# -- densities --------------------------------------------------------------------------------------------------------


def _normal(mean: Callable[[Tensor], Tensor], spread: Tensor) -> Density:
    """Independent columns."""

    def log_prob(x: Tensor, c: Tensor) -> Tensor:
        return Normal(mean(c.double()), spread).log_prob(x.double()).sum(1).to(x.dtype)

    def draw(c: Tensor, source: torch.Generator) -> Tensor:
        centre = mean(c.double())
        noise = torch.randn(centre.shape, generator=source, dtype=torch.float64)
        return (centre + spread * noise).to(c.dtype)

    return Density(log_prob, draw)


def _binomial(share: Callable[[Tensor], Tensor], columns: int) -> Density:
    """Counts with a uniform noise of one level."""

    def law(c: Tensor) -> Binomial:
        return Binomial(LEVELS, share(c.double()).expand(-1, columns))

    def log_prob(x: Tensor, c: Tensor) -> Tensor:
        return law(c).log_prob(x.floor().double()).sum(1).to(x.dtype)

    def draw(c: Tensor, source: torch.Generator) -> Tensor:
        trials = torch.rand(LEVELS, len(c), columns, generator=source, dtype=torch.float64) < law(c).probs
        return trials.sum(0).to(c.dtype) + torch.rand(len(c), columns, generator=source)

    return Density(log_prob, draw)


def _field(spectrum: Callable[[Tensor], Tensor], offset: float) -> Density:
    r"""x = exp(offset + g), g a periodic Gaussian field with :math:`\langle |v(k)|^2 \rangle = \lambda(k)`.

    .. math:: \log p(x) = -\frac12 \sum_k \bigl[|v(k)|^2 / \lambda(k) + \ln 2\pi\lambda(k)\bigr] - \sum \ln x

    over all modes v of the orthonormal transform.
    """

    def log_prob(x: Tensor, c: Tensor) -> Tensor:
        logs, power = x[:, 0].double().log(), spectrum(c.double())
        modes = torch.fft.fft2(logs - offset, norm="ortho").abs().square()
        each = -0.5 * (modes / power + (2 * math.pi * power).log()) - logs
        return each.sum((1, 2)).to(x.dtype)

    def draw(c: Tensor, source: torch.Generator) -> Tensor:
        white = torch.randn(len(c), SIDE, SIDE, generator=source, dtype=torch.float64)
        g = torch.fft.ifft2(torch.fft.fft2(white) * spectrum(c.double()).sqrt()).real
        return (offset + g).exp()[:, None].to(c.dtype)

    return Density(log_prob, draw)


# -- worlds -----------------------------------------------------------------------------------------------------------


def _simulated(seed: int, sizes: list[int], by_group: bool = False, **given: Any) -> World:
    """Observations of the linear Gaussian simulator, groups of so many at a theta of their own."""
    groups = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    theta = torch.randn(len(sizes), simulator.D, generator=generator(seed, "theta"))
    spread = (simulator.A.square().sum(1) + simulator.NOISE**2).sqrt()
    true = _normal(lambda c: c @ simulator.A.T, torch.full_like(spread, simulator.NOISE))
    wrong = _normal(lambda c: (2.5 * spread).expand(len(c), -1), 1.5 * spread)
    return World(theta, groups, groups, true, wrong, given, by_group)


def _posteriors(seed: int, right: bool, count: int, draws: int) -> Posteriors:
    scale, shift = (1.0, 0.0) if right else (0.5, 1.5)
    return simulator.posteriors(count, draws, scale=scale, shift=shift, seed=seed)


def _vectors(seed: int, right: bool) -> World:
    return _simulated(seed, [2] * 200, posteriors=_posteriors(seed, right, 150, 60))


def _groups(seed: int, right: bool) -> World:
    """Few groups of many events, which count alike whatever their sizes."""
    sizes = torch.tensor([80, 100, 120])
    weights = (sizes.sum() / len(sizes) / sizes.double()).repeat_interleave(sizes)
    return _simulated(seed, sizes.tolist(), by_group=True, weights=weights)


def _references(seed: int, right: bool) -> World:
    exact = simulator.posteriors(1, 80, seed=seed).draws
    drawn = exact[40:] if right else _posteriors(seed, False, 1, 80).draws[40:]
    references = ReferenceDraws(drawn.transpose(0, 1), exact[:40].transpose(0, 1), {"NPE": 0.6})
    return _simulated(seed, [5] * 8, references=references)


def _classes(seed: int, right: bool) -> World:
    """Given one of three classes; the wrong density takes each for another."""
    index = torch.randint(3, (300,), generator=generator(seed, "classes"))
    means, spread = torch.tensor([[0.0, 0.0], [2.5, 0.0], [0.0, 2.5]], dtype=torch.float64), torch.ones(2).double()
    true, wrong = _normal(lambda c: c @ means, spread), _normal(lambda c: c @ means.roll(1, 0) + 2.5, 0.8 * spread)
    return World(torch.eye(3), index, torch.arange(300), true, wrong)


def _integers(seed: int, right: bool) -> World:
    contexts = torch.rand(60, 1, generator=generator(seed, "shares"))
    index = torch.arange(60).repeat_interleave(5)
    true, wrong = _binomial(lambda c: 0.2 + 0.2 * c, 4), _binomial(lambda c: torch.full_like(c, 0.7), 4)
    return World(contexts, index, index, true, wrong, {"step": 1.0})


def _images(seed: int, right: bool) -> World:
    """Red fields whose amplitude is the context; the wrong one is white."""
    k = torch.hypot(*torch.meshgrid(*[2 * math.pi * torch.fft.fftfreq(SIDE, dtype=torch.float64)] * 2, indexing="ij"))
    red = (-(k * 1.5).square()).exp()
    red = 0.3 * red / red.mean() + 0.01
    true = _field(lambda c: red * (2 * c).exp()[..., None], 0.0)
    wrong = _field(lambda c: torch.full_like(red, 0.8).expand(len(c), -1, -1), 0.7)
    index = torch.arange(5).repeat_interleave(12)
    return World(torch.linspace(-0.5, 0.5, 5)[:, None], index, index, true, wrong, maps=MAPS)


#: by name, in the order in which a column is looked for
WORLDS: dict[str, Callable[[int, bool], World]] = {
    "vectors": _vectors,
    "groups": _groups,
    "classes": _classes,
    "integers": _integers,
    "images": _images,
    "references": _references,
}
