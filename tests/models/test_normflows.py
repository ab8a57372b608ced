"""normflows' spline coupling flow and class-conditional Glow behind ``ConditionalFlow``."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

normflows = pytest.importorskip("normflows")

from flowzoo.config import ConfigError  # noqa: E402
from flowzoo.flow import ConditionalFlow  # noqa: E402
from flowzoo.models import build  # noqa: E402

SPLINE = {"num_steps": 3, "hidden_features": 16, "num_blocks": 1, "num_bins": 4}
GLOW = {"num_levels": 2, "num_steps": 2, "hidden_features": 8}
CLASSES = 3


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make(name: str, seed: int = 0) -> ConditionalFlow:
    if name == "normflows-nsf":
        return build(name, (3,), (CLASSES,), generator=seeded(seed), **SPLINE)
    return build(name, (1, 4, 4), (CLASSES,), generator=seeded(seed), **GLOW)


def data(flow: ConditionalFlow, n: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Events whose mean follows the class of a one-hot context, with neighbours that resemble each other."""
    g = seeded(seed)
    label = torch.randint(CLASSES, (n,), generator=g)
    flat = torch.randn(n, flow.event_shape.numel(), generator=g)
    flat[:, 1:] = 0.8 * flat[:, 1:] + 0.6 * flat[:, :-1].tanh()
    flat = flat + 1.5 * (label[:, None] - 1.0)
    return flat.reshape(n, *flow.event_shape), one_hot(label, CLASSES).float()


def train(flow: ConditionalFlow, x: Tensor, context: Tensor, steps: int = 50) -> None:
    flow.initialize(x, context)
    optimizer = torch.optim.Adam(flow.parameters(), lr=3e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        (-flow(x, context).mean()).backward()
        optimizer.step()


@pytest.fixture(scope="module", params=["normflows-nsf", "normflows-glow"])
def trained(request: pytest.FixtureRequest) -> ConditionalFlow:
    flow = make(request.param)
    train(flow, *data(flow, 256))
    return flow


@pytest.fixture(scope="module")
def glow() -> ConditionalFlow:
    flow = make("normflows-glow")
    train(flow, *data(flow, 256))
    return flow


def name_of(flow: ConditionalFlow) -> str:
    assert flow.recipe is not None
    return str(flow.recipe["model"])


# -- claims about both ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "event"), [("normflows-nsf", (10,)), ("normflows-glow", (1, 8, 8))])
def test_round_trip_of_a_fresh_flow(name: str, event: tuple[int, ...]) -> None:
    flow = build(name, event, (CLASSES,), generator=seeded())
    x, context = torch.randn(300, *event, generator=seeded(1)), one_hot(torch.arange(300) % CLASSES).float()
    z, log_det = flow.to_latent(x, context)
    back, log_det_back = flow.to_data(z, context)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-4)
    torch.testing.assert_close(log_det_back, -log_det, rtol=0, atol=1e-3)


def test_round_trip_after_training(trained: ConditionalFlow) -> None:
    _, context = data(trained, 1000)
    x = torch.randn(1000, *trained.event_shape, generator=seeded())
    with torch.no_grad():
        z, _ = trained.to_latent(x, context)
        torch.testing.assert_close(trained.to_data(z, context)[0], x, rtol=0, atol=1e-4)


def test_log_det_is_that_of_the_jacobian(trained: ConditionalFlow) -> None:
    flow = copy.deepcopy(trained).double()
    x, context = (t.double() for t in data(flow, 3))
    size = flow.event_shape.numel()
    for direction in (flow.to_latent, flow.to_data):
        _, log_det = direction(x, context)
        for one, given, expected in zip(x, context, log_det, strict=True):
            jacobian = torch.autograd.functional.jacobian(lambda v: direction(v, given)[0], one)  # noqa: B023
            torch.testing.assert_close(torch.linalg.slogdet(jacobian.reshape(size, size))[1], expected)


@pytest.mark.parametrize(
    ("name", "event", "options", "points"),
    [
        ("normflows-nsf", (2,), SPLINE, 401),
        ("normflows-glow", (1, 2, 2), GLOW | {"num_levels": 1}, 29),
    ],
)
def test_density_integrates_to_one(name: str, event: tuple[int, ...], options: dict, points: int) -> None:
    flow = build(name, event, (CLASSES,), generator=seeded(), **options)
    x, context = data(flow, 256)
    x = (x - x.mean()) / x.std()
    train(flow, x, context)
    axis = torch.linspace(-7, 7, points)
    grid = torch.cartesian_prod(*[axis] * flow.event_shape.numel()).reshape(-1, *event)
    with torch.no_grad():
        density = flow.log_prob(grid, context[0]).double().exp()
    step = float(axis[1] - axis[0])
    assert float(density.sum()) * step ** flow.event_shape.numel() == pytest.approx(1, abs=5e-3)


def test_context_matters_after_training(trained: ConditionalFlow) -> None:
    x, context = data(trained, 400, seed=5)
    with torch.no_grad():
        wrong = context.roll(1, -1)
        assert trained.log_prob(x, context).mean() - trained.log_prob(x, wrong).mean() > 0.1
        draws = trained.sample(torch.eye(CLASSES), (500,), generator=seeded()).flatten(2).mean((0, 2))
    assert draws[0] < draws[1] < draws[2]


