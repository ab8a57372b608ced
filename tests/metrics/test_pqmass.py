"""PQMass: scipy's chi-square of counts in cells, 1 per degree of freedom without fault, p-values that are valid."""

import pytest
import torch
from scipy.stats import chi2_contingency

from flowzoo.metrics import Clouds, configure
from flowzoo.metrics.pqmass import cell_counts
from flowzoo.seeding import generator


def normal(*shape, name="x"):
    return torch.randn(*shape, generator=generator(0, name), dtype=torch.float64)


@pytest.fixture
def pqm(fields):
    def of(real, drawn, **options):
        none = torch.zeros(0)
        clouds = Clouds(real, drawn, torch.arange(len(real)), none, none, none)
        return configure("pqmass", options)(fields.evaluation(torch.zeros(1, 2, 1), None, clouds=clouds))

    return of


def test_statistic_is_scipys_of_the_counts_in_cells():
    a, b = normal(40, 2, name="a"), normal(50, 2, name="b") + 0.3
    both = torch.cat([a, b])
    places = torch.tensor([[0, 5, 41, 60], [1, 2, 80, 89]])
    chi2, dof = cell_counts(a, b, places)
    for i, where in enumerate(places):
        table = torch.zeros(2, 4)
        for j in range(90):
            if j not in where:
                table[int(j >= 40), (both[where] - both[j]).norm(dim=1).argmin()] += 1
        expected = chi2_contingency(table.numpy(), correction=False)
        assert float(chi2[i]) == pytest.approx(expected.statistic)
        assert float(dof[i]) == expected.dof == 3


def test_empty_cells_cost_their_degree_of_freedom():
    a = torch.tensor([[0.0], [0.1], [0.2], [5.0], [5.1], [5.2], [100.0]])
    chi2, dof = cell_counts(a, a + 0.01, torch.tensor([[0, 3, 6, 13]]))
    assert float(dof) == 1  # nobody else is near the two far ones
    assert float(chi2) == pytest.approx(chi2_contingency([[2, 2], [3, 3]], correction=False).statistic)


def test_points_that_are_all_one_have_no_difference():
    chi2, dof = cell_counts(torch.zeros(10, 2), torch.zeros(10, 2), torch.tensor([[0, 12]]))
    assert (float(chi2), float(dof)) == (0, 1)


def test_mean_over_labels_is_exactly_the_degrees_of_freedom(pqm):
    # Small cells, where chi-square itself would be a poor approximation.
    found = [pqm(normal(1, 2, 30, 2, name=f"r{i}"), normal(1, 2, 30, 2, name=f"d{i}")) for i in range(200)]
    values = torch.tensor([f["pqm_chi2"] for f in found])
    assert float(values.mean()) == pytest.approx(1, abs=3.5 * float(values.std()) / 200**0.5)
    assert float(values.std()) / 200**0.5 < 0.02


def test_p_values_are_not_too_small_without_fault_and_are_with_one(pqm):
    shape = (100, 2, 100, 2)
    found = pqm(normal(*shape, name="r"), normal(*shape, name="d"))
    for name in ("p_by_group", "floor_p_by_group"):
        p = found[name]
        assert p.min() >= 0
        assert p.max() <= 1
        assert float((p <= 0.1).double().mean()) <= 0.1
    found = pqm(normal(2, 2, 500, 2, name="r"), 1.7 * normal(2, 2, 500, 2, name="d"))
    assert (found["p_by_group"] < 1e-3).all()
    assert (found["floor_p_by_group"] > 1e-3).all()


def test_few_points_have_fewer_cells(pqm):
    # 20 points a half: four cells, five points of each sample in the mean one
    real, drawn = normal(1, 2, 20, 2, name="r"), normal(1, 2, 20, 2, name="d")
    assert pqm(real, drawn)["pqm_chi2"] == pqm(real, drawn, num_refs=4)["pqm_chi2"]
    assert pqm(real, drawn)["pqm_chi2"] != pqm(real, drawn, num_refs=3)["pqm_chi2"]
