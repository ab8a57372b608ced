"""What every flow must satisfy: exact log|det|, inverse, a density that integrates to one and that its draws follow."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flowzoo.models import build
from flowzoo.registry import MODELS
from flowzoo.seeding import generator
from flowzoo.testing import _calls
from flowzoo.testing._flow_case import Case, case_of, inputs, standardize
from flowzoo.testing._suite import NotApplicable, close, exemptions, named, run


def check_starts_near_the_data(case: Case) -> None:
    """A fresh flow scores standard-normal data within 1.5 nats a dimension of the truth: training starts near home."""
    for event in {case.event, case.line or case.event}:
        for context in {case.context, (0,)}:
            source = generator(17, "start")
            flow = build(case.name, event, context, generator=source, **dict(case.options))
            x, c = torch.randn(2000, *event, generator=source), torch.randn(2000, *context, generator=source)
            flow.initialize(x, c)
            with torch.no_grad():
                excess = float((torch.distributions.Normal(0.0, 1.0).log_prob(x).sum() - flow(x, c).sum()) / x.numel())
            if not excess < 1.5:
                raise AssertionError(f"a fresh flow over {event} given {context} is {excess:.1f} nats a dimension off")


def check_empty_batch(case: Case) -> None:
    """No events in, no events out, in every direction."""
    flow = case.build()
    x, c = torch.empty(0, *flow.event_shape), torch.empty(0, *flow.context_shape)
    with torch.no_grad():
        shapes = [flow.log_prob(x, c).shape, flow.to_latent(x, c)[0].shape, flow.to_data(x, c)[0].shape]
        shapes.append(flow.sample(c, (3,)).shape)
    expected = [(0,), (0, *flow.event_shape), (0, *flow.event_shape), (3, 0, *flow.event_shape)]
    if [tuple(shape) for shape in shapes] != expected:
        raise AssertionError(f"an empty batch gives shapes {shapes}")


def check_log_det_matches_autograd(case: Case) -> None:
    """The log|det| of ``to_latent`` is that of its Jacobian by automatic differentiation, in float64."""
    flow = case.build().double()
    x, c = (t.double() for t in inputs(flow, 3, generator(1, "x")))
    stated = flow.to_latent(x, c)[1].detach()
    dims = flow.event_shape.numel()
    for i in range(len(x)):
        # function of one event, so that the Jacobian is D x D

        def latent(u: Tensor, i: int = i) -> Tensor:
            return flow.to_latent(u.reshape(1, *flow.event_shape), c[i : i + 1])[0].reshape(dims)

        jacobian = torch.autograd.functional.jacobian(latent, x[i].reshape(dims))
        true = torch.linalg.slogdet(jacobian)[1]
        close(stated[i], true, case.tolerance / 10, "log|det| against autograd")


def check_round_trip(case: Case) -> None:
    """``to_data`` undoes ``to_latent``, and their log|det| cancel."""
    flow = case.build()
    x, c = inputs(flow, 50, generator(2, "x"))
    with torch.no_grad():
        z, forward = flow.to_latent(x, c)
        back, backward = flow.to_data(z, c)
    close(back, x, case.tolerance, "round trip")
    close(backward, -forward, 10 * case.tolerance, "log|det| of the round trip")


def check_integrates_to_one_in_1d(case: Case) -> None:
    """The integral of q over the line is one."""
    if case.line is None:
        raise NotApplicable("it takes no event of one dimension")
    flow = case.build(event=case.line).double()
    x = torch.linspace(-40, 40, 40_001, dtype=torch.float64).reshape(-1, *case.line)
    for c in torch.randn(2, *flow.context_shape, generator=generator(3, "c")).double():
        with torch.no_grad():
            total = torch.trapezoid(flow.log_prob(x, c).exp(), x.flatten())
        close(total, torch.ones(()), 2e-3, "integral of q over the line")


def check_integrates_to_one_in_2d(case: Case) -> None:
    """The integral of q over the plane is one, by self-normalised draws of a wide Student proposal on a grid."""
    if case.plane is None:
        raise NotApplicable("it takes no event of two dimensions")
    flow = case.build(event=case.plane)
    # u = sinh(t) maps a uniform grid to one that is dense at the centre and reaches far out
    t = torch.linspace(-4.5, 4.5, 451)
    nodes, weights = torch.sinh(t) * 0.5, torch.cosh(t) * 0.5 * (t[1] - t[0])
    grid = torch.cartesian_prod(nodes, nodes).reshape(-1, *case.plane)
    cell = (weights[:, None] * weights[None, :]).flatten()
    c = torch.randn(flow.context_shape, generator=generator(4, "c"))
    with torch.no_grad():
        total = (flow.log_prob(grid, c).double().exp() * cell).sum()
    close(total, torch.ones(()), 1e-2, "integral of q over the plane")


def check_units_shift_the_density(case: Case) -> None:
    """In other units, x' = a x + b, the log-density falls by D log a and by nothing else."""
    plain, scaled = case.build(), case.build()
    x, c = inputs(plain, 20, generator(5, "x"))
    scaled.x_map = standardize(case.event, mean=3.0, std=4.0)
    with torch.no_grad():
        expected = plain.log_prob(x, c) - math.log(4.0) * plain.event_shape.numel()
        close(scaled.log_prob(4 * x + 3, c), expected, case.tolerance, "density in other units")


