"""Commands from end to end on a GPU that is pretended: no device is mixed up, and the numbers are those of the CPU."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file

from flowzoo import Data, FitConfig, Splits, build, cli, descent, fit, load, save
from flowzoo.harness import calibrate, reporting
from flowzoo.inference import Box, class_log_posterior
from flowzoo.seeding import generator
from flowzoo.testing import pretended_gpu

CPU, GPU = "cpu", "pretended"
FEW = {"draws": 40, "posteriors": 20, "posterior_draws": 20, "reference_draws": 0, "baseline": "false"}
TIMES = ("seconds", "memory", "finished", "device", "commit", "sha256")

Both = Callable[..., tuple[Path, Path]]


@pytest.fixture
def both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Both:
    """Commands, one after another, on the CPU and on the GPU, each in a folder of its own; gives both folders."""
    for module in (reporting, calibrate):
        monkeypatch.setattr(module, "write_figures", lambda *given: [])  # of files, which know no device
    # A step that may be replayed has its numbers in float32: on the CPU too, so that all are the same.
    monkeypatch.setattr(descent, "_replayed", lambda device: True)

    def run(*commands: str) -> tuple[Path, Path]:
        for device in (CPU, GPU):
            folder = tmp_path / device
            folder.mkdir()
            monkeypatch.chdir(folder)
            with nullcontext() if device == CPU else pretended_gpu():
                for command in commands:
                    monkeypatch.setattr(sys, "argv", ["flowzoo", *command.split(), "--device", device])
                    with pytest.raises(SystemExit) as caught:
                        cli.main()
                    assert not caught.value.code, capsys.readouterr().err
        return tmp_path / CPU, tmp_path / GPU

    return run


def bench(models: str, data: str, steps: int, **options: Any) -> str:
    """The command of a small bench."""
    told = [f"--set bench.{name}={value}" for name, value in (FEW | options).items()]
    return f"bench --models {models} --data {data} --steps {steps} --out run {' '.join(told)}"


def numbers(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    """What a JSON holds, by its place, without times and what else a device decides."""
    if any(word in at.rsplit(".", 1)[-1] for word in TIMES):
        return
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from numbers(part, f"{at}.{key}")
    else:
        yield at, value


def assert_same(here: Path, there: Path) -> int:
    """Every file of one folder is in the other and says the same; returns how many were compared."""
    names = sorted(str(path.relative_to(here)) for path in here.rglob("*") if path.is_file())
    assert names == sorted(str(path.relative_to(there)) for path in there.rglob("*") if path.is_file())
    compared = 0
    for name in names:
        one, other = here / name, there / name
        if one.suffix == ".json" and "plan" not in name:
            found, expected = (dict(numbers(json.loads(path.read_text()))) for path in (other, one))
            assert found.keys() == expected.keys(), name
            for key, value in expected.items():
                close = pytest.approx(value, rel=1e-6, nan_ok=True) if isinstance(value, float) else value
                assert found[key] == close, f"{name} {key}"
        elif one.suffix == ".safetensors":
            known, tensors = load_file(one), load_file(other)
            for key in known:
                np.testing.assert_allclose(tensors[key], known[key], rtol=1e-6, err_msg=f"{name} {key}")
        elif one.suffix == ".npz":
            with np.load(one) as known, np.load(other) as arrays:
                for key in known.files:
                    if known[key].dtype.kind in "fiu":
                        np.testing.assert_allclose(arrays[key], known[key], rtol=1e-6, err_msg=f"{name} {key}")
        else:
            continue
        compared += 1
    return compared


@pytest.fixture
def simulations(tmp_path: Path) -> Path:
    """A table of two parameters with a prior, and two columns of what they make."""
    random = np.random.default_rng(0)
    theta = random.uniform(size=(400, 2))
    x = theta + 0.2 * random.normal(size=(400, 2))
    columns = {"a": theta[:, 0], "b": theta[:, 1], "p": x[:, 0], "q": x[:, 1]}
    pd.DataFrame(columns).to_csv(tmp_path / "table.csv", index=False)
    pd.DataFrame({"id": ["u", "v"], "a": [0.3, 0.6], "b": [0.5, 0.2], "n": [3, 70]}).to_csv(
        tmp_path / "contexts.csv", index=False
    )
    return tmp_path / "table.csv"


def test_table_from_bench_to_density(both, simulations):
    data = f"table --set data.path={simulations} --set data.x=[p,q] --set data.context=[a,b]"
    prior = "--set data.prior={a:uniform(0,1),b:uniform(0,1)}"
    contexts = simulations.with_name("contexts.csv")
    here, there = both(
        bench("maf", f"{data} {prior}", 8),
        f"sample run --contexts {contexts} --count n --out drawn.npz --chunk 50",
        f"density run --file drawn.npz --contexts {contexts} --out density.npz",
        "infer run --test 2 --n 50 --out inferred",
        "infer run --test 2 --n 50 --method importance --out weighted",
        "calibrate run --n 20 --draws 20 --out calibration",
    )
    assert assert_same(here, there) == 10


def test_images_with_posteriors(both):
    data = "fields --set data.size=16 --set data.num_contexts=110 --set data.maps_per_context=2"
    small = "--set cglow.hidden_features=4 --set cglow.num_levels=1 --set cglow.num_steps=1"
    here, there = both(
        bench("cglow", f"{data} {small}", 4, ensemble_contexts=3, ensemble_draws=8),
        "infer run --test 1 --n 50 --out inferred",
    )
    assert assert_same(here, there) >= 3 + 2


def test_posterior_flow_with_a_network_of_the_image(both):
    data = "fields --set data.size=16 --set data.num_contexts=60 --set data.maps_per_context=2"
    here, there = both(
        f"fit --model nsf --data {data} --set data.direction=posterior --set model.embed=conv --steps 4 "
        "--out flow.safetensors",
        "infer flow.safetensors --test 2 --n 50 --out inferred",
    )
    assert assert_same(here, there) == 3


def test_images_of_levels(both):
    here, there = both(bench("cglow", "digits --set cglow.hidden_features=4", 4, fractions="[0.9,0.05,0.05]"))
    assert assert_same(here, there) >= 3


def test_latents_of_images(both):
    here, there = both(
        "embed --data digits --out latents.csv --latents 3 --steps 6",
        "embed --data digits --out again.csv --load latents.fold0.safetensors",
    )
    for name in ("latents.csv", "again.csv"):
        found, expected = (pd.read_csv(folder / name) for folder in (there, here))
        pd.testing.assert_frame_equal(found, expected, rtol=1e-6)


def test_flow_of_one_device_is_one_of_the_other(simulations):
    flow = build("nsf", (2,), (2,), generator=generator(0, "init"))
    x, context = torch.randn(2, 5, 2, generator=generator(0, "x"))
    with pretended_gpu() as gpu:
        save(flow.to(gpu.device), simulations.with_name("gpu.safetensors"))
        scores = flow.log_prob(x.to(gpu.device), context.to(gpu.device)).cpu()
    save(flow.to("cpu"), simulations.with_name("cpu.safetensors"))
    for name in ("gpu", "cpu"):
        assert torch.equal(load(simulations.with_name(f"{name}.safetensors")).log_prob(x, context), scores)
        with pretended_gpu() as gpu:
            there = load(simulations.with_name(f"{name}.safetensors"), device=GPU)
            assert torch.equal(there.log_prob(x.to(gpu.device), context.to(gpu.device)).cpu(), scores)


class Killed(Exception):
    """Stands for SIGKILL."""


def test_resumed_training_is_that_of_the_cpu(tmp_path):
    x, context = torch.randn(2, 200, 2, generator=generator(0, "x"))
    config = FitConfig(steps=10, batch_size=32, checkpoint_every=4, evaluate_every=4, context_noise=0.1)

    def fitted(device, stop=0, path=None):
        def on_step(step):
            if step == stop:
                raise Killed

        flow = build("maf", (2,), (2,), generator=generator(0, "init")).to(device)
        fit(flow, Splits.make(Data(x, context), device=device), config, checkpoint=path, on_step=on_step)
        return flow.to("cpu").state_dict()

    expected = fitted("cpu")
    with pretended_gpu() as gpu:
        with pytest.raises(Killed):
            fitted(gpu.device, 6, tmp_path / "state.safetensors")
        found = fitted(gpu.device, 0, tmp_path / "state.safetensors")
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-6, atol=1e-7)


def test_data_of_a_gpu_are_those_of_the_cpu():
    x, context = torch.rand(2, 60, 2, generator=generator(0, "x"))
    known = Data(x, context, groups=torch.arange(60) // 2, prior=Box([0, 0], [1, 1]))
    with pretended_gpu() as gpu:
        there = [part.to(gpu.device) for part in (x, context, torch.arange(60) // 2)]
        prior = Box(*(torch.full((2,), end, device=gpu.device) for end in (0.0, 1.0)))
        given = Data(there[0], there[1].requires_grad_(), groups=there[2], prior=prior)
        splits = Splits.make(given, device=gpu.device)
        assert splits.hash == Splits.make(known).hash
        assert splits.train.x.device == gpu.device
        assert class_log_posterior(lambda x, c: x[:, 0], there[0], torch.eye(2), torch.zeros(2)).device == gpu.device
