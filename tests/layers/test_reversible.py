"""Reversible backpropagation: the gradients of the plain pass, with memory that does not grow with depth."""

import math
from typing import NamedTuple

import pytest
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from flowzoo.layers.actnorm import ActNorm
from flowzoo.layers.chain import Chain
from flowzoo.layers.coupling import AffineCoupling, SplineCoupling
from flowzoo.layers.linear import LULinear
from flowzoo.layers.reversible import choose_anchors, drift, reversible
from flowzoo.layers.spline import num_parameters
from flowzoo.nets import ContextConv, ContextMLP
from flowzoo.seeding import generator, initialisation


class Pair(NamedTuple):
    """A context with an image beside the vector, as the flows of images have it."""

    vector: torch.Tensor
    image: torch.Tensor | None = None


class PairNet(nn.Module):
    """Takes both parts of a ``Pair``."""

    def __init__(self):
        super().__init__()
        self.net = ContextConv(2, 2, 4, 8)
        self.image = nn.Conv2d(1, 4, 1)

    def forward(self, x, c):
        y = self.net(x, c.vector)
        return y if c.image is None else y + self.image(c.image)


def coupling(kind):
    if kind == "image":
        return AffineCoupling(4, ContextConv(2, 2, 4, 8))
    if kind == "pair":
        return AffineCoupling(4, PairNet())
    if kind == "spline":  # has no recompute
        return SplineCoupling(slice(0, 2), slice(2, 4), ContextMLP(2, 2, 2 * num_parameters(4), (8, 8)), bound=3.0)
    scale = kind if kind in ("sigmoid", "none") else "tanh"
    return AffineCoupling(4, ContextMLP(2, 2, 2 if kind == "none" else 4, (8, 8)), scale=scale)


def make(kind="vector", steps=2, stir=0.3):
    """Layers away from their neutral start."""
    with initialisation(generator(0, "init")):
        layers = []
        for _ in range(steps):
            layers += [ActNorm(4, 0 if kind == "pair" else 2, (8,)), LULinear(4), coupling(kind)]
        for layer in layers:
            for parameter in layer.parameters():
                parameter.data.add_(stir * torch.randn_like(parameter))
    return Chain(layers).double()


def batch(kind="vector", count=5):
    source = generator(1, "x")

    def draw(*shape):
        return torch.randn(count, *shape, generator=source, dtype=torch.float64)

    if kind == "pair":
        return draw(4, 4, 2), Pair(draw(2), draw(1, 4, 2))
    return draw(*((4, 4, 2) if kind == "image" else (4,))), draw(2)


def tensors_of(c):
    return [c] if isinstance(c, torch.Tensor) else [each for each in c if each is not None]


def objective(y, log_det):
    """A loss that is neither symmetric in the events nor in the channels."""
    weights = torch.linspace(0.5, 2.0, y.numel(), dtype=y.dtype).reshape(y.shape)
    return (weights * y.sin()).sum() - (log_det * torch.linspace(0.3, 1.0, len(y), dtype=y.dtype)).sum()


def gradients(chain, x, c, **options):
    """Of the objective with respect to x, every tensor of c, and every parameter; with options, the reversible way."""
    x = x.clone().requires_grad_()
    given = [t.clone().requires_grad_() for t in tensors_of(c)]
    c = given[0] if isinstance(c, torch.Tensor) else type(c)(*given, *[None] * (len(c) - len(given)))
    y, log_det = reversible(list(chain), x, c, **options) if options else chain.to_latent(x, c)
    wanted = {"x": x, **{f"c{i}": t for i, t in enumerate(given)}, **dict(chain.named_parameters())}
    found = torch.autograd.grad(objective(y, log_det), list(wanted.values()), allow_unused=True)
    return dict(zip(wanted, found, strict=True))


def assert_same(found, expected, tolerance=1e-9):
    assert found.keys() == expected.keys()
    for name, grad in expected.items():
        if grad is None:
            assert found[name] is None, name
        else:
            torch.testing.assert_close(found[name], grad, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: n + m)


KINDS = ["vector", "sigmoid", "none", "image", "pair", "spline"]


@pytest.mark.parametrize("kind", KINDS)
def test_values_are_those_of_the_chain(kind):
    chain = make(kind)
    x, c = batch(kind)
    y, log_det = reversible(list(chain), x, c)
    expected = chain.to_latent(x, c)
    assert torch.equal(y, expected[0])
    assert torch.equal(log_det, expected[1])


@pytest.mark.parametrize("anchors", [(), (0, 4), range(6)])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_plain_autograd(kind, anchors):
    chain = make(kind)
    x, c = batch(kind)
    assert_same(gradients(chain, x, c, anchors=anchors), gradients(chain, x, c))


def test_context_may_hold_none():
    chain = make("pair")
    x, c = batch("pair")
    c = Pair(c.vector, None)
    found = gradients(chain, x, c, anchors=())
    assert_same(found, gradients(chain, x, c))
    assert found["c0"] is not None


