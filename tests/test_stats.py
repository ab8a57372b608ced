import math

import pytest
import torch

from flowzoo.stats import clustered_mean


def test_one_event_per_group_gives_the_textbook_error():
    values = torch.randn(50, generator=torch.Generator().manual_seed(0))
    mean, se = clustered_mean(values, torch.arange(50))
    assert mean == pytest.approx(values.double().mean().item())
    assert se == pytest.approx(values.double().std().item() / math.sqrt(50))


def test_equal_groups_give_the_textbook_error_of_their_means():
    values = torch.randn(20, 7, generator=torch.Generator().manual_seed(1))
    _, se = clustered_mean(values.flatten(), torch.arange(20).repeat_interleave(7))
    assert se == pytest.approx(values.double().mean(1).std().item() / math.sqrt(20))


def test_repeating_every_event_within_its_group_does_not_shrink_the_error():
    generator = torch.Generator().manual_seed(2)
    values, groups = torch.randn(60, generator=generator), torch.arange(60) // 3
    once = clustered_mean(values, groups)
    thrice = clustered_mean(values.repeat(3), groups.repeat(3))
    assert thrice == pytest.approx(once)
    # Taken for new events, the copies do shrink it: the wrong answer that groups are there to prevent.
    _, naive = clustered_mean(values.repeat(3), torch.arange(180))
    assert naive < 0.7 * once[1]


def coverage(clustered: bool) -> float:
    """How often mean +- 1.96 se holds the true mean, 0, where the events of a group share an effect."""
    generator = torch.Generator().manual_seed(3)
    sizes = torch.arange(60) % 5 + 1
    groups = torch.arange(60).repeat_interleave(sizes)
    hits = 0
    for _ in range(1000):
        effect = torch.randn(60, generator=generator)[groups]
        values = effect + 0.5 * torch.randn(len(groups), generator=generator)
        mean, se = clustered_mean(values, groups if clustered else torch.arange(len(groups)))
        hits += abs(mean) <= 1.96 * se
    return hits / 1000


def test_two_standard_errors_cover_the_truth_as_often_as_they_say():
    # A binomial error of 0.007 on a nominal 0.95; 60 unequal groups cost about another 0.01.
    assert 0.92 <= coverage(clustered=True) <= 0.97


def test_errors_that_ignore_groups_undercover():
    assert coverage(clustered=False) < 0.85


def test_labels_and_order_of_groups_do_not_matter():
    generator = torch.Generator().manual_seed(4)
    values, groups = torch.randn(40, generator=generator), torch.arange(40) // 4
    order = torch.randperm(40, generator=generator)
    relabelled = (1000 - 7 * groups)[order]
    assert clustered_mean(values[order], relabelled) == pytest.approx(clustered_mean(values, groups))


def test_a_single_group_has_a_mean_and_no_error():
    mean, se = clustered_mean(torch.tensor([1.0, 3.0]), torch.tensor([7, 7]))
    assert mean == 2.0
    assert math.isnan(se)


def test_small_differences_survive_large_offsets():
    # float32 scores are summed in float64: 1e5 events near 1e4 would lose the third digit otherwise.
    values = torch.full((100_000,), 10_000.0) + torch.arange(100_000) % 2
    mean, _ = clustered_mean(values, torch.arange(100_000))
    assert mean == pytest.approx(10_000.5, abs=1e-9)


def test_a_score_that_is_not_finite_shows_and_does_not_raise():
    mean, se = clustered_mean(torch.tensor([-math.inf, 0.0, 1.0]), torch.arange(3))
    assert mean == -math.inf
    assert math.isnan(se)
