import dataclasses
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from flowzoo import FitConfig, build, cli, fit, preempt, trainer
from flowzoo.checkpoint import load_tensors, read_meta
from flowzoo.data import Data, Splits
from flowzoo.flow import ConditionalFlow
from flowzoo.preempt import Preempted, heeded
from flowzoo.seeding import generator

CONFIG = FitConfig(steps=40, batch_size=16, evaluate_every=7, checkpoint_every=1000, lr=1e-2)


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    yield
    preempt.forget()


@pytest.fixture
def splits() -> Splits:
    source = generator(0, "data")
    context = torch.randn(60, 2, generator=source)
    return Splits.make(Data(context[:, :1] + torch.randn(60, 3, generator=source), context))


def fresh(splits: Splits) -> ConditionalFlow:
    x_map, context_map = splits.maps()
    maps = {"x_map": x_map, "context_map": context_map, "generator": generator(0, "init")}
    return build("maf", (3,), (2,), num_steps=1, hidden_features=(4,), **maps)


def ask_at(step: int):
    return lambda now: preempt.ask() if now == step else None


# -- in the training


@pytest.mark.parametrize("step", [1, 6, 7, 12, 38, 39])
def test_training_stops_after_the_next_step_and_resumes_bit_for_bit(splits: Splits, tmp_path: Path, step: int) -> None:
    whole = fresh(splits)
    expected = fit(whole, splits, CONFIG)
    state = tmp_path / "state.safetensors"
    with pytest.raises(Preempted):
        fit(fresh(splits), splits, CONFIG, checkpoint=state, on_step=ask_at(step))
    assert read_meta(state)["state"]["step"] == step + 1
    preempt.forget()
    flow, taken = fresh(splits), []
    result = fit(flow, splits, CONFIG, checkpoint=state, on_step=taken.append)
    assert taken == [*range(step + 2, 41)]
    assert dataclasses.replace(result, seconds=0) == dataclasses.replace(expected, seconds=0)
    assert all(torch.equal(a, b) for a, b in zip(flow.state_dict().values(), whole.state_dict().values(), strict=True))


def test_training_without_a_checkpoint_stops_too(splits: Splits) -> None:
    with pytest.raises(Preempted):
        fit(fresh(splits), splits, CONFIG, on_step=ask_at(3))