def test_context_of_something_else_is_refused():
    chain = make()
    x, c = batch()
    with pytest.raises(TypeError, match="tuple of tensors and None"):
        reversible(list(chain), x, (c, "high"))


@pytest.mark.parametrize("anchor", [-1, 6])
def test_anchor_must_be_a_layer(anchor):
    chain = make()
    x, c = batch()
    with pytest.raises(ValueError, match=rf"0 to 5; got \[{anchor}\]"):
        reversible(list(chain), x, c, anchors=[anchor])


def test_no_layers_is_the_identity():
    x, c = batch()
    y, log_det = reversible([], x, c)
    assert torch.equal(y, x)
    assert not bool(log_det.any())


def test_data_and_context_need_no_gradient():
    chain = make()
    x, c = batch()
    objective(*reversible(list(chain), x, c)).backward()
    found = {name: parameter.grad for name, parameter in chain.named_parameters()}
    expected = gradients(chain, x, c)
    assert_same(found, {name: expected[name] for name in found})


def test_frozen_parameters_get_none():
    chain = make()
    x, c = batch()
    expected = gradients(chain, x, c)
    frozen = chain.layers[2].net.first.weight.requires_grad_(False)
    objective(*reversible(list(chain), x.requires_grad_(), c)).backward()
    assert frozen.grad is None
    torch.testing.assert_close(x.grad, expected["x"])
    torch.testing.assert_close(chain.layers[1].lower.grad, expected["layers.1.lower"])


def test_a_layer_used_twice_gets_both_gradients():
    layers = list(make(steps=1))
    chain = Chain([*layers, *layers])
    x, c = batch()
    assert_same(gradients(chain, x, c, anchors=()), gradients(chain, x, c))


def test_without_gradient_it_is_the_forward_pass():
    chain = make()
    x, c = batch()
    with torch.no_grad():
        y, log_det = reversible(list(chain), x.requires_grad_(), c)
    assert not y.requires_grad
    assert not log_det.requires_grad
    assert torch.equal(y, chain.to_latent(x, c)[0])


