"""Where events share contexts, networks of the context alone see each once; what comes out is the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import flowzoo
from flowzoo import FitConfig, Splits, models
from flowzoo.data import Data
from flowzoo.flow import ConditionalFlow
from flowzoo.joint import Joint
from flowzoo.nets import ContextPyramid
from flowzoo.seeding import generator
from flowzoo.stepper import Stepper

CASES = {
    "galacticflow": ((5,), (3,), {"num_steps": 2, "hidden_features": 8}),
    "galacticflow, one feature": ((1,), (3,), {"num_steps": 2, "hidden_features": 8}),
    "galacticflow, no context": ((3,), (0,), {"num_steps": 2, "hidden_features": 8}),
    "cglow, image": ((1, 8, 8), (1, 8, 8), {"num_steps": 2, "hidden_features": 8}),
    "cglow, vector": ((1, 8, 8), (3,), {"num_steps": 2, "hidden_features": 8}),
    "maf": ((4,), (2,), {}),
}


def flow_of(case: str, seed: int = 0) -> ConditionalFlow:
    event_shape, context_shape, options = CASES[case]
    config = models.configure(case.split(",")[0], options)
    flow = models.build_from(config, event_shape, context_shape, None, None, generator(seed, "init"))
    with torch.no_grad():
        for i, weight in enumerate(flow.parameters()):  # a fresh flow forgets its context
            weight.add_(0.05 * torch.randn(weight.shape, generator=generator(seed, "moved", i)))
    return flow


def given(case: str) -> tuple[Tensor, Tensor, Tensor]:
    """40 events of 3 contexts, and which each has."""
    event_shape, context_shape, _ = CASES[case]
    source = generator(0, "given")
    x, contexts = (torch.randn(n, *shape, generator=source) for n, shape in ((40, event_shape), (3, context_shape)))
    return x, contexts, torch.randint(3, (40,), generator=source)


@pytest.mark.parametrize("case", CASES)
def test_density_and_gradient_are_those_of_repeated_contexts(case: str) -> None:
    x, contexts, index = given(case)
    found = []
    for repeated in (True, False):
        flow = flow_of(case).double()
        contexts = contexts.double().requires_grad_()
        scores = flow(x.double(), contexts[index]) if repeated else flow(x.double(), contexts, index)
        scores.sum().backward()
        found.append([scores, *(t.grad for t in (contexts, *flow.parameters()) if t.grad is not None)])
        contexts = contexts.detach()
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("chunk", [2**19, 512], ids=["whole", "in chunks"])
def test_draws_are_those_of_repeated_contexts(case: str, chunk: int) -> None:
    flow, (_, contexts, _) = flow_of(case).eval(), given(case)
    flow.chunk_elements = chunk
    shared = flow.sample(contexts, (20,), generator=generator(1, "draws"))
    repeated = flow.sample(contexts.expand(20, *contexts.shape), generator=generator(1, "draws"))
    assert shared.shape == (20, 3, *flow.event_shape)
    torch.testing.assert_close(shared, repeated, rtol=1e-4, atol=1e-4)


def seen_by(net: nn.Module) -> list[int]:
    """How many rows each call of a network is given from now on."""
    rows: list[int] = []
    net.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    return rows


def test_network_of_an_image_context_sees_it_once() -> None:
    flow, (x, contexts, index) = flow_of("cglow, image").eval(), given("cglow, image")
    [pyramid] = [net for net in flow.modules() if isinstance(net, ContextPyramid)]
    rows = seen_by(pyramid)
    flow.log_prob(x, contexts, index)
    flow.sample(contexts, 20)
    flow.sample(contexts[0], 1000)
    assert rows == [3, 3, 1]
    flow.log_prob(x[:5], contexts, index[:5])  # of so few events each is given its own
    assert rows == [3, 3, 1, 5]


@pytest.mark.parametrize(("draws", "images"), [(2000, 1), (30, 60), (20, 100)])
def test_network_of_an_image_context_sees_it_once_or_twice_though_draws_come_in_chunks(draws: int, images: int) -> None:
    flow = flow_of("cglow, image").eval()
    flow.chunk_elements = 128 * 64
    [pyramid] = [net for net in flow.modules() if isinstance(net, ContextPyramid)]
    rows = seen_by(pyramid)
    flow.sample(torch.randn(images, 1, 8, 8, generator=generator(0, "images")), draws)
    assert len(rows) == -(-draws * images // 128)
    assert sum(rows) <= images + len(rows)


def test_of_a_table_of_contexts_only_those_asked_for_are_embedded() -> None:
    flow = flowzoo.build("maf", 2, (1, 8, 8), embed="conv", generator=generator(0, "init")).eval()
    assert flow.context_net is not None
    rows = seen_by(flow.context_net)
    table, index = torch.randn(300, 1, 8, 8, generator=generator(0, "table")), torch.arange(5)
    found = flow.log_prob(torch.zeros(5, 2), table, index)
    assert rows == [5]
    torch.testing.assert_close(found, flow.log_prob(torch.zeros(5, 2), table[:5]))


@pytest.mark.parametrize(
    ("index", "context", "message"),
    [
        ([0, 1], (3, 4), "index must be a tensor of int64, the row of context of each event; got list"),
        (torch.tensor([True, False]), (3, 4), "got torch.bool"),
        (torch.tensor([0.0, 1.0]), (3, 4), "got torch.float32"),
        (torch.tensor([0, 3]), (3, 4), r"index must lie in 0 .. 2, as there are 3 contexts; got 0 .. 3"),
        (torch.tensor([-1, 0]), (3, 4), r"got -1 .. 0"),
        (torch.tensor([0, 1]), (2, 3, 4), r"with an index, context must be \(G, \*\(4,\)\); got \(2, 3, 4\)"),
        (torch.tensor([0, 1]), (4,), r"got \(4,\)"),
    ],
)
def test_index_that_is_none_into_the_contexts_is_refused(index: Any, context: tuple[int, ...], message: str) -> None:
    flow = flowzoo.build("galacticflow", 2, 4, num_steps=1, generator=generator(0, "init"))
    with pytest.raises(ValueError, match=message):
        flow.log_prob(torch.zeros(2, 2), torch.zeros(context), index)


def galaxies() -> Splits:
    """600 events of 10 contexts."""
    source = generator(0, "data")
    x, contexts = torch.randn(600, 5, generator=source), torch.randn(10, 3, generator=source)
    return Splits.make(Data(x=x, context=contexts, context_index=torch.arange(600) % 10, groups=torch.arange(600)))


@pytest.mark.parametrize("options", [{}, {"context_noise": 0.1}, {"context_dropout": 0.1}], ids=str)
def test_step_of_training_shares_contexts_where_nothing_blurs_them(options: dict[str, Any]) -> None:
    splits = galaxies()
    stepper = Stepper(flow_of("galacticflow"), splits.train, FitConfig(batch_size=64, **options), 0)
    shapes = [len(part) for part in stepper.take()]
    assert shapes == ([64, 64] if options else [64, 10, 64])


def test_step_of_training_is_that_of_repeated_contexts() -> None:
    splits, config = galaxies(), FitConfig(batch_size=64)
    shared, repeated = (Stepper(flow_of("galacticflow"), splits.train, config, 0) for _ in range(2))
    repeated.shared = None
    for _ in range(3):
        shared.step()
        repeated.step()
    torch.testing.assert_close(shared.descent.loss_sum, repeated.descent.loss_sum, rtol=1e-5, atol=0.0)
    for one, other in zip(shared.descent.weights, repeated.descent.weights, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_steps_of_several_flows_at_once_share_contexts_too() -> None:
    splits, config = galaxies(), FitConfig(batch_size=64)
    alone = [Stepper(flow_of("galacticflow", seed), splits.train, config, seed) for seed in (0, 1)]
    steppers = [Stepper(flow_of("galacticflow", seed), splits.train, config, seed) for seed in (0, 1)]
    joint = Joint(steppers)
    for _ in range(3):
        joint.step()
        for stepper in alone:
            stepper.step()
    for one, other in zip(alone, steppers, strict=True):
        assert one.shared is not None
        torch.testing.assert_close(one.descent.loss_sum, other.descent.loss_sum, rtol=1e-5, atol=0.0)
