"""Correlations: numpy's matrices, the floor of independent columns, constant ones, and more columns than points."""

import pytest
import torch

from flowzoo.metrics.correlation import correlation_distance
from flowzoo.seeding import generator


def normal(*shape, name="x"):
    return torch.randn(*shape, generator=generator(0, name), dtype=torch.float64)


def test_distance_is_that_of_torchs_matrices():
    a, b = normal(50, 5, name="a"), normal(70, 5, name="b") @ normal(5, 5, name="mix") + 3
    expected = (torch.corrcoef(a.T) - torch.corrcoef(b.T)).norm()
    assert float(correlation_distance(a, b)) == pytest.approx(float(expected))


def test_one_pair_that_is_off_counts_twice():
    a, b = normal(200_000, 3, name="a"), normal(200_000, 3, name="b")
    b[:, 1] = 0.6 * b[:, 0] + 0.8 * b[:, 1]
    assert float(correlation_distance(a, b)) == pytest.approx(2**0.5 * 0.6, abs=0.01)


def test_means_and_spreads_do_not_enter():
    a, b = normal(60, 4, name="a"), normal(60, 4, name="b")
    scale, shift = torch.tensor([1e-6, 1, 50, 1e6]), torch.tensor([1e3, 0, -7, 1e9])
    assert float(correlation_distance(a, b * scale + shift)) == pytest.approx(
        float(correlation_distance(a, b)), rel=1e-5
    )


def test_independent_columns_are_as_far_apart_as_said():
    found = [correlation_distance(normal(200, 10, name=f"a{i}"), normal(200, 10, name=f"b{i}")) for i in range(50)]
    rms = float(torch.stack(found).square().mean().sqrt())
    assert rms == pytest.approx((2 * 10 * 9 / 200) ** 0.5, rel=0.05)


def test_more_columns_than_points_have_the_same_sum():
    a, b = normal(20, 30, name="a"), normal(25, 30, name="b")
    b[:, 4] = 2.5
    ours = torch.corrcoef(a.T), torch.corrcoef(b.T).nan_to_num(0)
    difference = (ours[0] - ours[1]).fill_diagonal_(0)
    assert float(correlation_distance(a, b)) == pytest.approx(float(difference.norm()))


@pytest.mark.parametrize("columns", [3, 40])
def test_constant_column_has_no_correlation(columns):
    a = normal(30, columns, name="a")
    a[:, 1] = 0.1  # the mean of thirty of them is not 0.1
    assert float(correlation_distance(a, a.flip(0))) == pytest.approx(0, abs=1e-6)
    b = a.clone()
    b[:, 1] = b[:, 0]
    # The correlation of a column with the first, and of all others with it, is what was lost.
    lost = torch.corrcoef(a[:, [0, *range(2, columns)]].T)[0].square().sum()
    assert float(correlation_distance(a, b)) == pytest.approx(float((2 * lost).sqrt()))
