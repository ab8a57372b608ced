"""What has no density is refused before training, in one line that says where and how much."""

import pytest
import torch

from flowzoo.data import Data, Levels, Splits
from flowzoo.data._checks import check
from flowzoo.seeding import generator


def normal(count=500, *shape):
    return torch.randn(count, *(shape or (2,)), generator=generator(0, "test"))


def test_good_data_pass():
    check(Data(x=normal(), context=normal(500, 3)))


@pytest.mark.parametrize(("value", "text"), [(float("nan"), "1 NaN"), (float("inf"), "0 NaN")])
def test_non_finite_events_are_counted_and_the_column_named(value, text):
    x = normal()
    x[7, 1] = value
    with pytest.raises(ValueError, match=rf"column 'v': 1 of 500 rows are not finite \({text}\)"):
        check(Data(x=x, names=("u", "v")))


def test_non_finite_context_is_refused_too():
    context = normal(500, 3)
    context[:4, 2] = float("nan")
    with pytest.raises(ValueError, match=r"column 'context\[2\]': 4 of 500 rows are not finite"):
        check(Data(x=normal(), context=context))


def test_non_finite_pixels_are_counted_by_image():
    x = normal(50, 1, 4, 4)
    x[3, 0, 1, 1] = x[3, 0, 2, 2] = float("nan")
    with pytest.raises(ValueError, match=r"'x\[0\]': 1 of 50 rows"):
        check(Data(x=x))


def test_no_events_are_refused():
    with pytest.raises(ValueError, match="no events"):
        check(Data(x=torch.zeros(0, 2)))


def test_constant_column_is_refused_by_name():
    x = normal()
    x[:, 0] = 3
    with pytest.raises(ValueError, match="column 'flat': all 500 rows are 3"):
        check(Data(x=x, names=("flat", "other")))


def test_atom_is_refused_with_its_share():
    x = normal()
    x[:100, 1] = 0
    with pytest.raises(ValueError, match=r"column 'sfr': 100 of 500 rows \(20%\) are exactly 0, an atom"):
        check(Data(x=x, names=("a", "sfr")))


def test_atom_in_one_corner_of_large_images_is_found():
    # More pixels than the check samples, the equal ones all in one column of the image.
    x = normal(500, 1, 32, 32)
    x[:, :, :, 5] = -1
    with pytest.raises(ValueError, match=r"16000 of 512000 pixels \(3%\) are exactly -1"):
        check(Data(x=x))


def test_atom_in_one_of_several_channels_is_counted_there():
    x = normal(300, 3, 32, 32)
    x[:, 1, :, 5] = -1
    x[:, 2, 0, 0] = -1
    with pytest.raises(ValueError, match=r"'x\[1\]': 9600 of 307200 pixels \(3%\) are exactly -1"):
        check(Data(x=x))


def test_symmetries_beside_an_image_as_context_are_refused():
    x, image = normal(20, 1, 4, 4), normal(20, 1, 2, 2)
    for options in ({"context": image}, {"context": image.flatten(1), "context_image": (1, 2, 2)}):
        check(Data(x=x, **options))
        with pytest.raises(ValueError, match=r"^augment \(flip, shift\) would move the events and not the images"):
            check(Data(x=x, augment=("flip", "shift"), **options))
    check(Data(x=x, context=image.flatten(1), augment=("flip",)))


def test_a_few_equal_values_are_no_atom():
    x = normal()
    x[:4, 0] = 0
    check(Data(x=x))


def test_integer_data_must_declare_levels():
    with pytest.raises(ValueError, match="must declare levels"):
        Data(x=torch.zeros(5, 2, dtype=torch.uint8))


@pytest.mark.parametrize("value", [17, -1])
def test_values_outside_the_levels_are_counted(value):
    x = torch.randint(17, (100, 1, 8, 8), generator=generator(0, "x"))
    x[3, 0, 0, 0] = x[4, 0, 1, 1] = value
    with pytest.raises(ValueError, match=r"2 of 100 events have values outside the declared levels 0, 1, \.\.\., 16"):
        check(Data(x=x, levels=Levels(0, 1, 17)))


def test_values_between_the_levels_are_refused():
    x = torch.tensor([[0.0], [2.0], [3.0]])
    with pytest.raises(ValueError, match="1 of 3 events"):
        check(Data(x=x, levels=Levels(0, 2, 5)))


def test_events_without_an_axis_of_their_own_are_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"got \(5,\).*x\[:, None\]"):
        Data(x=torch.zeros(5))
    with pytest.raises(ValueError, match=r"got \(5,\).*context\[:, None\]"):
        Data(x=torch.zeros(5, 1), context=torch.zeros(5))


def test_one_dimensional_events_pass_and_split():
    splits = Splits.make(Data(x=normal(60, 1)))
    assert splits.train.x.shape == (42, 1)


@pytest.mark.parametrize("row", [-1, 3])
def test_context_index_outside_the_contexts_is_refused(row):
    index = torch.tensor([0, 1, 2, 1])
    index[2] = row
    with pytest.raises(ValueError, match=f"points to row {row}; context has 3 rows"):
        Data(x=normal(4), context=normal(3), context_index=index)


def test_context_of_another_length_is_refused():
    with pytest.raises(ValueError, match="3 rows for 4 events"):
        Data(x=normal(4), context=normal(3))


@pytest.mark.parametrize("name", ["groups", "given_split", "context_index"])
def test_columns_of_another_length_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} must have one entry per event; got 3 for 4 events"):
        Data(x=normal(4), context=normal(4), **{name: torch.zeros(3, dtype=torch.long)})


def test_data_without_options_of_their_own_are_told_no_option_against_an_atom():
    x = normal()
    x[:100, 1] = 0
    with pytest.raises(ValueError, match=r"density\. Leave the column out of x, or add a stated noise to it\.$"):
        check(Data(x=x))
    with pytest.raises(ValueError, match=r"density\. Set b to 0\.$"):
        check(Data(x=x, names=("a", "b"), remedy="Set {column} to {value}."))


def test_data_introduce_themselves_with_what_was_done_to_them():
    data = Data(x=normal(50), context=normal(50, 1), notes=("left out 470", "added noise"))
    assert data.introduce("mine") == "mine: 50 events of 2, given 1 number, 50 groups\n  left out 470\n  added noise"
    assert Data(x=normal(50)).introduce("a") == "a: 50 events of 2, no context, 50 groups"
    assert "given 3 numbers" in Data(x=normal(50), context=normal(50, 3)).describe()


def test_thetas_of_several_observations_are_no_atoms():
    theta = normal(60, 1)
    data = Data(x=theta.repeat_interleave(12, 0), context=normal(720, 3), groups=torch.arange(720) // 12, theta="event")
    check(data)
    fixed = theta.index_fill(0, torch.arange(30), 0.5).repeat(10, 1)
    with pytest.raises(ValueError, match=r"are exactly 0\.5, an atom"):
        check(Data(x=fixed, context=normal(600, 3), groups=torch.arange(600), theta="event"))
