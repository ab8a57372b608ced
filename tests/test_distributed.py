"""Several processes train the flow that one would: the same gradients, the same stops, one file."""

import dataclasses
import math
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from flowzoo import FitConfig, build, distributed, fit, trainer
from flowzoo.checkpoint import load_tensors, save_tensors
from flowzoo.cli import app
from flowzoo.config import ConfigError
from flowzoo.data import Data, Levels, Splits
from flowzoo.distributed import DistributedError, World
from flowzoo.flow import ConditionalFlow
from flowzoo.harness.bench_config import BenchConfig
from flowzoo.harness.plan import make_plan
from flowzoo.harness.single import fit_one
from flowzoo.harness.source import open_source, resolve_device
from flowzoo.seeding import generator
from flowzoo.stepper import Stepper
from flowzoo.validation import mean_nll

pytestmark = pytest.mark.xdist_group(__name__)  # one worker: what it begins with takes long

PROCESSES = 2
BAD_STEP = 7


def plain(**options):
    """Options of a stepper that neither clips nor averages: its gradients are those of the loss."""
    return FitConfig(**({"batch_size": 8, "lr": 1e-2, "clip": 0.0, "ema": 0.0} | options))


def vectors():
    source = generator(0, "data")
    c = torch.randn(60, 2, generator=source)
    x = (2 + c[:, :1] + torch.randn(60, 3, generator=source)).round().clamp(0, 4).long()
    return Splits.make(Data(x, c, levels=Levels(0, 1, 5)))


def images():
    source = generator(0, "data")
    x = torch.randint(5, (40, 1, 4, 4), generator=source)
    return Splits.make(Data(x, torch.randn(40, 2, generator=source), levels=Levels(0, 1, 5), augment=("flip", "shift")))


CASES = {
    "maf": (vectors, {"num_steps": 2, "hidden_features": (8,)}),
    "cglow": (images, {"num_steps": 2, "hidden_features": 8, "reversible": False}),
    # a penalty, whose parameters the density has too; and layers whose networks the loss does not depend on
    "cglow with a penalty": (
        images,
        {"num_steps": 1, "hidden_features": 8, "reversible": False, "conditioning": "base", "base_penalty": 10.0},
    ),
    "cglow, reversible": (images, {"num_steps": 2, "hidden_features": 8, "reversible": True}),
}


def fresh(splits, name, seed=0, **options):
    x_map, context_map = splits.maps()
    shapes = splits.data.event_shape, splits.data.context_shape
    source = generator(seed, "init")
    return build(name, *shapes, x_map=x_map, context_map=context_map, generator=source, **options)


def gradients(case):
    """Of the first step, from weights that are not at their neutral start."""
    make, options = CASES[case]
    splits = make()
    flow = fresh(splits, case.split()[0].strip(","), **options)
    with torch.no_grad():
        for i, p in enumerate(flow.parameters()):
            p += 0.05 * torch.randn(p.shape, generator=generator(i, "weights"))
    Stepper(flow, splits.train, plain(), 0).step()
    return {name: p.grad for name, p in flow.named_parameters() if p.grad is not None}


LONG = FitConfig(steps=200, batch_size=16, evaluate_every=3, checkpoint_every=5, patience=3, lr=3e-2, warmup=0)
CLOCK = FitConfig(steps=10**6, minutes=0.005, batch_size=16, evaluate_every=20)
FEW = FitConfig(steps=2, batch_size=16, evaluate_every=1, validation_events=1)
POISONED = FitConfig(steps=100, batch_size=4, evaluate_every=BAD_STEP, schedule="constant", warmup=0)


class Started(ConditionalFlow):
    """u ~ N(mu, 1), whose initialisation differs a little from process to process, as on GPUs of two kinds."""

    def __init__(self, rank):
        super().__init__((3,), (2,))
        self.mu, self.rank = torch.nn.Parameter(torch.zeros(3)), rank

    def _to_latent(self, u, c):
        return u - self.mu, u.new_zeros(len(u))

    def _initialize(self, u, c):
        self.mu += u.mean(0) + 1e-6 * self.rank


class Killed(Exception):
    """What ends a training in the middle."""


def trained(config, *, path=None, kill=None, poisoned=False, seed=0):
    """The outcome of a training, as JSON, and the weights."""
    splits = vectors()
    flow = fresh(splits, "maf", seed=seed, **CASES["maf"][1])
    if poisoned:  # the last event of a batch, which is in the last process's part of it
        order = torch.randperm(len(splits.train), generator=generator(0, "order"))
        splits.train.x[order[BAD_STEP * config.batch_size - 1]] = math.nan

    def on_step(step):
        if step == kill:
            raise Killed

    try:
        result = fit(flow, splits, config, checkpoint=path, on_step=on_step)
    except Killed:
        return {}, {}
    outcome = {k: v for k, v in dataclasses.asdict(result).items() if k != "seconds"}
    outcome["again"] = mean_nll(flow, splits.validation.fixed, splits.validation.context)
    return outcome, dict(flow.state_dict())


