"""MMD: the closed form for normals, unbiased, a kernel that sees shape, and galaxies against galaxies."""

import math

import pytest
import torch

from flowzoo.metrics import Clouds, configure
from flowzoo.metrics import mmd as module
from flowzoo.metrics.mmd import bandwidth, mmd2
from flowzoo.seeding import generator


def normal(*shape, name="x"):
    return torch.randn(*shape, generator=generator(0, name), dtype=torch.float64)


def exact(columns, width, shift, a, b):
    """MMD^2 of N(0, a^2 1) and N(shift, b^2 1) under the Gaussian kernel."""

    def mean(variance, squared):
        total = width**2 + variance
        return (width**2 / total) ** (columns / 2) * math.exp(-squared / (2 * total))

    return mean(2 * a * a, 0) + mean(2 * b * b, 0) - 2 * mean(a * a + b * b, columns * shift**2)


@pytest.mark.parametrize(
    ("columns", "width", "shift", "b"),
    [(1, 1.0, 1.0, 1.0), (1, 0.5, 0.0, 2.0), (5, 3.0, 0.5, 1.5), (10, 4.0, 0.0, 1.0)],
)
def test_mean_over_samples_is_the_closed_form_for_normals(columns, width, shift, b):
    found = torch.stack(
        [
            mmd2(normal(40, columns, name=f"a{i}"), shift + b * normal(30, columns, name=f"b{i}"), torch.tensor(width))
            for i in range(300)
        ]
    )
    error = float(found.std()) / 300**0.5
    assert float(found.mean()) == pytest.approx(exact(columns, width, shift, 1.0, b), abs=3.5 * error)
    assert error < 0.01


def test_equal_distributions_have_zero_on_average_and_so_also_less():
    # A biased estimate would have (1 - E k) (1 / n + 1 / m) more; E k is 1/3.
    found = torch.stack(
        [mmd2(normal(20, 2, name=f"a{i}"), normal(20, 2, name=f"b{i}"), torch.tensor(1.0)) for i in range(400)]
    )
    assert abs(float(found.mean())) < 3.5 * float(found.std()) / 20
    assert 20 * (float(found.std()) / 20) < (1 - 1 / 3) * (2 / 20)
    assert 0.3 < float((found < 0).double().mean()) < 0.8


def test_bandwidth_from_the_reference_keeps_the_average_at_zero():
    found = []
    for i in range(400):
        a, b = normal(20, 2, name=f"a{i}"), normal(20, 2, name=f"b{i}")
        found.append(mmd2(a, b, bandwidth(a)))
    found = torch.stack(found)
    assert abs(float(found.mean())) < 3.5 * float(found.std()) / 20


def test_shape_is_seen_where_a_linear_kernel_sees_nothing():
    a, b = normal(1000, 3, name="a"), normal(1000, 3, name="b")
    b = b @ torch.linalg.cholesky(torch.tensor([[1, 0.9, 0], [0.9, 1, 0], [0, 0, 1]], dtype=torch.float64)).T
    a, b = a - a.mean(0), b - b.mean(0)
    linear = (a.mean(0) - b.mean(0)).square().sum()
    assert float(linear) < 1e-25
    same = normal(1000, 3, name="c")
    noise = abs(float(mmd2(a, same, bandwidth(a))))
    assert float(mmd2(a, b, bandwidth(a))) > 10 * max(noise, 5e-4)


def test_bandwidth_is_the_median_distance():
    # the distance of two points of N(0, 1) is sqrt(2) |z|, whose median is 0.9539
    assert float(bandwidth(normal(2000, 1))) == pytest.approx(0.9539, rel=0.03)
    assert float(bandwidth(torch.zeros(30, 2, dtype=torch.float64))) == 1


# -- galaxies against galaxies ----------------------------------------------------------------------------------------


def galaxies(count, m, name, shifts, columns=2):
    return normal(count, m, columns, name=name) + shifts[:, None, None]


