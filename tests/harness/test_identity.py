"""What makes a cell another cell: what its data declares, and the file of its model."""

from __future__ import annotations

import pytest
import torch

from flowzoo.bijectors import Compose, Log, Standardize
from flowzoo.data import Data, Levels, Splits
from flowzoo.harness import plan
from flowzoo.harness.bench_config import BenchConfig
from flowzoo.harness.source import open_source
from flowzoo.models import configure
from flowzoo.seeding import generator


def positive() -> torch.Tensor:
    return torch.exp(torch.randn(60, 2, generator=generator(0, "x")))


def test_other_maps_are_another_split() -> None:
    plain, log = (
        Data(x=positive()),
        Data(x=positive(), x_map=Compose(Log(), Standardize((2,)))),
    )
    assert Splits.make(plain).hash != Splits.make(log).hash


def test_other_levels_or_symmetries_are_another_split() -> None:
    x = torch.randint(0, 16, (60, 1, 4, 4), generator=generator(0, "x"))
    made = [
        Data(x=x, levels=Levels(0, 1, 16)),
        Data(x=x, levels=Levels(0, 1, 256)),
        Data(x=x, levels=Levels(0, 1, 16), augment=("flip",)),
    ]
    assert len({Splits.make(data).hash for data in made}) == 3


def test_an_edited_model_is_another_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = BenchConfig(baseline=False)
    source = open_source("data", {}, bench, Data(x=positive()))
    fit = plan.FitConfig()
    before = plan.Cell(source, configure("maf", {}), 0, fit, bench).hash
    assert plan.Cell(source, configure("maf", {}), 0, fit, bench).hash == before
    monkeypatch.setattr(plan, "code_digest", lambda model: "edited")
    assert plan.Cell(source, configure("maf", {}), 0, fit, bench).hash != before


def test_parts_share_one_tensor_of_contexts() -> None:
    data = Data(x=positive(), context=torch.randn(60, 3, generator=generator(1, "c")))
    splits = Splits.make(data)
    assert splits.train.contexts is splits.test.contexts is splits.validation.contexts
