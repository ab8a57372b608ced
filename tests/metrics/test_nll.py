"""NLL of held-out events and what follows from it."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from flowzoo.metrics import Evaluation, NotComputed, columns, configure
from flowzoo.seeding import generator
from flowzoo.stats import clustered_mean


def evaluation(scores, x, groups=None, **changes):
    values = {
        "x": x,
        "contexts": torch.zeros(1, 1),
        "context_index": torch.zeros(len(x), dtype=torch.long),
        "groups": torch.arange(len(x)) if groups is None else groups,
        "scale": torch.ones(1),
        "log_prob": None,
        "scores": scores,
        "samples": None,
        "samples_missing": "",
        "true_scores": None,
        "step": None,
        "generator": generator(0, "metrics"),
    }
    return Evaluation(**values | changes)


def nll(*args, **changes):
    return configure("nll", {})(evaluation(*args, **changes))


def test_nll_of_a_normal_is_its_entropy():
    tril = torch.tensor([[2.0, 0.0], [0.5, 0.3]])
    normal = MultivariateNormal(torch.zeros(2), scale_tril=tril)
    x = torch.randn(20_000, 2, generator=generator(0, "x")) @ tril.T
    found = nll(normal.log_prob(x), x)
    assert found["nll_nats"] == pytest.approx(float(normal.entropy()), abs=4 * found["nll_se"])
    assert found["nll_per_dim"] == pytest.approx(found["nll_nats"] / 2)


def test_error_is_over_groups():
    scores, groups = torch.randn(60, generator=generator(0, "s")), torch.arange(60) // 6
    found = nll(scores, torch.zeros(60, 1), groups)
    assert found["nll_se"] == pytest.approx(clustered_mean(scores, groups)[1])


def test_one_group_has_no_error_and_no_nan():
    assert "nll_se" not in nll(torch.zeros(5), torch.zeros(5, 2), torch.zeros(5))


@pytest.mark.parametrize(("low", "step", "count"), [(0, 1, 17), (0, 1, 256), (-2, 0.5, 8)])
def test_uniform_density_over_the_levels_costs_the_bits_of_a_level(low, step, count):
    shape = (3, 4, 4)
    source = generator(0, "x")
    x = low + step * (torch.randint(count, (50, *shape), generator=source) + torch.rand(50, *shape, generator=source))
    scores = torch.full((50,), -48 * math.log(step * count))
    assert nll(scores, x, step=step)["bits_per_dim"] == pytest.approx(math.log2(count))


def test_continuous_data_has_no_bits():
    assert "bits_per_dim" not in nll(torch.zeros(5), torch.zeros(5, 2))


def test_excess_is_what_the_exact_density_has_more():
    scores = torch.randn(50, generator=generator(0, "s"))
    found = nll(scores, torch.zeros(50, 2), true_scores=scores + 0.25)
    assert found["excess_nll"] == pytest.approx(0.25, abs=1e-6)
    assert "excess_nll" not in nll(scores, torch.zeros(50, 2))


@pytest.mark.parametrize("bad", [math.nan, -math.inf, math.inf])
def test_scores_that_are_not_finite_are_counted_and_not_averaged(bad):
    scores = torch.zeros(10)
    scores[[2, 5]] = bad
    with pytest.raises(NotComputed, match=r"^log q is not finite at 2 of 10 test events$"):
        nll(scores, torch.zeros(10, 1))


def test_large_scores_are_summed_in_float64():
    scores = -(torch.full((100_000,), 1e4) + torch.arange(100_000) % 2)
    assert nll(scores, torch.zeros(100_000, 1))["nll_nats"] == pytest.approx(10_000.5, abs=1e-6)


def test_every_column_is_declared():
    found = nll(torch.zeros(5), torch.zeros(5, 2), step=1.0, true_scores=torch.zeros(5))
    assert set(found) == {c.name for c in configure("nll", {}).columns}
    assert set(found) <= set(columns())
