import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from flowzoo import checkpoint, cli, lease

ROOT = Path(__file__).parents[2]
MOONS = ["--data", "two_moons", "--set", "data.num_events=300", "--device", "cpu"]
MAF = ["--set", "maf.num_steps=1", "--set", "maf.hidden_features=16", "--set", "train.checkpoint_every=10"]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """The command line in this process: its status and what it said on stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["flowzoo", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return int(caught.value.code or 0), capsys.readouterr().err

    return run


@pytest.fixture
def spawn(tmp_path: Path) -> Iterator:
    """The command line in a process of its own, once a file that it writes is there."""
    begun: list[subprocess.Popen[bytes]] = []

    def run(*arguments: str, until: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-m", "flowzoo.cli", *arguments], cwd=tmp_path)
        begun.append(process)
        end = time.monotonic() + 100
        while not (tmp_path / until).exists():
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < end
            time.sleep(0.005)
        return process

    yield run
    for process in begun:
        process.kill()
        process.wait()


def kill(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def test_fit_that_was_killed_goes_on_to_the_very_same_flow(command, spawn, tmp_path: Path) -> None:
    fit = ["fit", "--model", "maf", *MOONS, *MAF, "--steps", "1500", "--out"]
    kill(spawn(*fit, "killed.safetensors", until="killed.state.safetensors"))
    assert not Path("killed.safetensors").exists()
    reached = checkpoint.read_meta("killed.state.safetensors")["state"]["step"]
    assert 0 < reached < 1500
    for name in ("killed", "undisturbed"):
        assert command(*fit, f"{name}.safetensors") == (0, "")
    (got, meta), (want, known) = (
        checkpoint.load_tensors(tmp_path / f"{name}.safetensors") for name in ("killed", "undisturbed")
    )
    assert got.keys() == want.keys()
    assert all(torch.equal(got[k], want[k]) for k in want)
    assert meta == known  # the losses of every validation among it
    assert sorted(p.name for p in tmp_path.iterdir()) == ["killed.safetensors", "undisturbed.safetensors"]


def test_second_bench_on_a_folder_waits_for_the_first_and_not_for_its_ghost(command, spawn) -> None:
    first = spawn(
        *("bench", "--models", "maf", *MOONS, *MAF, "--set", "bench.baseline=false", "--steps", "100000"),
        *("--out", "run"),
        until="run/checkpoints/two_moons.maf.0.state.safetensors",
    )
    second = ["bench", "--models", "gaussian", *MOONS, "--out", "run"]
    status, said = command(*second)
    assert status == 2
    assert said == "flowzoo: run is in use by another flowzoo process; wait for it, or give another --out\n"
    kill(first)
    assert Path("run/.lock").exists()  # and holds nobody
    assert command(*second) == (0, "")


@pytest.mark.slow
def test_commands_that_are_killed_or_asked_to_end_go_on_to_the_same_numbers() -> None:
    found = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "chaos.py"), "kills", "preemption", "--short"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert "10 tried, 0 faults" in found.stdout
    for what in ("in a trial", "in a write of a record", "in a write of the study", "fit", "bench", "tune"):
        assert f"| {what} | 1 |" in found.stdout


def test_lease_that_a_killed_process_left_goes_with_the_next_bench(command, tmp_path: Path) -> None:
    bench = ["bench", "--models", "gaussian", *MOONS, "--out", "run"]
    left = tmp_path / "run" / "leases" / "two_moons.gaussian.0"
    assert command(*bench) == (0, "")
    ghost = subprocess.Popen([sys.executable, "-c", ""])
    ghost.wait()
    held = lease.take(left)
    assert held is not None
    owner = json.loads(left.read_text()) | {"pid": ghost.pid, "start": ""}
    held._over.set()  # nobody refreshes it
    left.write_text(json.dumps(owner))
    assert command(*bench) == (0, "")
    assert not left.parent.exists()


def test_lease_of_somebody_who_lives_is_left_to_him(command, tmp_path: Path) -> None:
    bench = ["bench", "--models", "gaussian", *MOONS, "--out", "run"]
    assert command(*bench) == (0, "")
    with lease.take(tmp_path / "run" / "leases" / "two_moons.maf.0") as held:
        assert command(*bench) == (0, "")
        assert not held.lost
