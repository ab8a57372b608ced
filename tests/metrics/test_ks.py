"""Kolmogorov-Smirnov: scipy's distance in every column, and the worst of them in the table."""

import pytest
import torch
from scipy.stats import ks_2samp

from flowzoo.metrics import Clouds, configure
from flowzoo.metrics.ks import ks_distance
from flowzoo.seeding import generator


def normal(*shape, name="x"):
    return torch.randn(*shape, generator=generator(0, name), dtype=torch.float64)


@pytest.mark.parametrize(("n", "m"), [(50, 50), (50, 70), (3, 1000), (1, 7)])
def test_each_column_is_scipys_distance(n, m):
    a, b = normal(n, 4, name="a"), 1.5 * normal(m, 4, name="b") + 0.3
    expected = [ks_2samp(a[:, i], b[:, i]).statistic for i in range(4)]
    assert ks_distance(a, b).tolist() == pytest.approx(expected)


def test_ties_count_once():
    a, b = normal(300, 2, name="a").round(), (normal(200, 2, name="b") + 0.4).round()
    expected = [ks_2samp(a[:, i], b[:, i]).statistic for i in range(2)]
    assert ks_distance(a, b).tolist() == pytest.approx(expected)
    assert ks_distance(a, a.flip(0)).tolist() == [0, 0]


def test_monotone_maps_do_not_matter():
    a, b = normal(100, 2, name="a"), normal(100, 2, name="b") + 0.3
    assert torch.equal(ks_distance(a, b), ks_distance(a.exp(), b.exp()))


def test_worst_column_is_in_the_table_and_all_are_kept(fields):
    real, drawn = normal(2, 2, 400, 9), normal(2, 2, 400, 9, name="d")
    spike = torch.arange(400) < 120
    drawn[:, :, spike, 6] = 1.7  # three draws of ten at the edge of one column's range
    none = torch.zeros(0)
    clouds = Clouds(real, drawn, torch.arange(2), none, none, none)
    found = configure("ks", {})(fields.evaluation(torch.zeros(1, 2, 1), None, clouds=clouds))
    assert found["by_column"].shape == found["floor_by_column"].shape == (2, 9)
    assert found["by_column"].argmax(1).tolist() == [6, 6]
    assert found["ks"] == pytest.approx(float(found["by_column"][:, 6].mean()))
    # 0.3 of the draws are missing below 1.7, where normal ones have 0.955 of theirs
    assert found["ks"] == pytest.approx(0.3 * 0.955, abs=0.05)
    for k in range(2):
        expected = ks_2samp(real[k, 0, :, 2], real[k, 1, :, 2]).statistic
        assert float(found["floor_by_column"][k, 2]) == pytest.approx(expected)
    assert found["ks_floor"] >= float(found["floor_by_column"].amax(1).mean()) - 1e-12
