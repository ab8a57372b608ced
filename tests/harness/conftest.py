from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from flowzoo import config as configs
from flowzoo import train
from flowzoo.flow import ConditionalFlow
from flowzoo.harness import BenchConfig, make_plan, open_source, reporting
from flowzoo.harness.plan import Cell
from flowzoo.models.maf import MAF
from flowzoo.registry import DATASETS, EMBEDDINGS, METRICS, MODELS
from flowzoo.train import FitConfig

TINY = {"num_steps": 1, "hidden_features": 16}


@pytest.fixture(autouse=True)
def _figures_where_they_are_asked_for(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """They take most of the time of a small bench, and a test that looks at none needs none."""
    if "figures" not in request.fixturenames:
        monkeypatch.setattr(reporting, "write_figures", lambda *given: [])


@pytest.fixture
def figures() -> None:
    """Benches of a test that asks for it draw their figures."""


@pytest.fixture(scope="session")
def write() -> Callable[[pd.DataFrame, Path], Path]:
    """Writes a table as the ending of its path says, and gives the path."""

    def write(frame: pd.DataFrame, path: Path) -> Path:
        if path.suffix == ".csv":
            frame.to_csv(path, index=False)
        elif path.suffix == ".parquet":
            frame.to_parquet(path)
        elif path.suffix == ".npz":
            np.savez(path, **{name: frame[name].to_numpy() for name in frame})
        else:
            h5py = pytest.importorskip("h5py")

            with h5py.File(path, "w") as file:
                for name in frame:
                    file[name] = frame[name].to_numpy(np.float32)
        return path

    return write


@pytest.fixture
def broken_off(monkeypatch: pytest.MonkeyPatch) -> Callable[[ConditionalFlow], list[int]]:
    """Has draws of a kind of flow broken off in the fourth call; gives the calls since they were last forgotten."""

    def arrange(flow: ConditionalFlow) -> list[int]:
        sample, calls = type(flow).sample, list[int]()

        def stops(self: ConditionalFlow, *args: Any, **kwargs: Any) -> Tensor:
            calls.append(1)
            if len(calls) == 4:
                raise KeyboardInterrupt
            return sample(self, *args, **kwargs)

        monkeypatch.setattr(type(flow), "sample", stops)
        return calls

    return arrange


@pytest.fixture(scope="session")
def plan() -> Callable[..., list[Cell]]:
    """Small plans on two_moons (300 events), of MAF without the baseline and with few draws, unless told otherwise."""

    def make(
        models: Sequence[str] = ("maf",),
        *,
        data: str = "two_moons",
        options: Mapping[str, Any] | None = None,
        train: Mapping[str, Any] | None = None,
        **bench: Any,
    ) -> list[Cell]:
        few = {"baseline": False, "draws": 30, "posteriors": 5, "posterior_draws": 30}
        config = configs.make(BenchConfig, {**few, **bench}, "bench")
        options = {"num_events": 300} if options is None and data == "two_moons" else options or {}
        chosen = {name: TINY if name == "maf" else {} for name in models}
        fit = configs.make(FitConfig, {"steps": 20, "evaluate_every": 10, **(train or {})}, "train")
        return make_plan([open_source(data, options, config)], chosen, fit, config)

    return make


class Faulty(ConditionalFlow):
    """Scores with one trainable number, until its fault."""

    def __init__(self, *args: Any, fault: Callable[[Tensor], Tensor], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fault = fault
        self.shift = nn.Parameter(torch.zeros(()))

    def _to_latent(self, u: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        z = self.fault(u + self.shift)
        return z, u.new_zeros(len(u))

    def _to_data(self, z: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        return z - self.shift, z.new_zeros(len(z))


@pytest.fixture
def break_maf(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception | Callable[[Tensor], Tensor]], None]:
    """Give MAF a fault: an exception to raise, or a function of its latents."""

    def put(fault: Exception | Callable[[Tensor], Tensor]) -> None:
        def act(z: Tensor) -> Tensor:
            if isinstance(fault, Exception):
                raise fault
            return fault(z)

        def build(self: MAF, *shapes: Sequence[int], **maps: Any) -> ConditionalFlow:
            return Faulty(*shapes, fault=act, **maps)

        monkeypatch.setattr(MAF, "build", build)

    return put


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The labels of the trainings since the test began."""
    labels: list[str] = []
    real = train.fit

    def fit(*args: Any, label: str = "fit", **kwargs: Any) -> train.FitResult:
        labels.append(label)
        return real(*args, label=label, **kwargs)

    monkeypatch.setattr(train, "fit", fit)
    return labels


@pytest.fixture
def forgotten() -> Iterator[None]:
    """What a test registers is known for that test alone."""
    yield
    for registry in (MODELS, DATASETS, METRICS, EMBEDDINGS):
        for name in registry.local():
            del registry._classes[name]
