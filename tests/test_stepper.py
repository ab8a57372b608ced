"""A step: no wait for the host, every event once an epoch, an average that is one, a state that is all of it."""

import copy
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from flowzoo import build
from flowzoo.cli import complaint
from flowzoo.data import Data, Levels, Splits, configure
from flowzoo.flow import ConditionalFlow
from flowzoo.seeding import generator
from flowzoo.stepper import CompileError, Stepper
from flowzoo.testing import NoHostSync


@dataclass(frozen=True)
class Config:
    batch_size: int = 8
    lr: float = 1e-2
    weight_decay: float = 0.0
    clip: float = 5.0
    ema: float = 0.9
    compile: bool = False


class Point(ConditionalFlow):
    """u ~ N(mu, 1): its gradient is mu minus the mean of the batch."""

    def __init__(self):
        super().__init__((2,), (1,))
        self.mu = nn.Parameter(torch.zeros(2))
        self.seen = []

    def _to_latent(self, u, c):
        self.seen.append(c.flatten())
        return u - self.mu, u.new_zeros(len(u))


def splits(count=50, **options):
    x = torch.randn(count, 2, generator=generator(0, "x"))
    return Splits.make(Data(x, torch.arange(count)[:, None].float(), **options))


def stepper(flow=None, split=None, seed=0, **options):
    return Stepper(flow or Point(), split or splits().train, Config(**options), seed)


def test_epoch_shows_every_event_once_but_the_remainder_and_the_next_in_another_order():
    made = stepper()
    assert len(made.split) == 35
    assert made.batches == 4
    for _ in range(8):
        made.step()
    seen = torch.stack(made.flow.seen).reshape(2, 32)
    assert all(len(set(epoch.tolist())) == 32 for epoch in seen)
    assert not torch.equal(seen[0], seen[1])
    # who is left out changes, so in the long run nobody is
    for _ in range(40):
        made.step()
    assert len(torch.cat(made.flow.seen).unique()) == 35


def test_batch_larger_than_the_data_is_the_data():
    made = stepper(batch_size=1000)
    assert made.batch_size == 35
    made.step()
    made.step()
    assert [len(set(seen.tolist())) for seen in made.flow.seen] == [35, 35]


def test_seed_decides_the_order():
    seen = []
    for seed in (0, 0, 1):
        made = stepper(seed=seed)
        made.step()
        seen.append(made.flow.seen[0])
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])


def test_step_is_adamw_on_the_clipped_gradient():
    made = stepper(clip=1e-3, weight_decay=0.1)
    with torch.no_grad():
        made.flow.mu.fill_(4.0)
    twin = copy.deepcopy(made.flow)
    optimizer = torch.optim.AdamW(twin.parameters(), lr=1e-2, weight_decay=0.1)
    for _ in range(5):
        made.step()
        rows = made.flow.seen[-1].long()
        everything = splits()
        x = everything.data.x[rows]
        optimizer.zero_grad()
        (-twin(x, rows[:, None].float()).mean()).backward()
        nn.utils.clip_grad_norm_(twin.parameters(), 1e-3)
        optimizer.step()
    torch.testing.assert_close(made.flow.mu, twin.mu)


def test_clip_of_zero_does_not_clip():
    made = stepper(clip=0.0)
    with torch.no_grad():
        made.flow.mu.fill_(1e4)
    made.step()
    assert float(made.flow.mu.grad.norm()) > 1e4


def test_average_is_that_of_the_weights_with_a_start_that_fades():
    made = stepper(ema=0.5)
    average = made.flow.mu.detach().clone()
    for n in range(1, 15):
        made.step()
        decay = min(0.5, (1 + n) / (10 + n))
        average = decay * average + (1 - decay) * made.flow.mu.detach()
    torch.testing.assert_close(made.averages[0], average)


def test_average_of_no_decay_is_the_weights_bit_for_bit():
    made = stepper(ema=0.0)
    for _ in range(5):
        made.step()
        assert torch.equal(made.averages[0], made.flow.mu)


def test_average_is_lent_to_the_flow_and_given_back():
    made = stepper()
    for _ in range(5):
        made.step()
    own, average = made.flow.mu.detach().clone(), made.averages[0].clone()
    seen = []

    def interrupted():
        with made.averaged():
            seen.append(made.flow.mu.detach().clone())
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    assert torch.equal(seen[0], average)
    assert torch.equal(made.flow.mu, own)
    assert not torch.equal(own, average)


def test_losses_are_summed_and_taken_once():
    made = stepper(lr=1e-12)
    made.step()
    rows = made.flow.seen[-1].long()
    expected = -made.flow(splits().data.x[rows], rows[:, None].float()).mean()
    assert made.take_loss() == pytest.approx(float(expected.detach()), rel=1e-5)
    assert made.take_loss() == 0.0


def test_first_loss_that_is_not_finite_is_remembered_with_its_step():
    made = stepper()
    for _ in range(3):
        made.step()
    assert int(made.first_bad) == -1
    made.split.x.fill_(float("nan"))
    for _ in range(3):
        made.step()
    assert int(made.first_bad) == 4


