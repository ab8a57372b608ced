"""A note where parameters are no draws from the prior that was declared for them."""

import numpy as np
import pytest
import torch

from flowzoo.data import configure
from flowzoo.data._drawn import SURPRISE, other_prior
from flowzoo.inference import from_description


def notes(values, *texts):
    values = np.asarray(values, dtype=np.float32).reshape(-1, len(texts))
    named = {f"H{i}": text for i, text in enumerate(texts)}
    return other_prior(from_description(named), named, list(named), torch.from_numpy(values))


@pytest.mark.parametrize("text", ["uniform(0, 200)", "norm(70, 1)"])
def test_other_prior_is_said_with_numbers(text):
    (note,) = notes(np.random.default_rng(0).uniform(60, 80, 6000), text)
    assert "the simulations' 'H0' runs from 60 to 80, with median 69.96 and 90 % in 60.98 to 78.96, and" in note
    median, low = {"uniform(0, 200)": ("100", "10 to 190"), "norm(70, 1)": ("70", "68.36 to 71.64")}[text]
    assert f"the prior {text} says median {median} and 90 % in {low} (KS p below 1e-300)" in note
    assert note.endswith("posteriors hold for the prior that the simulations were drawn from")


def test_only_the_parameter_that_differs_is_named():
    rng = np.random.default_rng(0)
    values = np.stack([rng.uniform(0, 1, 2000), rng.uniform(0, 1, 2000)], 1)
    (note,) = notes(values, "uniform(0, 1)", "uniform(0, 2)")
    assert "'H1'" in note


@pytest.mark.parametrize("text", ["uniform(60, 80)", "norm(70, 1)", "lognorm(0.5, scale=3)"])
def test_draws_of_the_prior_pass(text):
    prior = from_description({"H0": text})
    for seed in range(20):
        assert not notes(prior.sample(3000, torch.Generator().manual_seed(seed)), text)


def test_rounded_values_grids_and_repeats_of_the_prior_pass():
    rng = np.random.default_rng(0)
    assert not notes(rng.uniform(0, 1, 80_000).round(1), "uniform(0, 1)")
    grid = np.stack(np.meshgrid(np.linspace(0, 1, 40), np.linspace(0, 1, 40)), -1).reshape(-1, 2)
    assert not notes(grid, "uniform(0, 1)", "uniform(0, 1)")
    # 2,000 rows of 20 parameters are twenty draws; which are far from uniform, were they two thousand.
    few = rng.uniform(0, 1, 20) ** 1.5
    assert not notes(np.repeat(few, 100), "uniform(0, 1)")
    assert notes(np.random.default_rng(1).uniform(0, 1, 2000) ** 1.5, "uniform(0, 1)")


def test_p_is_uniform_enough_that_the_bound_means_what_it_says(monkeypatch):
    monkeypatch.setattr("flowzoo.data._drawn.SURPRISE", 0.1)
    rng = np.random.default_rng(0)
    said = sum(bool(notes(rng.uniform(0, 1, 500), "uniform(0, 1)")) for _ in range(300))
    assert 10 < said < 50  # of 300, 30 for an exact test
    assert SURPRISE == 1e-6


def test_table_and_maps_say_it(tmp_path):
    rng = np.random.default_rng(0)
    theta = rng.uniform(60, 80, 400)
    np.savez(tmp_path / "a.npz", H0=theta, y=theta + rng.normal(size=400), images=rng.normal(size=(400, 4, 4)))
    path, prior = str(tmp_path / "a.npz"), "H0: uniform(0, 200)"
    for x, context in (("H0", "y"), ("y", "H0")):
        options = {"path": path, "x": x, "context": context}
        (note,) = configure("table", {**options, "prior": prior}).load().notes
        assert "'H0' runs from 60" in note
        assert not configure("table", {**options, "prior": "H0: uniform(60, 80)"}).load().notes
    np.savetxt(tmp_path / "params.txt", theta, header="H0", comments="# ")
    options = {"maps": f"{path}:images", "params": str(tmp_path / "params.txt"), "log": False}
    for text, said in ((prior, True), ("H0: uniform(60, 80)", False)):
        found = configure("maps", {**options, "prior": text}).load().notes
        assert any("'H0' runs" in note for note in found) == said
