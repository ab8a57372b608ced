"""The linear-Gaussian baseline: exact where the data is linear-Gaussian, sound where there is too little of it."""

import pytest
import torch
from scipy.stats import multivariate_normal

from flowzoo.bijectors import Standardize
from flowzoo.data import Splits, configure
from flowzoo.models import build
from flowzoo.seeding import generator


def linear(count, dim, context, seed=0):
    """Events linear in their context with correlated noise, in float64."""
    source = generator(seed, "linear")
    c = torch.randn(count, context, generator=source, dtype=torch.float64)
    weight = torch.randn(dim, context, generator=source, dtype=torch.float64)
    mix = torch.eye(dim, dtype=torch.float64) + 0.3 * torch.randn(dim, dim, generator=source, dtype=torch.float64)
    noise = torch.randn(count, dim, generator=source, dtype=torch.float64) @ mix.T
    return 3 + c @ weight.T + noise, c


def fitted(x, c, **maps):
    flow = build("gaussian", x.shape[1:], c.shape[1:], **maps).double()
    flow.initialize(x, c)
    return flow


def test_fit_is_the_maximum_likelihood_where_there_is_data_enough():
    x, c = linear(50_000, 3, 2)
    flow = fitted(x, c)
    design = torch.cat([c, torch.ones(len(c), 1).double()], 1)
    solution = torch.linalg.lstsq(design, x).solution
    residual = x - design @ solution
    expected = multivariate_normal(cov=(residual.T @ residual / len(x)).numpy()).logpdf(residual.numpy())
    # the shrinkage is of order 1/n
    torch.testing.assert_close(flow.log_prob(x, c), torch.from_numpy(expected), atol=5e-3, rtol=0)
    torch.testing.assert_close(flow.weight, solution[:2].T)
    torch.testing.assert_close(flow.bias, solution[2])


def test_held_out_nll_is_the_entropy_on_linear_gaussian_data():
    data = configure("linear_gaussian", {"num_events": 20_000}).load()
    splits = Splits.make(data)
    x_map, context_map = splits.maps()
    flow = build("gaussian", data.event_shape, data.context_shape, x_map=x_map, context_map=context_map)
    flow.initialize(splits.train.x, splits.train.context)
    test = splits.test
    excess = data.true_log_prob(test.x, test.context) - flow.log_prob(test.x, test.context)
    assert float(excess.mean()) == pytest.approx(0, abs=5e-3)


def test_draws_have_the_fitted_mean_and_covariance():
    x, c = linear(5000, 3, 2)
    flow = fitted(x, c)
    given = torch.tensor([1.0, -2.0], dtype=torch.float64)
    draws = flow.sample(given, (50_000,), generator=generator(1, "z"))
    torch.testing.assert_close(draws.mean(0), flow.weight @ given + flow.bias, atol=0.05, rtol=0)
    torch.testing.assert_close(draws.T.cov(), flow.cholesky @ flow.cholesky.T, atol=0.05, rtol=0.05)


def test_directions_undo_each_other():
    x, c = linear(500, 4, 2)
    flow = fitted(x, c)
    z, forward = flow.to_latent(x, c)
    back, backward = flow.to_data(z, c)
    torch.testing.assert_close(back, x)
    torch.testing.assert_close(forward, -backward)
    jacobian = torch.autograd.functional.jacobian(lambda v: flow.to_latent(v, c[0])[0], x[0])
    torch.testing.assert_close(torch.linalg.slogdet(jacobian)[1], forward[0])


@pytest.mark.parametrize("count", [60, 20])
def test_covariance_is_positive_definite_with_fewer_events_than_dimensions(count):
    x, c = linear(count + 500, 300, 2)
    flow = fitted(x[:count], c[:count])
    covariance = flow.cholesky @ flow.cholesky.T
    assert float(torch.linalg.eigvalsh(covariance).min()) > 1e-3
    held_out = flow.log_prob(x[count:], c[count:])
    assert bool(held_out.isfinite().all())
    assert bool(flow.sample(c[:1], (50,)).isfinite().all())


def test_collinear_contexts_are_no_worse_than_one_of_them():
    x, c = linear(2000, 3, 1)
    copies = torch.cat([c, 2 * c, 1 - c, torch.zeros_like(c)], 1)
    one, many = fitted(x, c), fitted(x, copies)
    torch.testing.assert_close(many.log_prob(x, copies), one.log_prob(x, c), atol=1e-8, rtol=1e-8)
    assert float(many.weight.abs().max()) < 10  # of minimum norm, not of any


def test_one_hot_contexts_give_the_mean_of_each_class():
    x, _ = linear(900, 2, 1)
    label = torch.arange(900) % 3
    x = x + 10 * label[:, None]
    c = torch.eye(3, dtype=torch.float64)[label]
    flow = fitted(x, c)
    for k in range(3):
        torch.testing.assert_close(flow.weight[:, k] + flow.bias, x[label == k].mean(0))


def test_without_context_it_is_a_normal():
    x, _ = linear(20_000, 3, 1)
    flow = fitted(x, x[:, :0])
    expected = multivariate_normal(x.mean(0).numpy(), x.T.cov(correction=0).numpy()).logpdf(x.numpy())
    torch.testing.assert_close(flow.log_prob(x), torch.from_numpy(expected), atol=2e-2, rtol=0)


def test_one_column():
    x, c = linear(500, 1, 1)
    flow = fitted(x, c)
    residual = x - (c * flow.weight + flow.bias)
    assert float(flow.cholesky) == pytest.approx(float(residual.square().mean().sqrt()))


def test_images_and_maps_of_any_shape():
    x, c = linear(500, 8, 4)
    image, context = x.reshape(500, 2, 2, 2).float(), c.reshape(500, 1, 2, 2).float()
    flat = fitted(x, c)
    x_map, context_map = Standardize((2, 2, 2)), Standardize((1, 2, 2))
    x_map.fit(image)
    context_map.fit(context)
    flow = build("gaussian", (2, 2, 2), (1, 2, 2), x_map=x_map, context_map=context_map)
    flow.initialize(image, context)
    # in other units the shrinkage is towards another multiple of the identity, and small
    torch.testing.assert_close(flow.log_prob(image, context), flat.log_prob(x, c).float(), atol=0.3, rtol=0.02)
    assert flow.sample(context[:3]).shape == (3, 2, 2, 2)


def test_all_training_events_are_used():
    assert build("gaussian", (2,), (1,)).init_events is None


def test_contexts_that_determine_every_event_are_an_error_in_words():
    # least squares passes through all of them, and a density of no width scores held-out events at -1e30
    x, c = linear(8, 3, 10)
    with pytest.raises(ValueError, match=r"8 training events .* 10 columns of context: nothing is left to scatter"):
        fitted(x, c)
