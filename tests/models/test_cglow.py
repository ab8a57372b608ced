"""Conditional Glow: neutral at the start, symmetric where it says so, its latent in parts."""

import pytest
import torch
from torch import nn

from flowzoo.models import adapt, build
from flowzoo.models.cglow import CGlow
from flowzoo.seeding import generator
from flowzoo.testing import NoHostSync


def made(event, context=(3,), stir=0.0, **options):
    options = {"num_steps": 2, "hidden_features": 8, **options}
    flow = build("cglow", event, context, generator=generator(0, "init"), **options).double().eval()
    source = generator(1, "stir")
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(stir * torch.randn(parameter.shape, generator=source, dtype=torch.float64))
    return flow


def inputs(flow, count=20):
    source = generator(2, "x")
    x = torch.randn(count, *flow.event_shape, generator=source, dtype=torch.float64)
    return x, torch.randn(count, *flow.context_shape, generator=source, dtype=torch.float64)


SHAPES = [(1, 8, 8), (3, 4, 8), (2, 2, 2), (1, 6, 4), (5,), (2,), (1,)]


@pytest.mark.parametrize("event", SHAPES)
def test_start_preserves_volume_and_ignores_the_context(event):
    flow = made(event)
    x, c = inputs(flow)
    z, log_det = flow.to_latent(x, c)
    torch.testing.assert_close(log_det, torch.zeros(20).double(), atol=1e-3, rtol=0)
    torch.testing.assert_close(z.flatten(1).norm(dim=1), x.flatten(1).norm(dim=1), rtol=1e-4, atol=1e-4)
    assert torch.equal(z, flow.to_latent(x, c + 5)[0])


@pytest.mark.parametrize("event", SHAPES)
def test_round_trip_log_det_and_context_once_stirred(event):
    flow = made(event, stir=0.2)
    x, c = inputs(flow)
    z, forward = flow.to_latent(x, c)
    back, backward = flow.to_data(z, c)
    torch.testing.assert_close(back, x, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(forward, -backward, atol=1e-6, rtol=1e-6)
    assert not torch.allclose(flow.log_prob(x, c), flow.log_prob(x, c + 1), atol=1e-3)
    size = x[0].numel()
    jacobian = torch.autograd.functional.jacobian(lambda v: flow.to_latent(v, c[0])[0], x[0]).reshape(size, size)
    torch.testing.assert_close(torch.linalg.slogdet(jacobian)[1], forward[0])


def test_initialise_gives_activations_of_zero_mean_and_unit_variance():
    flow = made((1, 8, 8))
    x, c = inputs(flow, 500)
    flow.initialize(50 + 9 * x, c)
    activations = []
    for chain in flow.chains:
        for layer in list(chain)[::3]:
            to_latent = layer.to_latent

            def noted(x, c, to_latent=to_latent):
                y, log_det = to_latent(x, c)
                activations.append(y)
                return y, log_det

            layer.to_latent = noted
    flow.log_prob(50 + 9 * x, c)
    assert len(activations) == 2 * 3
    for y in activations:
        torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(y.shape[1]).double(), atol=1e-6, rtol=0)
        torch.testing.assert_close(y.std((0, 2, 3), correction=0), torch.ones(y.shape[1]).double(), atol=1e-6, rtol=0)


def test_units_of_the_data_do_not_matter_once_initialised():
    flows = [made((1, 4, 4)), made((1, 4, 4))]
    x, c = inputs(flows[0], 200)
    for flow, factor in zip(flows, (1.0, 1e3), strict=True):
        flow.initialize(factor * x, c)
    shift = flows[0].log_prob(x, c) - flows[1].log_prob(1e3 * x, c)
    torch.testing.assert_close(shift, torch.full((200,), 16 * 6.907755).double(), atol=1e-4, rtol=0)