def check_samples_agree_with_density(case: Case) -> None:
    """Draws carry the density that they are scored with, and E_q[exp(log p - log q)] is one for another p."""
    flow = case.build()
    c = torch.randn(2, *flow.context_shape, generator=generator(6, "c"))
    with torch.no_grad():
        draws, stated = flow.sample_and_log_prob(c, (2000,), generator=generator(6, "z"))
        scored = flow.log_prob(draws, c)
        again = flow.sample(c, (2000,), generator=generator(6, "z"))
    close(draws, again, case.tolerance, "sample against sample_and_log_prob")
    # Some draws lie where float32 resolves little; the bulk must agree, and no draw by much.
    error = (scored - stated).abs() / (1 + stated.abs())
    close(error.quantile(0.99), torch.zeros(()), 10 * case.tolerance, "log q of draws, 99 of 100")
    close(error.max(), torch.zeros(()), 0.02, "log q of draws, the worst")
    # A normal p narrower than q: the mean of p/q is one with a known error.
    width = 0.5 * draws.std(0).clamp_min(1e-3)
    centre = draws.median(0).values
    p = torch.distributions.Normal(centre, width)
    ratio = torch.exp(p.log_prob(draws).flatten(2).sum(2) - stated).double()
    error_of_mean = ratio.std(0) / len(ratio) ** 0.5
    off = (ratio.mean(0) - 1).abs() / error_of_mean
    if bool((off > 5).any()):
        raise AssertionError(f"the mean of p/q over draws of q is {off.max():.1f} standard errors from one")


def check_context_matters(case: Case) -> None:
    """Another context gives another density."""
    flow = case.build()
    x, c = inputs(flow, 20, generator(7, "x"))
    with torch.no_grad():
        change = (flow.log_prob(x, c) - flow.log_prob(x, c + 1)).abs().max()
    if float(change) < 1e-3:
        raise AssertionError(f"log q changed by at most {float(change):.1e} under another context")


def check_unconditional(case: Case) -> None:
    """A context of no columns works, and None stands for it."""
    flow = case.build(context=(0,))
    x, _ = inputs(flow, 10, generator(8, "x"))
    with torch.no_grad():
        close(flow.log_prob(x), flow.log_prob(x, torch.zeros(10, 0)), 0.0, "context None against no columns")
        draws = flow.sample(shape=(5,), generator=generator(8, "z"))
    if draws.shape != (5, *flow.event_shape):
        raise AssertionError(f"5 unconditional draws have shape {tuple(draws.shape)}")


def check_events_do_not_meet(case: Case) -> None:
    """An event's score does not depend on the batch that it is in, nor on a NaN elsewhere in it."""
    flow = case.build()
    x, c = inputs(flow, 20, generator(9, "x"))
    with torch.no_grad():
        whole = flow.log_prob(x, c)
        alone = torch.cat([flow.log_prob(x[i : i + 1], c[i : i + 1]) for i in range(len(x))])
        x[7] = math.nan
        spoiled = flow.log_prob(x, c)
    close(alone, whole, case.tolerance, "score of an event alone against in a batch")
    rest = torch.arange(20) != 7
    close(spoiled[rest], whole[rest], case.tolerance, "scores beside a NaN")
    if bool(torch.isfinite(spoiled[7])):
        raise AssertionError(f"a NaN event has the finite score {float(spoiled[7])}")


#: every check by name, in the order in which they are worth running
CHECKS = named(globals()) | named(vars(_calls))


def exempt(name: str) -> dict[str, str]:
    """The checks that a model declares it cannot pass, with the reasons."""
    return exemptions(MODELS.get(name))


def check_flow(name: str) -> dict[str, str]:
    """Run every check on a registered model.

    Args:
        name: registered, by a file of the zoo or by an entry point.

    Returns:
        The checks that say nothing of the model, because it declares that it cannot pass them or because they do not
        apply to it, with the reasons.

    Raises:
        AssertionError: with the check and the figure that failed.
        ValueError: if the model is exempt from a check that does not exist.
    """
    return run(CHECKS, case_of(name), name, exempt(name))
