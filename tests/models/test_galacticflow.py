"""GalacticFlow: linear mixing, double spline couplings, a product of two networks."""

import pytest
import torch

from flowzoo.layers.coupling import SplineCoupling
from flowzoo.layers.linear import LULinear
from flowzoo.models import build
from flowzoo.models.galacticflow import _ProductNet
from flowzoo.seeding import generator, initialisation


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


def test_start_can_learn():
    # one factor of the product is zero and the other is not, or the gradient would be zero for good
    flow = made((4,)).train()
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
    torch.testing.assert_close(net(x, c), net.of_half(x) * net.of_context(c))


@pytest.mark.parametrize(("half", "context"), [(3, 0), (0, 2), (0, 0)])
def test_factor_of_nothing_is_left_out(half, context):
    with initialisation(generator(0, "init")):
        net = _ProductNet(half, context, 4, (8,))
    out = net(torch.randn(5, half), torch.randn(5, context))
    assert out.shape == (5, 4)
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
