"""Which observations lie far outside what a flow was trained on: those in wrong units, and none of a test part."""

import json

import pytest
import torch

from flowzoo import data as datasets
from flowzoo.bijectors import Compose, Log, Standardize, Whiten
from flowzoo.data import Data, Levels, Splits
from flowzoo.harness._reach import far_off, reach_of
from flowzoo.inference import Box, sides
from flowzoo.seeding import generator

DATASETS = [
    ("two_moons", {"num_events": 3000}),
    ("sbibm", {"task": "slcp", "simulations": 3000}),
    ("sbibm", {"task": "slcp", "simulations": 3000, "direction": "posterior"}),
    ("sbibm", {"task": "lotka_volterra", "simulations": 3000}),
    ("fields", {"num_contexts": 300, "maps_per_context": 2, "size": 16}),
    ("fields", {"num_contexts": 300, "maps_per_context": 2, "size": 16, "direction": "posterior"}),
]


@pytest.mark.parametrize(("name", "options"), DATASETS, ids=lambda v: v if isinstance(v, str) else v.get("direction"))
def test_no_test_observation_is_far_off(name, options):
    splits = Splits.make(datasets.configure(name, options).load())
    reach = json.loads(json.dumps(reach_of(splits), allow_nan=False))
    x = splits.test.context if splits.data.theta == "event" else splits.test.fixed
    units = sides(splits.data.theta, *splits.maps())[1]
    assert far_off(x, reach, splits.data.observation_names, units) == []
    (said,) = far_off(torch.cat([x[:3], 1000 * x[3:4]]), reach, splits.data.observation_names, units)
    assert "1 of 4 observations lie far outside" in said
    assert "in observation 3 " in said


def pairs(x, **declared):
    return Splits.make(Data(x=x, context=torch.rand(len(x), 1), prior=Box([0.0], [1.0]), **declared))


def test_column_is_named_with_what_it_was_in_training():
    x = torch.randn(5000, 2, generator=generator(0, "x")) * torch.tensor([1.0, 0.01]) + torch.tensor([0.0, 7.0])
    splits = pairs(x, names=("u", "g"))
    reach = reach_of(splits)
    assert far_off(torch.tensor([[0.0, 7.05]]), reach, ("u", "g")) == [], "five standard deviations"
    (said,) = far_off(torch.tensor([[0.0, 7.0], [0.0, 7.2]]), reach, ("u", "g"))
    assert "1 of 2 observations lie far outside" in said
    low, high = (f"{float(end):.4g}" for end in (splits.train.x[:, 1].min(), splits.train.x[:, 1].max()))
    assert f"in observation 1 g is 7.2, and in training it was {low} to {high}" in said
    (said,) = far_off(torch.tensor([[-20.0, 7.0]]), reach)
    assert said.startswith("the observation lies")
    assert "column 0 is -20" in said
    assert far_off(torch.full((1, 2), 1e9), None) == [], "files of before"


def test_what_the_map_of_a_column_makes_near_is_near_and_what_it_cannot_take_is_far():
    x = torch.randn(5000, 1, generator=generator(0, "x")).mul(3).exp()
    reach, units = reach_of(pairs(x)), Compose(Log(), Standardize((1,)))
    units.fit(x)
    high = 5 * x.max()[None, None]
    assert len(far_off(high, reach)) == 1
    assert far_off(high, reach, (), units) == [], "half a standard deviation of the logarithm beyond"
    assert len(far_off(x.min()[None, None] * 1e-9, reach, (), units)) == 1, "small, and not small in its logarithm"
    (said,) = far_off(torch.tensor([[1.0], [-1.0]]), reach, (), units)
    assert "in observation 1 column 0 is -1," in said
    # Network units of several columns together are of none of them.
    two = torch.randn(500, 2, generator=generator(0, "x"))
    whiten = Whiten((2,))
    whiten.fit(two)
    assert far_off(torch.tensor([[1e3, 0.0]]), reach_of(pairs(two)), (), whiten)[0].count("column 0 is 1000")


def test_image_by_mean_and_spread_of_its_channels():
    source = generator(0, "x")
    maps = torch.randn(400, 2, 8, 8, generator=source)
    reach = reach_of(pairs(maps, names=("gas", "stars")))
    assert far_off(torch.randn(50, 2, 8, 8, generator=source), reach, ("gas", "stars")) == []
    spike = torch.randn(1, 2, 8, 8, generator=source)
    spike[0, 0, 3, 3] = 7.0
    assert far_off(spike, reach) == [], "some pixel is always the highest"
    for change, what in (
        (lambda m: m + 5, "the mean of stars is "),
        (lambda m: m * 20, "the standard deviation of stars is "),
        (torch.zeros_like, "the standard deviation of stars is "),
    ):
        off = torch.randn(2, 2, 8, 8, generator=source)
        off[1, 1] = change(off[1, 1])
        (said,) = far_off(off, reach, ("gas", "stars"))
        assert f"in observation 1 {what}" in said


def test_images_that_were_normalised_may_differ_by_rounding():
    maps = torch.randn(300, 1, 8, 8, generator=generator(0, "x")).double()
    maps = (maps - maps.mean((2, 3), keepdim=True)) / maps.std((2, 3), keepdim=True)
    reach = reach_of(pairs(maps.float()))
    assert far_off(maps[:10].float() * 1.001 + 0.001, reach) == []
    assert len(far_off(maps[:10].float() * 2, reach)) == 1


def test_integer_observations_in_the_middle_of_their_level():
    counts = torch.randint(0, 10, (500, 1), generator=generator(0, "x"))
    reach = reach_of(pairs(counts, levels=Levels(0, 1, 100)))
    assert reach == {"low": [0.5], "high": [9.5]}


def test_wide_vectors_are_not_looked_at():
    assert reach_of(pairs(torch.randn(60, 5000))) is None