def test_gradient_of_a_gradient_is_refused():
    chain = make()
    x, c = batch()
    y, _ = reversible(list(chain), x.requires_grad_(), c)
    (grad,) = torch.autograd.grad(y.sin().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_a_second_backward_pass_gives_the_same():
    chain = make()
    x, c = batch()
    loss = objective(*reversible(list(chain), x.requires_grad_(), c))
    first = torch.autograd.grad(loss, [x, *chain.parameters()], retain_graph=True)
    second = torch.autograd.grad(loss, [x, *chain.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_parameters_written_to_before_the_backward_pass_are_noticed():
    chain = make()
    x, c = batch()
    loss = objective(*reversible(list(chain), x, c))
    with torch.no_grad():
        chain.layers[1].lower.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_parameters_put_in_for_one_call_are_the_ones_that_count():
    chain = make()
    x, c = batch()
    others = {name: (1.1 * p).detach().requires_grad_() for name, p in chain.named_parameters()}

    class Flow(nn.Module):
        def __init__(self, way):
            super().__init__()
            self.layers, self.way = chain.layers, way

        def forward(self, x, c):
            return self.way(list(self.layers), x, c)

    found = []
    for way in (reversible, lambda layers, x, c: Chain(layers).to_latent(x, c)):
        loss = objective(*torch.func.functional_call(Flow(way), others, (x, c)))
        found.append(dict(zip(others, torch.autograd.grad(loss, list(others.values())), strict=True)))
    assert_same(*found)
    own = dict(chain.named_parameters())
    assert all(p.grad is None and isinstance(p, nn.Parameter) for p in own.values())


def test_hooks_of_parameters_fire_once():
    chain = make()
    x, c = batch()
    fired, accumulated = [], []
    for name, parameter in chain.named_parameters():
        parameter.register_hook(lambda grad, name=name: fired.append(name))
        parameter.register_post_accumulate_grad_hook(lambda p, name=name: accumulated.append(name))
    objective(*reversible(list(chain), x, c)).backward()
    names = sorted(name for name, _ in chain.named_parameters())
    assert sorted(fired) == names
    assert sorted(accumulated) == names


def test_distributed_data_parallel_sees_every_gradient(tmp_path):
    chain = make()
    x, c = batch()
    expected = gradients(chain, x, c)

    class Flow(nn.Module):
        def __init__(self):
            super().__init__()
            self.chain = chain

        def forward(self, x, c):
            return reversible(list(self.chain), x, c)

    reduced = []

    def keep(state, bucket):
        reduced.append(sum(p.numel() for p in bucket.parameters()))
        future = torch.futures.Future()
        future.set_result(bucket.buffer())
        return future

    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'rendezvous'}", rank=0, world_size=1)
    try:
        flow = DistributedDataParallel(Flow())
        flow.register_comm_hook(None, keep)
        objective(*flow(x, c)).backward()
    finally:
        distributed.destroy_process_group()
    assert sum(reduced) == sum(p.numel() for p in chain.parameters())
    found = {name: parameter.grad for name, parameter in chain.named_parameters()}
    assert_same(found, {name: expected[name] for name in found})


def held(chain, x, c, plain=False):
    """Bytes of tensors, apart from parameters, that the graph keeps after the forward pass."""
    parameters = {p.untyped_storage().data_ptr() for p in chain.parameters()}
    seen = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y, log_det = chain.to_latent(x, c) if plain else reversible(list(chain), x, c)
    del y, log_det
    return sum(seen.values())


def test_memory_after_the_forward_pass_does_not_grow_with_depth():
    x, c = batch("image", 50)
    shallow, deep = make("image", 2), make("image", 8)
    assert held(deep, x, c) == held(shallow, x, c) == x.nbytes + c.nbytes  # the output and the context
    assert held(deep, x, c, plain=True) > 3 * held(shallow, x, c, plain=True)


def test_network_runs_once_in_the_backward_pass():
    chain = make(steps=1)
    x, c = batch()
    calls = []
    chain.layers[2].net.register_forward_hook(lambda *_: calls.append(1))
    chain.layers[0].net.register_forward_hook(lambda *_: calls.append(1))
    loss = objective(*reversible(list(chain), x, c))
    assert len(calls) == 2
    loss.backward()
    assert len(calls) == 4


def ill_conditioned(steps=12):
    """Layers that contract much on the way to the latent, so that inversion amplifies the rounding of float32."""
    chain = make(steps=steps, stir=0.1).float()
    with torch.no_grad():
        for layer in chain.layers:
            if isinstance(layer, LULinear):
                layer.raw_log_scale.copy_(torch.tensor([5.5, 5.0, 4.5, 4.0]))  # log-scales from -1 to 0.5
    return chain


def test_drift_is_what_inversion_misses():
    chain = ill_conditioned()
    x, c = (t.float() for t in batch(count=50))
    found = drift(list(chain), x, c)
    assert found.shape == (36,)
    y, _ = chain.to_latent(x, c)
    with torch.no_grad():
        back, _ = chain.to_data(y, c)
    torch.testing.assert_close(found[0], ((back - x).abs().max() / x.square().mean().sqrt()).double())
    assert found[0] > found[-1]
    assert drift(list(chain.double()), x.double(), c.double()).max() < 1e-3 * found.max()


def test_anchors_keep_the_drift_below_the_tolerance():
    chain = ill_conditioned()
    x, c = (t.float() for t in batch(count=50))
    layers, tolerance = list(chain), 1e-5
    assert drift(layers, x, c).max() > tolerance
    anchors = choose_anchors(layers, x, c, tolerance)
    assert 0 < len(anchors) < len(layers)
    inputs = [x]
    for layer in layers:
        inputs.append(layer.to_latent(inputs[-1], c)[0].detach())
    for start, stop in zip([0, *anchors], [*anchors, len(layers)], strict=True):
        assert not (drift(layers[start:stop], inputs[start], c)[1:] > tolerance).any()
    assert choose_anchors(layers, x, c, math.inf) == []


def test_anchors_bring_the_error_of_the_gradients_down():
    chain = ill_conditioned()
    x, c = (t.float() for t in batch(count=50))
    exact = gradients(chain, x, c)

    def error(anchors):
        found = gradients(chain, x, c, anchors=anchors)
        return max(float((found[name] - grad).norm() / grad.norm()) for name, grad in exact.items())

    free, anchored = error(()), error(choose_anchors(list(chain), x, c, 1e-5))
    assert free > 1e-3
    assert anchored < 0.1 * free
    assert anchored < 1e-3


class Wild(nn.Module):
    """Inverts into not-a-number."""

    def to_latent(self, x, c):
        return 1.0 * x, x.new_zeros(len(x))

    def to_data(self, y, c):
        return y * float("nan"), y.new_zeros(len(y))


def test_a_drift_that_is_not_finite_sets_an_anchor():
    chain = make()
    x, c = batch()
    layers = [*chain, Wild(), *chain]
    assert choose_anchors(layers, x, c) == [6]
    found = gradients(Chain(layers), x, c, anchors=[6])
    assert_same(found, gradients(Chain(layers), x, c))


@pytest.mark.parametrize("kind", ["image", "spline"])
def test_autocast_of_the_forward_pass_holds_in_the_backward_pass(kind):
    """Anchors everywhere: reconstruction by a network in bfloat16 is another matter."""
    chain = make(kind).float()
    x, c = (t.float() for t in batch(kind))
    seen = []
    net = chain.layers[-1].net
    net.last.register_forward_hook(lambda module, given, out: seen.append(out.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        y, log_det = reversible(list(chain), x, c, anchors=range(6))
    objective(y.float(), log_det).backward()
    assert log_det.dtype == torch.float32
    assert seen == [torch.bfloat16] * 2
    found = {name: parameter.grad.clone() for name, parameter in chain.named_parameters()}
    chain.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        y, log_det = chain.to_latent(x, c)
    objective(y.float(), log_det).backward()
    assert_same(found, {name: parameter.grad for name, parameter in chain.named_parameters()}, 1e-5)