def test_samples_agree_with_the_density(trained: ConditionalFlow) -> None:
    _, context = data(trained, 100, seed=6)
    with torch.no_grad():
        x, log_q = trained.sample_and_log_prob(context, (3,), generator=seeded())
        torch.testing.assert_close(trained.log_prob(x, context), log_q, rtol=0, atol=1e-3)


def test_float64_is_float64_throughout(trained: ConditionalFlow) -> None:
    x, context = data(trained, 50)
    wide = copy.deepcopy(trained).double()
    log_prob = wide.log_prob(x.double(), context.double())
    assert log_prob.dtype == torch.float64
    torch.testing.assert_close(log_prob.float(), trained.log_prob(x, context), rtol=0, atol=1e-4)
    z, log_det = wide.to_latent(x.double(), context.double())
    back, log_det_back = wide.to_data(z, context.double())
    torch.testing.assert_close(back, x.double(), rtol=0, atol=1e-10)
    torch.testing.assert_close(log_det_back, -log_det, rtol=0, atol=1e-9)


def test_a_non_finite_event_spoils_its_own_score_only(trained: ConditionalFlow) -> None:
    x, context = data(trained, 20)
    with torch.no_grad():
        clean = trained.log_prob(x, context)
        x[3], context[7] = torch.nan, torch.nan
        log_prob = trained.log_prob(x, context)
        trained.to_data(x, context)  # and fails no assertion
    good = torch.ones(20, dtype=torch.bool)
    good[[3, 7]] = False
    assert torch.isfinite(log_prob).equal(good)
    torch.testing.assert_close(log_prob[good], clean[good])


def test_a_score_does_not_depend_on_the_batch(trained: ConditionalFlow) -> None:
    x, context = data(trained, 20)
    with torch.no_grad():
        alone = torch.stack([trained.log_prob(x[i], context[i]) for i in range(20)])
        torch.testing.assert_close(alone, trained.log_prob(x, context), rtol=0, atol=1e-4)
        assert trained.log_prob(x[:0], context[:0]).shape == (0,)
        assert trained.sample(context[:0]).shape == (0, *trained.event_shape)


def test_a_seed_repeats_weights_and_draws_and_leaves_the_global_generator_alone(
    trained: ConditionalFlow,
) -> None:
    context = torch.eye(CLASSES)
    state = torch.get_rng_state()
    draws = [make(name_of(trained), seed=4).sample(context, generator=seeded(9)) for _ in range(2)]
    assert torch.equal(draws[0], draws[1])
    assert torch.equal(torch.get_rng_state(), state)


def test_weights_load_into_a_fresh_flow(trained: ConditionalFlow) -> None:
    fresh = make(name_of(trained), seed=99)
    fresh.load_state_dict(trained.state_dict())
    x, context = data(trained, 30)
    assert torch.equal(fresh.log_prob(x, context), trained.log_prob(x, context))


def test_pathwise_gradient_reaches_context_and_weights(trained: ConditionalFlow) -> None:
    flow = copy.deepcopy(trained)
    context = torch.eye(CLASSES, requires_grad=True)
    flow.rsample(context, (8,), generator=seeded()).square().sum().backward()
    assert context.grad is not None
    assert float(context.grad.abs().sum()) > 0
    assert all(p.grad is not None and p.dtype == torch.float32 for p in flow.parameters())


@pytest.mark.parametrize(("name", "event"), [("normflows-nsf", (2,)), ("normflows-glow", (2, 4, 8))])
def test_unconditional_flows_need_no_context(name: str, event: tuple[int, ...]) -> None:
    flow = build(name, event, generator=seeded())
    x, log_q = flow.sample_and_log_prob(shape=(6,), generator=seeded())
    assert x.shape == (6, *event)
    torch.testing.assert_close(flow.log_prob(x), log_q, rtol=0, atol=1e-3)


# -- agreement with normflows' own models --------------------------------------------------------------------


def test_spline_log_prob_is_that_of_normflows_own_flow() -> None:
    flow = make("normflows-nsf")
    x, context = data(flow, 256)
    train(flow, x, context)
    theirs = normflows.ConditionalNormalizingFlow(
        normflows.distributions.DiagGaussian(3, trainable=False), list(flow.transform.layers)
    )
    torch.testing.assert_close(flow.log_prob(x, context), theirs.log_prob(x, context), rtol=0, atol=1e-5)


def test_glow_log_prob_is_that_of_normflows_own_multiscale_flow(glow: ConditionalFlow) -> None:
    flow = copy.deepcopy(glow)
    with torch.no_grad():  # training has hardly moved the bases
        for name, weight in flow.named_parameters():
            if ".q0." in name:
                weight.add_(0.2 * torch.randn(weight.shape, generator=seeded()))
    x, context = data(flow, 100)
    with torch.no_grad():
        ours = flow.log_prob(x, context)
        for labels in (context, context.argmax(1)):
            torch.testing.assert_close(ours, flow.model.log_prob(x, labels), rtol=1e-6, atol=1e-5)
    unconditional = build("normflows-glow", (1, 4, 4), generator=seeded(), **GLOW)
    theirs = unconditional.model.log_prob(x, None)
    torch.testing.assert_close(unconditional.log_prob(x), theirs, rtol=1e-6, atol=1e-5)