# -- levels and parts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "levels"),
    [((1, 8, 8), 3), ((1, 64, 64), 3), ((1, 4, 12), 2), ((3, 6, 10), 1), ((1, 2, 64), 1)],
)
def test_default_is_as_many_levels_as_the_size_allows_up_to_three(event, levels):
    assert len(build("cglow", event, (1,), num_steps=1, hidden_features=4).chains) == levels


@pytest.mark.parametrize(
    ("event", "options", "message"),
    [
        ((1, 7, 8), {}, r"cannot squeeze 7 x 8 pixels 1 times; height and width must be even"),
        ((1, 8, 8), {"num_levels": 4}, r"cannot squeeze 8 x 8 pixels 4 times; num_levels can be 1 to 3"),
        ((1, 12, 6), {"num_levels": 2}, r"cannot squeeze 12 x 6 pixels 2 times; num_levels can be 1 to 1"),
        ((1, 8, 8), {"num_levels": 0}, r"cglow.num_levels: counts must be at least 1; got 0"),
        ((8, 8), {}, r"cglow takes images \(C, H, W\) and vectors \(D,\); got \(8, 8\)"),
    ],
)
def test_shape_that_it_cannot_take_is_refused_with_what_is_possible(event, options, message):
    with pytest.raises(ValueError, match=message):
        build("cglow", event, (1,), **options)


@pytest.mark.parametrize("event", [(1, 8, 8), (1, 4, 4), (3, 8, 4)])
def test_reflection_needs_two_pixels_and_is_not_squeezed_below(event):
    flow = made(event, padding="reflect", stir=0.2)
    x, c = inputs(flow)
    z, _ = flow.to_latent(x, c)
    torch.testing.assert_close(flow.to_data(z, c)[0], x, atol=1e-6, rtol=1e-6)


def test_reflection_of_a_single_pixel_is_refused_before_training():
    with pytest.raises(ValueError, match="num_levels can be 1 to 2"):
        build("cglow", (1, 8, 8), (1,), num_levels=3, padding="reflect")
    with pytest.raises(ValueError, match="reflect"):
        build("cglow", (1, 2, 2), (1,), padding="reflect")


