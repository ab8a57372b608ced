"""C2ST against reference posteriors: the classifier of sbibm, and its columns."""

import math

import pytest
import torch

from flowzoo.metrics import NotComputed, ReferenceDraws, columns, configure
from flowzoo.metrics._c2st_mlp import accuracy_mlp
from flowzoo.seeding import generator


def normal(*shape, name="x"):
    return torch.randn(*shape, generator=generator(0, name), dtype=torch.float64)


def test_equal_distributions_are_told_apart_half_of_the_time():
    # 600 labels: the error of a coin is 0.02; folds share points, so it is taken twice.
    assert accuracy_mlp(normal(300, 2, name="a"), normal(300, 2, name="b")) == pytest.approx(0.5, abs=3 * 2 * 0.02)


def test_shift_is_seen_nearly_as_well_as_the_best_classifier_could():
    a, b = normal(1000, 2, name="a"), normal(1000, 2, name="b") + torch.tensor([2.0, 0.0])
    best = 0.5 * (1 + math.erf(1 / math.sqrt(2)))  # (1 + TV) / 2
    assert best - 0.03 < accuracy_mlp(a, b) < best + 3 * (best * (1 - best) / 2000) ** 0.5


def test_units_are_those_of_the_reference():
    a, b = normal(60, 2, name="a"), 3 + 1.5 * normal(60, 2, name="b")
    scale, shift = torch.tensor([1e-3, 1e3]), torch.tensor([5.0, -1e4])
    assert accuracy_mlp(a * scale + shift, b * scale + shift) == pytest.approx(accuracy_mlp(a, b), abs=0.02)


def test_what_cannot_be_classified_is_refused():
    a = normal(50, 2)
    with pytest.raises(ValueError, match="alike"):
        accuracy_mlp(a, a[:40])
    with pytest.raises(ValueError, match="50 of 100 points are not finite"):
        accuracy_mlp(a, a * math.nan)
    with pytest.raises(ValueError, match="column 1 of the reference is constant"):
        accuracy_mlp(a * torch.tensor([1.0, 0.0]), a)


def test_columns_are_the_mean_over_observations_and_what_was_published(gaussian):
    drawn, reference = normal(2, 60, 1, name="drawn"), normal(2, 60, 1, name="reference")
    drawn[1] += 3
    references = ReferenceDraws(drawn, reference, {"NPE": 0.61})
    found = configure("c2st", {})(gaussian.evaluation(None, references=references))
    assert found["by_observation"].tolist() == [accuracy_mlp(r, d) for r, d in zip(reference, drawn, strict=True)]
    assert found["c2st"] == float(found["by_observation"].mean())
    assert found["by_observation"][1] > 0.9
    assert found["c2st_published"] == 0.61
    assert "0.5" in found["c2st_floor"]
    assert "MLP, two layers of 10 D" in columns()["c2st"].meaning


def test_draws_that_are_not_finite_are_counted(gaussian):
    drawn = normal(2, 50, 2)
    drawn[0, :3] = math.inf
    references = ReferenceDraws(drawn, normal(2, 50, 2), {})
    with pytest.raises(NotComputed, match="3 of 100 posterior draws are not finite"):
        configure("c2st", {})(gaussian.evaluation(None, references=references))
