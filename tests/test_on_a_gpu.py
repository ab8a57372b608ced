"""What a GPU would do, on one that is pretended: steps that do not wait, graphs that are the steps, the same table."""

import copy
import gc
import weakref

import pytest
import torch

from flowzoo import cuda_graph, data, engine, models, preempt
from flowzoo.checkpoint import CheckpointError
from flowzoo.data import Data, Splits
from flowzoo.engine import EngineError
from flowzoo.joint import Joint, NotTogether
from flowzoo.layers import replays
from flowzoo.registry import MODELS
from flowzoo.seeding import generator
from flowzoo.stepper import Stepper
from flowzoo.testing import case_of, inputs, pretended_gpu
from flowzoo.train import fit, fit_together
from flowzoo.train_config import FitConfig

WAITING = {name for name in MODELS.names() if "step_does_not_wait" in getattr(MODELS.get(name), "exempt", {})}
TRAINED = sorted(set(MODELS.names()) - {"gaussian"})
FEWER_PASSES = {"ffjord": {"atol": 0.01, "rtol": 0.01}}


@pytest.fixture
def gpu():
    with pretended_gpu() as gpu:
        yield gpu


@pytest.fixture
def with_graphs(gpu, monkeypatch):
    """The device can have graphs; gives references to all that are made."""
    real, made = engine._no_graph, []
    monkeypatch.setattr(engine, "_no_graph", lambda flow, device, batch: real(flow, torch.device("cuda"), batch))

    class Counted(cuda_graph.Captured):
        def __init__(self, *given, **named):
            super().__init__(*given, **named)
            made.append(weakref.ref(self))

    for module in (cuda_graph, replays):
        monkeypatch.setattr(module, "Captured", Counted)
    with gpu.graphs():
        yield made


