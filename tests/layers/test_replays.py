"""Inverses from a graph: what is kept, when it is captured, when it is not believed. A stand-in does the capture."""

import copy
import pickle

import pytest
import torch

from flowzoo import build
from flowzoo.host_sync import NoHostSync
from flowzoo.layers import replays
from flowzoo.layers.replays import KEPT, SWITCH, TRIES, Replays
from flowzoo.layers.rounds import until
from flowzoo.seeding import generator

ALLOWED = replays._allowed


class Recorded:
    """As a graph: inputs and outputs are its own tensors, and while it runs the host may not wait."""

    made: list["Recorded"] = []

    def __init__(self, run, inputs):
        self.run, self.inputs = run, [part.clone() for part in inputs]
        Recorded.made.append(self)
        self()

    def __call__(self, *inputs):
        if inputs:
            for own, part in zip(self.inputs, inputs, strict=True):
                own.copy_(part)
        with NoHostSync():
            return self.run(*self.inputs)


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    Recorded.made = []
    monkeypatch.setattr(replays, "Captured", Recorded)
    monkeypatch.setattr(replays, "_allowed", lambda inputs: True)


def small(name, context=1):
    return build(name, (3,), (context,), generator=generator(0, "init"))


def drawn(flow, seed, count=20):
    context = torch.ones(count, 1, device=next(flow.parameters()).device)
    return flow.sample(context, generator=generator(seed, "draws"))


@pytest.mark.parametrize("name", ["maf", "nsf", "sospf", "bpf", "naf", "realnvp"])
def test_replayed_draws_are_those_of_the_flow(name, monkeypatch):
    flow, plain = small(name), small(name)
    for seed in range(5):
        with monkeypatch.context() as patch:
            patch.setattr(replays, "_allowed", lambda inputs: False)
            known = drawn(plain, seed)
        torch.testing.assert_close(drawn(flow, seed), known, rtol=1e-5, atol=1e-6)
    assert len(Recorded.made) == 1  # in the second draw


def test_weights_that_change_in_place_are_seen_and_others_have_a_graph_of_their_own():
    flow = small("maf")
    for seed in range(3):
        drawn(flow, seed)
    before = drawn(flow, 7)
    with torch.no_grad():
        for p in flow.parameters():
            p.mul_(3)
    assert not torch.allclose(drawn(flow, 7), before)
    assert len(Recorded.made) == 1
    flow.double()
    for seed in range(3):
        drawn(flow, seed)
    assert len(Recorded.made) == 2


def test_few_shapes_are_kept():
    flow = small("maf")
    for count in range(2, 2 + 2 * KEPT):
        for seed in range(2):
            drawn(flow, seed, count)
    assert len(flow.replays._kept) == KEPT
    drawn(flow, 0, 1 + 2 * KEPT)
    assert len(Recorded.made) == 2 * KEPT


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda flow: pickle.loads(pickle.dumps(flow))])
def test_copy_begins_without_graphs(copied):
    flow = small("maf")
    for seed in range(3):
        drawn(flow, seed)
    other = copied(flow)
    assert not other.replays._kept
    assert torch.equal(drawn(other, 0), drawn(small("maf"), 0))


def climb(x):
    """As many rounds as x is large."""
    enough, i = until(100), torch.zeros(())
    for _ in range(100):
        i = torch.minimum(i + 1, x.max())
        if enough(i >= x.max()):
            break
    return (x + i,)


def test_what_was_found_in_too_few_rounds_is_found_again_and_the_next_graph_has_more():
    replay, at = Replays(), lambda value: (torch.tensor([value]),)
    for value, graphs in ((3.0, 0), (2.0, 1), (5.0, 1), (50.0, 2), (40.0, 2), (52.0, 2), (53.0, 3)):
        (found,) = replay(climb, at(value), tuple)
        assert float(found) == 2 * value
        assert len(Recorded.made) == graphs
    for i in range(2 * TRIES):
        replay(climb, at(60.0 + 4 * i), tuple)
    assert len(Recorded.made) == TRIES


def test_graph_that_gives_other_numbers_is_not_believed():
    calls = []

    def drifting(x):
        calls.append(1)
        return (x + len(calls),)

    replay, x = Replays(), torch.zeros(2)
    replay(drifting, (x,), tuple)
    with pytest.warns(UserWarning, match="^no CUDA graph of a flow's inverse, which goes on without: its first replay"):
        replay(drifting, (x,), tuple)
    made = len(Recorded.made)
    replay(drifting, (x,), tuple)
    assert len(Recorded.made) == made == 1


def test_capture_that_fails_leaves_the_function(monkeypatch):
    def refuse(*given):
        raise RuntimeError("operation not permitted when stream is capturing\nCUDA kernel errors might")

    monkeypatch.setattr(replays, "Captured", refuse)
    flow = small("maf")
    known = drawn(flow, 0)
    with pytest.warns(UserWarning, match="goes on without: operation not permitted when stream is capturing$"):
        drawn(flow, 1)
    assert torch.equal(drawn(flow, 0), known)


def test_loop_that_runs_out_is_not_captured():
    def endless(x):
        enough = until(3)
        for _ in range(3):
            enough((x > x).all())
        return (x,)

    replay = Replays()
    for _ in range(4):
        replay(endless, (torch.ones(1),), tuple)
    assert not Recorded.made


def test_only_asked_for_on_a_gpu_and_without_gradient(monkeypatch):
    on_gpu = (torch.empty(1, device="meta"),)
    monkeypatch.setattr(torch.Tensor, "is_cuda", True, raising=False)
    monkeypatch.delenv(SWITCH, raising=False)
    with torch.no_grad():
        assert not ALLOWED(on_gpu)
        monkeypatch.setenv(SWITCH, "1")
        assert ALLOWED(on_gpu)
    assert not ALLOWED(on_gpu)
    with torch.inference_mode():
        assert not ALLOWED(on_gpu)


def test_it_is_off_on_a_cpu(monkeypatch):
    monkeypatch.setenv(SWITCH, "1")
    with torch.no_grad():
        assert not ALLOWED((torch.ones(1),))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["maf", "nsf", "sospf", "bpf", "naf", "realnvp"])
def test_draws_of_a_graph_on_a_gpu(name, monkeypatch):
    monkeypatch.undo()
    flow = small(name).cuda()
    known = [drawn(flow, seed) for seed in range(5)]
    monkeypatch.setenv(SWITCH, "1")
    for seed in range(5):
        torch.testing.assert_close(drawn(flow, seed), known[seed], rtol=1e-4, atol=1e-5)
    (shape,) = flow.replays._kept.values()
    assert shape.graph is not None
