"""Precision, recall, density, coverage: by loops, their exact expectations, and a mode that is dropped."""

import math

import pytest
import torch

from flowzoo.metrics import _points as points
from flowzoo.metrics.prdc import prdc, reach
from flowzoo.seeding import generator


def normal(*shape, name="x"):
    return torch.randn(*shape, generator=generator(0, name), dtype=torch.float64)


def by_loops(real, drawn, k):
    def ball(x):
        return [sorted(float((a - b).norm()) for b in x)[k] for a in x]

    around, near = ball(real), ball(drawn)
    inside = [[float((a - b).norm()) <= r for b in drawn] for a, r in zip(real, around, strict=True)]
    held = [any(float((a - b).norm()) <= r for b, r in zip(drawn, near, strict=True)) for a in real]
    precision = sum(any(row[j] for row in inside) for j in range(len(drawn))) / len(drawn)
    density = sum(map(sum, inside)) / (k * len(drawn))
    return [precision, sum(held) / len(real), density, sum(map(any, inside)) / len(real)]


@pytest.mark.parametrize(("n", "m", "k", "chunk"), [(20, 20, 5, 10**6), (15, 25, 3, 40), (25, 12, 1, 1)])
def test_shares_are_those_of_loops_in_any_chunks(monkeypatch, n, m, k, chunk):
    real, drawn = normal(n, 2, name="a"), 1.3 * normal(m, 2, name="b") + 0.5
    monkeypatch.setattr(points, "PAIRS", chunk)
    assert prdc(real, drawn, k).tolist() == pytest.approx(by_loops(real, drawn, k))


@pytest.mark.parametrize(("n", "m", "k"), [(30, 30, 5), (40, 20, 3)])
def test_density_and_coverage_have_their_exact_expectations(n, m, k):
    found = torch.stack([prdc(normal(n, 3, name=f"a{i}"), normal(m, 3, name=f"b{i}"), k) for i in range(400)])
    mean, error = found.mean(0), found.std(0) / 20
    coverage = 1 - math.prod((n - i) / (n + m - i) for i in range(1, k + 1))
    assert float(mean[2]) == pytest.approx(1, abs=3.5 * float(error[2]))
    assert float(mean[3]) == pytest.approx(coverage, abs=3.5 * float(error[3]))
    assert error[2:].max() < 0.02


def test_reach_is_the_distance_to_the_k_th_other_point():
    x = torch.tensor([[0.0], [1.0], [3.0], [7.0]]).double()
    assert reach(x, 1).tolist() == pytest.approx([1, 1, 2, 4])
    assert reach(x, 2).tolist() == pytest.approx([3, 2, 3, 6])


def test_dropped_mode_is_lost_recall_and_coverage_and_not_precision():
    real, drawn = normal(400, 3, name="a"), normal(400, 3, name="b")
    full = prdc(real, drawn, 5)
    real[:100] += 10  # the draws have no such mode
    found = prdc(real, drawn, 5)
    assert float(found[1]) == pytest.approx(0.75 * float(full[1]), abs=0.03)
    assert float(found[3]) == pytest.approx(0.75 * float(full[3]), abs=0.03)
    assert float(found[0]) > 0.95 * float(full[0])


def test_draws_where_nothing_is_are_lost_precision_and_density():
    real, drawn = normal(400, 3, name="a"), normal(400, 3, name="b")
    full = prdc(real, drawn, 5)
    drawn[:100] += 10
    found = prdc(real, drawn, 5)
    assert float(found[0]) == pytest.approx(0.75 * float(full[0]), abs=0.03)
    assert float(found[2]) == pytest.approx(0.75 * float(full[2]), abs=0.06)
    assert float(found[3]) > 0.95 * float(full[3])


def test_copies_are_within_reach():
    x = normal(50, 4)
    found = prdc(x, x.clone(), 5)
    assert found[[0, 1, 3]].tolist() == [1, 1, 1]
    assert float(found[2]) >= 1


def test_points_that_repeat_are_within_reach_of_each_other():
    """On the corners of a cube, some tens of points each, every ball has at least its own corner."""
    corners = torch.rand(2, 300, 3, generator=generator(0, "corners"), dtype=torch.float64) < 0.5
    real, drawn = 3.7 * corners.double() + 0.1
    assert prdc(real, drawn, 5)[[0, 1, 3]].tolist() == [1, 1, 1]
