"""zuko's flows behind ours: its densities to the digit where it is right, ours where it is not."""

import pytest
import torch
import zuko
from torch import nn
from torch.distributions import Normal
from zuko.transforms import GaussianizationTransform, MonotonicAffineTransform, SoftclipTransform

from flowzoo.models import build
from flowzoo.models._univariate import AsinhTransform, LogSpaceGaussianization
from flowzoo.models._zuko import ZukoFlow
from flowzoo.models._zuko_inverse import _narrow, _undo_univariate
from flowzoo.seeding import generator, initialisation

D, C = 3, 2


def made(name, num_steps=2, event=(D,), context=(C,), scale=0.3, **options):
    """A flow whose weights have been stirred, because at its start a flow hides its faults."""
    options = {"hidden_features": (16, 16), **options}
    if name == "naf":  # its monotone networks need no stirring: they start far from the identity
        options, scale = {"monotone_features": (8,), **options}, 0.0
    flow = build(name, event, context, num_steps=num_steps, generator=generator(0, "init"), **options)
    source = generator(1, "stir")
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=source))
    return flow


def inputs(count=200, dtype=torch.float32):
    source = generator(2, "x")
    return torch.randn(count, D, generator=source, dtype=dtype), torch.randn(count, C, generator=source, dtype=dtype)


def zukos_own(flow, cls, num_steps=2, **options):
    """zuko's flow with our parameters."""
    own = cls(D, C, transforms=num_steps, hidden_features=(16, 16), **options)
    transform = own.transform
    nn.ModuleList(getattr(transform, "transforms", [transform])).load_state_dict(flow.transforms.state_dict())
    return own.to(next(flow.parameters()).dtype)


SAME = {
    "maf": (zuko.flows.MAF, 2, {}),
    "nsf": (zuko.flows.NSF, 2, {"bins": 8}),
    "bpf": (zuko.flows.BPF, 2, {"degree": 16}),
    "realnvp": (zuko.flows.RealNVP, 2, {}),
    # of one step: between two of them zuko's flow is not onto, and ours is another
    "sospf": (zuko.flows.SOSPF, 1, {"degree": 4, "polynomials": 3}),
    "naf": (zuko.flows.NAF, 1, {"network": {"hidden_features": (8,)}}),
}


@pytest.mark.parametrize("name", SAME)
def test_density_is_zukos_own(name):
    cls, steps, options = SAME[name]
    flow = made(name, steps)
    own = zukos_own(flow, cls, steps, **options)
    x, c = inputs()
    torch.testing.assert_close(flow.log_prob(x, c), own(c).log_prob(x), rtol=1e-4, atol=1e-4)
    # the parameters are really in use
    assert not torch.allclose(flow.log_prob(x, c), Normal(0, 1).log_prob(x).sum(1), atol=0.1)


