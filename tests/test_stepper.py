"""A step: no wait for the host, every event once an epoch, an average that is one, a state that is all of it."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from flowzoo import build
from flowzoo.bijectors import Standardize
from flowzoo.data import Data, Levels, Splits, configure
from flowzoo.flow import ConditionalFlow
from flowzoo.host_sync import NoHostSync
from flowzoo.seeding import generator
from flowzoo.stepper import Stepper
from flowzoo.train_config import FitConfig


def how(**options):
    return FitConfig(**({"batch_size": 8, "lr": 1e-2, "clip": 5.0, "ema": 0.9} | options))


class Point(ConditionalFlow):
    """u ~ N(mu, 1): its gradient is mu minus the mean of the batch."""

    def __init__(self):
        super().__init__((2,), (1,))
        self.mu = nn.Parameter(torch.zeros(2))
        self.seen = []

    def _to_latent(self, u, c):
        self.seen.append(c.flatten())
        return u - self.mu, u.new_zeros(len(u))


def splits(count=50, **options):
    x = torch.randn(count, 2, generator=generator(0, "x"))
    return Splits.make(Data(x, torch.arange(count)[:, None].float(), **options))


def stepper(flow=None, split=None, seed=0, **options):
    return Stepper(flow or Point(), split or splits().train, how(**options), seed)


def test_epoch_shows_every_event_once_but_the_remainder_and_the_next_in_another_order():
    made = stepper()
    assert len(made.split) == 35
    assert made.batches == 4
    for _ in range(8):
        made.step()
    seen = torch.stack(made.flow.seen).reshape(2, 32)
    assert all(len(set(epoch.tolist())) == 32 for epoch in seen)
    assert not torch.equal(seen[0], seen[1])
    # who is left out changes, so in the long run nobody is
    for _ in range(40):
        made.step()
    assert len(torch.cat(made.flow.seen).unique()) == 35


def test_batch_larger_than_the_data_is_the_data():
    made = stepper(batch_size=1000)
    assert made.batch_size == 35
    made.step()
    made.step()
    assert [len(set(seen.tolist())) for seen in made.flow.seen] == [35, 35]


def test_seed_decides_the_order():
    seen = []
    for seed in (0, 0, 1):
        made = stepper(seed=seed)
        made.step()
        seen.append(made.flow.seen[0])
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])


def test_step_is_adamw_on_the_clipped_gradient():
    made = stepper(clip=1e-3, weight_decay=0.1)
    with torch.no_grad():
        made.flow.mu.fill_(4.0)
    twin = copy.deepcopy(made.flow)
    optimizer = torch.optim.AdamW(twin.parameters(), lr=1e-2, weight_decay=0.1)
    for _ in range(5):
        made.step()
        rows = made.flow.seen[-1].long()
        everything = splits()
        x = everything.data.x[rows]
        optimizer.zero_grad()
        (-twin(x, rows[:, None].float()).mean()).backward()
        nn.utils.clip_grad_norm_(twin.parameters(), 1e-3)
        optimizer.step()
    torch.testing.assert_close(made.flow.mu, twin.mu)


def test_clip_of_zero_does_not_clip():
    made = stepper(clip=0.0)
    with torch.no_grad():
        made.flow.mu.fill_(1e4)
    made.step()
    assert float(made.flow.mu.grad.norm()) > 1e4


def test_average_is_that_of_the_weights_with_a_start_that_fades():
    made = stepper(ema=0.5)
    average = made.flow.mu.detach().clone()
    for n in range(1, 15):
        made.step()
        decay = min(0.5, (1 + n) / (10 + n))
        average = decay * average + (1 - decay) * made.flow.mu.detach()
    torch.testing.assert_close(made.descent.averages[0], average)


def test_average_of_no_decay_is_the_weights_bit_for_bit():
    made = stepper(ema=0.0)
    for _ in range(5):
        made.step()
        own = made.flow.mu.detach().clone()
        with made.descent.averaged():
            assert torch.equal(made.flow.mu, own)
        assert torch.equal(made.flow.mu, own)


def test_average_is_lent_to_the_flow_and_given_back():
    made = stepper()
    for _ in range(5):
        made.step()
    own, average = made.flow.mu.detach().clone(), made.descent.averages[0].clone()
    seen = []

    def interrupted():
        with made.descent.averaged():
            seen.append(made.flow.mu.detach().clone())
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    assert torch.equal(seen[0], average)
    assert torch.equal(made.flow.mu, own)
    assert not torch.equal(own, average)


def test_losses_are_summed_and_taken_once():
    made = stepper(lr=1e-12)
    made.step()
    rows = made.flow.seen[-1].long()
    expected = -made.flow(splits().data.x[rows], rows[:, None].float()).mean()
    assert made.descent.take_loss() == pytest.approx(float(expected.detach()), rel=1e-5)
    assert made.descent.take_loss() == 0.0


def test_first_loss_that_is_not_finite_is_remembered_with_its_step():
    made = stepper()
    for _ in range(3):
        made.step()
    assert int(made.descent.first_bad) == -1
    made.split.x.fill_(float("nan"))
    for _ in range(3):
        made.step()
    assert int(made.descent.first_bad) == 4


@pytest.mark.parametrize("steps", [0, 1, 3, 4, 5, 11])
def test_state_taken_up_by_a_fresh_stepper_goes_on_bit_for_bit(steps):
    levels = Data(torch.randint(5, (50, 2), generator=generator(0, "x")), levels=Levels(0, 1, 5))
    split = Splits.make(levels).train

    def fresh():
        flow = build("maf", (2,), (0,), num_steps=1, hidden_features=4, generator=generator(0, "init"))
        return stepper(flow, split)

    undisturbed, first, second = fresh(), fresh(), fresh()
    for _ in range(12):
        undisturbed.step()
    for _ in range(steps):
        first.step()
    held = {k: t.clone() for k, t in first.tensors().items()}
    second.flow.load_state_dict(first.flow.state_dict())
    second.restore(held)
    for _ in range(12 - steps):
        second.step()
    for (name, found), expected in zip(second.tensors().items(), undisturbed.tensors().values(), strict=True):
        assert torch.equal(found, expected), name
    for found, expected in zip(second.descent.weights, undisturbed.descent.weights, strict=True):
        assert torch.equal(found, expected)


# -- nothing waits for the host -------------------------------------------------------------------------------------

MODELS = {
    "maf": {"num_steps": 2, "hidden_features": 8},
    "cglow": {"num_steps": 1, "hidden_features": 8},
    "sospf": {"num_steps": 2, "hidden_features": 8},
    "galacticflow": {"num_steps": 1, "hidden_features": 8},
    "realnvp": {"num_steps": 2, "hidden_features": 8},
}


def on_digits(name, device):
    digits = Splits.make(configure("digits", {}).load(), device=device)
    x_map, context_map = digits.maps()
    flow = build(
        name,
        digits.data.event_shape,
        digits.data.context_shape,
        x_map=x_map,
        context_map=context_map,
        generator=generator(0, "init"),
        **MODELS[name],
    ).to(device)
    made = Stepper(flow, digits.train, how(batch_size=32), 0)
    made.step()  # the optimiser makes its state on the first
    return made


@pytest.mark.parametrize("name", MODELS)
def test_step_on_integer_data_waits_for_nothing(name):
    made = on_digits(name, "cpu")
    with NoHostSync():
        made.step()
        made.descent.set_rate(1e-4)
        made.step()
    assert int(made.descent.first_bad) == -1


def test_step_on_augmented_data_waits_for_nothing():
    x = torch.randint(5, (20, 1, 4, 4), generator=generator(0, "x"))
    data = Data(x, levels=Levels(0, 1, 5), augment=("flip", "quarter_turn", "shift"))
    flow = build("cglow", (1, 4, 4), num_steps=1, hidden_features=8, generator=generator(0, "init"))
    made = stepper(flow, Splits.make(data).train)
    made.step()
    with NoHostSync():
        made.step()


def test_the_watch_over_steps_sees_a_wait():
    made = on_digits("maf", "cpu")
    with pytest.raises(AssertionError, match="for which a GPU's host has to wait"), NoHostSync():
        made.descent.take_loss()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", MODELS)
def test_step_on_a_gpu_synchronises_with_nothing(name):
    made = on_digits(name, "cuda")
    made.step()
    torch.cuda.synchronize()
    try:
        torch.cuda.set_sync_debug_mode("error")
        for _ in range(3):
            made.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert int(made.descent.first_bad) == -1


def test_balanced_split_shows_every_group_equally_often_and_every_event_of_it():
    groups = torch.tensor([0] * 90 + [1] * 9 + [7])
    x = torch.arange(100.0)[:, None].pow(torch.tensor([1.0, 2.0]))
    data = Data(x=x, context=torch.zeros(100, 1), groups=groups, balanced=True)
    whole = Splits.make(data, fractions=(0.4, 0.3, 0.3)).train
    split = replace(whole, x=data.x, groups=groups, context_index=torch.zeros(100, dtype=torch.long))
    made = stepper(split=split, batch_size=50)
    seen = torch.stack([made._next_index() for _ in range(600)]).flatten()
    counts = torch.bincount(seen, minlength=100).double() / len(seen)
    shares = torch.stack([counts[groups == g].sum() for g in (0, 1, 7)])
    # 30,000 draws: a standard error of 0.0027
    torch.testing.assert_close(shares, torch.full((3,), 1 / 3, dtype=torch.float64), atol=0.011, rtol=0)
    assert int((counts == 0).sum()) == 0
    torch.testing.assert_close(split.weights.mean(), torch.tensor(1.0, dtype=torch.float64))
    torch.testing.assert_close(split.weights[-1], 90 * split.weights[0])


def test_balanced_stepper_goes_on_where_it_stopped():
    groups = torch.arange(60) // 7
    split = Splits.make(Data(x=torch.randn(60, 2), context=torch.randn(60, 1), groups=groups, balanced=True)).train
    first, second = stepper(split=split), stepper(split=split)
    for _ in range(3):
        first.step()
    second.restore({name: value.clone() for name, value in first.tensors().items()})
    assert torch.equal(first._next_index(), second._next_index())


def test_context_noise_has_the_spread_that_it_says_in_network_units():
    context = torch.tensor([[-30.0], [10.0], [50.0]]).repeat(40, 1)
    data = Data(x=torch.randn(120, 2), context=context)
    noisy = Splits.make(data).train
    flow = Point()
    flow.context_map = Standardize((1,))
    flow.context_map.fit(noisy.context)
    made = Stepper(flow, noisy, how(batch_size=60, context_noise=0.5), 0)
    given = torch.full((20_000, 1), 10.0)
    blurred = made._blurred(given)
    assert float(blurred.std()) == pytest.approx(0.5 * float(flow.context_map.std), rel=0.03)
    assert float(blurred.mean()) == pytest.approx(10.0, abs=1.0)


def test_context_dropout_gives_the_mean_context_to_its_share_of_events():
    data = Data(x=torch.randn(120, 2), context=torch.arange(120.0)[:, None])
    flow, split = Point(), Splits.make(data).train
    flow.context_map = Standardize((1,))
    flow.context_map.fit(split.context)
    made = Stepper(flow, split, how(context_dropout=0.3), 0)
    blurred = made._blurred(torch.full((20_000, 1), 1000.0))
    dropped = (blurred - flow.context_map.mean).abs() < 1e-3
    assert float(dropped.float().mean()) == pytest.approx(0.3, abs=0.015)
    assert blurred[~dropped].unique().tolist() == pytest.approx([1000.0])


def test_radam_takes_its_first_steps_without_its_second_moment():
    made = stepper(optimizer="radam", ema=0.0, clip=0.0, lr=0.1)
    x, _ = made.split.batch(made._next_index(), made.noise)
    made = stepper(optimizer="radam", ema=0.0, clip=0.0, lr=0.1)
    made.step()
    # Liu et al. 2020, algorithm 2: rho <= 5, so a step of momentum, whose bias is corrected: lr times the gradient
    torch.testing.assert_close(made.flow.mu.detach(), 0.1 * x.mean(0))
