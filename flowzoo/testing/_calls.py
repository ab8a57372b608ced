"""What every flow must satisfy as a thing that is called: shapes, modes, precisions, seeds, derivatives, files."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from flowzoo import checkpoint
from flowzoo.flow import ConditionalFlow
from flowzoo.host_sync import NoHostSync
from flowzoo.models import build
from flowzoo.registry import MODELS
from flowzoo.seeding import generator
from flowzoo.testing._flow_case import Case, inputs, standardize
from flowzoo.testing._pretended_gpu import pretended_gpu
from flowzoo.testing._space import require_default_in_space
from flowzoo.testing._suite import NotApplicable, close


def check_broadcasting(case: Case) -> None:
    """Batch shapes of event and context broadcast, and chunks do not show."""
    flow = case.build()
    x, _ = inputs(flow, 12, generator(10, "x"))
    c = torch.randn(3, 1, *flow.context_shape, generator=generator(10, "c"))
    with torch.no_grad():
        table = flow.log_prob(x, c)
        row = flow.log_prob(x, c[1, 0])
        flow.chunk_elements = 5 * flow.event_shape.numel()
        chunked = flow.log_prob(x, c)
    if table.shape != (3, 12):
        raise AssertionError(f"scores of (12,) events given (3, 1) contexts have shape {tuple(table.shape)}")
    close(table[1], row, case.tolerance, "a row of a broadcast")
    close(chunked, table, case.tolerance, "scores in chunks")


def check_shared_contexts(case: Case) -> None:
    """Contexts by index are contexts that are repeated, in scores and in draws, and an index beyond them is refused."""
    flow = case.build()
    x, contexts = inputs(flow, 12, generator(17, "x"))
    contexts, index = contexts[:3], torch.arange(12) % 3
    with torch.no_grad():
        close(flow.log_prob(x, contexts, index), flow.log_prob(x, contexts[index]), case.tolerance, "scores by index")
        shared = flow.sample(contexts, 4, generator=generator(17, "z"))
        repeated = flow.sample(contexts.expand(4, *contexts.shape), generator=generator(17, "z"))
    close(shared, repeated, case.tolerance, "draws at a few contexts")
    try:
        flow.log_prob(x, contexts, index + 1)
    except ValueError:
        return
    raise AssertionError("an index beyond the contexts is no error")


def check_inference_mode(case: Case) -> None:
    """Scores and draws in torch's inference mode are those without gradient."""
    flow = case.build()
    x, c = inputs(flow, 10, generator(18, "x"))
    with torch.no_grad():
        scores, drawn = flow.log_prob(x, c), flow.sample(c, generator=generator(18, "z"))
    try:
        with torch.inference_mode():
            inferred, again = flow.log_prob(x, c), flow.sample(c, generator=generator(18, "z"))
    except RuntimeError as error:
        raise AssertionError(f"in inference mode: {error}") from error
    close(inferred, scores, case.tolerance, "scores in inference mode")
    close(again, drawn, case.tolerance, "draws in inference mode")


def check_second_derivatives(case: Case) -> None:
    """The gradient of a gradient, of scores and of draws, is right or an error: never a number that is wrong."""
    flow = case.build().double()
    x, c = (part.double() for part in inputs(flow, 4, generator(19, "x")))

    def of_scores(x: Tensor) -> Tensor:
        return flow.log_prob(x, c).sum()

    def of_draws(c: Tensor) -> Tensor:
        return flow.rsample(c, generator=generator(19, "z")).square().sum()

    for what, function, at in (("scores", of_scores, x), ("draws", of_draws, c)):
        direction = torch.randn(at.shape, generator=generator(19, "direction"), dtype=at.dtype)

        def slope(at: Tensor, function: Callable[[Tensor], Tensor] = function, graph: bool = False) -> Tensor:
            total = function(at)
            return _gradient(total, at, graph) if total.requires_grad else torch.zeros_like(at)

        leaf, found = at.clone().requires_grad_(), torch.zeros_like(at)
        first = slope(leaf, graph=True)
        if first.requires_grad:
            try:
                found = _gradient((first * direction).sum(), leaf)
            except RuntimeError:
                continue
        step = 1e-5
        up, down = (slope((at + sign * step * direction).requires_grad_()) for sign in (1, -1))
        close(found, (up - down) / (2 * step), max(1e-3, case.tolerance), f"the gradient of a gradient of {what}")


def _gradient(total: Tensor, at: Tensor, graph: bool = False) -> Tensor:
    """Of a sum, zero where it does not depend on that."""
    return torch.autograd.grad(total, at, create_graph=graph, allow_unused=True, materialize_grads=True)[0]


def check_saves_and_loads(case: Case) -> None:
    """A saved flow, loaded into a fresh one without any dummy pass, scores and draws the same bits."""
    flow = case.build()
    flow.x_map = standardize(case.event, mean=0.5, std=2.0)
    x, c = inputs(flow, 10, generator(11, "x"))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "flow.safetensors"
        checkpoint.save(flow, path)
        again = checkpoint.load(path)
    with torch.no_grad():
        close(again.log_prob(x, c), flow.log_prob(x, c), 0.0, "scores of the loaded flow")
        drawn = [f.sample(c, generator=generator(11, "z")) for f in (flow, again)]
    close(drawn[0], drawn[1], 0.0, "draws of the loaded flow")


