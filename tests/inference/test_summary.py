"""What was inferred, in numbers: intervals hold their share, the shortest is the shortest, JSON can hold all of it."""

import json
import math

import pytest
import torch

from flowzoo.inference import Inferred, summarise
from flowzoo.seeding import generator


def drawn(count=40_001):
    u = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    theta = torch.stack([torch.special.ndtri(u), -torch.log1p(-u)], -1)[:, None]  # normal and exponential
    order = torch.randperm(count, generator=generator(0, "o"))
    return Inferred(
        theta=theta[order],
        log_prob=torch.zeros(count, 1),
        log_evidence=torch.tensor([-1.5]),
        best=torch.tensor([[0.0, 0.0]]),
        method="grid",
        diagnostics={"ess": torch.tensor([math.inf])},
        warnings=("one",),
    )


def test_intervals_are_those_of_the_law():
    found = drawn()
    torch.testing.assert_close(found.interval(0.9)[0, 0], torch.tensor([-1.6449, 1.6449]).double(), atol=1e-3, rtol=0)
    expected = torch.tensor([-math.log(0.95), -math.log(0.05)]).double()
    torch.testing.assert_close(found.interval(0.9)[0, 1], expected, atol=1e-3, rtol=0)
    # The shortest of an exponential begins at zero.
    expected = torch.tensor([0.0, -math.log(0.1)]).double()
    torch.testing.assert_close(found.hdi(0.9)[0, 1], expected, atol=1e-3, rtol=0)
    torch.testing.assert_close(found.std[0], torch.ones(2).double(), atol=2e-3, rtol=0)
    torch.testing.assert_close(found.mean[0], torch.tensor([0.0, 1.0]).double(), atol=1e-3, rtol=0)
    with pytest.raises(ValueError, match="level must lie between 0 and 1"):
        found.interval(95)


def test_summary_is_json_and_says_whether_the_truth_is_inside():
    (found,) = summarise(drawn(), ["a", "b"], torch.tensor([[1.5, 0.5]]))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    a = found["parameters"]["a"]
    assert (a["inside_68"], a["inside_95"], a["truth"]) == (False, True, 1.5)
    assert abs(found["parameters"]["b"]["median"] - math.log(2)) < 1e-3
    assert found["diagnostics"] == {"ess": None}
    assert (found["log_evidence"], found["warnings"], found["method"]) == (-1.5, ["one"], "grid")
    (without,) = summarise(drawn(), ["a", "b"])
    assert "truth" not in without["parameters"]["a"]


def test_names_and_truth_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="names must be 2, one for each parameter; got 1: a"):
        summarise(drawn(), ["a"])
    with pytest.raises(ValueError, match=r"truth must be \(1, 2\).*got \(2, 2\)"):
        summarise(drawn(), ["a", "b"], torch.zeros(2, 2))