@pytest.mark.parametrize("steps", [0, 1, 3, 4, 5, 11])
def test_state_taken_up_by_a_fresh_stepper_goes_on_bit_for_bit(steps):
    levels = Data(torch.randint(5, (50, 2), generator=generator(0, "x")), levels=Levels(0, 1, 5))
    split = Splits.make(levels).train

    def fresh():
        flow = build("maf", (2,), (0,), num_steps=1, hidden_features=4, generator=generator(0, "init"))
        return stepper(flow, split)

    undisturbed, first, second = fresh(), fresh(), fresh()
    for _ in range(12):
        undisturbed.step()
    for _ in range(steps):
        first.step()
    held = {k: t.clone() for k, t in first.tensors().items()}
    second.flow.load_state_dict(first.flow.state_dict())
    second.restore(held)
    for _ in range(12 - steps):
        second.step()
    for (name, found), expected in zip(second.tensors().items(), undisturbed.tensors().values(), strict=True):
        assert torch.equal(found, expected), name
    for found, expected in zip(second.weights, undisturbed.weights, strict=True):
        assert torch.equal(found, expected)


# -- compiled -------------------------------------------------------------------------------------------------------


class Silent(Point):
    """What it sees is not kept: a side effect that a compiler would have to preserve."""

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
        made = stepper(flow, split, compile=compiled)
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
        made = stepper(Silent(), compile=True)
        torch._dynamo.utils.counters.clear()
        made.step()
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch about itself
def test_without_a_compiler_the_reason_is_one_line():
    from torch._inductor import config

    made = stepper(Silent(), compile=True)
    with (
        config.patch({"cpp.cxx": (None, "no-such-compiler"), "force_disable_caches": True}),
        pytest.raises(CompileError, match=r"^train\.compile: .*No working C\+\+ compiler.*; leave it out$") as caught,
    ):
        made.step()
    assert "\n" not in str(caught.value)
    assert complaint(caught.value) == str(caught.value)


def test_python_that_torch_cannot_compile_for_is_one_line(monkeypatch):
    def refuse(module):
        raise RuntimeError("torch.compile is not supported on Python 3.99+\nand more")

    monkeypatch.setattr(torch, "compile", refuse)
    with pytest.raises(CompileError, match=r"^train\.compile: .*\(torch.compile is not supported on Python 3.99\+\);"):
        stepper(compile=True)


def test_fault_of_a_compiled_flow_is_its_own(only_traced):
    class Faulty(Silent):
        def _to_latent(self, u, c):
            raise KeyError("a fault of the model")

    with pytest.raises(KeyError, match="a fault of the model"):
        stepper(Faulty(), compile=True).step()


# -- nothing waits for the host -------------------------------------------------------------------------------------

MODELS = {
    "maf": {"num_steps": 2, "hidden_features": 8},
    "cglow": {"num_steps": 1, "hidden_features": 8},
    "sospf": {"num_steps": 2, "hidden_features": 8},
    "galacticflow": {"num_steps": 1, "hidden_features": 8},
    "realnvp": {"num_steps": 2, "hidden_features": 8},
}


def on_digits(name, device):
    digits = Splits.make(configure("digits", {}).load(), device=device)
    x_map, context_map = digits.maps()
    flow = build(
        name,
        digits.data.event_shape,
        digits.data.context_shape,
        x_map=x_map,
        context_map=context_map,
        generator=generator(0, "init"),
        **MODELS[name],
    ).to(device)
    made = Stepper(flow, digits.train, Config(batch_size=32), 0)
    made.step()  # the optimiser makes its state on the first
    return made


@pytest.mark.parametrize("name", MODELS)
def test_step_on_integer_data_waits_for_nothing(name):
    made = on_digits(name, "cpu")
    with NoHostSync():
        made.step()
        made.set_rate(1e-4)
        made.step()
    assert int(made.first_bad) == -1


def test_step_on_augmented_data_waits_for_nothing():
    x = torch.randint(5, (20, 1, 4, 4), generator=generator(0, "x"))
    data = Data(x, levels=Levels(0, 1, 5), augment=("flip", "quarter_turn", "shift"))
    flow = build("cglow", (1, 4, 4), num_steps=1, hidden_features=8, generator=generator(0, "init"))
    made = stepper(flow, Splits.make(data).train)
    made.step()
    with NoHostSync():
        made.step()


def test_the_watch_over_steps_sees_a_wait():
    made = on_digits("maf", "cpu")
    with pytest.raises(AssertionError, match="for which a GPU's host has to wait"), NoHostSync():
        made.take_loss()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", MODELS)
def test_step_on_a_gpu_synchronises_with_nothing(name):
    made = on_digits(name, "cuda")
    made.step()
    torch.cuda.synchronize()
    try:
        torch.cuda.set_sync_debug_mode("error")
        for _ in range(3):
            made.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert int(made.first_bad) == -1