def steppers(name, gpu, count=1, **options):
    """Of flows that are made alike, on data of the shapes that the conformance suite gives the model."""
    case = case_of(name)
    own = {**dict(case.options), **FEWER_PASSES.get(name, {})}
    flows = [models.build(name, case.event, case.context, generator=generator(i, "init"), **own) for i in range(count)]
    x, c = inputs(flows[0], 200, generator(0, "data"))
    split = Splits.make(Data(x, c, groups=torch.arange(200) // 4), device=gpu.device).train
    config = FitConfig(**{"batch_size": 16, "ema": 0.9} | options)
    return [Stepper(flow.to(gpu.device), split, config, i) for i, flow in enumerate(flows)]


def same_to_the_last_bit(one, other):
    for p, q in zip(one.descent.changed(), other.descent.changed(), strict=True):
        torch.testing.assert_close(p.cpu(), q.cpu(), rtol=0, atol=0, equal_nan=True)


def refuse(*given):
    raise RuntimeError("no memory\nand more")


@pytest.mark.parametrize("options", [{}, {"optimizer": "radam", "context_noise": 0.1, "context_dropout": 0.1}])
@pytest.mark.parametrize("name", sorted(set(TRAINED) - WAITING))
def test_whole_steps_do_not_wait(name, options, gpu):
    (stepper,) = steppers(name, gpu, **options)
    stepper.step()
    gpu.waits.clear()
    for _ in range(3):
        stepper.step()
    assert gpu.waits == []


@pytest.mark.parametrize("name", ["maf", "sospf", "galacticflow", "cglow"])
def test_joint_steps_do_not_wait(name, gpu):
    joint = Joint(steppers(name, gpu, 3))
    joint.step()
    gpu.waits.clear()
    for _ in range(3):
        joint.step()
    assert gpu.waits == []


def test_columns_of_their_own_maps_do_not_wait(gpu):
    made = data.configure("galaxies", {"num_galaxies": 20, "stars_per_galaxy": 50}).load()
    splits = Splits.make(made, device=gpu.device)
    x_map, context_map = splits.maps()
    shapes = made.event_shape, made.context_shape
    flow = models.build(
        "maf", *shapes, num_steps=1, x_map=x_map, context_map=context_map, generator=generator(0, "init")
    )
    stepper = Stepper(flow.to(gpu.device), splits.train, FitConfig(batch_size=64), 0)
    stepper.step()
    gpu.waits.clear()
    stepper.step()
    assert gpu.waits == []


def test_training_begun_on_the_cpu_does_not_go_on_on_a_gpu_and_says_so(gpu, tmp_path):
    events = Data(torch.randn(300, 3, generator=generator(0, "x")))

    def train(device, steps):
        flow = models.build("maf", (3,), (0,), num_steps=1, generator=generator(0, "init")).to(device)
        config = FitConfig(steps=20, evaluate_every=10, batch_size=16)
        stop = {} if steps is None else {"on_step": lambda step: step == steps and preempt.ask()}
        fit(flow, Splits.make(events, device=device), config, checkpoint=tmp_path / "state.safetensors", **stop)

    try:
        with pytest.raises(preempt.Preempted):
            train("cpu", 10)
    finally:
        preempt.forget()
    with pytest.raises(CheckpointError, match=r"not written on this kind of device, pretended .*; go on there"):
        train(gpu.device, None)


@pytest.mark.parametrize("name", TRAINED)
def test_steps_of_a_graph_are_those_of_the_flow(name, gpu, with_graphs):
    (plain,), (made,) = steppers(name, gpu, engine="eager"), steppers(name, gpu, engine="auto")
    for _ in range(2 if name in WAITING else 5):
        plain.step()
        made.step()
    assert len(with_graphs) == (name not in WAITING)
    if name in WAITING:
        assert made.engine.words.startswith("eager (the capture failed: ")
    else:
        assert made.engine.words == "graph"
    same_to_the_last_bit(plain, made)


def test_whole_step_is_in_the_graph(gpu, with_graphs):
    """Schedule, clip, rectified and plain steps, decay, average, and the first loss that is not finite."""
    options = {"optimizer": "radam", "weight_decay": 0.1, "clip": 0.5, "ema": 0.5}
    (plain,), (made,) = (steppers("maf", gpu, engine=each, **options) for each in ("eager", "auto"))
    for i in range(12):
        if i == 9:
            plain.split.x.fill_(float("nan"))
            made.split.x.fill_(float("nan"))
        for one in (plain, made):
            one.descent.set_rate(0.01 / (1 + i))
            one.step()
        same_to_the_last_bit(plain, made)
    assert int(made.descent.first_bad) == 10
    assert made.engine.words == "graph"


@pytest.mark.parametrize("name", ["maf", "nsf", "sospf", "galacticflow", "cglow"])
def test_joint_steps_of_a_graph_are_those_of_the_flows(name, gpu, with_graphs):
    plain, made = (Joint(steppers(name, gpu, 3, engine=each)) for each in ("eager", "auto"))
    for _ in range(5):
        plain.step()
        made.step()
    assert (plain.words, made.words, len(with_graphs)) == ("eager", "graph", 1)
    for one, other in zip(plain.steppers, made.steppers, strict=True):
        same_to_the_last_bit(one, other)


@pytest.mark.parametrize("optimizer", ["adamw", "radam"])
def test_little_of_a_step_is_outside_of_its_graph(optimizer, gpu, with_graphs):
    (alone,) = steppers("maf", gpu, optimizer=optimizer)
    joint = Joint(steppers("maf", gpu, 5, optimizer=optimizer))
    launches = []
    for one in (alone, joint):
        for _ in range(3):
            gpu.launches = 0
            one.step()
        launches.append(gpu.launches)
    # Three that gather each batch, two that put five together, two that copy it to where the graph reads it.
    assert launches == [5, 19]


def test_joint_steps_go_on_without_a_graph_and_say_why(gpu, with_graphs, monkeypatch):
    monkeypatch.setattr(cuda_graph, "Captured", refuse)
    plain, made = (Joint(steppers("maf", gpu, 2, engine=each)) for each in ("eager", "auto"))
    for _ in range(3):
        plain.step()
        made.step()
    assert made.words == "eager (the capture failed: no memory)"
    assert torch.equal(plain.steppers[1].descent.loss_sum, made.steppers[1].descent.loss_sum)
    asked = Joint(steppers("maf", gpu, 2, engine="graph"))
    asked.step()
    with pytest.raises(NotTogether, match=r"^NoGraph: no memory$"):
        asked.step()


def test_flows_trained_at_once_say_that_a_graph_did_it(gpu, with_graphs):
    splits = Splits.make(Data(torch.randn(300, 3, generator=generator(0, "x"))), device=gpu.device)
    config = FitConfig(steps=20, evaluate_every=10, batch_size=16)
    flows = [models.build("maf", (3,), (0,), num_steps=1, generator=generator(i, "init")) for i in range(2)]
    found = fit_together([flow.to(gpu.device) for flow in flows], splits, config, seeds=[0, 1])
    assert [(result.engine, result.together) for result in found] == [("graph", 2)] * 2
    assert len(with_graphs) == 1


def test_trainings_by_graphs_are_those_without(gpu, with_graphs, tmp_path, monkeypatch):
    """Validations, the average lent and given back, flows that leave early, and one that was begun and goes on."""
    splits = Splits.make(Data(torch.randn(300, 3, generator=generator(0, "x"))), device=gpu.device)

    def asks_to_end_after(steps):
        step, taken = Joint.step, []

        def counted(joint):
            step(joint)
            taken.append(1)
            if len(taken) == steps:
                preempt.ask()

        return counted

    def trained(engine, kill):
        config = FitConfig(steps=60, evaluate_every=2, patience=2, batch_size=64, lr=2e-2, engine=engine)
        flows = [models.build("maf", (3,), (0,), num_steps=1, generator=generator(i, "init")) for i in range(3)]
        paths = [tmp_path / f"{engine}{kill}{i}.safetensors" for i in range(3)]
        given = [flow.to(gpu.device) for flow in flows], splits, config
        if kill:
            with monkeypatch.context() as patch:
                patch.setattr(Joint, "step", asks_to_end_after(7))
                with pytest.raises(preempt.Preempted):
                    fit_together(*given, seeds=[0, 1, 2], checkpoints=paths)
            preempt.forget()
            given = [flow.to(gpu.device) for flow in copy.deepcopy(flows)], splits, config
        return fit_together(*given, seeds=[0, 1, 2], checkpoints=paths)

    expected = trained("eager", False)
    assert len({result.steps for result in expected}) > 1
    for kill in (False, True):
        found = trained("auto", kill)
        assert [result.engine for result in found] == ["graph"] * 3
        assert [result.history for result in found] == [result.history for result in expected]


@pytest.mark.parametrize("train", [fit, lambda flow, *given: fit_together([flow], *given, seeds=[0])])
def test_memory_of_a_step_is_free_after_the_training(train, gpu, with_graphs):
    flow = models.build("maf", (3,), (0,), num_steps=1, generator=generator(0, "init")).to(gpu.device)
    splits = Splits.make(Data(torch.randn(300, 3, generator=generator(0, "x"))), device=gpu.device)
    gc.disable()
    try:
        train(flow, splits, FitConfig(steps=10, evaluate_every=5, batch_size=16))
        assert [graph() for graph in with_graphs] == [None]
    finally:
        gc.enable()
    assert all(p.grad is None for p in flow.parameters())


@pytest.mark.parametrize(
    ("of", "what"),
    [("flow", "gave other gradients"), ("descent", "made other weights of the same gradients")],
)
def test_graph_that_does_other_things_is_not_believed(of, what, gpu, with_graphs):
    """As with what a function has from the host anew each time: a replay has what the capture had."""

    def stepper_that_counts(**options):
        (stepper,) = steppers("maf", gpu, **options)
        calls = []
        if of == "flow":
            forward = stepper.flow.forward
            stepper.flow.forward = lambda *batch: forward(*batch) * (calls.append(1) or len(calls))
        else:
            step = stepper.descent.optimizer.step

            def more_of_it():
                step()
                calls.append(1)
                torch._foreach_add_(stepper.descent.weights, 0.1 * len(calls))

            stepper.descent.optimizer.step = more_of_it
        return stepper

    plain, made = stepper_that_counts(engine="eager"), stepper_that_counts()
    plain.step()
    made.step()
    plain.step()
    made.step()
    assert made.engine.words == f"eager (the capture failed: its first replay {what})"
    same_to_the_last_bit(plain, made)  # the step was taken once
    asked = stepper_that_counts(engine="graph")
    asked.step()
    with pytest.raises(EngineError, match=rf"its first replay {what}\); take eager$"):
        asked.step()


@pytest.mark.parametrize("asked", ["auto", "graph"])
def test_fault_of_the_flow_is_no_failed_capture(asked, gpu, with_graphs):
    def broken(*batch):
        raise RuntimeError("a fault of the model")

    (stepper,) = steppers("maf", gpu, engine=asked)
    stepper.flow.forward = broken
    with pytest.raises(RuntimeError, match=r"^a fault of the model$") as caught:
        stepper.step()
    assert not isinstance(caught.value, EngineError)


def test_graph_is_captured_once_for_a_shape(gpu, with_graphs):
    (stepper,) = steppers("maf", gpu)
    for _ in range(3):
        stepper.step()
    assert [[tuple(part.shape) for part in graph().inputs] for graph in with_graphs] == [[(16, 3), (16, 2)]]


@pytest.mark.parametrize("name", ["maf", "nsf", "sospf", "bpf", "naf", "nice", "realnvp"])
def test_replayed_draws_are_those_of_the_flow(name, gpu, with_graphs, monkeypatch):
    plain = case_of(name).build()
    flow = case_of(name).build().to(gpu.device)
    monkeypatch.setenv(replays.SWITCH, "1")
    for seed in range(4):
        _, c = inputs(plain, 20, generator(seed, "c"))
        with torch.no_grad():
            expected = plain.sample(c, generator=generator(seed, "z"))
            found = flow.sample(c.to(gpu.device), generator=generator(seed, "z", device=gpu.device))
        assert torch.equal(found.cpu(), expected)
    assert len(with_graphs) == 1
