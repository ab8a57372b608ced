"""nflows' rational-quadratic coupling flow behind ``ConditionalFlow``."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

nflows = pytest.importorskip("nflows")

from flowzoo.config import ConfigError  # noqa: E402
from flowzoo.flow import ConditionalFlow  # noqa: E402
from flowzoo.models import build  # noqa: E402
from flowzoo.models._spline_coupling import SplineCouplingFlow  # noqa: E402

NAME = "nflows-nsf"
SMALL = {"num_steps": 3, "hidden_features": 16, "num_blocks": 1, "num_bins": 4}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make(features: int = 3, contexts: int = 2, seed: int = 0, **config: object) -> ConditionalFlow:
    return build(NAME, (features,), (contexts,), generator=seeded(seed), **(SMALL | config))


def data(n: int, features: int = 3, contexts: int = 2, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Events whose first number follows the context, and whose last one bends with the first."""
    g = seeded(seed)
    x, context = torch.randn(n, features, generator=g), torch.randn(n, contexts, generator=g)
    x[:, 0] = 0.9 * context[:, 0] + 0.4 * x[:, 0]
    x[:, -1] = 0.8 * x[:, 0].sin() + 0.6 * x[:, -1]
    return x, context


def train(flow: ConditionalFlow, x: Tensor, context: Tensor, steps: int = 50, lr: float = 3e-3) -> None:
    optimizer = torch.optim.Adam(flow.parameters(), lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        (-flow(x, context).mean()).backward()
        optimizer.step()


@pytest.fixture(scope="module")
def trained() -> ConditionalFlow:
    flow = make()
    train(flow, *data(256))
    return flow


def test_round_trip_of_a_fresh_flow() -> None:
    x, context = torch.randn(500, 10, generator=seeded()), torch.randn(500, 3, generator=seeded(1))
    flow = build(NAME, (10,), (3,), generator=seeded(2))
    z, log_det = flow.to_latent(x, context)
    back, log_det_back = flow.to_data(z, context)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-4)
    torch.testing.assert_close(log_det_back, -log_det, rtol=0, atol=1e-3)


def test_round_trip_after_training(trained: ConditionalFlow) -> None:
    x, context = torch.randn(2000, 3, generator=seeded()), torch.randn(2000, 2, generator=seeded(1))
    z, _ = trained.to_latent(x, context)
    torch.testing.assert_close(trained.to_data(z, context)[0], x, rtol=0, atol=1e-4)


def test_log_det_is_that_of_the_jacobian() -> None:
    flow = make().double()
    x, context = (t.double() for t in data(4))
    for direction in (flow.to_latent, flow.to_data):
        _, log_det = direction(x, context)
        for one, given, expected in zip(x, context, log_det, strict=True):
            jacobian = torch.autograd.functional.jacobian(lambda v: direction(v, given)[0], one)  # noqa: B023
            torch.testing.assert_close(torch.linalg.slogdet(jacobian)[1], expected)


def test_density_integrates_to_one() -> None:
    flow = make(features=2)
    train(flow, *data(256, features=2))
    axis = torch.linspace(-8, 8, 401)
    x = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        density = flow.log_prob(x, torch.tensor([0.7, -0.3])).double().exp()
    assert float(density.sum()) * float(axis[1] - axis[0]) ** 2 == pytest.approx(1, abs=2e-3)


def test_context_matters_after_training(trained: ConditionalFlow) -> None:
    x, context = data(500, seed=5)
    with torch.no_grad():
        gain = trained.log_prob(x, context).mean() - trained.log_prob(x, context.roll(1, 0)).mean()
    assert gain > 0.3


def test_samples_agree_with_the_density(trained: ConditionalFlow) -> None:
    _, context = data(200, seed=6)
    with torch.no_grad():
        x, log_q = trained.sample_and_log_prob(context, (3,), generator=seeded())
        torch.testing.assert_close(trained.log_prob(x, context), log_q, rtol=0, atol=1e-3)


def test_log_prob_is_that_of_nflows_own_flow(trained: ConditionalFlow) -> None:
    from nflows.distributions import StandardNormal
    from nflows.flows import Flow

    x, context = data(100)
    theirs = Flow(trained.transform, StandardNormal([3])).log_prob(x, context)
    torch.testing.assert_close(trained.log_prob(x, context), theirs, rtol=0, atol=1e-5)


def test_float64_is_float64_throughout(trained: ConditionalFlow) -> None:
    x, context = data(50)
    wide = make().double()
    wide.load_state_dict(trained.state_dict())
    log_prob = wide.log_prob(x.double(), context.double())
    assert log_prob.dtype == torch.float64
    torch.testing.assert_close(log_prob.float(), trained.log_prob(x, context), rtol=0, atol=1e-4)
    z, _ = wide.to_latent(x.double(), context.double())
    torch.testing.assert_close(wide.to_data(z, context.double())[0], x.double(), rtol=0, atol=1e-10)


def test_inverse_holds_where_nflows_own_fails_its_assertion() -> None:
    flow = make(features=2, num_steps=2, num_bins=8)
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


