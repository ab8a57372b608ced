"""Engines: the same steps, however their gradients come about, and a reason where one cannot be had."""

import pytest
import torch
from torch import nn

from flowzoo import build, cuda_graph, distributed, engine
from flowzoo.cli import complaint
from flowzoo.data import Data, Levels, Splits
from flowzoo.descent import Descent
from flowzoo.distributed import World
from flowzoo.engine import EngineError, choose
from flowzoo.flow import ConditionalFlow
from flowzoo.seeding import generator
from flowzoo.stepper import Stepper
from flowzoo.train_config import FitConfig


def stepper(flow=None, split=None, **options):
    x = torch.randn(50, 2, generator=generator(0, "x"))
    split = split or Splits.make(Data(x, torch.arange(50)[:, None].float())).train
    return Stepper(flow or Silent(), split, FitConfig(**{"batch_size": 8, "lr": 1e-2, "ema": 0.9} | options), 0)


def chosen(name, flow, device="cpu"):
    """What would be chosen there."""
    descent = Descent(list(flow.parameters()), FitConfig())
    descent.device = torch.device(device)
    return choose(name, flow, descent, 8)


def small(name, seed=0):
    return build(name, (2,), (1,), generator=generator(seed, "init"))


class Silent(ConditionalFlow):
    """u ~ N(mu, 1): the gradient of its NLL is mu minus the mean of the batch."""

    def __init__(self):
        super().__init__((2,), (1,))
        self.mu = nn.Parameter(torch.zeros(2))

    def _to_latent(self, u, c):
        return u - self.mu, u.new_zeros(len(u))


@pytest.fixture
def only_traced(monkeypatch):
    """torch.compile without its code generation, which takes half a minute; counts what it is called for."""
    real, called = torch.compile, []
    monkeypatch.setattr(torch, "compile", lambda module: called.append(module) or real(module, backend="eager"))
    return called


@pytest.mark.parametrize("name", ["maf", "cglow"])
def test_compiled_steps_are_those_of_the_flow_itself(name, only_traced):
    shape = (2,) if name == "maf" else (1, 4, 4)
    x = torch.randint(5, (50, *shape), generator=generator(0, "x"))
    split = Splits.make(Data(x, levels=Levels(0, 1, 5))).train
    flows = []
    for compiled in (False, True):
        flow = build(name, shape, (0,), num_steps=1, hidden_features=4, generator=generator(0, "init"))
        made = stepper(flow, split, engine="compile" if compiled else "eager")
        for _ in range(5):
            made.step()
        flows.append(flow)
    assert only_traced == [flows[1]]
    plain, compiled = (flow.state_dict() for flow in flows)
    assert compiled.keys() == plain.keys()
    for name, value in plain.items():
        torch.testing.assert_close(compiled[name], value)


def test_every_one_of_many_flows_is_compiled(only_traced):
    for _ in range(12):  # more than torch compiles one function for
        made = stepper(Silent(), engine="compile")
        torch._dynamo.utils.counters.clear()
        made.step()
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch about itself
def test_without_a_compiler_the_reason_is_one_line():
    from torch._inductor import config

    made = stepper(Silent(), engine="compile")
    with (
        config.patch({"cpp.cxx": (None, "no-such-compiler"), "force_disable_caches": True}),
        pytest.raises(EngineError, match=r"^train\.engine: .*No working C\+\+ compiler.*; take eager$") as caught,
    ):
        made.step()
    assert "\n" not in str(caught.value)
    assert complaint(caught.value) == str(caught.value)


def test_python_that_torch_cannot_compile_for_is_one_line(monkeypatch):
    def refuse(module):
        raise RuntimeError("torch.compile is not supported on Python 3.99+\nand more")

    monkeypatch.setattr(torch, "compile", refuse)
    with pytest.raises(EngineError, match=r"^train\.engine: .*\(torch.compile is not supported on Python 3.99\+\);"):
        stepper(engine="compile")