def work(folder):
    """What each of the processes does; it leaves ``<what>.<rank>.safetensors`` behind."""
    with distributed.joined() as world:

        def leave(what, tensors, meta=None):
            save_tensors(folder / f"{what}.{world.rank}.safetensors", tensors, meta or {})

        for case in CASES:
            leave(f"gradients of {case}", gradients(case))
        # every process starts from weights of its own, which are overwritten by the first one's
        leave("fit", *reversed(trained(LONG, seed=world.rank)))
        writes, replace = [], os.replace
        os.replace = lambda source, target: (writes.append(Path(target).name), replace(source, target))
        bench = BenchConfig(device="cpu", baseline=False)
        source = open_source("two_moons", {"num_events": 200}, bench)
        fit_one(make_plan([source], {"gaussian": {}}, FitConfig(), bench)[0], folder / "flow.safetensors")
        state = folder / "state.safetensors"
        trained(LONG, path=state, kill=13)
        outcome, weights = trained(LONG, path=state, seed=world.rank)
        os.replace = replace
        leave("resumed", weights, outcome | {"writes": writes})
        trainer.SAVE_AFTER = trainer.SAVE_SHARE = 0  # by the clock of the first, after every step
        often = folder / "often.safetensors"
        trained(LONG, path=often, kill=13)
        distributed.number_from_zero(0.0)  # the first has written
        step = load_tensors(often)[1]["state"]["step"]
        outcome, weights = trained(LONG, path=often, seed=world.rank)
        trainer.SAVE_AFTER, trainer.SAVE_SHARE = 60.0, 20
        leave("saved by the clock", weights, outcome | {"saved": step})
        started = Started(world.rank)
        fit(started, vectors(), FitConfig(steps=0))
        leave("started", dict(started.state_dict()))
        leave("clock", *reversed(trained(CLOCK)))
        leave("few", *reversed(trained(FEW)))
        leave("poisoned", *reversed(trained(POISONED, poisoned=True)))
        try:
            distributed.agree(f"what {world.rank} has", "what the first has")
            said = "nothing"
        except DistributedError as error:
            said = str(error)
        leave("agree", {}, {"said": said})


