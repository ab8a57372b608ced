"""The fixed maps: true log-slopes, true inverses, constants from the data alone, faults that name the column."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowzoo.bijectors import (
    Arcsine,
    Columns,
    Compose,
    Identity,
    Log,
    Logit,
    Rescale,
    SoftLog,
    Standardize,
    Tanh,
    VectorAndImage,
    Whiten,
    from_description,
)
from flowzoo.models import build
from flowzoo.seeding import generator


def positive(count=400, columns=3):
    """Positive data of different scales, correlated, below 50."""
    noise = torch.randn(count, columns, generator=generator(0, "x"), dtype=torch.float64)
    x = torch.exp(0.3 * (noise + noise.roll(1, 1)) + torch.arange(columns))
    return x.clamp_max(49.0)


def mapped(bijector, x):
    """Fitted, and applied to what it was fitted on."""
    bijector.fit(x)
    return bijector.to_latent(x)[0]


MAPS = {
    "identity": Identity,
    "standardize": lambda: Standardize((3,)),
    "whiten": lambda: Whiten((3,)),
    "log": Log,
    "log10": lambda: Log(10),
    "logit": lambda: Logit(0, 50),
    "arcsine": lambda: Arcsine(0, 50, 0.01),
    "soft log": lambda: SoftLog(1.5),
    "tanh": lambda: Tanh(60),
    "rescale": lambda: Rescale(0, 50),
    "compose": lambda: Compose(Log(), Standardize((3,))),
    "logit and standardize": lambda: Compose(Logit(0, 50, alpha=0.01), Standardize((3,))),
    "columns": lambda: Columns([0, 2], Compose(Log(), Whiten((2,)))),
    "vector and image": lambda: VectorAndImage((1, 1, 2), Log(), Compose(Logit(0, 50), Standardize((1, 1, 2)))),
    "image alone": lambda: VectorAndImage((3, 1, 1), Identity(), Standardize((3, 1, 1))),
    "a map for each column": lambda: Compose(
        Columns([0], Log(10)),
        Columns([1], Logit(0, 50)),
        Columns([2], Compose(Tanh(60), SoftLog(1.5))),
        Standardize((3,)),
    ),
    "all": lambda: Compose(Columns([1], Log()), Columns([2], Logit(0, 50)), Standardize((3,)), Whiten((3,))),
}


@pytest.fixture(params=MAPS)
def fitted(request):
    bijector = MAPS[request.param]().double()
    bijector.fit(positive())
    return bijector


def test_map_is_partial_where_some_values_have_no_image(fitted):
    far = torch.tensor([-1e4, 0.0, 1e4], dtype=torch.float64)[:, None].expand(3, 3)
    assert fitted.partial == (not bool(fitted.to_latent(far)[0].isfinite().all()))


def test_log_slopes_add_up_to_the_log_det_of_the_jacobian(fitted):
    for direction, points in (
        (fitted.to_latent, positive()[:5]),
        (fitted.to_data, fitted.to_latent(positive()[:5])[0]),
    ):
        value, log_slope = direction(points)
        assert value.shape == log_slope.shape == points.shape
        for i, point in enumerate(points):
            jacobian = torch.autograd.functional.jacobian(lambda v, f=direction: f(v[None])[0][0], point)
            true = torch.linalg.slogdet(jacobian)[1]
            torch.testing.assert_close(log_slope[i].sum(), true, rtol=1e-9, atol=1e-9)


def test_elementwise_maps_state_each_slope():
    mixing = ("whiten", "columns", "all")
    for name in [name for name in MAPS if name not in mixing]:
        bijector = MAPS[name]().double()
        bijector.fit(positive())
        x = positive()[:5].requires_grad_()
        value, log_slope = bijector.to_latent(x)
        (slope,) = torch.autograd.grad(value.sum(), x)
        torch.testing.assert_close(log_slope, slope.log(), rtol=1e-9, atol=1e-9)


def test_round_trip_and_the_log_slopes_cancel(fitted):
    x = positive()
    u, forward = fitted.to_latent(x)
    back, backward = fitted.to_data(u)
    torch.testing.assert_close(back, x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(backward.sum(1), -forward.sum(1), rtol=1e-9, atol=1e-9)


def numerical_log_det(function, x, step=1e-5):
    """log|det| of the Jacobian of ``(D,) -> (D,)`` by central differences of fourth order: no autograd, no formula."""
    eye = torch.eye(len(x), dtype=x.dtype) * step * x.abs().clamp_min(1e-3)
    points = torch.cat([x + k * eye for k in (1, -1, 2, -2)])
    ahead, behind, further, before = function(points).chunk(4)
    rows = (8 * (ahead - behind) - (further - before)) / (12 * eye.diagonal()[:, None])
    return torch.linalg.slogdet(rows)[1]


def stirred(context=(0,), **maps):
    """A smooth flow (no knots between the points of a difference), far from its neutral start, in float64."""
    flow = build("cglow", (3,), context, num_steps=2, hidden_features=16, generator=generator(8, "init"), **maps)
    flow = flow.double().eval()
    source = generator(9, "stir")
    with torch.no_grad():
        for p in flow.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=source, dtype=torch.float64))
    return flow


def test_density_of_a_flow_in_physical_units_is_the_numerical_change_of_variables(fitted):
    flow = stirred(x_map=fitted)
    x = positive()[:6]
    with torch.no_grad():
        z = flow.to_latent(x)[0]
        base = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1)
        slopes = torch.stack([numerical_log_det(lambda v: flow.to_latent(v)[0], row) for row in x])
        torch.testing.assert_close(flow.log_prob(x), base + slopes, rtol=1e-7, atol=1e-6)


@pytest.mark.parametrize(
    "first", [Log(10), Tanh(60), Logit(0, 50), Arcsine(0, 50, 0.01), Identity()], ids=lambda m: type(m).__name__
)
def test_context_columns_never_contribute_a_jacobian(first):
    of_event, of_context = MAPS["a map for each column"]().double(), Compose(first, Standardize((3,))).double()
    of_event.fit(positive())
    of_context.fit(positive())
    plain = stirred((3,), x_map=of_event)
    mapped = stirred((3,), x_map=of_event, context_map=of_context)
    x, c = positive()[:6], positive()[10:16]
    with torch.no_grad():
        torch.testing.assert_close(mapped.log_prob(x, c), plain.log_prob(x, of_context.to_latent(c)[0]))
        z = mapped.to_latent(x, c)[0]
        base = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1)
        slopes = [numerical_log_det(lambda v, g=g: mapped.to_latent(v, g)[0], row) for row, g in zip(x, c, strict=True)]
        torch.testing.assert_close(mapped.log_prob(x, c), base + torch.stack(slopes), rtol=1e-7, atol=1e-6)


def normal(x_map):
    """The standard normal in network units, of one dimension."""
    return build("gaussian", (1,), x_map=x_map).double()


def test_maps_of_maps_are_fitted_on_what_the_ones_before_return_in_pieces_too(monkeypatch):
    for name in ("compose", "logit and standardize", "columns", "vector and image", "all"):
        whole, cut = MAPS[name]().double(), MAPS[name]().double()
        whole.fit(positive())
        monkeypatch.setattr("flowzoo.bijectors._base.PIECE", 7 * 3 + 2)  # seven events at a time, and one left over
        cut.fit(positive())
        monkeypatch.undo()
        torch.testing.assert_close(dict(cut.state_dict()), dict(whole.state_dict()), rtol=1e-5, atol=1e-6)
    x = positive()
    bijector = Compose(Log(), Standardize((3,))).double()
    bijector.fit(x)
    assert torch.equal(x, positive())
    torch.testing.assert_close(bijector.maps[1].mean, x.log().mean(0), rtol=1e-6, atol=1e-6)


def test_description_and_state_rebuild_the_same_map(fitted):
    again = from_description(fitted.describe()).double()
    again.load_state_dict(fitted.state_dict())
    x = positive()
    for found, expected in zip(again.to_latent(x), fitted.to_latent(x), strict=True):
        assert torch.equal(found, expected)
    u = fitted.to_latent(x)[0]
    for found, expected in zip(again.to_data(u), fitted.to_data(u), strict=True):
        assert torch.equal(found, expected)


def test_description_of_no_known_map_is_refused():
    with pytest.raises(ValueError, match="unknown bijector 'warp'"):
        from_description({"kind": "warp"})


def test_a_large_batch_shape_is_no_other_than_a_flat_one(fitted):
    x = positive()
    shaped = fitted.to_latent(x.reshape(20, 20, 3))[0].reshape(400, 3)
    torch.testing.assert_close(shaped, fitted.to_latent(x)[0])


# -- Standardize ----------------------------------------------------------------------------------------------------


def test_standardised_columns_have_zero_mean_and_unit_variance():
    u = mapped(Standardize((3,)), positive().float())
    torch.testing.assert_close(u.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(u.std(0, correction=0), torch.ones(3), atol=1e-5, rtol=0)


def test_images_are_standardised_per_channel_and_not_per_pixel():
    noise = torch.randn(50, 2, 4, 6, generator=generator(1, "x"))
    gradient = torch.arange(6.0)  # along the columns: it must survive
    x = (noise + gradient) * torch.tensor([2.0, 30.0])[:, None, None] + 5
    bijector = Standardize((2, 4, 6))
    u = mapped(bijector, x)
    assert bijector.mean.shape == bijector.std.shape == (2, 1, 1)
    torch.testing.assert_close(u.mean((0, 2, 3)), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(u.std((0, 2, 3), correction=0), torch.ones(2), atol=1e-5, rtol=0)
    assert float(u[..., 5].mean() - u[..., 0].mean()) > 2


def test_variance_survives_a_large_offset():
    x = torch.randn(1000, 1, generator=generator(2, "x"), dtype=torch.float64) + 1e6
    bijector = Standardize((1,))
    bijector.fit(x)
    assert float(bijector.std) == pytest.approx(float(x.std(correction=0)), rel=1e-4)


@pytest.mark.parametrize("make", [Standardize, Whiten])
def test_constant_column_is_refused_by_name(make):
    x = positive().float()
    x[:, 1] = 3.7
    with pytest.raises(ValueError, match=r"^column 'mass': constant over all 400 training rows, so no scale"):
        make((3,)).fit(x, ["flux", "mass", "age"])
    with pytest.raises(ValueError, match=r"^column 1: constant"):
        make((3,)).fit(x)


def test_column_that_is_constant_but_for_rounding_is_refused():
    x = torch.full((100, 1), 1000.0, dtype=torch.float64)
    x[0] += 1e-6
    with pytest.raises(ValueError, match="constant"):
        Standardize((1,)).fit(x)


def test_all_constant_columns_are_listed():
    x = positive().float()
    x[:, 0], x[:, 2] = 1.0, 0.0
    with pytest.raises(ValueError, match="column 'a', column 'c': constant"):
        Standardize((3,)).fit(x, "abc")


def test_moments_taken_in_pieces_are_those_of_the_whole(monkeypatch):
    x = 1e4 + torch.randn(50, 2, 3, 4, generator=generator(6, "x")) * torch.tensor([1.0, 9.0])[:, None, None]
    whole, pieces = Standardize((2, 3, 4)), Standardize((2, 3, 4))
    whole.fit(x)
    monkeypatch.setattr("flowzoo.bijectors._base.PIECE", 7 * 24 + 5)  # seven events at a time, and one left over
    pieces.fit(x)
    torch.testing.assert_close(pieces.mean, whole.mean, rtol=1e-7, atol=0)
    torch.testing.assert_close(pieces.std, whole.std, rtol=1e-6, atol=0)


# -- Whiten ---------------------------------------------------------------------------------------------------------


def test_whitened_columns_have_the_identity_as_covariance():
    u = mapped(Whiten((3,)).double(), positive())
    torch.testing.assert_close(u.T @ u / len(u), torch.eye(3).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(u.mean(0), torch.zeros(3).double(), atol=1e-5, rtol=0)


def test_whitening_resolves_the_small_difference_of_two_near_copies():
    common = torch.randn(2000, 1, generator=generator(3, "x"))
    colour = 0.02 * torch.randn(2000, 1, generator=generator(4, "x"))
    u = mapped(Whiten((2,)), torch.cat([20 + common, 19 + common + colour], 1))
    # some direction of u is the colour itself
    correlation = torch.corrcoef(torch.cat([u, colour], 1).T)[2, :2].abs().max()
    assert float(correlation) > 0.99


def test_collinear_columns_are_whitened_to_finite_numbers():
    one = torch.randn(300, 1, generator=generator(5, "x"))
    bijector = Whiten((3,))
    u = mapped(bijector, torch.cat([one, 2 * one, 1 - one], 1))
    assert bool(torch.isfinite(u).all())
    assert float(u.square().mean(0).max()) == pytest.approx(1, rel=1e-2)


def test_only_vectors_can_be_whitened():
    with pytest.raises(ValueError, match=r"only vectors can be whitened; got shape \(1, 4, 4\)"):
        Whiten((1, 4, 4))


# -- Log and Logit --------------------------------------------------------------------------------------------------


def test_log_counts_the_rows_that_have_none():
    x = positive().float()
    x[:5, 1], x[5, 1] = 0.0, -1.0
    with pytest.raises(ValueError, match=r"^column 'sfr': 6 of 400 rows are <= 0, which has no logarithm"):
        Log().fit(x, ["mass", "sfr", "age"])


def test_logit_counts_the_rows_outside_its_bounds():
    x = torch.rand(100, 2)
    x[3, 1], x[4, 1], x[5, 1] = -0.1, 1.2, 7.0
    with pytest.raises(ValueError, match=r"^column 'q': 3 of 100 rows lie outside \[0, 1\], the bounds given"):
        Logit(0, 1).fit(x, ["e", "q"])


@pytest.mark.parametrize(("low", "high", "bound"), [(0, 1, 1.0), (5, 6, 6.0)])
def test_logit_that_is_infinite_at_a_bound_is_refused_when_fitted(low, high, bound):
    x = torch.full((10, 2), low + 0.5)
    x[3, 1] = bound
    with pytest.raises(ValueError, match=r"^column 'q': 1 of 10 rows have no finite logit, .* alpha 1e-09. Give a la"):
        Logit(low, high, 1e-9).fit(x, ["e", "q"])
    Logit(low, high, 1e-9).fit(x.double())


@pytest.mark.parametrize("options", [(1, 1), (2, 1), (0, 1, 0.0), (0, 1, 0.5)])
def test_logit_of_no_interval_is_refused(options):
    with pytest.raises(ValueError, match=r"logit needs low < high and 0 < alpha < 0\.5"):
        Logit(*options)


def test_logit_is_finite_at_both_ends_and_symmetric():
    u, log_slope = Logit(2, 6).to_latent(torch.tensor([2.0, 4.0, 6.0], dtype=torch.float64))
    assert u.tolist() == pytest.approx([math.log(0.05 / 0.95), 0, -math.log(0.05 / 0.95)])
    assert float(log_slope[0]) == pytest.approx(float(log_slope[2]))


def test_beyond_the_margin_of_the_logit_is_nan_and_not_clipped():
    assert bool(Logit(0, 1).to_latent(torch.tensor([1.2]))[0].isnan())


@settings(max_examples=60, deadline=None)
@given(
    low=st.floats(-1e3, 1e3),
    width=st.floats(1e-2, 1e3),
    alpha=st.floats(1e-4, 0.4),
    share=st.floats(0, 1),
)
def test_logit_inverts_everywhere_within_its_bounds(low, width, alpha, share):
    bijector = Logit(low, low + width, alpha)
    x = torch.tensor([[low + share * width]], dtype=torch.float64)
    u, forward = bijector.to_latent(x)
    back, backward = bijector.to_data(u)
    assert float((back - x).abs()) <= 1e-9 * (abs(low) + width)
    assert float(forward) == pytest.approx(-float(backward), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.floats(1e-30, 1e30))
def test_log_inverts_over_sixty_decades(value):
    x = torch.tensor([value], dtype=torch.float64)
    u, log_slope = Log().to_latent(x)
    assert float(Log().to_data(u)[0]) == pytest.approx(value, rel=1e-12)
    assert float(log_slope) == pytest.approx(-math.log(value), abs=1e-12)


@pytest.mark.parametrize("byte", [0, 255])
def test_logit_of_a_byte_is_finite_with_any_noise(byte):
    # In float32 255 + U(0, 1) can round to 256.
    x = byte + torch.tensor([0.0, 0.5, 1 - 2**-24])
    u, log_slope = Logit(0, 256).to_latent(x)
    assert bool(u.isfinite().all() & log_slope.isfinite().all())
    torch.testing.assert_close(Logit(0, 256).to_data(u)[0], x, atol=1e-3, rtol=0)


@pytest.mark.parametrize("base", [2, 10, math.e, 1.5])
def test_log_of_a_base_counts_its_powers_and_states_its_slope(base):
    x = torch.tensor([base**-7, 1.0, base, base**12], dtype=torch.float64, requires_grad=True)
    u, log_slope = Log(base).to_latent(x)
    assert u.tolist() == pytest.approx([-7, 0, 1, 12], abs=1e-12)
    (slope,) = torch.autograd.grad(u.sum(), x)
    torch.testing.assert_close(log_slope, slope.log(), rtol=1e-12, atol=1e-12)


def test_natural_log_is_described_as_before_there_were_bases():
    assert Log().describe() == {"kind": "log"}
    x = positive()
    for found, expected in zip(from_description({"kind": "log"}).to_latent(x), (x.log(), -x.log()), strict=True):
        assert torch.equal(found, expected)
    assert from_description(Log(10).describe()).base == 10


@pytest.mark.parametrize("base", [1, 0.5, -10, math.inf, math.nan])
def test_log_of_no_base_is_refused(base):
    with pytest.raises(ValueError, match="log needs a finite base > 1, or None for the natural logarithm; got"):
        Log(base)


# -- Tanh -----------------------------------------------------------------------------------------------------------


def test_tanh_maps_the_line_onto_the_open_interval_and_no_further():
    u, _ = Tanh(2).to_latent(torch.linspace(-12, 12, 1001, dtype=torch.float64))
    assert bool((u.diff() > 0).all() & (u.abs() < 2).all())
    assert float(u[-1]) == pytest.approx(2, abs=1e-4)
    x, log_slope = Tanh(2).to_data(torch.tensor([-2.5, -2.0, 1.999, 2.0, 3.0]))
    assert x.isnan().tolist() == log_slope.isnan().tolist() == [True, True, False, True, True]


def test_flow_loses_the_mass_beyond_the_bound_of_a_tanh_and_says_so():
    flow = normal(Tanh(1))
    x = torch.linspace(-15, 15, 30_001, dtype=torch.float64)[:, None]
    with torch.no_grad():
        total = torch.trapezoid(flow.log_prob(x).exp(), x.flatten())
    inside = math.erf(1 / math.sqrt(2))  # of a standard normal, within one of its mean
    assert float(total) == pytest.approx(inside, abs=1e-4)
    with pytest.warns(UserWarning, match="of 4000 draws have no finite preimage and are NaN"):
        draws = flow.sample(shape=(4000,), generator=generator(0, "z"))
    assert float(draws.isfinite().double().mean()) == pytest.approx(inside, abs=0.03)


def test_flow_on_a_soft_log_loses_no_mass():
    flow = normal(SoftLog(1))
    t = torch.linspace(-8, 8, 40_001, dtype=torch.float64)
    x = torch.sinh(t)[:, None]
    with torch.no_grad():
        total = torch.trapezoid(flow.log_prob(x).exp() * torch.cosh(t), t)
    assert float(total) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("t", [0.0, 1e-4, 1.0, 9.5, 40.0, 1e4])
def test_slope_of_a_tanh_is_stable_in_float32(t):
    x = torch.tensor([-3 * t, 3 * t])
    _, log_slope = Tanh(3).to_latent(x)
    true = 2 * (math.log(2) - t - math.log1p(math.exp(-2 * t)))
    assert log_slope.tolist() == pytest.approx([true, true], rel=1e-6, abs=1e-7)


def test_score_of_a_tanh_has_a_gradient_that_is_finite_and_true():
    x = torch.tensor([-1e3, -1.0, 0.0, 1e-3, 2.0, 1e3], requires_grad=True)
    (gradient,) = torch.autograd.grad(Tanh(2).to_latent(x)[1].sum(), x)
    torch.testing.assert_close(gradient, -torch.tanh(x.detach() / 2))


def test_rows_that_round_to_the_bound_are_counted_by_column():
    x = torch.zeros(50, 2)
    x[3, 1], x[4, 1] = 40.0, -1e6
    with pytest.raises(ValueError, match=r"^column 'vz': 2 of 50 rows are rounded to the bound 2 of the tanh"):
        Tanh(2).fit(x, ["vx", "vz"])
    Tanh(2).fit(x[5:])


@settings(max_examples=60, deadline=None)
@given(st.floats(-1, 1), st.floats(1e-3, 1e3))
def test_tanh_inverts_within_three_bounds(share, bound):
    x = torch.tensor([3 * share * bound], dtype=torch.float64)
    u, forward = Tanh(bound).to_latent(x)
    back, backward = Tanh(bound).to_data(u)
    assert float((back - x).abs()) <= 1e-12 * bound
    assert float(backward) == pytest.approx(-float(forward), abs=1e-11)


@pytest.mark.parametrize("bound", [0, -1, math.inf, math.nan])
def test_tanh_of_no_bound_is_refused(bound):
    with pytest.raises(ValueError, match="tanh needs a finite bound > 0; got"):
        Tanh(bound)


# -- SoftLog and Rescale --------------------------------------------------------------------------------------------


def test_soft_log_is_the_identity_up_to_tau_and_a_logarithm_beyond():
    x = torch.tensor([0.0, 1.9, -2.0, 2.0 + math.e - 1, -(2.0 + math.e**5 - 1)], dtype=torch.float64)
    u, log_slope = SoftLog(2).to_latent(x)
    assert u.tolist() == pytest.approx([0, 1.9, -2, 3, -7])
    assert log_slope.tolist() == pytest.approx([0, 0, 0, -1, -5])


@pytest.mark.parametrize("tau", [0.0, 0.5, 3.0])
def test_soft_log_states_its_slope_and_increases(tau):
    x = torch.cat([torch.linspace(-20, 20, 4001), torch.tensor([-tau, 0.0, tau])]).double().sort().values
    x = x.unique().requires_grad_()
    u, log_slope = SoftLog(tau).to_latent(x)
    (slope,) = torch.autograd.grad(u.sum(), x)
    torch.testing.assert_close(log_slope, slope.log(), rtol=1e-12, atol=1e-12)
    assert bool((u.diff() > 0).all())
    back, inverse_slope = SoftLog(tau).to_data(u.detach())
    torch.testing.assert_close(back, x.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(inverse_slope, -log_slope.detach(), rtol=1e-12, atol=1e-12)


def test_soft_log_and_its_slope_are_continuous_at_tau():
    tau, step = 0.7, 1e-9
    u, log_slope = SoftLog(tau).to_latent(torch.tensor([tau - step, tau + step], dtype=torch.float64))
    assert float(u.diff()) == pytest.approx(2 * step, rel=1e-6)
    assert abs(float(log_slope.diff())) < 2 * step


@settings(max_examples=60, deadline=None)
@given(st.floats(-1e30, 1e30), st.floats(0, 1e3))
def test_soft_log_inverts_over_sixty_decades(value, tau):
    x = torch.tensor([value], dtype=torch.float64)
    u, forward = SoftLog(tau).to_latent(x)
    back, backward = SoftLog(tau).to_data(u)
    # u is rounded to 1e-16 of tau + log|x|, which is what x is then known to.
    assert float(back) == pytest.approx(value, rel=1e-11, abs=1e-12)
    assert float(backward) == pytest.approx(-float(forward), abs=1e-11)


@pytest.mark.parametrize("tau", [-1, math.nan, math.inf])
def test_soft_log_without_a_core_is_refused(tau):
    with pytest.raises(ValueError, match="soft log needs a finite tau >= 0; got"):
        SoftLog(tau)


def test_rescale_takes_the_range_to_a_half_on_either_side():
    u, log_slope = Rescale(-2, 6).to_latent(torch.tensor([-2.0, 2.0, 6.0]))
    assert u.tolist() == [-0.5, 0, 0.5]
    assert log_slope.tolist() == pytest.approx([-math.log(8)] * 3)


@pytest.mark.parametrize("ends", [(1, 1), (2, 1), (0, math.inf)])
def test_rescale_of_no_range_is_refused(ends):
    with pytest.raises(ValueError, match="rescale needs finite low < high"):
        Rescale(*ends)


# -- Columns --------------------------------------------------------------------------------------------------------


def test_other_columns_are_untouched():
    x = positive()
    u, log_slope = Columns([1], Log()).to_latent(x)
    assert torch.equal(u[:, [0, 2]], x[:, [0, 2]])
    assert torch.equal(u[:, 1], x[:, 1].log())
    assert torch.equal(log_slope[:, [0, 2]], torch.zeros(400, 2).double())


def test_the_input_is_not_written_to():
    x = positive()
    kept = x.clone()
    Columns([0], Log()).to_latent(x)
    assert torch.equal(x, kept)


@pytest.mark.parametrize("names", [(), None, ["of", "another", "length", "altogether"]])
def test_columns_without_names_are_fitted_and_counted_from_the_event(names):
    bijector = Columns([2], Standardize((1,))).double()
    bijector.fit(positive(), names)
    assert float(bijector.bijector.mean) == pytest.approx(float(positive()[:, 2].mean()), rel=1e-6)
    bad = positive()
    bad[0, 2] = -1
    with pytest.raises(ValueError, match=r"^column '2': 1 of 400 rows are <= 0"):
        Columns([2], Log()).fit(bad, names)


def test_column_of_a_part_is_refused_by_its_own_name():
    bad = positive()
    bad[0, 2] = -1
    with pytest.raises(ValueError, match=r"^column 'age': 1 of 400 rows are <= 0"):
        Columns([1, 2], Log()).fit(bad, ["mass", "sfr", "age"])


# -- VectorAndImage -------------------------------------------------------------------------------------------------


def test_vector_and_image_are_mapped_apart_and_the_image_in_its_shape():
    x = torch.randn(40, 2 + 12, generator=generator(7, "x")) * 3 + 5
    bijector = VectorAndImage((2, 2, 3), Whiten((2,)), Standardize((2, 2, 3)))
    u = mapped(bijector, x)
    torch.testing.assert_close(u[:, :2], mapped(Whiten((2,)), x[:, :2]))
    alone = mapped(Standardize((2, 2, 3)), x[:, 2:].reshape(40, 2, 2, 3))
    torch.testing.assert_close(u[:, 2:], alone.flatten(1))


def test_faults_of_vector_and_image_are_named_by_column_and_channel():
    x = torch.randn(40, 2 + 8, generator=generator(8, "x"))
    bijector = VectorAndImage((2, 2, 2), Standardize((2,)), Standardize((2, 2, 2)))
    for column, name in ((1, "sigma_8"), (slice(6, 10), "log10 HI")):
        bad = x.clone()
        bad[:, column] = 1.0
        with pytest.raises(ValueError, match=f"^column '{name}': constant over all 40"):
            bijector.fit(bad, ["Omega_m", "sigma_8", "log10 Mcdm", "log10 HI"])
        with pytest.raises(ValueError, match=r"^column 1: constant over all 40"):
            bijector.fit(bad)


def test_fewer_columns_than_the_image_has_are_refused():
    with pytest.raises(ValueError, match=r"the last 8 columns are an image \(2, 2, 2\); got 7 columns"):
        VectorAndImage((2, 2, 2), Identity(), Identity()).to_latent(torch.zeros(3, 7))


def test_arcsine_makes_counts_equally_noisy():
    n, source = 1000, generator(0, "counts")
    share = torch.tensor([0.01, 0.1, 0.5, 0.9, 0.99])
    counts = torch.binomial(torch.full((20_000, 5), float(n)), share.expand(20_000, 5), generator=source)
    u = Arcsine(0, n, 0.375 / (n + 0.75)).to_latent(counts)[0]
    # A sample variance of 20,000 has a relative error of 1 %; what Anscombe's constant leaves is of order 1 / (n p)^2.
    assert torch.allclose(u.var(0) * n, torch.ones(5), rtol=0.05)


def test_arcsine_refuses_what_lies_outside():
    with pytest.raises(ValueError, match=r"column 'q': 1 of 2 rows lie outside \[0, 1\]"):
        Arcsine(0, 1, 0.1).fit(torch.tensor([[0.5, 2.0], [0.5, 0.5]]), ["e", "q"])
    with pytest.raises(ValueError, match="needs low < high"):
        Arcsine(1, 0, 0.1)
    assert bool(Arcsine(0, 1, 0.1).to_data(torch.tensor([[-0.1, 3.2]]))[0].isnan().all())
