"""Flows with closed-form derivatives go through vmap: several trained at once come out as alone."""

import pytest
import torch

from flowzoo.data import Data, Splits
from flowzoo.models import build
from flowzoo.seeding import generator
from flowzoo.train import FitConfig, fit, fit_together

SMALL = {
    "bpf": {"num_steps": 2, "hidden_features": (16, 16)},
    "naf": {"num_steps": 2, "hidden_features": (16, 16), "monotone_features": (8, 8)},
    "sospf": {"num_steps": 2, "hidden_features": (16, 16)},
}


@pytest.fixture(scope="module")
def splits():
    source = generator(0, "data")
    context = torch.randn(600, 2, generator=source)
    x = torch.randn(600, 3, generator=source).exp() + context[:, :1]
    return Splits.make(Data(x=x, context=context), seed=0)


def flows(name, splits):
    x_map, context_map = splits.maps()
    options = SMALL[name]
    return [
        build(name, (3,), (2,), x_map=x_map, context_map=context_map, generator=generator(seed, "init"), **options)
        for seed in (0, 1)
    ]


@pytest.mark.parametrize("name", SMALL)
def test_trained_at_once_each_comes_out_as_alone(name, splits):
    config = FitConfig(steps=40, batch_size=64, evaluate_every=10)
    together, alone = flows(name, splits), flows(name, splits)
    results = fit_together(together, splits, config, seeds=(0, 1), show=False)
    for seed, (one, other) in enumerate(zip(together, alone, strict=True)):
        expected = fit(other, splits, config, seed=seed, show=False)
        assert expected.validation_nll < expected.history[0]["validation_nll"] - 0.05  # something was learnt
        assert results[seed].validation_nll == pytest.approx(expected.validation_nll, abs=0.01)
        for p, q in zip(one.parameters(), other.parameters(), strict=True):  # products of a stack round otherwise
            torch.testing.assert_close(p, q, rtol=0, atol=1e-3)
