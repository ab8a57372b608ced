"""Which observations lie far outside what a flow was trained on: those in wrong units, and none of a test part."""

import json

import pandas as pd
import pytest
import torch

from flowzoo import data as datasets
from flowzoo.bijectors import Compose, Log, Standardize, Whiten
from flowzoo.data import Data, Levels, Splits
from flowzoo.harness._reach import Far, beyond_thetas, far_off, reach_in, reach_of
from flowzoo.harness.drawing import sample_catalogue
from flowzoo.harness.scoring import score_file
from flowzoo.harness.single import fit_one
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
    known = {"reach": json.loads(json.dumps(reach_of(splits), allow_nan=False))}
    reach = reach_in(known, sides(splits.data.theta, "event", "context")[1])
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
    reach = reach_of(splits)["event"]
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
    reach, units = reach_of(pairs(x))["event"], Compose(Log(), Standardize((1,)))
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
    assert far_off(torch.tensor([[1e3, 0.0]]), reach_of(pairs(two))["event"], (), whiten)[0].count("column 0 is 1000")


def test_image_by_mean_and_spread_of_its_channels():
    source = generator(0, "x")
    maps = torch.randn(400, 2, 8, 8, generator=source)
    reach = reach_of(pairs(maps, names=("gas", "stars")))["event"]
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
    reach = reach_of(pairs(maps.float()))["event"]
    assert far_off(maps[:10].float() * 1.001 + 0.001, reach) == []
    assert len(far_off(maps[:10].float() * 2, reach)) == 1


def test_integer_observations_in_the_middle_of_their_level():
    counts = torch.randint(0, 10, (500, 1), generator=generator(0, "x"))
    reach = reach_of(pairs(counts, levels=Levels(0, 1, 100)))["event"]
    assert reach == {"low": [0.5], "high": [9.5]}


def test_wide_vectors_are_not_looked_at():
    assert list(reach_of(pairs(torch.randn(60, 5000)))) == ["context"]


def test_sides_that_nobody_asks_for_are_left_out():
    x, context = torch.randn(60, 2), torch.rand(60, 1)
    assert list(reach_of(Splits.make(Data(x=x, context=context)))) == ["context"]
    assert reach_of(Splits.make(Data(x=x))) == {}
    assert reach_in({}, "context") is None


def test_what_comes_in_parts_is_one_line_that_names_the_farthest():
    far = Far({"low": [0.0, 0.0], "high": [1.0, 1.0]}, ("a", "b"), noun="context", place="row")
    far.add(torch.tensor([[0.5, 0.5], [2.0, 0.5]]))
    far.add(torch.tensor([[0.5, 1.4]]))
    assert far.said() == [
        "1 of 3 contexts lie far outside what the flow was trained on: in row 1 a is 2, and in training it was 0 to 1; "
        "what a flow says there means nothing: look at units and preparation, or train on data that reach there"
    ]
    far.add(torch.tensor([[0.5, -3.0], [1.6, 0.5]]), [17, 18])
    assert "3 of 5 contexts lie far outside what the flow was trained on: in row 17 b is -3, " in far.said()[0]


def test_posteriors_where_no_theta_of_the_training_was():
    reach = {"low": [60.0, 0.1], "high": [80.0, 0.5]}
    theta = torch.full((100, 3, 2), 0.3, dtype=torch.float64)
    theta[..., 0] = 70.0
    assert beyond_thetas(theta, reach) == []
    theta[:, 0, 0] = torch.linspace(79, 80.15, 100)
    assert beyond_thetas(theta, reach) == [], "thetas are finitely many, and end a little before their prior does"
    theta[:, 0, 0], theta[:5, 1, 0], theta[:6, 2, 1] = 95.0, 50.0, 0.7
    assert beyond_thetas(theta, reach, ("H0", "Omega_m")) == [
        "up to 100% of the posterior of H0 lies beyond the thetas that the flow was trained on (60 to 80), for 1 of 3 "
        "observations: simulate there and train again",
        "up to 6% of the posterior of Omega_m lies beyond the thetas that the flow was trained on (0.1 to 0.5), for 1 "
        "of 3 observations: simulate there and train again",
    ]
    theta[:, 0] = torch.nan
    (said,) = beyond_thetas(theta[:, [0, 2]], reach)
    assert said.startswith("up to 6% of the posterior of theta2 lies")
    (said,) = beyond_thetas(theta[:, 2:], reach)
    assert "(0.1 to 0.5): simulate" in said
    assert beyond_thetas(theta, None) == [], "files of before"


def test_rim_of_thetas_is_in_network_units():
    mass = torch.rand(1000, 1, generator=generator(0, "theta")).mul(10).exp()  # 1 to 2.2e4
    units = Compose(Log(), Standardize((1,)))
    units.fit(mass)
    reach = {"low": [1.0], "high": [2.0e4]}
    theta = torch.full((100, 1, 1), 0.95, dtype=torch.float64)
    assert beyond_thetas(theta, reach, (), units) == []
    for below in (0.85, 0.0, -3.0):
        assert len(beyond_thetas(torch.full_like(theta, below), reach, (), units)) == 1
    assert len(beyond_thetas(theta, reach)) == 0, "1 % of the range is 200"
    whiten = Whiten((1,))
    whiten.fit(mass)
    assert beyond_thetas(theta, reach, (), whiten) == []


def test_reach_travels_with_a_flow_that_has_no_prior(plan, tmp_path):
    mass = torch.rand(300, generator=generator(0, "mass")).mul(4).add(8).numpy()
    pd.DataFrame({"size": mass + 1, "mass": mass}).to_csv(tmp_path / "a.csv", index=False)
    options = {"path": str(tmp_path / "a.csv"), "x": "size", "context": "mass"}
    fit_one(plan(["maf"], data="table", options=options, train={"steps": 1})[0], tmp_path / "flow.safetensors")
    pd.DataFrame({"size": [11.0, 11, 11], "mass": [9.0, 120.0, 13.0]}).to_csv(tmp_path / "b.csv", index=False)
    for run, file in ((score_file, {"file": tmp_path / "b.csv"}), (sample_catalogue, {"galaxies": tmp_path / "b.csv"})):
        said = []
        more = {"n": 1} if "galaxies" in file else {}
        run(tmp_path / "flow.safetensors", out=tmp_path / "out.npz", overwrite=True, warn=said.append, **file, **more)
        assert len(said) == 1
        assert said[0].startswith("1 of 3 contexts lie far outside what the flow was trained on: in ")
        assert "mass is 120, and in training it was 8.0" in said[0]
