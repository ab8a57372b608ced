"""What every flow gets from its base class, on a conditional normal whose every number is known."""

import copy
import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import LogNormal, Normal

import flowzoo
from flowzoo.base import DiagonalNormal
from flowzoo.bijectors import Arcsine, Columns, Compose, Log, Logit, Standardize, Whiten
from flowzoo.flow import ConditionalFlow
from flowzoo.host_sync import NoHostSync
from flowzoo.seeding import generator


class Affine(ConditionalFlow):
    """u | c ~ N(sum(c) * w, exp(s)) elementwise."""

    def __init__(self, event=(3,), context=(2,), **maps):
        super().__init__(event, context, **maps)
        count = self.event_shape.numel()
        self.w = nn.Parameter(torch.linspace(-1, 1, count).reshape(self.event_shape))
        self.s = nn.Parameter(torch.linspace(-0.5, 0.7, count).reshape(self.event_shape))
        self.calls = []

    def mean(self, c):
        return c.flatten(1).sum(1).reshape(-1, *(1,) * len(self.event_shape)) * self.w

    def _to_latent(self, u, c):
        self.calls.append(len(u))
        return (u - self.mean(c)) * torch.exp(-self.s), -self.s.sum().expand(len(u))

    def _to_data(self, z, c):
        self.calls.append(len(z))
        return z * torch.exp(self.s) + self.mean(c), self.s.sum().expand(len(z))


class Bounded(Affine):
    """Its inverse reaches no latent whose first number is above 1.5."""

    def _to_data(self, z, c):
        u, log_det = super()._to_data(z, c)
        lost = z[:, 0] > 1.5
        return torch.where(lost[:, None], math.nan, u), log_det


class Learned(Affine):
    """The same density by another route: location and scale in the base."""

    def _to_latent(self, u, c):
        return u, u.new_zeros(len(u))

    def _to_data(self, z, c):
        return z, z.new_zeros(len(z))

    def _base(self, c):
        return DiagonalNormal(self.mean(c), self.s)


def inputs(count=10, event=(3,), context=(2,)):
    source = generator(0, "x")
    return torch.randn(count, *event, generator=source), torch.randn(count, *context, generator=source)


def truth(flow, x, c):
    return Normal(flow.mean(c), flow.s.exp()).log_prob(x).flatten(1).sum(1)


# -- the density ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [Affine, Learned])
@pytest.mark.parametrize("event", [(3,), (1,), (2, 3, 4)])
def test_log_prob_is_the_known_density(cls, event):
    flow = cls(event)
    x, c = inputs(event=event)
    torch.testing.assert_close(flow.log_prob(x, c), truth(flow, x, c))
    torch.testing.assert_close(flow(x, c), truth(flow, x, c))


def test_map_of_the_event_changes_the_units_of_the_density():
    x_map = Log()
    flow = Affine(x_map=x_map)
    x, c = inputs()
    x = x.exp()
    expected = LogNormal(flow.mean(c), flow.s.exp()).log_prob(x).sum(1)
    torch.testing.assert_close(flow.log_prob(x, c), expected)


@pytest.mark.parametrize(
    ("x_map", "outside"),
    [
        (lambda: Log(), [-1.0, 0.0, math.inf]),
        (lambda: Logit(0, 1), [-0.5, 1.5, math.inf]),
        (lambda: Arcsine(0, 1, 0.1), [-0.5, 1.5]),
        (lambda: Compose(Columns([1], Log(10)), Whiten((3,))), [-1.0, 0.0]),
    ],
)
def test_density_where_the_map_has_no_value_is_zero(x_map, outside):
    flow = Affine(x_map=x_map())
    x = torch.full((len(outside) + 2, 3), 0.5)
    c = torch.randn(len(x), 2, generator=generator(0, "c"))
    expected = flow.log_prob(x, c)
    x[1:-1, 1] = torch.tensor(outside)
    x[-1] = torch.tensor([0.5, -1.0, math.nan])  # of what is not known nothing is said
    found = flow.log_prob(x, c)
    assert torch.equal(found[0], expected[0])
    assert found[1:-1].tolist() == [-math.inf] * len(outside)
    assert bool(found[-1].isnan())
    # A fault of the model is not taken for it, and the others have their gradient.
    flow.log_prob(x[:-1], c[:-1])[0].backward()
    assert bool(flow.w.grad.isfinite().all())
    flow.w.data.fill_(math.nan)
    assert bool(flow.log_prob(x, c)[0].isnan())


