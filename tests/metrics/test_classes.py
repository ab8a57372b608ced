"""Classes told apart by Bayes: a flow that knows, one that ignores, and contexts that are no classes."""

import math

import pytest
import torch

from flowzoo.metrics import Evaluation, NotComputed, configure
from flowzoo.metrics.classes import reliability
from flowzoo.seeding import generator

SHIFTS = torch.tensor([0.0, 2.0])


def told(log_prob, x, context, **options):
    evaluation = Evaluation(
        x=x,
        contexts=context,
        context_index=torch.arange(len(context)),
        groups=torch.arange(len(x)),
        scale=torch.ones(1),
        log_prob=log_prob,
        scores=log_prob(x, context),
        samples=None,
        samples_missing="",
        true_scores=None,
        step=None,
        generator=generator(0, "metrics"),
    )
    return configure("classes", options)(evaluation)


def knows(x, c):
    return torch.distributions.Normal(c @ SHIFTS, 1.0).log_prob(x[:, 0])


def data(count=20_000):
    source = generator(0, "x")
    label = torch.randint(2, (count,), generator=source)
    return (SHIFTS[label] + torch.randn(count, generator=source))[:, None], torch.eye(2)[label]


def test_exact_density_reaches_the_accuracy_of_the_best_classifier():
    found = told(knows, *data(), max_events=20_000)
    best = torch.distributions.Normal(0.0, 1.0).cdf(torch.tensor(1.0)).item()
    assert found["class_accuracy"] == pytest.approx(best, abs=5 * math.sqrt(best * (1 - best) / 20_000))
    assert found["class_log_score"] < 0.6 * math.log(2)


def test_density_that_ignores_the_class_scores_chance():
    found = told(lambda x, c: torch.zeros(len(x)), *data())
    assert found["class_log_score"] == pytest.approx(math.log(2))
    assert found["class_accuracy"] == pytest.approx(0.5, abs=0.06)


def test_overconfident_density_is_as_accurate_and_scores_worse():
    x, c = data()
    sharp = told(lambda x, c: 9 * knows(x, c), x, c)
    plain = told(knows, x, c)
    assert sharp["class_accuracy"] == plain["class_accuracy"]
    assert sharp["class_log_score"] > plain["class_log_score"]


@pytest.mark.parametrize("context", [torch.rand(5, 2), torch.zeros(5, 0), torch.ones(5, 1), torch.ones(5, 2)])
def test_context_that_is_no_class_is_declined(context):
    with pytest.raises(NotComputed, match="not a one-hot class"):
        told(lambda x, c: torch.zeros(len(x)), torch.randn(5, 1), context)


def test_scores_that_are_not_finite_are_counted():
    with pytest.raises(NotComputed, match="at 5 of 5 test events"):
        told(lambda x, c: torch.full((len(x),), -math.inf), torch.randn(5, 1), torch.eye(5))


def test_calibration_error_is_that_of_the_bins():
    count, confidence, accuracy = reliability(torch.tensor([0.55, 0.6, 0.95, 1.0]), torch.tensor([1, 0, 1, 1]).bool())
    assert count.tolist() == [0] * 8 + [1, 1] + [0] * 4 + [2]
    assert (float(confidence[9]), float(accuracy[9])) == (pytest.approx(0.6), 0)
    assert float(confidence[14]) == pytest.approx(0.975)
    assert math.isnan(accuracy[0])


def test_exact_density_is_calibrated_and_a_sharpened_one_is_not():
    x, c = data()
    exact = told(knows, x, c, max_events=20_000)
    sharp = told(lambda x, c: 4 * knows(x, c), x, c, max_events=20_000)
    # Of 8 bins from 1/2 to 1, each has an error of sqrt(2 a (1 - a) / (pi n)): together below sqrt(8 / (2 pi N)).
    assert exact["class_ece"] < 2 * math.sqrt(8 / (2 * math.pi * 20_000))
    assert sharp["class_ece"] > 0.08
    assert exact["class_brier"] < sharp["class_brier"]


def test_brier_score_of_chance():
    assert told(lambda x, c: torch.zeros(len(x)), *data())["class_brier"] == pytest.approx(0.5)
    assert told(lambda x, c: torch.zeros(len(x)), *data())["class_ece"] < 0.06