def test_spline_inverse_holds_where_normflows_own_fails_its_assertion() -> None:
    flow = build("normflows-nsf", (2,), (2,), generator=seeded(), **(SPLINE | {"num_steps": 2, "num_bins": 8}))
    with torch.no_grad():
        for name, weight in flow.named_parameters():
            if "final_layer" in name:  # flat bins between steep knots
                weight.mul_(60)
        x, context = (
            2 * torch.randn(20_000, 2, generator=seeded()),
            torch.randn(20_000, 2, generator=seeded(1)),
        )
        z, _ = flow.to_latent(x, context)
        with pytest.raises(AssertionError):
            flow.transform.inverse(z, context)
        back, _ = flow.to_data(z, context)
        exact, _ = flow.double().to_data(z.double(), context.double())
    assert bool(torch.isfinite(back).all())
    torch.testing.assert_close(back.double(), exact, rtol=0, atol=1e-6)


# -- Glow's actnorm ------------------------------------------------------------------------------------------


def test_evaluating_a_glow_never_initialises_it() -> None:
    flow = make("normflows-glow")
    before = copy.deepcopy(flow.state_dict())
    x, context = data(flow, 64)
    flow.train()
    flow(5 + 3 * x, context)
    flow.sample(context, generator=seeded())
    assert all(torch.equal(value, before[name]) for name, value in flow.state_dict().items())


def test_initialize_normalises_what_the_actnorms_see_and_repeats() -> None:
    flows = [make("normflows-glow") for _ in range(2)]
    x, context = data(flows[0], 256)
    x = 50 + 20 * x
    for flow in flows:
        flow.initialize(x, context)
    assert all(torch.equal(a, b) for a, b in zip(flows[0].parameters(), flows[1].parameters(), strict=True))
    first = flows[0].model.flows[-1][-2].flows[-1]  # the actnorm that sees the data, after the squeeze
    squeezed, _ = flows[0].model.flows[-1][-1].inverse(x)
    torch.testing.assert_close(first.t.flatten(), squeezed.mean((0, 2, 3)), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(first.s.flatten().exp(), squeezed.std((0, 2, 3)), rtol=1e-4, atol=1e-3)
    with torch.no_grad():
        z, _ = flows[0].to_latent(x, context)
    assert 0.3 < float(z.std()) < 1.2
    assert float(z.mean().abs()) < 0.1


def test_glow_keeps_no_flag_that_a_step_would_read_from_the_device(glow: ConditionalFlow) -> None:
    assert not any("init_done" in name for name in glow.state_dict())
    flags = [m.data_dep_init_done for m in glow.modules() if isinstance(m, normflows.flows.ActNorm)]
    assert len(flags) == GLOW["num_levels"] * GLOW["num_steps"]
    assert all(flag is True for flag in flags)


def test_sigmoid_inv_draws_stay_bounded() -> None:
    flow = build("normflows-glow", (1, 4, 4), (CLASSES,), generator=seeded(), **GLOW, scale_map="sigmoid_inv")
    train(flow, *data(flow, 256))
    assert float(flow.sample(torch.eye(CLASSES), (1000,), generator=seeded()).abs().max()) < 100


# -- refusals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "event", "context", "message"),
    [
        ("normflows-nsf", (1,), (2,), r"2 or more dimensions .* got event_shape \(1,\)\. For one take nsf"),
        ("normflows-glow", (16,), (2,), r"needs images.*got \(16,\)\. For vectors take normflows-nsf"),
        ("normflows-glow", (1, 8, 6), (2,), r"divide by 4; got event_shape \(1, 8, 6\)\. Lower num_levels"),
        ("normflows-glow", (1, 8, 8), (1, 8, 8), r"one-hot vectors.*got \(1, 8, 8\)\. .* take cglow"),
    ],
)
def test_shapes_that_a_model_cannot_take_are_refused(
    name: str, event: tuple[int, ...], context: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build(name, event, context)


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("normflows-nsf", {"num_steps": 0}),
        ("normflows-glow", {"num_levels": 0}),
        ("normflows-glow", {"scale_map": "tanh"}),
    ],
)
def test_options_that_cannot_work_are_refused(name: str, option: dict) -> None:
    with pytest.raises(ConfigError, match=r"must be at least 1|should be 'sigmoid'"):
        build(name, (1, 8, 8), (2,), **option)


@pytest.mark.parametrize("name", ["normflows-nsf", "normflows-glow"])
def test_the_search_space_gives_a_config(name: str) -> None:
    import optuna

    from flowzoo.registry import MODELS

    choice = {"num_steps": 4, "hidden_features": 32, "num_blocks": 1, "num_bins": 8}
    config = MODELS.get(name).suggest(optuna.trial.FixedTrial(choice))
    assert (config.num_steps, config.hidden_features) == (4, 32)