def test_host_does_not_wait_to_learn_where_the_map_has_no_value():
    flow = Affine(x_map=Log())
    x, c = inputs()
    with NoHostSync():
        flow.log_prob(x, c)


def test_whole_line_is_not_looked_at():
    flow = Affine(x_map=Standardize((3,)))
    assert bool(flow.log_prob(torch.tensor([1.0, math.nan, 1.0]), torch.zeros(2)).isnan())


def test_other_units_shift_the_nll_by_a_known_amount():
    plain, scaled = Affine(), Affine(x_map=Standardize((3,)))
    scaled.x_map.mean.fill_(5.0)
    scaled.x_map.std.copy_(torch.tensor([1.0, 10.0, 100.0]))
    x, c = inputs()
    shift = plain.log_prob(x, c) - scaled.log_prob(x * scaled.x_map.std + 5, c)
    torch.testing.assert_close(shift, torch.full((10,), math.log(1000.0)), atol=1e-4, rtol=0)


def test_map_of_the_context_moves_the_mean_and_has_no_jacobian():
    flow, mapped = Affine(), Affine(context_map=Standardize((2,)))
    mapped.context_map.std.fill_(2.0)
    x, c = inputs()
    torch.testing.assert_close(mapped.log_prob(x, 2 * c), flow.log_prob(x, c))
    draws = [f.sample(k, generator=generator(1, "z")) for f, k in ((mapped, 2 * c), (flow, c))]
    torch.testing.assert_close(*draws)
    z = [f.to_latent(x, k)[0] for f, k in ((mapped, 2 * c), (flow, c))]
    torch.testing.assert_close(*z)
    back = mapped.to_data(z[0], 2 * c)[0]
    torch.testing.assert_close(back, x)


def test_directions_undo_each_other_with_the_map_included():
    flow = Affine(x_map=Standardize((3,)))
    flow.x_map.std.fill_(7.0)
    x, c = inputs()
    z, forward = flow.to_latent(x, c)
    back, backward = flow.to_data(z, c)
    torch.testing.assert_close(back, x)
    torch.testing.assert_close(forward, -backward)
    torch.testing.assert_close(flow.log_prob(x, c), Normal(0, 1).log_prob(z).sum(1) + forward)


def test_nan_event_spoils_no_other():
    flow = Affine()
    x, c = inputs()
    expected = flow.log_prob(x, c)
    x[3, 1] = math.nan
    found = flow.log_prob(x, c)
    assert found.isnan().nonzero().flatten().tolist() == [3]
    rest = torch.arange(10) != 3
    assert torch.equal(found[rest], expected[rest])


def test_initialize_sees_network_units_without_gradient():
    flow = Affine(x_map=Standardize((3,)), context_map=Standardize((2,)))
    flow.x_map.mean.fill_(5.0)
    flow.context_map.std.fill_(2.0)
    seen = {}
    flow._initialize = lambda u, c: seen.update(u=u, c=c, grad=torch.is_grad_enabled())
    x, c = inputs()
    flow.initialize(x + 5, 2 * c)
    torch.testing.assert_close(seen["u"], x, atol=1e-5, rtol=0)
    torch.testing.assert_close(seen["c"], c)
    assert seen["grad"] is False


def test_hooks_see_every_score():
    flow = Affine()
    seen = []
    flow.register_forward_hook(lambda module, args, out: seen.append(out))
    x, c = inputs()
    assert torch.equal(flow.log_prob(x, c), seen[0])


# -- shapes ---------------------------------------------------------------------------------------------------------


def test_batches_broadcast():
    flow = Affine()
    x, _ = inputs(4)
    c = torch.randn(5, 1, 2)
    table = flow.log_prob(x, c)
    assert table.shape == (5, 4)
    for i in range(5):
        torch.testing.assert_close(table[i], flow.log_prob(x, c[i].expand(4, 2)))
    z, log_det = flow.to_latent(x, c)
    assert z.shape == (5, 4, 3)
    assert log_det.shape == (5, 4)
    assert flow.to_data(z, c)[0].shape == (5, 4, 3)


def test_one_event_needs_no_batch():
    flow = Affine()
    x, c = inputs(1)
    assert flow.log_prob(x[0], c[0]).shape == ()
    assert flow.to_latent(x[0], c[0])[0].shape == (3,)
    assert flow.sample(c[0]).shape == (3,)
    assert flow.sample(c[0], (4,)).shape == (4, 3)
    torch.testing.assert_close(flow.log_prob(x[0], c[0]), flow.log_prob(x, c)[0])