def test_an_event_without_inverse_is_nan_alone_and_counted() -> None:
    class Partial(nn.Module):
        def forward(self, u: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
            return u, u.new_zeros(len(u))

        def inverse(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
            assert bool((z[:, 0] < 1).all())
            return 2 * z, z.new_full((len(z),), 1.386)

    flow = SplineCouplingFlow(Partial(), (2,), (1,))
    z, context = torch.zeros(37, 2), torch.zeros(37, 1)
    z[5], z[36] = 3, 2
    x, log_det = flow.to_data(z, context)
    lost = torch.isnan(x).any(1)
    assert lost.nonzero().flatten().tolist() == [5, 36]
    assert torch.isnan(log_det).equal(lost)
    with pytest.warns(UserWarning, match="draws have no finite preimage"):
        flow.sample(torch.zeros(100, 1), generator=seeded())


def test_non_finite_values_spoil_their_own_row_only(trained: ConditionalFlow) -> None:
    x, context = data(20)
    with torch.no_grad():
        clean, clean_data = trained.log_prob(x, context), trained.to_data(x, context)[0]
        x[3], context[7] = torch.nan, torch.inf
        good = torch.ones(20, dtype=torch.bool)
        good[[3, 7]] = False
        log_prob, back = trained.log_prob(x, context), trained.to_data(x, context)[0]
    assert torch.isfinite(log_prob).equal(good)
    assert torch.isfinite(back).all(1).equal(good)
    torch.testing.assert_close(log_prob[good], clean[good])
    torch.testing.assert_close(back[good], clean_data[good])


def test_a_score_does_not_depend_on_the_batch(trained: ConditionalFlow) -> None:
    x, context = data(20)
    alone = torch.stack([trained.log_prob(x[i], context[i]) for i in range(20)])
    torch.testing.assert_close(alone, trained.log_prob(x, context), rtol=0, atol=1e-5)
    assert trained.log_prob(x[:0], context[:0]).shape == (0,)
    assert trained.sample(context[:0]).shape == (0, 3)


@pytest.mark.parametrize("seed", range(4))
def test_two_steps_reach_every_dimension(seed: int) -> None:
    flow = make(features=2, seed=seed, num_steps=2)
    x, context = data(64, features=2)
    moved = flow.to_latent(x, context)[0] != x
    assert bool(moved.any(0).all())


def test_a_seed_repeats_weights_and_draws_and_leaves_the_global_generator_alone() -> None:
    context = torch.zeros(5, 2)
    state = torch.get_rng_state()
    draws = [make(seed=4).sample(context, generator=seeded(9)) for _ in range(2)]
    assert torch.equal(draws[0], draws[1])
    assert torch.equal(torch.get_rng_state(), state)


def test_weights_load_into_a_fresh_flow(trained: ConditionalFlow) -> None:
    fresh = make(seed=99)
    fresh.load_state_dict(trained.state_dict())
    x, context = data(30)
    assert torch.equal(fresh.log_prob(x, context), trained.log_prob(x, context))


def test_pathwise_gradient_reaches_context_and_weights() -> None:
    flow, context = make(), torch.zeros(4, 2, requires_grad=True)
    flow.rsample(context, (8,), generator=seeded()).square().sum().backward()
    assert context.grad is not None
    assert float(context.grad.abs().sum()) > 0
    assert all(p.grad is not None and p.dtype == torch.float32 for p in flow.parameters())


def test_images_are_flattened_and_contexts_may_be_absent() -> None:
    flow = build(NAME, (1, 4, 4), (2, 3), generator=seeded(), **SMALL)
    x = flow.sample(torch.randn(5, 2, 3), generator=seeded())
    assert x.shape == (5, 1, 4, 4)
    assert flow.log_prob(x, torch.zeros(2, 3)).shape == (5,)
    unconditional = build(NAME, (2,), generator=seeded(), **SMALL)
    assert unconditional.log_prob(unconditional.sample(shape=(6,), generator=seeded())).shape == (6,)


@pytest.mark.parametrize("shape", [(1,), (1, 1, 1)])
def test_one_dimension_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"nflows-nsf needs events of 2 or more .*; got .* take nsf"):
        build(NAME, shape, (2,))


@pytest.mark.parametrize("option", [{"num_steps": 0}, {"num_bins": 1}, {"tail_bound": 32}, {"num_block": 1}])
def test_options_that_cannot_work_are_refused(option: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=r"(num_steps|num_bins|tail_bound) must|did you mean"):
        build(NAME, (2,), (2,), **option)


def test_an_event_on_the_bound_is_scored() -> None:
    flow = make(tail_bound=31.0)
    assert bool(torch.isfinite(flow.log_prob(torch.tensor([31.0, -31.0, 31.0]), torch.zeros(2))))


def test_text_options_and_the_search_space_give_configs() -> None:
    import optuna

    from flowzoo.registry import MODELS

    assert make(num_bins="16").recipe["config"]["num_bins"] == 16  # type: ignore[index]
    config = MODELS.get(NAME).suggest(
        optuna.trial.FixedTrial({"num_steps": 4, "hidden_features": 32, "num_blocks": 1, "num_bins": 8})
    )
    assert (config.num_steps, config.hidden_features) == (4, 32)