def test_latent_is_laid_out_part_by_part():
    flow = made((1, 8, 8), stir=0.2)
    x, c = inputs(flow)
    z = flow.to_latent(x, c)[0].flatten(1)
    sizes = [shape.numel() for shape in flow._part_shapes()]
    assert sizes == [32, 16, 16]
    # the first part is set aside on the finest level: what stands there reaches data, and no other latent
    parts = list(z.split(sizes, 1))
    parts[0] = parts[0] + 1
    moved = flow.to_data(torch.cat(parts, 1).reshape(x.shape), c)[0]
    again = flow.to_latent(moved, c)[0].flatten(1).split(sizes, 1)
    for found, expected in zip(again, parts, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    assert not torch.allclose(moved, x)


# -- symmetries -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [(4, 0), (0, 4), (4, 8), (-4, 12)])
def test_periodic_flow_does_not_see_a_shift_by_whole_squeezes(shift):
    flow = made((2, 8, 16), num_levels=2, padding="circular", stir=0.1)
    x, c = inputs(flow, 5)
    torch.testing.assert_close(flow.log_prob(x.roll(shift, (-2, -1)), c), flow.log_prob(x, c))


def test_shift_by_less_is_seen_and_so_is_one_over_an_edge():
    flow = made((2, 8, 16), num_levels=2, padding="circular", stir=0.1)
    x, c = inputs(flow, 5)
    assert not torch.allclose(flow.log_prob(x.roll(1, -1), c), flow.log_prob(x, c), atol=1e-2)
    walled = made((2, 8, 16), num_levels=2, padding="zeros", stir=0.1)
    assert not torch.allclose(walled.log_prob(x.roll(4, -1), c), walled.log_prob(x, c), atol=1e-2)


def test_gradient_at_the_start_reaches_the_last_layers():
    flow = made((1, 4, 4)).train()
    (-flow(*inputs(flow)).mean()).backward()
    for chain in flow.chains:
        for layer in chain:
            if hasattr(layer, "net") and isinstance(layer.net, nn.Module) and hasattr(layer.net, "last"):
                assert bool(layer.net.last.weight.grad.any())


# -- options ----------------------------------------------------------------------------------------------------------

VARIANTS = [
    {"coupling": "additive"},
    {"coupling": "rq-spline"},
    {"scale": "sigmoid"},
    {"mixing": "matrix"},
    {"mixing": "permutation"},
    {"order": "higlow", "tail": True},
    {"base": "diagonal"},
    {"base": "normal"},
    {"conditioning": "base"},
    {"conditioning": "both"},
    {"spectral": True, "padding": "circular"},
    {"channels_last": True},
    {"context_image": (1, 1, 2)},
]


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_every_variant_inverts_counts_its_volume_and_uses_its_context(options):
    flow = made((1, 8, 8), **options)
    x, c = inputs(flow)
    flow.initialize(x, c)
    assert torch.equal(flow.to_latent(x, c)[0], flow.to_latent(x, c + 5)[0]), "the context shows before training"
    source = generator(1, "stir")
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=source, dtype=torch.float64))
    z, forward = flow.to_latent(x, c)
    back, backward = flow.to_data(z, c)
    torch.testing.assert_close(back, x, atol=1e-8, rtol=1e-8)
    torch.testing.assert_close(forward, -backward, atol=1e-8, rtol=1e-8)
    jacobian = torch.autograd.functional.jacobian(lambda v: flow.to_latent(v, c[0])[0], x[0]).reshape(64, 64)
    torch.testing.assert_close(torch.linalg.slogdet(jacobian)[1], forward[0], atol=1e-8, rtol=1e-8)
    assert not torch.allclose(flow.log_prob(x, c), flow.log_prob(x, c + 1), atol=1e-3)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_sampler_draws_from_the_density_of_every_variant(options):
    flow = made((1, 4, 4), stir=0.05, **options)
    c = torch.randn(3, generator=generator(3, "c"), dtype=torch.float64)
    draws, stated = flow.sample_and_log_prob(c, (500,), generator=generator(3, "z"))
    torch.testing.assert_close(flow.log_prob(draws, c), stated, atol=1e-6, rtol=1e-6)


def test_published_levels_are_reachable():
    flow = build("cglow", (1, 64, 64), (2,), num_steps=1, num_levels=6, hidden_features=4, order="higlow", tail=True)
    shapes = [tuple(shape) for shape in flow._part_shapes()]
    assert shapes == [(2, 32, 32), (4, 16, 16), (8, 8, 8), (16, 4, 4), (32, 2, 2), (64, 1, 1), (64, 1, 1)]


