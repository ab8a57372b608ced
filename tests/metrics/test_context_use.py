"""What a flow loses under other contexts."""

import math

import pytest
import torch
from torch.distributions import Normal

from flowzoo.metrics import Evaluation, NotComputed, configure
from flowzoo.seeding import generator


def use(log_prob, x, context, groups, seed=0):
    values = Evaluation(
        x=x,
        contexts=context,
        context_index=torch.arange(len(context)),
        groups=groups,
        scale=torch.ones(1),
        log_prob=lambda x, c, index: log_prob(x, c[index]),
        scores=log_prob(x, context),
        samples=None,
        samples_missing="",
        true_scores=None,
        step=None,
        generator=generator(seed, "metrics"),
    )
    return configure("context_use", {})(values)["context_use"]


def follows(x, c):
    return Normal(c, 1).log_prob(x).sum(1)


def ignores(x, c):
    return Normal(0, 1).log_prob(x).sum(1)


def data(count=4000):
    source = generator(0, "x")
    c = torch.randn(count, 1, generator=source)
    return c + torch.randn(count, 1, generator=source), c, torch.arange(count)


def test_flow_that_ignores_its_context_loses_nothing():
    assert use(ignores, *data()) == 0.0


def test_flow_that_follows_its_context_loses_what_theory_says():
    # ((x - c')^2 - (x - c)^2) / 2 with c, c' and x - c independent standard normals: the mean is 1
    assert use(follows, *data()) == pytest.approx(1.0, abs=0.1)


def test_every_group_gets_the_context_of_another_and_no_two_of_the_same():
    seen = []

    def noted(x, c):
        seen.append(c.flatten())
        return torch.zeros(len(x))

    context = torch.arange(7.0)[:, None]
    for seed in range(20):
        seen.clear()
        use(noted, torch.zeros(7, 1), context, torch.arange(7), seed)
        shuffled = seen[1]
        assert sorted(shuffled.tolist()) == context.flatten().tolist()
        assert not bool((shuffled == context.flatten()).any())


def test_events_of_a_group_move_together():
    seen = []

    def noted(x, c):
        seen.append(c.flatten())
        return torch.zeros(len(x))

    groups = torch.tensor([5, 5, 2, 2, 2, 9])
    use(noted, torch.zeros(6, 1), groups[:, None].float(), groups)
    for label in groups.unique():
        given = seen[1][groups == label].unique()
        assert len(given) == 1
        assert int(given) != int(label)


def test_generator_repeats():
    assert use(follows, *data(50), seed=1) == use(follows, *data(50), seed=1)
    assert use(follows, *data(50), seed=1) != use(follows, *data(50), seed=2)


def test_what_cannot_be_computed_has_its_reason():
    x = torch.zeros(5, 1)
    with pytest.raises(NotComputed, match=r"^the data has no context$"):
        use(ignores, x, torch.zeros(5, 0), torch.arange(5))
    with pytest.raises(NotComputed, match=r"^one test group: there is no other context to give it$"):
        use(ignores, x, torch.zeros(5, 1), torch.zeros(5))


@pytest.mark.parametrize("bad", [math.nan, -math.inf])
def test_score_that_is_not_finite_is_a_reason_and_not_a_nan(bad):
    def fails(x, c):
        return torch.where(c.flatten() > 2, bad, 0.0)

    x, c, groups = data(100)
    c[7] = 3.0
    with pytest.raises(NotComputed, match=r"^log q is not finite at \d+ of 100 test events under another context$"):
        use(fails, x, c, groups)