def test_fault_of_a_compiled_flow_is_its_own(only_traced):
    class Faulty(Silent):
        def _to_latent(self, u, c):
            raise KeyError("a fault of the model")

    with pytest.raises(KeyError, match="a fault of the model"):
        stepper(Faulty(), engine="compile").step()


# -- a graph --------------------------------------------------------------------------------------------------------


def test_graph_needs_a_gpu_and_says_so_and_auto_is_eager_without():
    with pytest.raises(
        EngineError, match=r"^train\.engine: graph cannot be had here \(a CUDA graph needs a GPU\); take"
    ):
        chosen("graph", Silent())
    assert chosen("auto", Silent()).words == "eager"
    assert chosen("eager", Silent()).words == "eager"


def test_what_cannot_be_a_graph_on_a_gpu_either_has_a_reason(monkeypatch):
    reversible = build("cglow", (1, 4, 4), reversible=True, num_steps=1, hidden_features=4)
    assert chosen("auto", reversible, "cuda").words == (
        "eager (the flow measures between its steps what the next ones do)"
    )
    monkeypatch.setattr(distributed, "world", lambda: World(0, 2, 0))
    monkeypatch.setattr(engine, "_shared", lambda flow: flow)
    assert chosen("auto", Silent(), "cuda").words.startswith("eager (several processes exchange")


def refuse(*given):
    raise RuntimeError("operation not permitted when stream is capturing\nCUDA kernel errors might")


def test_capture_that_fails_is_a_reason_and_the_steps_go_on(monkeypatch):
    monkeypatch.setattr(engine, "_no_graph", lambda *given: "")
    monkeypatch.setattr(cuda_graph, "Captured", refuse)
    plain, made = stepper(small("maf")), stepper(small("maf"), engine="auto")
    for _ in range(3):
        plain.step()
        made.step()
    assert made.engine.words == "eager (the capture failed: operation not permitted when stream is capturing)"
    assert all(torch.equal(p, q) for p, q in zip(plain.descent.parameters, made.descent.parameters, strict=True))
    asked = stepper(small("maf"), engine="graph")
    asked.step()
    with pytest.raises(EngineError, match=r"graph cannot be had here \(the capture failed: operation not permitted"):
        asked.step()


def test_compiled_flow_is_captured_too_and_goes_on_without(only_traced, monkeypatch):
    monkeypatch.setattr(engine, "_no_graph", lambda *given: "")
    monkeypatch.setattr(cuda_graph, "Captured", refuse)
    assert chosen("compile", Silent()).words == "compile, graph"
    made, plain = stepper(engine="compile"), stepper()
    for _ in range(2):
        made.step()
        plain.step()
    assert made.engine.words.startswith("compile (the capture failed: operation not permitted")
    assert torch.equal(made.descent.parameters[0], plain.descent.parameters[0])


def test_fault_of_the_compiler_is_no_failed_capture(monkeypatch):
    def fail(*given):
        raise EngineError("train.engine: torch cannot compile this flow here (no compiler); take eager")

    monkeypatch.setattr(engine, "_no_graph", lambda *given: "")
    monkeypatch.setattr(engine.Compiled, "differentiate", fail)
    with pytest.raises(EngineError, match="no compiler"):
        stepper(engine="compile").step()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("way", ["graph", "compile"])
@pytest.mark.parametrize("name", ["maf", "nsf", "sospf", "bpf", "naf", "nice", "galacticflow", "cglow"])
def test_steps_of_a_graph_are_those_of_the_flow(name, way):
    x, c = torch.randn(500, 2, generator=generator(0, "x")), torch.randn(500, 1, generator=generator(0, "c"))
    split = Splits.make(Data(x, c), device="cuda").train
    made = {each: stepper(small(name).cuda(), split, engine=each, batch_size=64) for each in ("eager", way)}
    for _ in range(20):
        for one in made.values():
            one.step()
    assert made[way].engine.words == ("graph" if way == "graph" else "compile, graph")
    for p, q in zip(made["eager"].descent.parameters, made[way].descent.parameters, strict=True):
        torch.testing.assert_close(q, p, rtol=1e-4, atol=1e-5)
    assert int(made[way].descent.first_bad) == -1