def torchrun(*arguments, timeout=120):
    """The arguments run by torchrun in two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={PROCESSES}"]
    threads = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"}
    return subprocess.run(
        [*command, *map(str, arguments)], env=os.environ | threads, capture_output=True, text=True, timeout=timeout
    )


@pytest.fixture(scope="module")
def left(tmp_path_factory):
    """What each process left behind: a function of what and of which."""
    folder = tmp_path_factory.mktemp("processes")
    script = folder / "work.py"
    script.write_text(
        textwrap.dedent(f"""
            import sys, warnings
            from pathlib import Path
            warnings.simplefilter("error")
            sys.path.insert(0, {os.path.dirname(__file__)!r})
            from test_distributed import work
            work(Path({str(folder)!r}))
        """)
    )
    done = torchrun(script)
    assert done.returncode == 0, done.stderr
    return lambda what, rank: load_tensors(folder / f"{what}.{rank}.safetensors")


def assert_close(found, expected, relative):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if value.is_floating_point():
            assert float((found[name] - value).norm()) <= relative * max(float(value.norm()), 1e-3), name
        else:
            assert torch.equal(found[name], value), name


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_one_process(left, case):
    expected = gradients(case)
    for rank in range(PROCESSES):
        assert_close(left(f"gradients of {case}", rank)[0], expected, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["fit", "resumed", "started", "clock", "few", "poisoned"])
def test_all_processes_end_with_the_same_bits(left, what):
    (first, outcome), (second, other) = (left(what, rank) for rank in range(PROCESSES))
    outcome.pop("writes", None), other.pop("writes", None)
    assert outcome == other
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_training_that_stops_early_is_that_of_one_process(left):
    expected, weights = trained(LONG)
    assert expected["reason"].startswith("stopped at step")
    for what in ("fit", "resumed"):
        found, outcome = left(what, 0)
        assert_close(found, weights, 1e-3)  # the rounding of dozens of steps
        for name in ("status", "reason", "steps", "best_step"):
            assert outcome[name] == expected[name]
        for row, known in zip(outcome["history"], expected["history"], strict=True):
            assert row == pytest.approx(known, rel=1e-4)
        # the shares of the validation add up to all of it
        assert outcome["validation_nll"] == pytest.approx(outcome["again"], rel=1e-5)


@pytest.mark.slow
def test_killed_processes_resume_bit_for_bit(left):
    (undisturbed, expected), (resumed, outcome) = left("fit", 0), left("resumed", 0)
    outcome.pop("writes")
    assert outcome == expected
    assert all(torch.equal(resumed[name], undisturbed[name]) for name in undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("rank", range(PROCESSES))
def test_clock_of_the_first_process_saves_all(left, rank):
    (undisturbed, expected), (resumed, outcome) = left("fit", 0), left("saved by the clock", rank)
    assert outcome.pop("saved") == 13  # and not 10, the last multiple of checkpoint_every
    assert outcome == expected
    assert all(torch.equal(resumed[name], undisturbed[name]) for name in undisturbed)


@pytest.mark.slow
def test_first_process_alone_writes(left):
    writes = [left("resumed", rank)[1]["writes"] for rank in range(PROCESSES)]
    assert writes[0].count("flow.safetensors") == 1
    assert writes[0].count("state.safetensors") > 2
    assert writes[1:] == [[]] * (PROCESSES - 1)


@pytest.mark.slow
def test_clock_of_the_first_process_stops_all(left):
    assert "used all 0.005 minutes" in left("clock", 1)[1]["reason"]


@pytest.mark.slow
def test_fewer_validation_events_than_processes_are_scored_once(left):
    assert left("few", 0)[1]["validation_nll"] == pytest.approx(trained(FEW)[0]["validation_nll"], rel=1e-5)


@pytest.mark.slow
def test_loss_that_is_not_finite_in_one_process_is_told_by_all(left):
    for rank in range(PROCESSES):
        assert left("poisoned", rank)[1]["reason"] == f"the loss was not finite at step {BAD_STEP}"


@pytest.mark.slow
def test_processes_that_have_other_things_are_told(left):
    assert left("agree", 0)[1]["said"] == "nothing"
    assert left("agree", 1)[1]["said"] == "process 1 of 2 does not have what the first has"


# -- the command ----------------------------------------------------------------------------------------------------

FIT = ["fit", "--model", "maf", "--data", "two_moons", "--steps", "12", "--device", "cpu"]
OPTIONS = {"data.num_events": 200, "model.num_steps": 1, "train.evaluate_every": 5, "train.batch_size": 16}


def arguments(out, **changes):
    options = OPTIONS | {f"train.{key}": value for key, value in changes.items()}
    return [*FIT, "--out", str(out), *(part for k, v in options.items() for part in ("--set", f"{k}={v}"))]


@pytest.mark.slow
def test_command_writes_the_flow_that_one_process_writes(tmp_path):
    done = torchrun("-m", "flowzoo", *arguments(tmp_path / "two" / "flow.safetensors"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("took all 12 steps") == done.stdout.count("flowzoo.load(") == 1
    assert [p.name for p in (tmp_path / "two").iterdir()] == ["flow.safetensors"]
    app(arguments(tmp_path / "one.safetensors"), standalone_mode=False)
    (found, told), (expected, known) = (
        load_tensors(tmp_path / name) for name in ("two/flow.safetensors", "one.safetensors")
    )
    assert_close(found, expected, 1e-4)
    assert told["flow"] == known["flow"]


@pytest.mark.slow
def test_batch_that_cannot_be_shared_is_one_line_said_once(tmp_path):
    done = torchrun("-m", "flowzoo", *arguments(tmp_path / "flow.safetensors", batch_size=7))
    assert done.returncode != 0
    ours = [line for line in done.stderr.splitlines() if line.startswith("flowzoo: ")]
    assert ours == [
        "flowzoo: train.batch_size must be a multiple of the number of processes, 2, and no larger than the "
        "140 training events; it is 7"
    ]
    assert done.stdout == "two_moons: 200 events of 2, given 2 numbers, 200 groups\n"  # said before it
    assert list(tmp_path.iterdir()) == []


# -- one process, and what can be seen without others ---------------------------------------------------------------


def test_one_process_is_alone_whatever_its_surroundings_say(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")  # as some schedulers set it, without a rank
    with distributed.joined() as world:
        assert world == distributed.world() == World(0, 1, 0)
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("RANK", "0")
    with distributed.joined() as world:
        assert world == World(0, 1, 0)
    assert not torch.distributed.is_initialized()


def test_processes_that_cannot_meet_are_one_line(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(DistributedError, match="cannot join the other processes") as caught, distributed.joined():
        pass
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("count", "size"), [(8, 2), (7, 3), (1, 4), (0, 2)])
def test_shares_are_disjoint_and_all_there_is(monkeypatch, count, size):
    rows = []
    for rank in range(size):
        monkeypatch.setattr(distributed, "_joined", World(rank, size, rank))
        rows += range(count)[distributed.share_of(count)]
    assert rows == list(range(count))


def test_each_process_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(distributed, "_joined", World(5, 8, 1))
    assert resolve_device("cpu") == torch.device("cpu")
    with pytest.raises(ConfigError, match=r"device 'cuda:0' is one GPU and there are 8 processes; take auto or cpu"):
        resolve_device("cuda:0")
    tried = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "zeros", lambda *_, device: (tried.append(device), torch.ones(1))[1])
    assert resolve_device("auto") == resolve_device("cuda") == torch.device("cuda:1")
    assert tried == [torch.device("cuda:1")] * 2
