"""Equal rows: which they are, when they are a group by default, and what is said of those that a split may tear."""

import numpy as np
import pytest
import torch

from flowzoo.data import Data, Splits
from flowzoo.data._copies import first_equal, grouped_by, leak
from flowzoo.inference import Box


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def brute(rows):
    return [next((j for j in range(i) if (rows[j] == rows[i]).all()), i) for i in range(len(rows))]


@pytest.mark.parametrize(
    "rows",
    [
        np.random.default_rng(0).integers(0, 3, (200, 3)),
        np.random.default_rng(0).integers(-2, 2, (200, 3)).astype(np.float32) * np.float32(0.0),  # 0 and -0
        np.random.default_rng(0).integers(0, 2, (50, 6), dtype=np.uint8),
        np.random.default_rng(0).permutation(np.r_[normal(40, 2), normal(40, 2)]).astype(np.float64),
    ],
    ids=["integers", "zeros", "bytes", "copies"],
)
def test_first_equal_is_that_of_comparing_every_pair(rows):
    assert first_equal(rows).tolist() == brute(rows)


def test_rows_that_differ_or_have_nan_equal_none():
    rows = normal(1000, 3)
    assert first_equal(rows) is None
    assert first_equal(rows[:, ::-1].T.copy()) is None
    rows[:10] = np.nan
    assert first_equal(rows) is None


def test_rows_whose_hashes_agree_are_still_compared(monkeypatch):
    rows = np.array([[1.0], [2.0], [1.0], [2.0]])
    monkeypatch.setattr("flowzoo.data._copies._hashes", lambda rows: np.zeros(len(rows), dtype=np.uint64))
    assert first_equal(rows).tolist() == [0, 1, 0, 3]  # a collision loses a copy and makes none


def test_groups_of_equal_parameters_do_not_depend_on_the_order_of_the_rows():
    theta = np.repeat(normal(20, 2), 5, 0)
    order = np.random.default_rng(1).permutation(100)
    groups, note = grouped_by(theta)
    assert groups[order].tolist() == grouped_by(theta[order])[0].tolist()
    assert note.startswith("5 rows for each of 20 different parameter rows")
    assert "99 rows of 20 different" in grouped_by(theta[:-1])[1]
    assert grouped_by(theta[::5]) is None
    assert grouped_by(np.zeros((100, 1))) is None  # no split of one group


def test_draws_that_float32_makes_equal_are_no_group():
    draws = torch.rand(20_000, 1, generator=torch.Generator().manual_seed(0)).numpy()
    assert first_equal(draws) is not None
    assert grouped_by(draws) is None
    given = {"x": torch.tensor(normal(20_000, 1)), "context": torch.from_numpy(draws), "prior": Box([0], [1])}
    assert not leak(Data(**given))
    # An event more of one of them, under another group, is none of chance.
    index = torch.arange(20_000)
    index[1] = 0
    assert leak(Data(**given, context_index=index, groups=torch.arange(20_000))).startswith("2 of 20000 rows have")
    assert len(grouped_by(np.repeat(draws, 2, 0))[0].unique()) < 20_000
    assert len(grouped_by(draws.round(2))[0].unique()) == 101


@pytest.mark.parametrize("side", ["context", "event"])
def test_equal_parameters_are_a_group_where_there_is_a_prior(side):
    theta, x = torch.rand(50, 2, generator=torch.Generator().manual_seed(0)).repeat(4, 1), torch.tensor(normal(200, 3))
    given = {"x": x, "context": theta} if side == "context" else {"x": theta, "context": x}
    bare = Data(**given)
    assert len(bare.groups.unique()) == 200
    data = Data(**given, prior=Box([0, 0], [1, 1]), theta=side)
    assert len(data.groups.unique()) == 50
    assert data.notes == ("4 rows for each of 50 different parameter rows: each of these is a group",)
    assert data.groups.tolist() == data.groups[:50].repeat(4).tolist()
    assert not leak(data)
    # Groups that were given stay, and what they let through is said.
    own = Data(**given, prior=Box([0, 0], [1, 1]), theta=side, groups=torch.arange(200))
    assert leak(own).startswith("200 of 200 rows have the parameters of a row of another group: give rows that")


def test_official_split_is_not_torn_by_groups_of_parameters():
    theta = torch.rand(50, 2, generator=torch.Generator().manual_seed(0)).repeat(4, 1)
    part = torch.tensor([0, 1, 2, 0]).repeat_interleave(50)
    given = {"x": torch.tensor(normal(200, 3)), "context": theta, "prior": Box([0, 0], [1, 1])}
    data = Splits.make(Data(**given, given_split=part)).data
    assert len(data.groups.unique()) == 200
    assert "200 of 200 rows have the parameters of a row of another part of the split" in data.notes[0]
    whole = torch.tensor([0] * 30 + [1] * 10 + [2] * 10).repeat(4)
    assert not Splits.make(Data(**given, given_split=whole)).data.notes


def test_contexts_stored_once_are_compared_too():
    theta = torch.rand(20, 2, generator=torch.Generator().manual_seed(0))
    stored = torch.cat([theta, theta[:4]])
    index, given = torch.arange(24).repeat_interleave(5), {"x": torch.tensor(normal(120, 3)), "context": stored}
    data = Data(**given, context_index=index, groups=index, prior=Box([0, 0], [1, 1]))
    assert leak(data).startswith("40 of 120 rows have the parameters")
    assert not leak(Data(**given, context_index=index, groups=index))


def test_copies_of_whole_rows_under_other_groups_are_counted():
    x, context = torch.tensor(normal(400, 3)), torch.tensor(normal(400, 2, seed=1))
    x[300:], context[300:] = x[:100], context[:100]
    splits = Splits.make(Data(x=x, context=context))
    (note,) = splits.data.notes
    assert note == (
        "200 of 400 rows are equal to a row of another group: give rows that belong together one group, or leave the "
        "copies out; test events may be in the training"
    )
    again = Splits.make(splits.data)
    assert (again.data.notes, again.hash) == (splits.data.notes, splits.hash)
    grouped = Data(x=x, context=context, groups=torch.arange(400) % 300)
    assert not Splits.make(grouped).data.notes
    context[300:] += 1
    assert not Splits.make(Data(x=x, context=context)).data.notes


def test_equal_contexts_and_rounded_values_are_no_copies():
    labels = torch.arange(3000) % 3
    assert not leak(Data(x=torch.tensor(normal(3000, 2)), context=labels[:, None].float()))
    for width in (1, 2):  # of which rows agree by chance
        rounded = torch.tensor(normal(3000, width)).mul(10).round().div(10)
        assert first_equal(rounded.numpy()) is not None
        assert not leak(Data(x=rounded))
    many = torch.tensor(normal(3000, 8)).mul(10).round().div(10)
    assert not leak(Data(x=many))
    many[:500] = many[500:1000]
    assert leak(Data(x=many)).startswith("1000 of 3000 rows are equal")
