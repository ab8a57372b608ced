"""What a metric is: a frozen config that names what it needs and the columns that it fills."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

MIN_SIDE = 16  # pixels a side from which field statistics say something

Better = Literal["lower", "higher", "zero", "none"]
#: the parts of an evaluation that a metric may need: what a flow says, and what was drawn from it
NEEDS = ("scores", "samples", "clouds", "ensembles", "posteriors", "references")


@dataclass(frozen=True)
class Column:
    """A column of the table.

    Args:
        name: lower case, the same in every table; ``flowzoo metrics`` lists them.
        better: which way is better, ``"zero"`` if both are bad, ``"none"`` for a fact that has no side.
        meaning: one line, with the unit.
        floor: the column that holds its noise floor, if it has one.
        good: at this value or better it is good.
        bad: at this value or worse it is bad; between the two it is doubtful.
    """

    name: str
    better: Better
    meaning: str
    floor: str | None = None
    good: float | None = None
    bad: float | None = None


class NotComputed(Exception):
    """A metric declines, with the reason that stands in the table."""


@dataclass(frozen=True)
class Ensembles:
    """Real and drawn events at the same K held-out contexts, several at each, in data units.

    Args:
        context: ``(K, *context)``.
        real: ``(K, M, *event)``; fresh ones where the dataset can simulate, else test events.
        drawn: ``(K, S, *event)``, draws of the flow.
    """

    context: Tensor
    real: Tensor
    drawn: Tensor


@dataclass(frozen=True)
class Clouds:
    """Real and drawn events as clouds of points: one pair for each of K test groups, or one of all test events.

    Each side is in two halves of m points, so that the distance of real to drawn and its floor, that of real to real,
    are between samples of one size: a distance is the mean of d(real[0], drawn[1]) and d(real[1], drawn[0]), and the
    floor d(real[0], real[1]). Where one cloud holds all test events, the halves have different groups.

    Args:
        real: ``(K, 2, m, D)``, events flattened, in units of the spread of the training events.
        drawn: ``(K, 2, m, D)``, one draw at the context of each event of ``real``.
        groups: ``(K,)`` label of each group; empty where one cloud holds all.
        context: ``(K, *context)`` of each group; ``(0, *context)`` where one cloud holds all.
        population: ``(G, n, D)``, real events of many groups, those of training too; ``(0, 0, D)`` if there are none.
        population_context: ``(G, *context)``.
    """

    real: Tensor
    drawn: Tensor
    groups: Tensor
    context: Tensor
    population: Tensor
    population_context: Tensor


@dataclass(frozen=True)
class Posteriors:
    """Draws from the posterior that a flow implies for each of N observations whose parameters are known.

    The pairs (theta, x) are independent draws from the joint density of the data: one for each test group. If the
    posteriors are right, theta is one more draw of each.

    Args:
        draws: ``(L, N, D)`` in the units of theta, independent for each observation.
        truth: ``(N, D)`` the parameters that made the observations.
        log_prob: ``(L, N)`` log q(theta | x) of the draws, up to a constant for each observation.
        truth_log_prob: ``(N,)`` the same of the truth, up to the same constant; minus infinity where q excludes it.
        normalised: whether that constant is known and zero.
        log_likelihood: ``(L, N)`` log q(x | theta) up to a constant for each observation; None where the prior has no
            density and so no likelihood can be told from a posterior.
        truth_log_likelihood: ``(N,)``.
        observation: ``(N, F)`` the observations, flattened, each column in units of its spread.
        predicted: ``(N, D)`` theta in the unit box as it was learnt to be told from the observations, of pairs that are
            independent of the N; None where there were too few of these.
        prior_draws: ``(P, D)`` draws from the prior.
        to_unit: theta ``(..., D)`` into the unit box, each parameter through its prior's distribution function.
        names: of the parameters.
    """

    draws: Tensor
    truth: Tensor
    log_prob: Tensor
    truth_log_prob: Tensor
    normalised: bool
    log_likelihood: Tensor | None
    truth_log_likelihood: Tensor | None
    observation: Tensor
    predicted: Tensor | None
    prior_draws: Tensor
    to_unit: Callable[[Tensor], Tensor]
    names: Sequence[str] = ()


@dataclass(frozen=True)
class ReferenceDraws:
    """Draws of a flow's posterior beside draws of the exact one, at K observations.

    Args:
        drawn: ``(K, n, D)`` of the flow.
        reference: ``(K, n, D)`` of the exact posterior.
        published: C2ST that others published against these references, by method.
    """

    drawn: Tensor
    reference: Tensor
    published: Mapping[str, float]


@dataclass(frozen=True)
class Evaluation:
    """What a metric may look at. Tensors are on one device; events and draws are in data units.

    Args:
        x: ``(N, *event)`` test events, integer data dequantised with a fixed draw.
        contexts: ``(G, *context)``, each once.
        context_index: ``(N,)``, which of them each test event has.
        groups: ``(N,)`` group of each test event.
        scale: ``(*event)``-broadcastable spread of the training events, the unit for distances.
        log_prob: ``log_prob(x, context) -> (N,)`` of the trained flow, in nats; where events share contexts,
            ``log_prob(x, contexts, index)``.
        scores: ``(N,)``, that function at the test events.
        samples: ``(S, *event)``, one draw per test context of ``rows``, or None with ``samples_missing`` saying why.
        samples_missing: the reason why there are no draws.
        true_scores: ``(N,)`` exact log p, where the dataset knows it.
        step: width of a level for integer data, None for continuous data.
        generator: for whatever the metric draws; seeded by the cell.
        rows: ``(S,)``, the test events at whose contexts was drawn, in random order; None: the first S.
        ensembles: many real and many drawn events at each of some held-out contexts, or None.
        ensembles_missing: the reason why there are none.
        side: length of an image along its last axis, in the units of the dataset; 1 where it does not say.
        clouds: real and drawn events as clouds of points, or None.
        clouds_missing: the reason why there are none.
        weights: ``(N,)`` of mean 1, what each test event counts, or None where all count the same.
        names: of the columns of a vector event, as far as the dataset says.
        posteriors: draws from the posteriors of test observations, or None.
        posteriors_missing: the reason why there are none.
        references: draws beside those of exact posteriors, or None.
        references_missing: the reason why there are none.
    """

    x: Tensor
    contexts: Tensor
    context_index: Tensor
    groups: Tensor
    scale: Tensor
    log_prob: Callable[..., Tensor]
    scores: Tensor
    samples: Tensor | None
    samples_missing: str
    true_scores: Tensor | None
    step: float | None
    generator: torch.Generator
    rows: Tensor | None = None
    ensembles: Ensembles | None = None
    ensembles_missing: str = "no ensembles were drawn"
    side: float = 1.0
    clouds: Clouds | None = None
    clouds_missing: str = "no clouds of points were drawn"
    weights: Tensor | None = None
    names: Sequence[str] = ()
    posteriors: Posteriors | None = None
    posteriors_missing: str = "the dataset has no prior, so there are no posteriors"
    references: ReferenceDraws | None = None
    references_missing: str = "the dataset has no reference posteriors"

    @property
    def context(self) -> Tensor:
        """``(N, *context)``, of every test event."""
        return self.contexts[self.context_index]


class MetricConfig(Protocol):
    """What a metric's file registers: a frozen dataclass of its options that can be called.

    ``needs`` names what it looks at, some of ``NEEDS``; ``columns`` what it fills.
    """

    columns: ClassVar[tuple[Column, ...]]
    needs: ClassVar[tuple[str, ...]]

    def __call__(self, evaluation: Evaluation) -> Mapping[str, float | str | Tensor]:
        """Numbers for its columns; a text is the reason why a column is empty; tensors are kept beside the record.

        The latter, under the name ``<metric>.<name>``, are for figures: curves, values by context.

        Raises:
            NotComputed: with the reason, if there is nothing to tell.
        """
        ...
