"""Clouds of points: whole groups where they are large, halves that share no group where they are not."""

import pytest
import torch

from flowzoo import build
from flowzoo.data import Data, Levels, Splits
from flowzoo.harness.clouds import LEAST, drawn_clouds, examples, real_clouds
from flowzoo.seeding import generator


def splits(sizes, *, seed=0, levels=None, **options):
    """Events that say which group they are of: x = (group, number of the event in its group)."""
    groups = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    number = torch.cat([torch.arange(size) for size in sizes])
    x = torch.stack([groups, number], 1)
    context = torch.arange(len(sizes))[:, None].float()
    data = Data(x if levels else x.float() + 1e-3 * number[:, None], context, groups, groups, levels=levels, **options)
    return Splits.make(data, seed=seed, fractions=(0.3, 0.2, 0.5), checked=True)


def test_every_large_group_has_two_halves_of_its_own_events_none_twice():
    parts = splits([300, 420, 260, 350, 500, 280, 310, 290])
    known = real_clouds(parts, groups=16, points=500, draws=1000)
    assert sorted(known.groups.tolist()) == sorted(parts.test.groups.unique().tolist())
    smallest = int(torch.bincount(parts.test.groups)[known.groups].min())
    assert known.rows.shape == (4, 2, smallest // 2)
    for rows, group in zip(known.rows, known.groups, strict=True):
        assert len(rows.unique()) == rows.numel()
        assert parts.test.groups[rows].unique().tolist() == [int(group)]
    assert known.note == f"{smallest // 2} real and drawn events a half, of 4 of 4 test groups"


def test_halves_are_fair_samples_and_not_the_first_events_of_a_group():
    parts = splits([2000] * 6)
    known = real_clouds(parts, groups=1, points=500, draws=100)
    number = parts.test.x[known.rows[0], 1]
    # uniform on 0 .. 1999 without replacement: the error of a mean of 500 is below 577 / sqrt(500) = 26
    assert number.mean(1).tolist() == pytest.approx([1000, 1000], abs=4 * 26)


def test_choice_is_the_same_for_every_model_and_changes_with_the_split():
    one, two, other = (real_clouds(splits([300] * 8, seed=s), 2, 100, 100) for s in (0, 0, 1))
    assert torch.equal(one.rows, two.rows)
    assert one.rows.shape != other.rows.shape or not torch.equal(one.rows, other.rows)


def test_small_groups_are_one_cloud_whose_halves_share_no_group():
    parts = splits([7] * 40)
    known = real_clouds(parts, groups=16, points=500, draws=60)
    assert known.rows.shape[0] == 1
    assert len(known.groups) == 0
    halves = [set(parts.test.groups[half].tolist()) for half in known.rows[0]]
    assert not halves[0] & halves[1]
    assert known.rows.numel() <= 60
    assert len(known.rows.unique()) == known.rows.numel()


def test_a_few_small_groups_among_large_ones_are_left_out_and_counted():
    sizes = [400] * 12
    first = splits(sizes)
    small = int(first.test.groups.unique()[0])
    sizes[small] = 2 * LEAST - 1
    known = real_clouds(splits(sizes), 16, 500, 100)
    assert small not in known.groups.tolist()
    assert known.note.endswith("of 5 of 6 test groups; 1 have fewer than 400 events")


def test_one_test_group_of_few_events_has_no_clouds_and_says_so():
    parts = splits([20, 20, 20, 20])
    assert len(parts.test.groups.unique()) == 2
    assert isinstance(real_clouds(parts, 4, 100, 100), object)
    lone = Splits.make(parts.data, fractions=(0.5, 0.25, 0.25), checked=True)
    assert real_clouds(lone, 4, 100, 100) == "one test group of few events: no second half to compare with"


def test_draws_are_at_the_contexts_of_their_events_in_units_of_the_spread():
    parts = splits([300] * 8)
    known = real_clouds(parts, 16, 100, 100)
    spread = torch.tensor([2.0, 100.0])

    class Echo:
        """Draws the context twice."""

        def sample(self, context, *, generator):
            return context.expand(-1, 2) + 0.0 * torch.rand(len(context), 2, generator=generator)

    found = drawn_clouds(Echo(), known, parts.test, spread, seed=0)
    torch.testing.assert_close(found.real * spread, parts.test.x[known.rows])
    for k, group in enumerate(known.groups.tolist()):
        torch.testing.assert_close(found.drawn[k] * spread, torch.full_like(found.drawn[k], group))
        assert found.context[k].tolist() == [group]
    assert found.population.shape[0] == 8  # of all parts
    assert found.population_context.flatten().tolist() == list(range(8))
    torch.testing.assert_close(
        (found.population * spread)[:, :, 0].round(), torch.arange(8.0)[:, None].expand(8, found.population.shape[1])
    )


def test_pictures_are_of_two_groups_that_are_not_the_smallest():
    parts = splits([300, 900, 300, 950, 310, 990, 320, 980])
    known = real_clouds(parts, 16, 100, 100)
    flow = build("maf", (2,), (1,), num_steps=1, hidden_features=4, generator=generator(0, "init"))
    shown = examples(flow, known, parts.test, 0)
    assert shown["examples.real"].shape == shown["examples.drawn"].shape
    sizes = torch.bincount(parts.data.groups)
    test = parts.test.groups.unique()
    assert all(sizes[g] >= sizes[test].double().median() for g in shown["examples.group"])
    assert (shown["examples.real"][:, 0, 0].round() == shown["examples.group"]).all()


def test_integer_events_of_large_groups_have_no_population():
    parts = splits([300] * 8, levels=Levels(0, 1, 300))
    known = real_clouds(parts, 16, 100, 100)
    assert known.rows.shape[0] == 4
    assert known.population.shape[:2] == (0, 0)


def test_size_of_clouds_is_that_of_all_groups_and_the_same_for_every_fold():
    sizes = [300, 900, 320, 950, 310, 990, 330, 980, 340, 970]
    groups = torch.arange(10).repeat_interleave(torch.tensor(sizes))
    x = torch.randn(len(groups), 2, generator=generator(0, "x"))
    data = Data(x, torch.arange(10.0)[:, None], groups, groups)
    known = [real_clouds(Splits.make(data, fold=(k, 5)), 16, 500, 100) for k in range(5)]
    # 320 events are what four of five groups have
    assert {each.rows.shape[-1] for each in known} == {160}
    assert sum(len(each.groups) for each in known) == 8
    small = [300, 30, 30, 30, 30, 30]
    one = real_clouds(splits(small), 16, 500, 100)
    assert isinstance(one, str) or len(one.groups) == 0
