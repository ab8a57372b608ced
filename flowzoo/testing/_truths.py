"""What a dataset says of the truth, against its own events: prior, simulator, exact density, symmetries, references."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from flowzoo.data import Data
from flowzoo.data._augment import augment
from flowzoo.inference import from_description
from flowzoo.metrics._calibration import ks_p
from flowzoo.seeding import generator
from flowzoo.stats import clustered_mean
from flowzoo.testing._chance import own_chance
from flowzoo.testing._dataset_case import DatasetCase
from flowzoo.testing._suite import NotApplicable, close

SIGMAS = 5.0  # standard errors that a mean may be off
RAREST = 1e-6  # p-value, below which two samples are of different distributions
COLUMNS = 32  # of an observation that are compared, a seeded choice
PAIRS = 2000  # events and observations that are looked at
PLANE = 4  # numbers of an event, up to which its density is integrated
POINTS = 20_000  # of that integral; fewer given an image
APART = (0.002, 0.01, 0.05, 0.2, 0.6)  # quantiles of the distances of contexts, at which events are paired
BLUNT = 0.1  # standard error, from which an integral says nothing


def check_prior_covers_theta(case: DatasetCase) -> None:
    """Draws of the prior lie in its support with a finite density, come back from the unit box, and are as theta is."""
    prior = case.data.prior
    if prior is None:
        raise NotApplicable("it has no prior")
    theta = case.pairs[0]
    with own_chance("the prior"):
        drawn, again = (prior.sample(PAIRS, generator(0, "prior")) for _ in range(2))
    if drawn.shape != (PAIRS, prior.dim) or not torch.equal(drawn, again):
        raise AssertionError(f"{PAIRS} draws of the prior have shape {tuple(drawn.shape)}, or differ by the same seed")
    for what, values in (("draws of the prior", drawn), ("parameters of the data", theta)):
        if outside := int((~prior.covers(values)).sum()):
            raise AssertionError(f"{outside} of {len(values)} {what} lie outside its support")
        if prior.has_density and not bool(prior.log_prob(values).isfinite().all()):
            raise AssertionError(f"log_prob of the prior is not finite at {what}")
    unit = prior.to_unit(drawn.double())
    if not bool(((unit >= 0) & (unit <= 1)).all()):
        raise AssertionError("to_unit of the prior leaves the unit box")
    spread = drawn.double().std(0)
    close(prior.from_unit(unit) / spread, drawn.double() / spread, 1e-3, "from_unit of to_unit of the prior")
    if prior.has_density:
        told = from_description(json.loads(json.dumps(prior.describe())))
        close(told.log_prob(drawn), prior.log_prob(drawn), 1e-6, "the prior made of its description")
    _same_law(_columns(theta), _columns(drawn), "parameters of the data against draws of the prior")


def check_simulator_repeats(case: DatasetCase) -> None:
    """``simulate`` has the shape of an observation, repeats by its generator, and leaves theta and all else alone."""
    simulate = _simulator(case.data)
    theta = case.pairs[0][:20].float()
    given = theta.clone()
    with own_chance("simulate"):
        first, again = (simulate(theta, generator(0, "simulate")) for _ in range(2))
        other = simulate(theta, generator(1, "simulate"))
    if first.shape != (len(theta), *case.data.observation_shape):
        raise AssertionError(
            f"of {len(theta)} theta, simulate made {tuple(first.shape)}; an observation is "
            f"{tuple(case.data.observation_shape)}"
        )
    if not torch.equal(first, again):
        raise AssertionError("the same generator gave other observations")
    if torch.equal(first, other):
        raise AssertionError("another seed gave the same observations")
    if not torch.equal(theta, given):
        raise AssertionError("simulate changed theta in place")
    if not bool(first.isfinite().all()):
        raise AssertionError(f"{int((~first.isfinite()).sum())} of {first.numel()} simulated numbers are not finite")
    if (levels := case.data.levels) is not None and case.data.theta == "context":
        k = (first.double() - levels.low) / levels.step
        if not bool(((k == k.round()) & (k >= 0) & (k < levels.count)).all()):
            raise AssertionError("simulated integers are not on the declared levels")


def check_simulator_makes_the_events(case: DatasetCase) -> None:
    """At the parameters of the data, fresh observations are distributed as theirs are."""
    theta, x = (side[:PAIRS] for side in case.pairs)
    fresh = _simulator(case.data)(theta.float(), generator(0, "fresh"))
    sides = [_columns(part) for part in (x, fresh)]
    # What is left of both by one fit to theta, and its size: a wrong noise hides behind the scatter of theta.
    powers = theta.double() ** torch.arange(3.0).reshape(-1, 1, 1)
    design = torch.cat(list(powers), 1).repeat(2, 1)
    both = torch.cat(sides)
    rest = both - design @ torch.linalg.lstsq(design, both, driver="gelsd").solution
    left, right = (torch.cat(parts, 1) for parts in zip(sides, rest.chunk(2), rest.abs().chunk(2), strict=True))
    _same_law(left, right, "observations of the data against simulated ones")


def check_true_density_integrates_to_one(case: DatasetCase) -> None:
    """The integral of the exact density is one, by draws of a normal law fitted to it, twice as wide."""
    data = case.data
    density = _density(data)
    dims = data.event_shape.numel()
    if dims > PLANE:
        raise NotApplicable(f"its events have {dims} numbers, too many for an integral")
    contexts = case.splits.test.context
    number = POINTS // (50 if len(data.context_shape) >= 3 else 1)  # a density given an image is dear
    for i, context in enumerate(contexts[: 3 if contexts[0].numel() else 1]):
        source = generator(i, "integral")
        given = context.expand(number, *context.shape)
        pilot = _pilot(case, given, source).double().flatten(1)
        covariance = 2 * torch.cov(pilot.T).reshape(dims, dims)
        wide = MultivariateNormal(pilot.mean(0), covariance + 1e-12 * covariance.diagonal().mean() * torch.eye(dims))
        noise = torch.randn(number, dims, generator=source, dtype=torch.float64)
        draws = wide.mean + noise @ wide.scale_tril.T
        scores = density(draws.reshape(number, *data.event_shape), given.double())
        ratio = (scores - wide.log_prob(draws)).exp()
        mean, error = float(ratio.mean()), float(ratio.std()) / number**0.5
        if error > BLUNT:
            raise NotApplicable(f"the draws leave an error of {error:.2g} on its integral")
        if not abs(mean - 1) <= SIGMAS * error + 1e-3:
            raise AssertionError(f"the exact density integrates to {mean:.4f} +- {error:.4f} at test context {i}")


def check_true_density_is_that_of_the_events(case: DatasetCase) -> None:
    r"""It tells as well as it says which of two contexts an event has, in any dimension.

    Of two events with contexts c and c' let :math:`s = p(x \mid c') / (p(x \mid c) + p(x \mid c'))` be the
    probability, by Bayes' rule, of the wrong one. Then :math:`\mathbb E\, s (1 - 2 s) = 0`: with p the probability of
    c, both E s and 2 E s^2 are 2 E p (1 - p). Of a density that is too sharp s is too near 0 or 1, and the mean
    negative. Pairs are as far apart as lets s vary most.
    """
    data = case.data
    density = _density(data)
    number = PAIRS // (10 if len(data.context_shape) >= 3 else 2)
    rows = torch.randperm(len(data), generator=generator(0, "events"))[: min(number, len(data)) // 2 * 2]
    x, context = _events(case, rows), case.contexts[rows].double()
    if len(context.unique(dim=0) if context[0].numel() else context[:1]) < 2:
        raise NotApplicable("all of its events have one context")
    own = density(x, context)
    if own.shape != (len(x),) or not bool(own.isfinite().all()):
        raise AssertionError(f"of {len(x)} events the exact density is finite at {int(own.isfinite().sum())} only")
    best, deaf = torch.zeros(2, dtype=own.dtype), True
    for i, j in _pairs_apart(context.flatten(1)):
        wrong = torch.stack([density(x[i], context[j]) - own[i], density(x[j], context[i]) - own[j]]).sigmoid()
        terms = (wrong * (1 - 2 * wrong)).sum(0)
        deaf = deaf and bool((wrong == 0.5).all())
        best = terms if float(terms.std()) > float(best.std()) else best
    if deaf:
        raise AssertionError("the exact density is the same whatever the context")
    mean, error = float(best.mean()), float(best.std()) / len(best) ** 0.5
    if not abs(mean) <= SIGMAS * error:
        fault = "sharp" if mean < 0 else "blunt"
        raise AssertionError(
            f"the exact density is too {fault}: with s the probability of the wrong one of two contexts, the mean of "
            f"s (1 - 2 s) is {mean:.4f} +- {error:.4f}, not zero"
        )


def _pairs_apart(context: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """All rows of contexts in disjoint pairs, by their distance: from neighbours to those as far apart as any."""
    spread = context.std(0)
    apart = torch.cdist(context / spread.where(spread > 0, 1.0), context / spread.where(spread > 0, 1.0))
    for share in APART:
        target = apart.flatten()[:: len(apart) // 50 + 1].quantile(share)
        off, free, pairs = (apart - target).abs(), torch.ones(len(apart), dtype=torch.bool), []
        for i in range(len(apart)):
            if free[i]:
                free[i] = False
                j = int(off[i].where(free, torch.inf).argmin())
                free[j] = False
                pairs.append((i, j))
        first, second = torch.tensor(pairs).T
        yield first, second


def check_symmetries_leave_the_density_alone(case: DatasetCase) -> None:
    """What training may do to an image changes no exact density."""
    data = case.data
    if not data.augment:
        raise NotApplicable("it declares no symmetries")
    density = _density(data)
    x, context = _events(case, torch.arange(min(50, len(data)))), case.contexts[:50].double()
    for symmetry in data.augment:
        source = generator(0, "augment")
        if data.theta == "event":
            moved = density(x, augment(context, [symmetry], source))
        else:
            moved = density(augment(x, [symmetry], source), context)
        close(moved, density(x, context), 1e-5, f"the exact density after {symmetry}")


def check_best_nll_is_that_of_the_density(case: DatasetCase) -> None:
    """What the references call the best NLL is the mean of the exact one over the events."""
    data, best = case.data, case.data.references.get("nll")
    density = _density(data)
    if not isinstance(best, float):
        raise NotApplicable("its references have no NLL")
    assert data.groups is not None
    scores = -density(_events(case, torch.arange(len(data))), case.contexts)
    mean, error = clustered_mean(scores, data.groups)
    if not abs(mean - best) <= SIGMAS * error:
        raise AssertionError(f"the best NLL is said to be {best:.4f}; over the events it is {mean:.4f} +- {error:.4f}")


def check_reference_posteriors_fit(case: DatasetCase) -> None:
    """They have the shapes that they must, lie in the prior, repeat, and the truth is as one more draw of each."""
    data = case.data
    if data.reference_posteriors is None:
        raise NotApplicable("it has no reference posteriors")
    if data.prior is None:
        raise AssertionError("it has reference posteriors and no prior")
    with own_chance("reference_posteriors"):
        known, again = data.reference_posteriors(), data.reference_posteriors()
    rows, dim, shape = len(known.x), data.prior.dim, tuple(data.observation_shape)
    if known.x.shape != (rows, *shape) or known.theta.ndim != 3 or known.theta.shape[::2] != (rows, dim):
        came = f"{tuple(known.x.shape)} and {tuple(known.theta.shape)}"
        raise AssertionError(f"references must have x (K, *{shape}) and theta (K, n, {dim}); got {came}")
    if known.truth is not None and known.truth.shape != (rows, dim):
        raise AssertionError(f"truth of the references must be ({rows}, {dim}); got {tuple(known.truth.shape)}")
    if not torch.equal(known.theta, again.theta) or not torch.equal(known.x, again.x):
        raise AssertionError("asked again, the references differ")
    for what, values in (("draws", known.theta), ("truths", known.truth)):
        if values is not None and (outside := int((~data.prior.covers(values)).sum())):
            raise AssertionError(f"{outside} {what} of the references lie outside of the prior")
    if not all(0 <= score <= 1 for score in known.published.values()):
        raise AssertionError(f"published C2ST must be from 0 to 1; got {dict(known.published)}")
    if known.truth is not None:
        rank = (known.theta < known.truth[:, None]).double().mean(1).T
        p = torch.cat([ks_p(rank), ks_p((2 * rank - 1).abs())])
        if float(p.min()) * len(p) < RAREST:
            raise AssertionError(f"the truths are not as one more draw of each posterior, p = {float(p.min()):.1e}")


# -- helpers ----------------------------------------------------------------------------------------------------------


def _simulator(data: Data) -> Callable[[Tensor, torch.Generator], Tensor]:
    if data.simulate is None:
        raise NotApplicable("it cannot simulate")
    return data.simulate


def _density(data: Data) -> Callable[[Tensor, Tensor], Tensor]:
    """The exact density in float64."""
    exact = data.true_log_prob
    if exact is None:
        raise NotApplicable("it knows no exact density")
    return lambda x, context: exact(x.double(), context.double()).double()


def _events(case: DatasetCase, rows: Tensor) -> Tensor:
    """Events as a flow is scored with them, dequantised, in float64."""
    x, levels = case.data.x[rows].double(), case.data.levels
    if levels is None:
        return x
    return x + levels.step * torch.rand(x.shape, generator=generator(0, "dequantise"), dtype=x.dtype)


def _pilot(case: DatasetCase, given: Tensor, source: torch.Generator) -> Tensor:
    """Draws of the exact density at one context, or some that are near enough to see where it lies."""
    data = case.data
    if data.theta == "event" and data.prior is not None:
        drawn = data.prior.sample(len(given), source)
        weight = _density(data)(drawn, given).exp()
        return drawn[torch.multinomial(weight, len(drawn), replacement=True, generator=source)]
    x = _simulator(data)(given, source)
    if data.levels is not None:
        x = x + data.levels.step * torch.rand(x.shape, generator=source)
    return x


def _columns(x: Tensor) -> Tensor:
    """Some columns of observations ``(n, ...)``, and mean and spread of all, ``(n, c)``."""
    x = x.double().flatten(1)
    chosen = x[:, torch.randperm(x.shape[1], generator=generator(0, "columns"))[:COLUMNS]]
    return torch.cat([chosen, x.mean(1, True), x.std(1, keepdim=True)], 1) if x.shape[1] > 1 else chosen


def _same_law(a: Tensor, b: Tensor, what: str) -> None:
    """Kolmogorov and Smirnov's test in every column of two samples ``(n, c)``."""
    from scipy.stats import ks_2samp

    p = [float(ks_2samp(x.numpy(), y.numpy(), method="asymp").pvalue) for x, y in zip(a.T, b.T, strict=True)]
    if min(p) * len(p) < RAREST:
        raise AssertionError(f"{what}: one of {len(p)} columns is of another law, p = {min(p):.1e}")
