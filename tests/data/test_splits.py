"""Splits: whole groups, the same on every call, maps from the training part alone, batches that repeat."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from flowzoo.bijectors import Standardize
from flowzoo.data import Data, Fold, Levels, Splits
from flowzoo.data._augment import augment
from flowzoo.inference import Box
from flowzoo.seeding import generator

PARTS = ("train", "validation", "test")


def galaxies(count=40, per_galaxy=25):
    """Cells of galaxies; the context of a galaxy is its number."""
    groups = torch.arange(count).repeat_interleave(per_galaxy)
    x = torch.randn(len(groups), 3, generator=generator(0, "x")) + groups[:, None]
    order = torch.randperm(len(groups), generator=generator(0, "order"))
    return Data(
        x=x[order],
        context=torch.arange(count)[:, None].float(),
        context_index=groups[order],
        groups=groups[order],
    )


def images(count=6, size=4):
    """Images whose pixels are all different, so that a set of pixels names its image."""
    return torch.arange(count * size * size).reshape(count, 1, size, size).float()


def test_galaxy_never_spans_two_splits():
    splits = Splits.make(galaxies())
    sets = [set(getattr(splits, part).groups.tolist()) for part in PARTS]
    assert [len(s) for s in sets] == [28, 4, 8]
    assert sum(map(len, sets)) == len(set.union(*sets))


def test_every_event_is_in_one_part_with_its_own_context():
    data = galaxies()
    splits = Splits.make(data)
    rows = torch.cat([getattr(splits, part).x for part in PARTS])
    assert sorted(rows[:, 0].tolist()) == sorted(data.x[:, 0].tolist())
    for part in PARTS:
        split = getattr(splits, part)
        assert torch.equal(split.context[:, 0].long(), split.groups)
        assert bool(((split.x - split.context).abs() < 6).all())


def test_same_seed_same_bits():
    first, again = Splits.make(galaxies(), seed=3), Splits.make(galaxies(), seed=3)
    assert first.hash == again.hash
    assert torch.equal(first.test.x, again.test.x)
    assert torch.equal(first.train.context_index, again.train.context_index)


def test_hash_changes_with_the_seed_the_data_and_the_groups():
    data = galaxies()
    moved = data.x.clone()
    moved[0, 0] += 1e-3
    hashes = [
        Splits.make(data).hash,
        Splits.make(data, seed=1).hash,
        Splits.make(Data(moved, data.context, data.context_index, data.groups)).hash,
        Splits.make(Data(data.x, data.context, data.context_index)).hash,
    ]
    assert len(set(hashes)) == 4


def test_hash_is_that_of_old_records_and_covers_what_is_declared():
    # By numpy: torch rounds a square root in float32 as the processor does.
    x, context = (torch.from_numpy(np.sqrt(np.arange(n, dtype=np.float32))) for n in (96, 60))
    x, context = x.reshape(6, 1, 4, 4), context.reshape(6, 10)
    plain = Data(x, context)
    hashes = [
        Splits.make(data).hash
        for data in (
            plain,
            replace(plain, periodic=(1, 2)),
            replace(plain, periodic=(2,)),
            replace(plain, side=(25.0, "Mpc/h")),
            replace(plain, side=(25.0, "Mpc")),
            replace(plain, context_image=(1, 2, 4)),
            replace(plain, context_image=(2, 2, 2)),
        )
    ]
    assert hashes[0] == "b22e777440a0f72e"  # as it was before these were in it
    assert len(set(hashes)) == 7


def test_splitting_leaves_the_global_generator_alone():
    before = torch.random.get_rng_state()
    Splits.make(galaxies())
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_groups_are_refused(count):
    data = Data(x=torch.randn(9, 2, generator=generator(0, "x")), groups=torch.arange(9) % count)
    with pytest.raises(ValueError, match=f"at least 3 groups; the data has {count}"):
        Splits.make(data)


def test_three_groups_give_one_each():
    splits = Splits.make(galaxies(3))
    assert [len(getattr(splits, part)) for part in PARTS] == [25, 25, 25]


@pytest.mark.parametrize("fractions", [(0.5, 0.5, 0.5), (1.2, -0.1, -0.1)])
def test_fractions_that_do_not_add_up_are_refused(fractions):
    with pytest.raises(ValueError, match="three numbers that add up to 1"):
        Splits.make(galaxies(), fractions=fractions)


def test_fractions_that_leave_no_training_group_are_refused():
    with pytest.raises(ValueError, match="leave none for training"):
        Splits.make(galaxies(4), fractions=(0.05, 0.15, 0.8))


def test_maps_are_fitted_on_the_training_part_only():
    splits = Splits.make(galaxies())
    x_map, context_map = splits.maps()
    assert torch.allclose(x_map.mean, splits.train.x.mean(0), atol=1e-4)
    assert not torch.allclose(x_map.mean, splits.data.x.mean(0), atol=1e-2)
    used = torch.unique(splits.train.context_index)
    assert torch.allclose(context_map.mean, splits.train.contexts[used].mean(0), atol=1e-4)


def test_context_map_counts_each_galaxy_once_however_many_events_it_has():
    groups = torch.tensor([0] * 1000 + [1, 2, 3, 4])
    data = Data(
        x=torch.randn(len(groups), 1, generator=generator(0, "x")),
        context=torch.tensor([[0.0], [1.0], [2.0], [3.0], [4.0]]),
        context_index=groups,
        groups=groups,
        given_split=torch.where(groups == 4, 2, torch.where(groups == 3, 1, 0)),
    )
    _, context_map = Splits.make(data).maps()
    assert float(context_map.mean) == pytest.approx(1.0)


@pytest.mark.parametrize(("different", "kind"), [(30, "whiten"), (10, "standardize")])
def test_image_in_a_context_has_one_scale_and_the_vector_is_whitened_by_its_different_training_rows(different, kind):
    # 30 training events: their vectors tell of a covariance of two columns only if 20 of them differ.
    vector = torch.randn(60, 2, generator=generator(1, "x"))[torch.arange(60) % different]
    image = torch.randn(60, 1, 3, 3, generator=generator(2, "x")) + torch.arange(9.0).reshape(3, 3)
    data = Data(
        x=torch.randn(60, 1, 3, 3, generator=generator(0, "x")),
        context=torch.cat([vector, image.flatten(1)], 1),
        context_image=(1, 3, 3),
        given_split=torch.tensor([0] * 30 + [1] * 10 + [2] * 20),
    )
    splits = Splits.make(data)
    _, context_map = splits.maps()
    assert context_map.vector.describe() == {"kind": kind, "shape": [2]}
    assert context_map.pixels.describe() == {"kind": "standardize", "shape": [1, 3, 3]}
    assert float(context_map.pixels.mean) == pytest.approx(float(image[:30].mean()), rel=1e-5)
    alone = replace(data, context=image.flatten(1))
    assert Splits.make(alone).maps()[1].vector.describe() == {"kind": "identity"}


def test_maps_are_fresh_on_each_call_and_leave_the_data_alone():
    data = Data(x=torch.randn(50, 2, generator=generator(0, "x")) + 9, x_map=Standardize((2,)))
    splits = Splits.make(data)
    first, second = splits.maps()[0], splits.maps()[0]
    assert first is not second
    assert float(data.x_map.mean.abs().max()) == 0
    assert float(first.mean.min()) > 8


def test_data_without_context_split_and_map():
    splits = Splits.make(Data(x=torch.randn(50, 2, generator=generator(0, "x"))))
    assert splits.train.context.shape == (35, 0)
    _, context_map = splits.maps()
    assert context_map.to_latent(splits.train.context)[0].shape == (35, 0)


def test_given_split_is_kept_whatever_the_seed():
    part = torch.arange(90) % 3
    data = Data(x=torch.randn(90, 2, generator=generator(0, "x")), given_split=part)
    for seed in (0, 1):
        splits = Splits.make(data, seed=seed)
        for k, name in enumerate(PARTS):
            assert torch.equal(getattr(splits, name).x, data.x[part == k])


def test_validation_is_taken_from_training_groups_where_the_given_split_has_none():
    groups = torch.arange(40).repeat_interleave(5)
    part = torch.where(groups < 10, 2, 0)
    data = Data(x=torch.randn(200, 2, generator=generator(0, "x")), groups=groups, given_split=part)
    splits = Splits.make(data)
    train, validation, test = (set(getattr(splits, name).groups.tolist()) for name in PARTS)
    assert test == set(range(10))
    assert len(validation) == 4  # 0.1 / (0.7 + 0.1) of the 30 training groups
    assert train | validation == set(range(10, 40))
    assert not train & validation


@pytest.mark.parametrize(
    ("part", "text"),
    [([0, 0, 1, 1], "no test events"), ([2, 2, 1, 1], "no training events"), ([0, 1, 2, 3], "must hold 0")],
)
def test_given_split_without_a_part_is_refused(part, text):
    data = Data(x=torch.randn(4, 2, generator=generator(0, "x")), given_split=torch.tensor(part))
    with pytest.raises(ValueError, match=text):
        Splits.make(data)


def test_given_split_that_tears_groups_apart_is_refused():
    data = Data(
        x=torch.randn(6, 2, generator=generator(0, "x")),
        groups=torch.tensor([0, 0, 0, 1, 2, 3]),
        given_split=torch.tensor([0, 1, 2, 0, 1, 2]),
    )
    with pytest.raises(ValueError, match="tears 1 of 4 groups apart"):
        Splits.make(data)


def test_batch_gives_the_events_asked_for_with_their_contexts():
    train = Splits.make(galaxies()).train
    index = torch.tensor([5, 0, 5])
    x, context = train.batch(index, generator(0, "noise"))
    assert torch.equal(x, train.x[index])
    assert torch.equal(context[:, 0].long(), train.groups[index])


def test_dequantised_batch_depends_on_its_generator_alone():
    x = torch.randint(4, (60, 3), generator=generator(0, "x"), dtype=torch.uint8)
    train = Splits.make(Data(x=2 * x + 1, levels=Levels(1, 2, 4))).train
    index = torch.arange(20)
    first, again, other = (train.batch(index, generator(s, "noise"))[0] for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    # One step is 2 wide here.
    assert bool(((first - train.x[index] >= 0) & (first - train.x[index] <= 2)).all())
    assert float((first - train.x[index]).max()) > 1.5


def test_only_the_training_part_is_augmented():
    data = Data(x=torch.randn(30, 1, 4, 4, generator=generator(0, "x")), augment=("flip",))
    splits = Splits.make(data)
    index = torch.arange(3)
    assert torch.equal(splits.test.batch(index, generator(0, "noise"))[0], splits.test.x[index])
    index = torch.arange(20)
    assert not torch.equal(splits.train.batch(index, generator(0, "noise"))[0], splits.train.x[index])


def test_symmetries_move_the_contexts_where_theta_is_the_event():
    images_ = torch.randn(60, 1, 4, 4, generator=generator(0, "x"))
    theta = torch.rand(60, 1, generator=generator(0, "theta"))
    data = Data(x=theta, context=images_, augment=("flip",), prior=Box([0.0], [1.0]), theta="event")
    train = Splits.make(data).train
    rows = torch.arange(len(train))
    x, context = train.batch(rows, generator(0, "noise"))
    assert torch.equal(x, train.x)
    assert not torch.equal(context, train.context)
    assert torch.equal(context.flatten(1).sort(1).values, train.context.flatten(1).sort(1).values)
    # The contexts at rest, which validation sees, are not moved.
    assert torch.equal(train.contexts, images_)
    assert Splits.make(data).without_context().train.batch(rows, generator(0, "noise"))[1].shape == (len(train), 0)


@pytest.mark.parametrize("symmetries", [("flip",), ("quarter_turn",), ("shift",), ("flip", "quarter_turn", "shift")])
def test_augmentation_keeps_the_pixels_of_each_image(symmetries):
    x = images(50)
    moved = augment(x, symmetries, generator(0, "noise"))
    assert torch.equal(moved.flatten(1).sort(1).values, x.flatten(1).sort(1).values)
    assert not torch.equal(moved, x)


@pytest.mark.parametrize("symmetry", ["flip", "quarter_turn", "shift"])
def test_augmentation_is_drawn_per_image(symmetry):
    x = images(1).expand(64, 1, 4, 4)
    moved = augment(x, (symmetry,), generator(0, "noise"))
    assert len(torch.unique(moved.flatten(1), dim=0)) > 1


def test_flips_and_quarter_turns_reach_the_eight_symmetries_of_the_square():
    moved = augment(images(1).expand(4000, 1, 4, 4), ("flip", "quarter_turn"), generator(0, "noise"))
    _, counts = torch.unique(moved.flatten(1), dim=0, return_counts=True)
    assert len(counts) == 8
    assert int(counts.min()) > 400  # 500 expected


def test_shift_rolls_the_image_around_its_edges():
    x = images(1)
    every = {tuple(x.roll((i, j), (-2, -1)).flatten().tolist()) for i in range(4) for j in range(4)}
    moved = augment(x.expand(500, 1, 4, 4), ("shift",), generator(0, "noise"))
    assert {tuple(row.tolist()) for row in moved.flatten(1)} == every


def test_quarter_turn_of_an_oblong_image_and_unknown_symmetries_are_refused():
    with pytest.raises(ValueError, match="square images; got 4 x 6"):
        augment(torch.zeros(2, 1, 4, 6), ("quarter_turn",), generator(0, "noise"))
    with pytest.raises(ValueError, match="unknown symmetry 'spin'; known are flip"):
        augment(torch.zeros(2, 1, 4, 4), ("spin",), generator(0, "noise"))


def test_folds_test_every_group_once_and_never_train_on_it():
    data = Data(x=torch.randn(310, 2), groups=torch.arange(310) % 31)
    tested = []
    for k in range(5):
        splits = Splits.make(data, seed=3, fold=(k, 5))
        parts = [set(part.groups.tolist()) for part in (splits.train, splits.validation, splits.test)]
        assert set.union(*parts) == set(range(31))
        assert sum(map(len, parts)) == 31
        assert len(parts[2]) in (6, 7)
        assert len(parts[1]) == 3  # an eighth of the others, as of 0.7 and 0.1
        tested += parts[2]
    assert sorted(tested) == list(range(31))


def test_folds_do_not_share_their_validation_groups():
    data = Data(x=torch.randn(40, 2), groups=torch.arange(40) % 20)
    validated = [Splits.make(data, fold=(k, 4)).validation.groups.unique().tolist() for k in range(4)]
    assert len({tuple(groups) for groups in validated}) == 4


def test_folds_of_the_data_come_with_their_own_contexts():
    x, groups = torch.randn(12, 2), torch.arange(12) // 3
    folds = [Fold((groups == k) * 2, torch.full((4, 1), float(k))) for k in range(4)]
    data = Data(x=x, context=torch.zeros(4, 1), context_index=groups, groups=groups, folds=folds)
    splits = Splits.make(data, fold=(2, 4))
    assert splits.test.groups.unique().tolist() == [2]
    assert splits.test.context.unique().tolist() == [2.0]
    for fold, came in ((None, "none was asked for"), ((0, 3), "3 folds were asked for")):
        with pytest.raises(ValueError, match=f"has 4 folds of its own, and {came}; ask for 4"):
            Splits.make(data, fold=fold)


@pytest.mark.parametrize("fold", [(0, 1), (0, 9), (3, 3), (-1, 3)])
def test_fold_that_there_cannot_be_says_how_many_there_can(fold):
    with pytest.raises(ValueError, match="8 groups can be cut into 2 to 8 folds"):
        Splits.make(Data(x=torch.randn(8, 2)), fold=fold)


def test_first_fold_fails_where_a_later_one_would():
    # Folds of 3 groups are of 1 and 2: the larger one leaves a single group for validation and training.
    data = Data(x=torch.randn(3, 2))
    for k in range(2):
        with pytest.raises(ValueError, match=r"2 folds of 3 groups, .* leave none for training"):
            Splits.make(data, fold=(k, 2))
    assert len(Splits.make(data, fold=(0, 3)).train) == 1


def test_official_split_has_no_folds():
    with pytest.raises(ValueError, match="has an official split, and so no folds"):
        Splits.make(Data(x=torch.randn(9, 2), given_split=torch.arange(9) % 3), fold=(0, 3))