def test_temperature_scales_the_latent_of_a_learned_base_about_its_mean():
    flow = made((1, 4, 4), stir=0.2, conditioning="base")
    c = torch.randn(3, dtype=torch.float64, generator=generator(3, "c"))
    cold = flow.sample(c, (2,), temperature=0.0, generator=generator(3, "z"))
    torch.testing.assert_close(cold[0], cold[1])
    torch.testing.assert_close(flow.to_latent(cold[0], c)[0], torch.zeros(1, 4, 4).double(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("shape", [(1, 8, 8), (2, 4, 4), (1, 16, 16), (3, 2, 2)])
def test_image_is_a_context_at_any_resolution_and_every_pixel_of_it_counts(shape):
    flow = made((1, 8, 8), context=shape, stir=0.2)
    x, c = inputs(flow, 3)
    back = flow.to_data(flow.to_latent(x, c)[0], c)[0]
    torch.testing.assert_close(back, x, atol=1e-6, rtol=1e-6)
    c.requires_grad_()
    flow.log_prob(x, c).sum().backward()
    assert bool((c.grad.abs() > 0).all())


def test_vector_and_image_share_one_flat_context():
    flow = made((1, 8, 8), context=(2 + 16,), stir=0.2, context_image=(1, 4, 4))
    x, c = inputs(flow, 3)
    base = flow.log_prob(x, c)
    for column in (0, 1, 2, 17):
        other = c.clone()
        other[:, column] += 1
        assert not torch.allclose(flow.log_prob(x, other), base, atol=1e-4), column
    alone = made((1, 8, 8), context=(16,), stir=0.2, context_image=(1, 4, 4))
    assert alone.log_prob(x, c[:, :16]).shape == (3,)


@pytest.mark.parametrize(
    ("event", "context", "options", "message"),
    [
        ((1, 8, 8), (4,), {"context_image": (1, 4, 4)}, "has 16 pixels; the context has 4 columns"),
        ((5,), (1, 8, 8), {}, "image as context of images only"),
        ((1, 8, 8), (1, 8, 8), {"conditioning": "base"}, "an image context enters the layers"),
        ((1, 8, 8), (2, 3), {}, "takes a vector"),
        ((5,), (2,), {"spectral": True}, "whitens images"),
        ((1,), (2,), {"tail": True}, "tail"),
    ],
)
def test_options_that_do_not_fit_the_shapes_are_refused(event, context, options, message):
    with pytest.raises(ValueError, match=message):
        build("cglow", event, context, **options)


def test_what_the_dataset_declares_fills_in_what_was_left_open_and_nothing_else():
    open_, said = CGlow(), CGlow(padding="zeros", spectral=False)
    box = adapt(open_, periodic=(1, 2), context_image=(1, 4, 4))
    assert (box.padding, box.spectral, box.context_image) == ("circular", True, (1, 4, 4))
    walls = adapt(open_, periodic=(1,))
    assert (walls.padding, walls.spectral, walls.context_image) == ("zeros", False, None)
    kept = adapt(said, periodic=(1, 2))
    assert (kept.padding, kept.spectral) == ("zeros", False)


def test_base_penalty_is_part_of_the_loss_and_of_no_density():
    plain, held = (made((1, 4, 4), conditioning="base", base_penalty=weight) for weight in (0.0, 2.0))
    assert plain.regularization() is None
    with torch.no_grad():
        held.top.net.linear.weight.fill_(0.5)
        plain.top.net.linear.weight.fill_(0.5)
    x, c = inputs(plain)
    assert held.regularization().item() == pytest.approx(2 * 0.25)
    assert torch.equal(plain.log_prob(x, c), held.log_prob(x, c))


def test_bfloat16_networks_keep_the_log_determinant_in_float32_and_the_inverse_exact():
    flow = made((1, 8, 8), stir=0.05, precision="bfloat16").float()
    single = made((1, 8, 8), stir=0.05).float()
    x, c = (t.float() for t in inputs(flow))
    z, log_det = flow.to_latent(x, c)
    assert z.dtype == log_det.dtype == torch.float32
    torch.testing.assert_close(flow.to_data(z, c)[0], x, atol=1e-4, rtol=1e-4)
    expected = single.log_prob(x, c)
    found = flow.log_prob(x, c)
    assert not torch.equal(found, expected)
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.5)


def test_eval_reaches_every_submodule():
    flow = made((1, 8, 8), context=(2 + 16,), context_image=(1, 4, 4), spectral=True).train().eval()
    assert not any(module.training for module in flow.modules())


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_recomputed_activations_give_the_gradients_of_kept_ones(options):
    flows = [made((1, 8, 8), stir=0.05, reversible=way, **options).train() for way in (False, True)]
    x, c = inputs(flows[0])
    for flow in flows:
        flow.prepare(x, c)
        c_leaf = c.clone().requires_grad_()
        (-flow(x, c_leaf).mean()).backward()
        flow.context_gradient = c_leaf.grad
    torch.testing.assert_close(flows[0].context_gradient, flows[1].context_gradient, rtol=1e-6, atol=1e-9)
    for (name, kept), again in zip(flows[0].named_parameters(), flows[1].parameters(), strict=True):
        torch.testing.assert_close(again.grad, kept.grad, rtol=1e-6, atol=1e-9, msg=lambda m, name=name: f"{name}: {m}")


def test_activations_are_recomputed_by_default_where_keeping_them_takes_gigabytes():
    small = build("cglow", (1, 16, 16), (2,))
    large = build("cglow", (1, 64, 64), (2,), num_steps=32, hidden_features=64)
    assert not small.prepares(256)
    assert large.prepares(64)
    kept = build("cglow", (1, 64, 64), (2,), num_steps=32, reversible=False)
    assert not kept.prepares(64)


def test_estimate_of_what_is_kept_is_near_what_was_counted():
    # benchmarks/results/glow_memory.md: 64 x 64, batch 16, L = 4, width 64: 115.2 MiB at K = 4 and 764.3 at K = 32
    for steps, counted in ((4, 115.2), (32, 764.3)):
        flow = build("cglow", (1, 64, 64), (6,), num_steps=steps, num_levels=4)
        assert flow.kept_bytes(16) / 2**20 == pytest.approx(counted, rel=0.15)


def test_stack_that_inverts_badly_gets_anchors():
    flow = made((1, 8, 8), stir=0.0, reversible=True).float().train()
    x, c = (t.float() for t in inputs(flow))
    flow.prepare(x, c)
    assert not any(flow.anchors)
    source = generator(1, "stir")
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=source))
    flow.prepare(x, c)
    assert any(flow.anchors)