def check_float64_agrees(case: Case) -> None:
    """In float64 the scores are those of float32 up to rounding."""
    flow = case.build()
    x, c = inputs(flow, 20, generator(12, "x"))
    with torch.no_grad():
        single = flow.log_prob(x, c).double()
        double = flow.double().log_prob(x.double(), c.double())
    close(single, double, case.tolerance, "float32 against float64")


def check_seed_repeats(case: Case) -> None:
    """The same generator gives the same weights and the same draws, and the process-wide one is left alone."""
    before = torch.random.get_rng_state()
    flows = [
        build(case.name, case.event, case.context, generator=generator(13, "init"), **dict(case.options))
        for _ in range(2)
    ]
    for (name, a), (_, b) in zip(flows[0].state_dict().items(), flows[1].state_dict().items(), strict=True):
        if not torch.equal(a, b):
            raise AssertionError(f"the same seed gave other initial values of {name}")
    c = torch.randn(4, *flows[0].context_shape, generator=generator(13, "c"))
    draws = [f.sample(c, (3,), generator=generator(13, "z")) for f in flows]
    close(draws[0], draws[1], 0.0, "draws of the same seed")
    other = flows[0].sample(c, (3,), generator=generator(14, "z"))
    if torch.equal(other, draws[0]):
        raise AssertionError("another seed gave the same draws")
    if not torch.equal(before, torch.random.get_rng_state()):
        raise AssertionError("building or sampling moved the process-wide generator")


def check_gradients_flow(case: Case) -> None:
    """Training moves every parameter, and draws have a pathwise gradient to the context."""
    flow = case.build().train()
    x, c = inputs(flow, 30, generator(15, "x"))
    parameters = dict(flow.named_parameters())
    if not parameters:
        raise NotApplicable("it has nothing to train")
    (-flow(x, c).mean()).backward()
    dead = [name for name, p in parameters.items() if p.grad is None or not bool(torch.isfinite(p.grad).all())]
    if dead:
        raise AssertionError(f"no finite gradient for {', '.join(dead[:3])}")
    c.requires_grad_()
    flow.rsample(c, generator=generator(15, "z")).square().sum().backward()
    if c.grad is None or not bool(c.grad.abs().sum() > 0):
        raise AssertionError("rsample has no gradient to the context")


def check_works_on_a_gpu(case: Case) -> None:
    """Moved to a GPU, one that is pretended, it scores, draws, and has gradients as on the CPU."""
    flow = case.build().train()
    x, c = inputs(flow, 10, generator(20, "x"))

    def answers(flow: ConditionalFlow, device: torch.device) -> dict[str, Tensor]:
        x_there, c_there = x.to(device), c.to(device, copy=True).requires_grad_()
        source = generator(20, "z", device=device)
        (-flow(x_there, c_there).mean() + flow.rsample(c_there, generator=source).square().mean()).backward()
        with torch.no_grad():
            found = {"scores": flow.log_prob(x_there, c_there), "draws": flow.sample(c_there, generator=source)}
        found["the gradient by the context"] = torch.zeros_like(c_there) if c_there.grad is None else c_there.grad
        return found | {f"the gradient by {n}": p.grad for n, p in flow.named_parameters() if p.grad is not None}

    with pretended_gpu() as gpu:
        expected = answers(copy.deepcopy(flow), torch.device("cpu"))
        try:
            found = answers(copy.deepcopy(flow).to(gpu.device), gpu.device)
        except (RuntimeError, TypeError) as error:
            raise AssertionError(f"on a GPU: {error}") from error
        for what, value in found.items():
            if value.device != gpu.device:
                raise AssertionError(f"of a flow on a GPU, {what} are on {value.device}")
            close(value.cpu(), expected[what], case.tolerance, f"{what} on a GPU")


def check_step_does_not_wait(case: Case) -> None:
    """Scoring and its gradient read nothing back to the host, nor copy from it, so a GPU's queue never drains."""
    flow = case.build().train()
    if not any(p.requires_grad for p in flow.parameters()):
        raise NotApplicable("it has nothing to train")
    x, c = inputs(flow, 16, generator(16, "x"))
    with NoHostSync():
        (-flow(x, c).mean()).backward()
    with pretended_gpu() as gpu:
        flow, x, c = flow.to(gpu.device), x.to(gpu.device), c.to(gpu.device)
        gpu.waits.clear()
        (-flow(x, c).mean()).backward()
        if gpu.waits:
            raise AssertionError(f"on a GPU, a training step waits for {', '.join(dict.fromkeys(gpu.waits))}")


def check_default_is_in_its_search_space(case: Case) -> None:
    """What the search space asks for are options, and their defaults lie in it: a study begins with them."""
    config = MODELS.get(case.name)
    if not hasattr(config, "suggest"):
        raise AssertionError("its config has no suggest(trial); with nothing to search it returns cls()")
    require_default_in_space(config)