class Prepared(ConditionalFlow):
    """Its next steps depend on what `prepare` measured, and so on when it is called."""

    def __init__(self) -> None:
        super().__init__((3,), (2,))
        self.shift, self.measured = nn.Parameter(torch.zeros(())), 0.0

    def prepare(self, x: torch.Tensor, context: torch.Tensor | None = None) -> None:
        self.measured = self.shift.item()

    def _to_latent(self, u: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return u + self.shift * (1 + self.measured), u.new_zeros(len(u))

    def _to_data(self, z: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return z - self.shift * (1 + self.measured), z.new_zeros(len(z))


def test_flow_that_prepares_stops_where_it_would_have_prepared(splits: Splits, tmp_path: Path) -> None:
    whole = Prepared()
    fit(whole, splits, CONFIG)
    state = tmp_path / "state.safetensors"
    with pytest.raises(Preempted):
        fit(Prepared(), splits, CONFIG, checkpoint=state, on_step=ask_at(9))
    assert read_meta(state)["state"]["step"] == 14
    preempt.forget()
    flow = Prepared()
    fit(flow, splits, CONFIG, checkpoint=state)
    assert torch.equal(flow.shift, whole.shift)


def test_flow_that_prepares_is_saved_by_the_clock_where_it_would_have_prepared(
    splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Prepared()
    fit(whole, splits, CONFIG)
    state = tmp_path / "state.safetensors"
    now = 0.0

    def on_step(step: int) -> None:
        nonlocal now
        now += 25.0
        if step == 16:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(trainer, "time", SimpleNamespace(monotonic=lambda: now))
        with pytest.raises(KeyboardInterrupt):
            fit(Prepared(), splits, CONFIG, checkpoint=state, on_step=on_step)
    assert read_meta(state)["state"]["step"] == 14  # a validation; a minute had passed at steps 4 and 10 too
    flow = Prepared()
    fit(flow, splits, CONFIG, checkpoint=state)
    assert torch.equal(flow.shift, whole.shift)


# -- the signal


def test_handler_is_put_back_and_the_flag_is_of_the_block() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with heeded():
        os.kill(os.getpid(), signal.SIGTERM)
        end = time.monotonic() + 5
        while not preempt.asked():
            assert time.monotonic() < end
    assert signal.getsignal(signal.SIGTERM) is before
    with heeded():
        assert not preempt.asked()


def ended(body: str) -> tuple[int, str, float]:
    """Status and stderr of a script that is sent SIGTERM once it prints a line, and the seconds that it took to end."""
    script = f"import sys, time\nfrom flowzoo import preempt\nwith preempt.heeded():\n{textwrap.indent(body, '    ')}"
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    sent = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    return process.returncode, said, time.monotonic() - sent


def test_where_nothing_looks_preempted_is_raised_within_four_seconds() -> None:
    status, said, seconds = ended("print('begun', flush=True)\nfor _ in range(200): time.sleep(0.1)")
    assert status == 1  # nothing caught it here; the command line does
    assert said.splitlines()[-1] == "flowzoo.preempt.Preempted"
    assert preempt.RAISE_AFTER <= seconds < 5


def test_process_that_is_stuck_in_a_library_ends_within_five_seconds() -> None:
    # A mutex that is locked twice waits for ever, and no signal wakes it.
    status, said, seconds = ended(
        "import ctypes\n"
        "lock, libc = ctypes.create_string_buffer(128), ctypes.CDLL(None)\n"
        "libc.pthread_mutex_lock(lock)\n"
        "print('begun', flush=True)\n"
        "libc.pthread_mutex_lock(lock)"
    )
    assert (status, said) == (75, f"flowzoo: {preempt.LINE}\n")
    assert seconds < 5


def test_signal_after_the_work_does_not_make_a_failure_of_it() -> None:
    # What is registered first is done last: as if all that Python takes down took a second.
    script = (
        "import atexit, sys, time\n"
        "atexit.register(lambda: (print('leaving', flush=True), time.sleep(1)))\n"
        "from flowzoo import cli\n"
        "sys.argv = ['flowzoo', 'models']\n"
        "cli.main()"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while process.stdout.readline() != "leaving\n":
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 0


# -- the commands

OPTIONS = [
    *("--data", "two_moons", "--set", "data.num_events=300", "--device", "cpu", "--steps", "2500"),
    *("--set", "maf.num_steps=1", "--set", "maf.hidden_features=16", "--set", "train.patience=0"),
    *("--set", "train.checkpoint_every=1000"),
]
COMMANDS = {
    "fit": (["fit", "--model", "maf", *OPTIONS, "--out"], "{}.safetensors", "{}.state.safetensors"),
    "bench": (
        ["bench", "--models", "maf", "--set", "bench.baseline=false", *OPTIONS, "--out"],
        "{}",
        "{}/checkpoints/two_moons.maf.0.state.safetensors",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_command_that_is_preempted_goes_on_to_the_very_same_flow(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, out, state = COMMANDS[name]
    monkeypatch.chdir(tmp_path)
    begun = subprocess.Popen(
        [sys.executable, "-m", "flowzoo.cli", *arguments, out.format("a")], stderr=subprocess.PIPE, text=True
    )
    left = Path(state.format("a"))
    end = time.monotonic() + 100
    while not left.exists():
        assert begun.poll() is None, begun.communicate()
        assert time.monotonic() < end
        time.sleep(0.002)
    time.sleep(0.1)  # a few steps more, which only a checkpoint on request can keep
    sent = time.monotonic()
    begun.send_signal(signal.SIGTERM)
    _, said = begun.communicate(timeout=60)
    assert time.monotonic() - sent < 5
    assert (begun.returncode, said) == (75, f"flowzoo: {preempt.LINE}\n")
    assert 1000 < read_meta(left)["state"]["step"] < 2500
    assert not list(tmp_path.glob("*/cells/*"))
    assert not list(tmp_path.rglob(".*.tmp"))
    for folder in "ab":
        monkeypatch.setattr(sys, "argv", ["flowzoo", *arguments, out.format(folder)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        assert not caught.value.code
    flow = "{}.safetensors" if name == "fit" else "{}/checkpoints/two_moons.maf.0.safetensors"
    (got, meta), (want, known) = (load_tensors(Path(flow.format(folder))) for folder in "ab")
    assert got.keys() == want.keys()
    assert all(torch.equal(got[key], want[key]) for key in want)
    assert meta == known
    assert not left.exists()