def test_context_far_beyond_the_training_ones_is_taken_for_the_edge_of_them():
    flow = made((1, 4, 4))
    x, c = inputs(flow, 30)
    flow.initialize(x, c)
    source = generator(1, "stir")
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=source, dtype=torch.float64))
    far, farther = (flow.log_prob(x, factor * torch.ones_like(c)) for factor in (30.0, 1e6))
    torch.testing.assert_close(far, farther)
    # Within the range that was seen nothing is squashed, however far it reaches.
    edges = flow.embedding[0](torch.stack([c.amin(0), c.amax(0), c[0]]))
    assert torch.equal(edges, torch.stack([c.amin(0), c.amax(0), c[0]]))


def test_context_that_says_nothing_is_worth_nothing_to_a_base_that_sees_it():
    with_, without = (made((1, 4, 4), context=(n,), conditioning="base", num_levels=1) for n in (2, 0))
    assert with_.top.net.bias.shape == without.top.net.bias.shape == (2 * 16,)
    x, _ = inputs(without)
    with torch.no_grad():
        without.top.net.bias[:16] = 1.0
    z = without.to_latent(x)[0]
    assert without.regularization() is None
    torch.testing.assert_close(without.to_data(z)[0], x)


@pytest.mark.parametrize(
    ("context", "options", "message"),
    [
        ((2,), {"base_penalty": -1.0, "conditioning": "base"}, "base_penalty must not be negative"),
        ((2,), {"base_penalty": 1.0}, "needs conditioning 'base' or 'both'"),
        ((3, 8, 8), {"context_image": (9, 9, 9)}, "context_image is"),
        ((3, 0, 8), {}, "needs a channel and a pixel"),
        ((3, 1, 7), {"padding": "reflect", "num_levels": 1}, "2 pixels a side"),
        ((2,), {"num_bins": 3000}, "num_bins must be below 1000"),
    ],
)
def test_options_that_contradict_one_another_are_refused_before_training(context, options, message):
    with pytest.raises(ValueError, match=message):
        build("cglow", (1, 8, 8), context, **options)


@pytest.mark.parametrize("reversible", [False, True])
@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_no_variant_makes_a_training_step_wait_for_the_host(options, reversible):
    flow = made((1, 8, 8), stir=0.05, reversible=reversible, **options).train()
    x, c = inputs(flow)
    flow.prepare(x, c)
    with NoHostSync():
        (-flow(x, c).mean()).backward()