def test_batch_of_none_and_of_one():
    flow = Affine(x_map=Standardize((3,)))
    x, c = inputs(0)
    assert flow.log_prob(x, c).shape == (0,)
    assert flow.sample(c).shape == (0, 3)
    assert flow.to_data(x, c)[0].shape == (0, 3)
    with torch.no_grad():
        assert flow.log_prob(x, c).shape == (0,)
    x, c = inputs(1)
    assert flow.log_prob(x, c).shape == (1,)


def test_draws_come_first_in_the_shape():
    flow = Affine((2, 3, 4))
    c = torch.randn(5, 7, 2)
    assert flow.sample(c, (6,)).shape == (6, 5, 7, 2, 3, 4)
    draws, log_prob = flow.sample_and_log_prob(c, (6, 2))
    assert draws.shape == (6, 2, 5, 7, 2, 3, 4)
    assert log_prob.shape == (6, 2, 5, 7)


@pytest.mark.parametrize("count", [6, np.int64(6), torch.tensor(6)])
def test_number_of_draws_is_one_axis(count):
    flow = Affine()
    c = torch.randn(5, 2)
    assert flow.sample(c, count).shape == flow.rsample(c, count).shape == (6, 5, 3)
    assert flow.sample_and_log_prob(c, count)[1].shape == (6, 5)
    assert torch.equal(*(flow.sample(c, n, generator=generator(1, "z")) for n in (count, (6,))))


def test_image_context():
    flow = Affine(context=(1, 4, 4))
    x, c = inputs(5, context=(1, 4, 4))
    torch.testing.assert_close(flow.log_prob(x, c), truth(flow, x, c))
    assert flow.sample(c, (2,)).shape == (2, 5, 3)


def test_attached_network_stands_between_the_map_of_the_context_and_the_model():
    class Ends(nn.Module):
        def forward(self, c):
            return torch.stack([c.flatten(1)[:, 0], 2 * c.flatten(1)[:, -1]], 1)

    flow = Affine(context_map=Standardize((1, 2, 2)))
    flow.context_map.mean.fill_(3.0)
    flow.attach(Ends(), (1, 2, 2))
    assert flow.context_shape == (1, 2, 2)
    plain = Affine()
    x, c = inputs(5, context=(1, 2, 2))
    features = torch.stack([c[:, 0, 0, 0], 2 * c[:, 0, 1, 1]], 1)
    torch.testing.assert_close(flow.log_prob(x, c + 3), plain.log_prob(x, features))
    draws = [f.sample(k, (4,), generator=generator(1, "z")) for f, k in ((flow, c + 3), (plain, features))]
    torch.testing.assert_close(*draws)
    seen = {}
    flow._initialize = lambda u, c: seen.update(c=c)
    flow.initialize(x, c + 3)
    torch.testing.assert_close(seen["c"], features)
    with pytest.raises(ValueError, match=r"context must end in \(1, 2, 2\); got \(5, 2\)"):
        flow.log_prob(x, features)


def test_no_context_is_none_or_of_no_columns():
    flow = Affine(context=(0,))
    x, _ = inputs()
    assert torch.equal(flow.log_prob(x), flow.log_prob(x, torch.zeros(10, 0)))
    assert flow.sample().shape == (3,)
    assert flow.sample(shape=(4, 2)).shape == (4, 2, 3)
    assert flow.sample(torch.zeros(5, 0)).shape == (5, 3)
    assert flow.sample_and_log_prob(shape=(4,))[1].shape == (4,)


WRONG = {
    "x": (lambda f, x, c: f.log_prob(x[:, :2], c), "x must end in (3,); got (10, 2)"),
    "x without axes": (lambda f, x, c: f.log_prob(x.sum(), c), "x must end in (3,); got ()"),
    "context": (lambda f, x, c: f.log_prob(x, x), "context must end in (2,); got (10, 3)"),
    "context of a draw": (lambda f, x, c: f.sample(x), "context must end in (2,); got (10, 3)"),
    "z": (lambda f, x, c: f.to_data(c, c), "z must end in (3,); got (10, 2)"),
    "batches": (
        lambda f, x, c: f.log_prob(x, c[:4]),
        "the batch shapes of x and context must broadcast; got (10,) and (4,)",
    ),
    "integers": (
        lambda f, x, c: f.log_prob(x.long(), c),
        "x must be floating point; got torch.int64. Integer data are dequantised by their dataset.",
    ),
}
NONE = "context must end in (2,); got None"
WRONG |= {
    "None to score": (lambda f, x, c: f.log_prob(x), NONE),
    "None to encode": (lambda f, x, c: f.to_latent(x), NONE),
    "None to decode": (lambda f, x, c: f.to_data(x), NONE),
    "None to initialise": (lambda f, x, c: f.initialize(x), NONE),
    # drawn at a context of zeros, these would look like draws
    "None to sample": (lambda f, x, c: f.sample(shape=(5,)), NONE),
    "None to rsample": (lambda f, x, c: f.rsample(), NONE),
    "None to sample and score": (lambda f, x, c: f.sample_and_log_prob(), NONE),
}


