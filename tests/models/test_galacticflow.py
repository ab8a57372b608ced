"""GalacticFlow: linear mixing, double spline couplings, a product of two networks."""

import itertools
from pathlib import Path

import pytest
import torch

from flowzoo.config import make
from flowzoo.harness.settings import read
from flowzoo.layers.coupling import SplineCoupling
from flowzoo.layers.linear import LULinear
from flowzoo.models import build, build_from, configure
from flowzoo.models.galacticflow import _ProductNet
from flowzoo.seeding import generator, initialisation
from flowzoo.train import FitConfig
from flowzoo.train_config import rate_at

CONFIGS = Path(__file__).parents[2] / "configs"


def made(event, context=(2,), stir=0.0, **options):
    options = {"num_steps": 2, "hidden_features": (16, 16), **options}
    flow = build("galacticflow", event, context, generator=generator(0, "init"), **options).double().eval()
    source = generator(1, "stir")
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(stir * torch.randn(parameter.shape, generator=source, dtype=torch.float64))
    return flow


def inputs(flow, count=30):
    source = generator(2, "x")
    x = torch.randn(count, *flow.event_shape, generator=source, dtype=torch.float64)
    return x, torch.randn(count, *flow.context_shape, generator=source, dtype=torch.float64)


@pytest.mark.parametrize("event", [(1,), (2,), (5,), (6,), (1, 2, 2)])
@pytest.mark.parametrize("context", [(0,), (2,), (1, 2, 2)])
def test_any_number_of_features_and_any_context(event, context):
    flow = made(event, context, stir=0.2)
    x, c = inputs(flow)
    z, forward = flow.to_latent(x, c)
    back, backward = flow.to_data(z, c)
    torch.testing.assert_close(back, x, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(forward, -backward, atol=1e-6, rtol=1e-6)
    size = x[0].numel()
    jacobian = torch.autograd.functional.jacobian(lambda v: flow.to_latent(v, c[0])[0], x[0]).reshape(size, size)
    torch.testing.assert_close(torch.linalg.slogdet(jacobian)[1], forward[0])


def test_start_is_a_rotation_that_ignores_the_context():
    flow = made((5,))
    x, c = inputs(flow)
    z, log_det = flow.to_latent(x, c)
    torch.testing.assert_close(log_det, torch.zeros(30).double(), atol=1e-3, rtol=0)
    torch.testing.assert_close(z.norm(dim=1), x.norm(dim=1), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(z, flow.to_latent(x, c + 5)[0])


@pytest.mark.parametrize("options", [{}, {"activate_output": True, "negative_slope": 0.2}])
def test_start_can_learn(options):
    # one factor of the product is zero and the other is not, or the gradient would be zero for good
    flow = made((4,), **options).train()
    (-flow(*inputs(flow)).mean()).backward()
    moved = [name for name, p in flow.named_parameters() if p.grad is not None and bool(p.grad.any())]
    assert any("of_half" in name for name in moved)
    optimizer = torch.optim.SGD(flow.parameters(), lr=0.1)
    optimizer.step()
    optimizer.zero_grad()
    (-flow(*inputs(flow)).mean()).backward()
    moved = [name for name, p in flow.named_parameters() if bool(p.grad.any())]
    assert any("of_context" in name for name in moved)


def test_each_half_is_transformed_given_the_other():
    flow = made((5,), num_steps=1, stir=0.2)
    mixing, first, second = list(flow.chain)
    assert isinstance(mixing, LULinear)
    assert isinstance(first, SplineCoupling)
    x, c = inputs(flow)
    y, _ = first.to_latent(x, c)
    assert torch.equal(y[:, :2], x[:, :2])
    assert not bool((y[:, 2:] == x[:, 2:]).all(0).any())
    w, _ = second.to_latent(y, c)
    assert torch.equal(w[:, 2:], y[:, 2:])
    assert not bool((w[:, :2] == y[:, :2]).all(0).any())


def test_conditioner_is_the_product_of_the_two_networks():
    with initialisation(generator(0, "init")):
        net = _ProductNet(3, 2, 4, (8,))
        torch.nn.init.normal_(net.of_half[-1].weight)
    x, c = torch.randn(5, 3), torch.randn(5, 2)
    torch.testing.assert_close(net(x, c).T, net.of_half(x) * net.of_context(c))


@pytest.mark.parametrize(("half", "context"), [(3, 0), (0, 2), (0, 0)])
def test_factor_of_nothing_is_left_out(half, context):
    with initialisation(generator(0, "init")):
        net = _ProductNet(half, context, 4, (8,))
    out = net(torch.randn(5, half), torch.randn(5, context))
    assert out.shape == (4, 5)
    assert not bool(out.any())


def test_one_feature_is_a_spline_given_the_context():
    flow = made((1,), num_steps=1, stir=0.3)
    assert len(list(flow.chain)) == 2
    x = torch.linspace(-30, 30, 20_001, dtype=torch.float64)[:, None]
    for c in torch.tensor([[0.0, 0.0], [1.0, -1.0]], dtype=torch.float64):
        total = torch.trapezoid(flow.log_prob(x, c).exp(), x.flatten())
        assert float(total.detach()) == pytest.approx(1, abs=1e-4)


def test_far_outside_the_interval_the_flow_is_linear():
    flow = made((4,), stir=0.2, num_steps=1)
    x, c = inputs(flow)
    far = 1e3 * x.sign() * (1 + x.abs())
    mixed, log_det = next(iter(flow.chain)).to_latent(far, c)
    rows = (mixed.abs() > 3).all(1)
    assert bool(rows.any())
    z, whole = flow.to_latent(far, c)
    assert torch.equal(z[rows], mixed[rows])
    torch.testing.assert_close(whole[rows], log_det[rows])


def test_int_of_widths_is_three_equal_layers_as_published():
    flow = build("galacticflow", (4,), (2,), num_steps=1, hidden_features=16)
    assert len([m for m in list(flow.chain)[1].net.of_half if isinstance(m, torch.nn.Linear)]) == 4


def test_single_coupling_moves_the_second_half_only():
    flow = made((5,), num_steps=2, stir=0.2, coupling="single")
    layers = list(flow.chain)
    assert len(layers) == 4
    assert all(isinstance(layer, kind) for layer, kind in zip(layers, [LULinear, SplineCoupling] * 2, strict=True))
    x, c = inputs(flow)
    y, _ = layers[1].to_latent(x, c)
    assert torch.equal(y[:, :2], x[:, :2])
    assert not bool((y[:, 2:] == x[:, 2:]).all(0).any())
    # the mixing between the steps brings the first half to where it is moved
    z, log_det = flow.to_latent(x, c)
    jacobian = torch.autograd.functional.jacobian(lambda v: flow.to_latent(v, c[0])[0], x[0])
    torch.testing.assert_close(torch.linalg.slogdet(jacobian)[1], log_det[0])
    torch.testing.assert_close(flow.to_data(z, c)[0], x, atol=1e-6, rtol=1e-6)


def test_single_coupling_of_one_feature_is_a_spline_given_the_context():
    assert len(list(made((1,), num_steps=3, coupling="single").chain)) == 6


def test_published_activation_is_a_leaky_relu_of_both_factors():
    with initialisation(generator(0, "init")):
        net = _ProductNet(3, 2, 4, (8,), slope=0.2, activate_output=True)
        torch.nn.init.normal_(net.of_half[-1].weight)
    slopes = [m.negative_slope for m in net.modules() if isinstance(m, torch.nn.LeakyReLU)]
    assert slopes == [0.2] * 3
    x, c = torch.randn(50, 3), torch.randn(50, 2)

    def leaky(t):
        return torch.where(t > 0, t, 0.2 * t)

    def published(layers, t):
        for layer in (m for m in layers if isinstance(m, torch.nn.Linear)):
            t = leaky(layer(t))
        return t

    torch.testing.assert_close(net(x, c).T, published(net.of_half, x) * published(net.of_context, c))


@pytest.mark.parametrize("options", [{"negative_slope": 0.0, "activate_output": True}, {"negative_slope": -0.1}])
def test_slope_that_would_let_no_gradient_through_is_refused(options):
    with pytest.raises(ValueError, match=r"galacticflow\.negative_slope must lie in \[0, 1\), and above 0 with"):
        build("galacticflow", (4,), (2,), **options)


@pytest.mark.parametrize("features", [1, 2, 5])
def test_coupling_is_the_one_of_any_network_and_any_layout_of_memory(features):
    flow = made((features,), stir=0.3)
    x, c = inputs(flow)
    for layer in (layer for layer in flow.chain if isinstance(layer, SplineCoupling)):
        plain = SplineCoupling(layer.kept, layer.moved, lambda x, c, net=layer.net: net(x, c).T, layer.bound)
        for inverse in (False, True):
            expected = plain.to_data(x, c) if inverse else plain.to_latent(x, c)
            for given in (x, x.T.contiguous().T):
                found = layer.to_data(given, c) if inverse else layer.to_latent(given, c)
                torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)


def test_weights_have_the_names_that_checkpoints_know():
    names = set(made((5,), num_steps=1, activate_output=True, negative_slope=0.2).state_dict())
    factors = {
        f"net.{of}.{i}.{kind}" for of in ("of_half", "of_context") for i in (0, 2, 4) for kind in ("weight", "bias")
    }
    mixing = {"permutation", "sign", "lower", "upper", "raw_log_scale"}
    assert names == {f"chain.layers.0.{name}" for name in mixing} | {
        f"chain.layers.{i}.{name}" for i in (1, 2) for name in factors
    }


@pytest.mark.parametrize("hidden", [(), (8,), (8, 4, 8)])
def test_networks_of_any_depth(hidden):
    flow = made((4,), hidden_features=hidden, stir=0.2)
    x, c = inputs(flow)
    z, forward = flow.to_latent(x, c)
    back, backward = flow.to_data(z, c)
    torch.testing.assert_close(back, x, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(forward, -backward, atol=1e-6, rtol=1e-6)


# -- the published configurations -----------------------------------------------------------------------------------


def configured(name):
    return read(CONFIGS / f"{name}.yaml", sections={"train": FitConfig})


def count(flow):
    return sum(p.numel() for p in flow.parameters() if p.requires_grad)


def published_count(steps, context, width=128, bins=10):
    """Weights and biases of the published layers, from their description."""

    def layers(*sizes):
        return sum(a * b + b for a, b in itertools.pairwise(sizes))

    out = 5 * (3 * bins - 1)
    nets = layers(5, width, width, width, out) + layers(context, width, width, width, out)
    linear = 10 * 10 + 10 * 10 + 10  # L, U and the diagonal, each stored whole
    return steps * (linear + 2 * nets)


@pytest.mark.parametrize(
    ("name", "steps", "context", "exact", "printed"),
    [("galacticflow", 14, 4, 2_939_188, "2.94"), ("galacticforge", 16, 20, 3_424_608, "3.42")],
)
def test_config_has_as_many_parameters_as_published(name, steps, context, exact, printed):
    (options,) = configured(name).models.values()
    flow = build_from(configure("galacticflow", options), (10,), (context,))
    assert count(flow) == published_count(steps, context) == exact
    assert f"{exact / 1e6:.2f}" == printed
    couplings = [layer for layer in flow.chain if isinstance(layer, SplineCoupling)]
    assert len(couplings) == 2 * steps
    assert {layer.bound for layer in couplings} == {3.0}
    for net in (net for layer in couplings for net in (layer.net.of_half, layer.net.of_context)):
        assert [m.out_features for m in net if isinstance(m, torch.nn.Linear)] == [128, 128, 128, 145]
    assert isinstance(couplings[0].net.last, torch.nn.LeakyReLU)


def test_published_flow_learns_at_the_published_rate():
    settings = configured("galacticflow")
    config = make(FitConfig, settings.train, "train")
    (options,) = settings.models.values()
    flow = build_from(configure("galacticflow", options), (10,), (4,), generator=generator(0, "init")).train()
    optimizer = torch.optim.RAdam(flow.parameters(), lr=config.lr)
    source = generator(1, "x")
    x, c = torch.randn(128, 10, generator=source).exp() - 1, torch.randn(128, 4, generator=source)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = -flow(x, c).mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.02
    last = [p for layer in flow.chain if isinstance(layer, SplineCoupling) for p in layer.net.of_half[-1].parameters()]
    assert all(bool(p.grad.any()) for p in last)


@pytest.mark.parametrize("name", ["galacticflow", "galacticforge", "galacticforge-zuko"])
def test_rate_of_the_config_does_not_die(name):
    config = make(FitConfig, configured(name).train, "train")
    rates = [rate_at(config, step, 0.0, 1.0) for step in (0, 1000, 10_000, config.steps - 1, 10 * config.steps)]
    assert min(rates[1:]) >= 0.01 * config.lr
    if config.schedule == "exponential":  # gamma = 0.998 every ten steps, until near the floor
        early = [rate_at(config, step, 0.0, 1.0) - config.lr_floor * config.lr for step in (0, 10)]
        assert early[1] / early[0] == pytest.approx(0.998, rel=1e-6)


def test_networks_that_the_published_comparison_took_from_zuko():
    settings = configured("galacticforge-zuko")
    steps = {"nice": 30, "realnvp": 30, "sospf": 10, "maf": 10}
    assert list(settings.models) == list(steps)
    for name, options in settings.models.items():
        config = configure(name, options)
        assert (config.num_steps, config.hidden_features) == (steps[name], (128, 128))
        flow = build_from(config, (10,), (20,), generator=generator(0, "init"))
        assert bool(torch.isfinite(flow(torch.randn(4, 10), torch.randn(4, 20))).all())
