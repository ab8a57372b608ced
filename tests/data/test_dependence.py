"""Columns that follow from others by a line are refused by name; those that nearly do are not."""

import pytest
import torch

from flowzoo.bijectors import Columns, Compose, Log, Standardize
from flowzoo.data import Data, Splits
from flowzoo.seeding import generator


def normal(count=600, width=1, seed=0):
    return torch.randn(count, width, generator=generator(seed, "dependence test"))


def split(x, **options):
    return Splits.make(Data(x=x, **options))


@pytest.mark.parametrize("factor", [2, 1.37, -0.01])
def test_multiple_of_a_column_is_refused_by_name(factor):
    sfr = normal().exp()
    with pytest.raises(ValueError, match=r"column 'sfr2' follows from sfr by a line .*the true NLL is minus") as error:
        split(torch.cat([sfr, factor * sfr], 1), names=("sfr", "sfr2"))
    assert "\n" not in str(error.value)


def test_colour_beside_its_magnitudes_is_refused_and_the_column_that_plays_no_part_is_not_named():
    mag = 24 + normal(width=3)
    x = torch.cat([mag, mag[:, :1] - mag[:, 2:]], 1)
    with pytest.raises(ValueError, match=r"'g-i' follows from g, i by a line"):
        split(x, names=("g", "r", "i", "g-i"))
    split(x[:, :3])


def test_values_written_with_six_digits_are_still_dependent():
    sfr = normal(seed=3).exp()
    x = torch.tensor([[float(f"{v:.6g}") for v in row] for row in torch.cat([sfr, 1.37 * sfr], 1).tolist()])
    with pytest.raises(ValueError, match=r"'x\[1\]' follows from x\[0\]"):
        split(x)


def test_pixels_whose_mean_was_subtracted_are_dependent():
    x = torch.rand(2000, 64, generator=generator(0, "patches"))
    x = x - x.mean(1, keepdim=True)
    with pytest.raises(ValueError, match=r"'x\[63\]' follows from x\[0\] to x\[62\] by a line"):
        split(x)
    split(x[:, :63])


def test_products_are_dependent_where_the_network_sees_logarithms():
    a, b = normal(seed=1).exp(), normal(seed=2).exp()
    x = torch.cat([a, b, a * b], 1)
    split(x)
    with pytest.raises(ValueError, match=r"'x\[2\]' follows from x\[0\], x\[1\] by a line"):
        split(x, x_map=Compose(Columns([0, 1, 2], Log()), Standardize((3,))))


@pytest.mark.parametrize("residual", [1e-4, 1e-3, 0.1])
def test_column_that_nearly_follows_from_another_passes(residual):
    x = normal()
    split(torch.cat([x, x + residual * normal(seed=1)], 1))


def test_row_far_out_does_not_make_two_columns_one():
    x = normal(width=2)
    x[7] = 1e7
    assert float(torch.corrcoef(x.double().T)[0, 1]) > 1 - 1e-11
    split(x)


def test_few_rows_for_many_columns_say_nothing():
    split(normal(12, 8))


def test_images_and_wide_vectors_are_left_alone():
    x = normal(300, 300)
    x[:, 1] = x[:, 0]
    split(x)
    image = normal(300, 16).reshape(300, 1, 4, 4)
    image[:, :, 0] = image[:, :, 1]
    split(image)