CURE = "give torch.as_tensor(numpy.asarray({name}), dtype=torch.float32)"
for kind, make in {"ndarray": lambda t: t.numpy(), "list": lambda t: t.tolist()}.items():
    at_x, at_c = (f"{n} must be a tensor; got {kind}: {CURE.format(name=n)}" for n in ("x", "context"))
    WRONG |= {
        f"{kind} as x": (lambda f, x, c, make=make: f.log_prob(make(x), c), at_x),
        f"{kind} as context": (lambda f, x, c, make=make: f.log_prob(x, make(c)), at_c),
        # of the noise, which nobody gave, there is no word
        f"{kind} as context of a draw": (lambda f, x, c, make=make: f.sample(make(c), (2,)), at_c),
    }


@pytest.mark.parametrize("case", WRONG)
def test_wrong_argument_is_named_with_what_was_expected_and_what_came(case):
    call, message = WRONG[case]
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        call(Affine(), *inputs())
    assert str(caught.value) == message


@pytest.mark.parametrize("shape", [(), (0,), (3, 0)])
def test_event_of_nothing_is_refused(shape):
    with pytest.raises(ValueError, match="event_shape must have at least one dimension"):
        Affine(shape)


# -- chunks ---------------------------------------------------------------------------------------------------------


def test_chunks_bound_the_work_and_do_not_show():
    flow, chunked = Affine(), Affine()
    chunked.chunk_elements = 4 * 3
    x, c = inputs()
    with torch.no_grad():
        torch.testing.assert_close(chunked.log_prob(x, c), flow.log_prob(x, c))
        for found, expected in zip(chunked.to_latent(x, c), flow.to_latent(x, c), strict=True):
            torch.testing.assert_close(found, expected)
        assert set(chunked.calls) == {4, 2}
        draws = [f.sample(c, (3,), generator=generator(1, "z")) for f in (flow, chunked)]
    torch.testing.assert_close(*draws)
    assert max(chunked.calls) == 4


def test_training_is_not_chunked():
    flow = Affine()
    flow.chunk_elements = 3
    x, c = inputs()
    flow(x, c)
    assert flow.calls == [10]


def test_chunk_holds_one_event_at_least():
    flow = Affine()
    flow.chunk_elements = 1
    x, c = inputs()
    with torch.no_grad():
        flow(x, c)
    assert flow.calls == [1] * 10


# -- draws ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [Affine, Learned])
def test_draws_have_the_mean_and_the_spread_of_the_density(cls):
    flow = cls()
    c = torch.tensor([[1.0, 0.5], [-2.0, 1.0]])
    draws = flow.sample(c, (40_000,), generator=generator(1, "z"))
    torch.testing.assert_close(draws.mean(0), flow.mean(c).detach(), atol=0.05, rtol=0)
    torch.testing.assert_close(draws.std(0), flow.s.exp().detach().expand(2, 3), atol=0.03, rtol=0)


@pytest.mark.parametrize("cls", [Affine, Learned])
def test_draws_are_scored_with_their_density(cls):
    flow = cls(x_map=Standardize((3,)))
    flow.x_map.std.fill_(3.0)
    _, c = inputs()
    draws, stated = flow.sample_and_log_prob(c, (4,), generator=generator(1, "z"))
    torch.testing.assert_close(stated, flow.log_prob(draws, c))
    torch.testing.assert_close(draws.detach(), flow.sample(c, (4,), generator=generator(1, "z")))


@pytest.mark.parametrize("cls", [Affine, Learned])
@pytest.mark.parametrize("temperature", [0.0, 0.5, 2.0])
def test_temperature_scales_the_spread_about_the_same_mean(cls, temperature):
    flow = cls()
    _, c = inputs()
    one = flow.sample(c, (50,), generator=generator(1, "z"))
    other = flow.sample(c, (50,), temperature=temperature, generator=generator(1, "z"))
    torch.testing.assert_close(other - flow.mean(c), temperature * (one - flow.mean(c)), atol=1e-5, rtol=0)