@pytest.fixture
def across(fields):
    def of(real, drawn, context, population, population_context, **options):
        clouds = Clouds(real, drawn, torch.arange(len(real)), context, population, population_context)
        evaluation = fields.evaluation(torch.zeros(1, 2, 1), None, clouds=clouds)
        return configure("mmd", options)(evaluation)

    return of


def test_draws_are_as_far_from_other_galaxies_as_real_particles_are(across):
    shifts = torch.linspace(-2, 2, 9, dtype=torch.float64)
    population = galaxies(9, 300, "population", shifts)
    left_out = shifts[[1, 4]]
    real = galaxies(4, 300, "real", left_out.repeat_interleave(2)).unflatten(0, (2, 2))
    drawn = galaxies(4, 300, "drawn", left_out.repeat_interleave(2)).unflatten(0, (2, 2))
    context, contexts = left_out[:, None].float(), shifts[:, None].float()
    found = across(real, drawn, context, population, contexts)
    assert (
        found["to_population"].shape == found["real_to_population"].shape == found["context_distance"].shape == (2, 9)
    )
    assert (found["to_population"] - found["real_to_population"]).abs().max() < 0.06
    # MMD grows with the distance in context, which is in spreads of the population.
    for k in range(2):
        order = found["context_distance"][k].argsort()
        assert (found["to_population"][k, order].diff() > -0.06).all()
    expected = (left_out[:, None] - shifts).abs() / shifts.std(correction=0)
    assert torch.allclose(found["context_distance"], expected, atol=1e-6)
    # A flow that ignores the context draws the mean galaxy everywhere: equally far from all, whatever the context.
    ignoring = across(real, normal(2, 2, 300, 2, name="i"), context, population, contexts)
    assert ignoring["to_population"][0, 1] > 0.3
    assert abs(float(ignoring["real_to_population"][0, 1])) < 0.05


def test_galaxys_own_particles_in_the_population_do_not_count_as_nearer():
    # Particles of the cloud are in its population, some twice: without care MMD^2 would be 0.03 off.
    differences = []
    for i in range(300):
        real = normal(1, 2, 20, 2, name=f"r{i}")
        again = torch.randint(20, (25,), generator=generator(i, "again"))
        none = torch.zeros(1, 1)
        found = module.across(Clouds(real, real, none[0], none, real[:, 0, again], none), 25)
        differences.append(float(found["real_to_population"]))
    mean, error = torch.tensor(differences).mean(), torch.tensor(differences).std() / 300**0.5
    assert abs(mean) < 3.5 * error
    assert error < 0.004


def test_chunks_of_the_population_do_not_matter(across, monkeypatch):
    shifts = torch.linspace(-1, 1, 5, dtype=torch.float64)
    real, drawn = normal(2, 2, 30, 3, name="r"), normal(2, 2, 30, 3, name="d")
    args = (real, drawn, torch.rand(2, 2), galaxies(5, 40, "p", shifts, 3), torch.rand(5, 2))
    whole = across(*args)
    monkeypatch.setattr(module, "PAIRS", 3000)
    for name in ("to_population", "real_to_population"):
        assert torch.allclose(across(*args)[name], whole[name])


def test_column_of_the_context_that_is_constant_has_no_distance(across):
    contexts = torch.tensor([[0.0, 5.0], [2.0, 5.0], [4.0, 5.0]])
    real = normal(1, 2, 30, 2)
    found = across(real, real, torch.tensor([[2.0, 7.0]]), normal(3, 30, 2, name="p"), contexts)
    assert found["context_distance"][0].tolist() == pytest.approx([(3 / 2) ** 0.5, 0, (3 / 2) ** 0.5])


def test_no_population_means_no_such_tensors(across):
    real = normal(1, 2, 30, 2)
    found = across(real, real, torch.zeros(0, 3), torch.zeros(0, 0, 2), torch.zeros(0, 3))
    assert set(found) == {"mmd", "mmd_floor", "by_group", "floor_by_group", "group"}
