"""p(class | x) by Bayes: exact for two Gaussians, a prior that counts, and an event that no class explains."""

import math

import pytest
import torch

from flowzoo.inference import class_log_posterior

SHIFTS = torch.tensor([0.0, 2.0, 5.0])


def log_prob(x, c):
    return torch.distributions.Normal(c @ SHIFTS, 1.0).log_prob(x[:, 0])


def test_posterior_of_gaussians_is_the_exact_one_and_adds_up_to_one():
    x = torch.linspace(-3, 8, 23)[:, None]
    found = class_log_posterior(log_prob, x, torch.eye(3)).exp()
    density = torch.exp(-0.5 * (x - SHIFTS) ** 2)
    torch.testing.assert_close(found, density / density.sum(1, keepdim=True))
    torch.testing.assert_close(found.sum(1), torch.ones(23))


def test_prior_moves_the_odds_by_its_own():
    x = torch.tensor([[1.0]])
    even = class_log_posterior(log_prob, x, torch.eye(3))
    odd = class_log_posterior(log_prob, x, torch.eye(3), torch.tensor([0.7, 0.2, 0.1]).log())
    torch.testing.assert_close((odd[:, 0] - odd[:, 1]) - (even[:, 0] - even[:, 1]), torch.tensor([math.log(3.5)]))


def test_prior_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r"log_prior must be \(3,\).*got \(2,\)"):
        class_log_posterior(log_prob, torch.zeros(1, 1), torch.eye(3), torch.zeros(2))


def test_event_that_no_class_explains_is_nan_and_spoils_no_other():
    def bounded(x, c):
        return torch.where(x[:, 0] < 1, 0.0, -math.inf)

    found = class_log_posterior(bounded, torch.tensor([[0.0], [2.0]]), torch.eye(2))
    torch.testing.assert_close(found[0], torch.full((2,), -math.log(2)))
    assert bool(found[1].isnan().all())