def test_generator_repeats_and_the_process_wide_one_is_left_alone():
    flow = Affine()
    _, c = inputs()
    before = torch.get_rng_state()
    draws = [flow.sample(c, generator=generator(k, "z")) for k in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert torch.equal(torch.get_rng_state(), before)


def test_without_a_generator_the_process_wide_one_is_used():
    flow = Affine()
    before = torch.get_rng_state()
    flow.sample(torch.zeros(2))
    moved = torch.get_rng_state()
    torch.set_rng_state(before)
    assert not torch.equal(moved, before)


def test_sample_has_no_gradient_and_rsample_has():
    flow = Affine()
    c = torch.randn(4, 2, requires_grad=True)
    assert not flow.sample(c).requires_grad
    assert flow.rsample(c).requires_grad


def test_pathwise_gradient_is_that_of_finite_differences():
    flow = Affine(x_map=Standardize((3,)), context_map=Standardize((2,))).double()
    flow.x_map.std.fill_(3.0)
    c = torch.randn(2, generator=generator(1, "c"), dtype=torch.float64, requires_grad=True)

    def statistic(c, w):
        moved = copy.copy(flow)
        moved._parameters = {"w": w, "s": flow.s}  # a plain tensor in the parameter's place
        return moved.rsample(c, (5,), generator=generator(2, "z")).square().sum()

    assert torch.autograd.gradcheck(statistic, (c, flow.w.detach().clone().requires_grad_()))


def test_draws_without_a_preimage_are_counted_and_left_nan():
    flow = Bounded()
    c = torch.zeros(1000, 2)
    with pytest.warns(UserWarning, match="draws have no finite preimage and are NaN") as caught:
        draws = flow.sample(c, generator=generator(1, "z"))
    lost = int(draws.isnan().any(1).sum())
    assert 30 < lost < 110  # P(z > 1.5) is 0.067
    assert str(caught[0].message).startswith(f"{lost} of 1000 draws")
    # and none of them is drawn again: the others are those of the sound flow
    sound = Affine().sample(c, generator=generator(1, "z"))
    good = draws.isfinite().all(1)
    torch.testing.assert_close(draws[good], sound[good])


def test_sound_draws_warn_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Affine().sample(torch.zeros(1000, 2))


def test_float64_flows_draw_float64():
    flow = Affine().double()
    assert flow.sample(torch.zeros(2)).dtype == torch.float64
    x, c = inputs()
    assert flow.log_prob(x.double(), c).dtype == torch.float64  # the context follows the event


# -- the base -------------------------------------------------------------------------------------------------------


def test_base_is_the_normal_that_it_says():
    source = generator(3, "base")
    z, loc, log_scale = (torch.randn(6, 3, generator=source) for _ in range(3))
    base = DiagonalNormal(loc, log_scale)
    expected = Normal(loc, log_scale.exp()).log_prob(z).sum(1)
    torch.testing.assert_close(base.log_prob(z), expected)
    torch.testing.assert_close(DiagonalNormal().log_prob(z), Normal(0, 1).log_prob(z).sum(1))
    torch.testing.assert_close(base.from_noise(z), loc + z * log_scale.exp())


def test_lengths_may_be_numbers_and_what_is_none_is_refused():
    flow = flowzoo.build("maf", 2, 3, generator=generator(0, "init"))
    assert (flow.event_shape, flow.context_shape) == ((2,), (3,))
    with pytest.raises(ValueError, match=r"context_shape must be one length or several, and none below 0; got \(\)"):
        flowzoo.build("maf", (2,), ())
    with pytest.raises(ValueError, match=r"event_shape must be one length or several, and none below 0; got \(-2,\)"):
        flowzoo.build("maf", (-2,))
    with pytest.raises(ValueError, match=r"context_shape must have at least one dimension; got \(\)"):
        Affine((2,), ())


@pytest.mark.parametrize("temperature", [-1.0, math.nan, math.inf])
def test_temperature_that_is_none_is_refused(temperature):
    with pytest.raises(ValueError, match="temperature must be a number >= 0; got "):
        Affine((2,), (0,)).sample(temperature=temperature)


def test_warning_of_lost_draws_points_at_who_drew():
    flow = Bounded((2,), (0,))
    for draw in (flow.sample, flow.rsample):
        with pytest.warns(UserWarning, match="have no finite preimage") as seen:
            draw(shape=(200,), generator=generator(0, "z"))
        assert seen[0].filename == __file__