@pytest.mark.parametrize("name", ["maf", "nsf", "realnvp"])
def test_inverse_is_zukos_own(name):
    cls, steps, options = SAME[name]
    flow = made(name, steps)
    own = zukos_own(flow, cls, steps, **options)
    z, c = inputs()
    with torch.no_grad():
        torch.testing.assert_close(flow.to_data(z, c)[0], own.transform(c).inv(z), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("order", [0, 1])
def test_each_transform_of_an_autoregressive_flow_is_solved_in_its_own_order(order):
    transform = made("maf").transforms[order]
    expected = list(range(D)) if order == 0 else list(reversed(range(D)))
    assert transform.order.tolist() == expected


def test_eval_keeps_the_gradient_to_the_parameters():
    # in zuko's eval mode its bisected inverses would have none
    flow = made("sospf").eval()
    flow.rsample(torch.zeros(4, C)).sum().backward()
    assert all(p.grad is not None for p in flow.parameters())


def test_passes_of_a_draw_are_counted():
    assert made("maf").sequential_passes == 2
    assert made("realnvp").sequential_passes == 2


def test_images_and_scalars_are_flattened_and_shaped_back():
    for event in ((1, 2, 2), (1,)):
        flow = made("maf", event=event)
        x = torch.randn(5, *event)
        z, _ = flow.to_latent(x, torch.zeros(5, C))
        assert z.shape == x.shape
        torch.testing.assert_close(flow.to_data(z, torch.zeros(5, C))[0], x, atol=1e-4, rtol=1e-4)


# -- nice -----------------------------------------------------------------------------------------------------------


def test_nice_preserves_volume_but_for_one_diagonal_scale():
    flow = made("nice", 4)
    x, c = inputs()
    _, log_det = flow.to_latent(x, c)
    scales = flow.transforms[-1](None)(torch.ones(D))
    torch.testing.assert_close(log_det, scales.log().sum().expand(len(x)))
    assert float(log_det[0].detach().abs()) > 0.1
    # and it is a flow that moves things
    z, _ = flow.to_latent(x, c)
    assert not torch.allclose(z, x * scales, atol=0.1)
    assert not torch.allclose(z, flow.to_latent(x, c + 1)[0], atol=0.1)


def test_realnvp_does_not_preserve_volume():
    flow = made("realnvp", 4)
    _, log_det = flow.to_latent(*inputs())
    assert float(log_det.detach().std()) > 0.1


# -- sospf ----------------------------------------------------------------------------------------------------------


def wide_sospf(num_steps):
    """A sum-of-squares flow whose slope is near a tenth at the centre, so that its draws reach far beyond 10."""
    flow = made("sospf", num_steps, scale=0.02)
    with torch.no_grad():
        for transform in flow.transforms[::2]:
            coefficients = transform.hyper[-1].bias.view(D, -1)[:, :-1].view(D, 3, 5)
            coefficients[:, :, 0] -= 0.7
    return flow


@pytest.mark.parametrize("num_steps", [1, 3])
def test_sospf_inverts_far_beyond_the_bracket_of_its_backend(num_steps):
    flow = made("sospf", num_steps, scale=0.1)
    x = torch.linspace(-40, 40, 3 * 400).reshape(3, 400).T.contiguous()
    c = torch.randn(400, C, generator=generator(3, "c"))
    with torch.no_grad():
        z, forward = flow.to_latent(x, c)
        back, backward = flow.to_data(z, c)
    torch.testing.assert_close(back, x, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(backward, -forward, rtol=1e-3, atol=1e-3)


def test_sospf_draws_do_not_pile_up_at_the_ends_of_a_bracket():
    flow = wide_sospf(1)
    c = torch.zeros(C)
    draws = flow.sample(c, (20_000,), generator=generator(3, "z"))
    assert not bool(draws.isnan().any())
    beyond = draws.abs() > 10.01
    assert float(beyond.float().mean()) > 0.1
    assert float(((draws.abs() - 10).abs() < 0.01).float().mean()) < 1e-2
    # what zuko's own inverse makes of the same: everything beyond 10 is at 10
    own = zukos_own(flow, zuko.flows.SOSPF, 1)
    with torch.no_grad():
        clipped = own.transform(c).inv(torch.randn(2000, D, generator=generator(3, "z")))
    assert float((clipped.abs() - 10).abs().lt(0.01).float().mean()) > 0.1


def test_sospf_of_several_steps_has_a_preimage_for_every_draw():
    flow = made("sospf", 3, scale=0.1)
    c = torch.randn(4, C, generator=generator(3, "c"))
    draws = flow.sample(c, (5000,), generator=generator(3, "z"))  # a NaN would warn, which is an error here
    assert bool(draws.isfinite().all())
    # and far out in the base, where zuko's Softclip has none
    z = torch.tensor([[12.0, -30.0, 100.0]])
    x, _ = flow.to_data(z, torch.zeros(1, C))
    torch.testing.assert_close(flow.to_latent(x, torch.zeros(1, C))[0], z, rtol=1e-3, atol=1e-3)


def test_asinh_is_onto_where_softclip_is_not():
    ours, zukos = AsinhTransform(11.0), SoftclipTransform(11.0)
    far = torch.tensor([-1e6, 1e6], dtype=torch.float64)
    assert float(zukos(far).abs().max()) < 11
    torch.testing.assert_close(ours.inv(ours(far)), far)
    x = torch.linspace(-50, 50, 101, dtype=torch.float64).requires_grad_()
    y = ours(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(ours.log_abs_det_jacobian(x, y), slope.log())
    # both are near the identity inside
    near = torch.linspace(-1, 1, 11)
    torch.testing.assert_close(ours(near), near, atol=2e-3, rtol=0)


# -- naf ------------------------------------------------------------------------------------------------------------


def test_what_is_no_stack_of_networks_is_not_narrowed():
    assert _narrow(MonotonicAffineTransform, torch.tensor([0])) is MonotonicAffineTransform


def test_naf_inverts_beyond_the_bracket_of_its_backend():
    flow = made("naf", 2).double()
    x = torch.tensor([[25.0, -30.0, 12.0]], dtype=torch.float64)
    c = torch.zeros(1, C, dtype=torch.float64)
    with torch.no_grad():
        z, _ = flow.to_latent(x, c)
        torch.testing.assert_close(flow.to_data(z, c)[0], x, rtol=1e-6, atol=1e-6)


# -- gf -------------------------------------------------------------------------------------------------------------


def test_gf_agrees_with_zukos_in_float64_where_that_is_finite():
    flow = made("gf", 2).double()
    own = zuko.flows.GF(D, C, transforms=2, components=8, hidden_features=(16, 16)).double()
    own.transform.transforms.load_state_dict(flow.transforms.state_dict())
    x, c = inputs(dtype=torch.float64)
    with torch.no_grad():
        z, log_det = flow.to_latent(x, c)
        expected, expected_log_det = own.transform(c).call_and_ladj(x)
    # zuko shrinks the CDF by 1e-6 to keep it off 1, which moves a quantile by 1e-6 over its density
    near = (z.abs() < 3).all(1) & expected.isfinite().all(1)
    assert float(near.float().mean()) > 0.5
    torch.testing.assert_close(z[near], expected[near], atol=3e-3, rtol=0)
    torch.testing.assert_close(log_det[near], expected_log_det[near], atol=2e-2, rtol=0)


def test_gf_has_a_density_at_fifty_sigma_and_zukos_has_none():
    flow = made("gf", 2, scale=0.1)
    x = torch.tensor([[50.0, 0, 0], [0, -50.0, 0], [50.0, 50.0, -50.0]])
    c = torch.zeros(3, C)
    score = flow.log_prob(x, c)
    assert bool(score.isfinite().all())
    assert bool((score < flow.log_prob(torch.zeros(3, D), c) - 10).all())
    (gradient,) = torch.autograd.grad(flow.log_prob(x.requires_grad_(), c).sum(), x)
    assert bool(gradient.isfinite().all())
    own = zuko.flows.GF(D, C, transforms=2, components=8, hidden_features=(16, 16))
    own.transform.transforms.load_state_dict(flow.transforms.state_dict())
    assert not bool(own(c).log_prob(x).isfinite().all())


def test_gaussianization_of_one_component_is_affine_however_far_out():
    shift, scale = torch.tensor([[0.5]]), torch.tensor([[0.3]])
    transform = LogSpaceGaussianization(shift, scale)
    x = torch.tensor([-300.0, -50.0, -3.0, 0.0, 2.0, 50.0, 300.0])[:, None]
    y, log_slope = transform.call_and_ladj(x)
    torch.testing.assert_close(y, x * scale.exp() + shift, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(log_slope, torch.full_like(x, 0.3), rtol=0, atol=1e-4)


def test_gaussianization_has_the_slope_of_its_values_and_the_gradient_of_its_slope():
    source = generator(4, "a")
    shift, scale = (torch.randn(1, 8, generator=source, dtype=torch.float64) for _ in range(2))
    x = torch.linspace(-9, 9, 37, dtype=torch.float64)[:, None].requires_grad_()

    def both(x, shift, scale):
        return LogSpaceGaussianization(shift, scale).call_and_ladj(x)

    y, log_slope = both(x, shift, scale)
    (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(log_slope, slope.log(), atol=1e-8, rtol=1e-8)
    few = x.detach()[::9].clone().requires_grad_()
    assert torch.autograd.gradcheck(both, (few, shift.requires_grad_(), scale.requires_grad_()), atol=1e-5)


def test_gaussianization_agrees_with_zukos_formula_at_the_centre():
    source = generator(5, "a")
    shift, scale = (0.5 * torch.randn(1, 8, generator=source, dtype=torch.float64) for _ in range(2))
    x = torch.linspace(-1.5, 1.5, 31, dtype=torch.float64)[:, None]
    ours, zukos = LogSpaceGaussianization(shift, scale)(x), GaussianizationTransform(shift, scale)(x)
    near = ours.abs() < 2
    torch.testing.assert_close(ours[near], zukos[near], atol=1e-4, rtol=0)


# -- couplings and fall-backs ---------------------------------------------------------------------------------------


class Lossy(MonotonicAffineTransform):
    """An affine map whose closed inverse fails above 2, as a spline's does by rounding."""

    def _inverse(self, y):
        return torch.where(y > 2, float("nan"), super()._inverse(y))


def test_closed_inverse_that_fails_is_bisected():
    transform = Lossy(torch.tensor(0.5), torch.tensor(0.1))
    y = torch.tensor([1.0, 2.5, 100.0, float("nan")])
    x = _undo_univariate(transform, y)
    assert x.isnan().tolist() == [False, False, False, True]
    torch.testing.assert_close(transform(x[:3]), y[:3], rtol=1e-5, atol=1e-5)


def test_coupling_masks_alternate_and_cover_every_feature():
    flow = made("realnvp", 4)
    masks = torch.stack([t.mask for t in flow.transforms])
    assert torch.equal(masks[0], ~masks[1])
    assert torch.equal(masks[0], masks[2])
    # the positions follow the device and are not in the checkpoint
    assert "transforms.0.idx_a" not in flow.state_dict()


@pytest.mark.parametrize("name", ["nice", "realnvp", "maf"])
def test_one_feature_without_context_is_a_flow(name):
    flow = made(name, event=(1,), context=(0,))
    x = torch.linspace(-100, 100, 40_001)[:, None]
    with torch.no_grad():
        total = torch.trapezoid(flow.log_prob(x).exp(), x.flatten())
    assert float(total) == pytest.approx(1, abs=1e-3)


def test_made_of_plain_lazy_transforms():
    def make(features, context):
        return [zuko.flows.MaskedAutoregressiveTransform(features, context)]

    with initialisation(generator(0, "init")):
        flow = ZukoFlow((D,), (C,), make)
    x, c = inputs()
    with torch.no_grad():
        z, _ = flow.to_latent(x, c)
        torch.testing.assert_close(flow.to_data(z, c)[0], x, atol=1e-5, rtol=1e-5)


def test_outliers_among_the_training_events_leave_sospf_something_to_learn():
    source = generator(0, "x")
    x = torch.randn(2000, 2, generator=source) * torch.tensor([0.05, 0.05]) + 0.3
    x[::200] = 60.0 * torch.randn(10, 2, generator=source).sign()
    flow = build("sospf", (2,), (0,), num_steps=4, generator=generator(0, "init"))
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-2)
    first = None
    for _ in range(60):
        optimizer.zero_grad()
        loss = -flow.log_prob(x).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), 5.0)
        optimizer.step()
        first = float(loss.detach()) if first is None else first
    assert float(loss.detach()) < first - 1
    assert float(-flow.log_prob(x).detach().max()) > -20
    assert float(-flow.log_prob(x).detach().median()) < 0  # the narrow bulk: nats of N(0, 1) would be 1.9


@pytest.mark.parametrize("name", ["maf", "nsf", "sospf", "bpf"])
def test_masked_networks_have_the_activation_that_they_are_told(name):
    def kinds(**options):
        flow = build(name, (3,), (2,), **options)
        return {type(m) for m in flow.modules() if isinstance(m, nn.ReLU | nn.SiLU)}

    assert kinds() == {nn.ReLU}
    assert kinds(activation="silu") == {nn.SiLU}
