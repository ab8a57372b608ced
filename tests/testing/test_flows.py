"""The conformance suite: an honest flow passes, and each planted fault is caught by the check that is named for it."""

import math
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

from flowzoo.base import DiagonalNormal
from flowzoo.flow import ConditionalFlow
from flowzoo.host_sync import NoHostSync
from flowzoo.nets import mlp
from flowzoo.registry import MODELS
from flowzoo.testing import CHECKS, _flow_case, case_of, check_flow


class Honest(ConditionalFlow):
    """A flow of the smallest kind: a triangular mixing, then a scale and a shift given the context."""

    space = (1, 9)

    def __init__(self, event, context, **maps):
        super().__init__(event, context, **maps)
        count = self.event_shape.numel()
        self.net = mlp(self.context_shape.numel(), 2 * count, (16,))
        self.mix = nn.Parameter(0.1 * torch.randn(count, count))

    def _affine(self, c):
        log_scale, shift = self.net(c.flatten(1)).chunk(2, 1)
        return torch.tanh(log_scale), shift

    def _matrix(self):
        return torch.eye(len(self.mix), dtype=self.mix.dtype, device=self.mix.device) + self.mix.tril(-1)

    def _to_latent(self, u, c):
        log_scale, shift = self._affine(c)
        z = (u.flatten(1) @ self._matrix().T) * torch.exp(log_scale) + shift
        return z.reshape(u.shape), log_scale.sum(1)

    def _to_data(self, z, c):
        log_scale, shift = self._affine(c)
        y = (z.flatten(1) - shift) * torch.exp(-log_scale)
        u = torch.linalg.solve_triangular(self._matrix(), y.T, upper=False, unitriangular=True).T
        return u.reshape(z.shape), -log_scale.sum(1)


class WrongLogDet(Honest):
    def _to_latent(self, u, c):
        z, log_det = super()._to_latent(u, c)
        return z, 0.5 * log_det

    def _to_data(self, z, c):
        u, log_det = super()._to_data(z, c)
        return u, 0.5 * log_det


class NotTheInverse(Honest):
    def _to_data(self, z, c):
        u, log_det = super()._to_data(z, c)
        return u + 0.01, log_det


class OtherBase(Honest):
    """Draws from a wider base than the one that it is scored with."""

    def _draw(self, context, shape, generator, temperature):
        return super()._draw(context, shape, generator, 1.3 * temperature)


class OtherScores(Honest):
    """Draws from a wider base, and scores the draws with that base too: only the density knows better."""

    def _base(self, c):
        drawing = not getattr(self, "scoring", False)
        return DiagonalNormal(0.0, 0.26 if drawing else 0.0)

    def forward(self, x, context=None, index=None):
        self.scoring = True
        try:
            return super().forward(x, context, index)
        finally:
            self.scoring = False


class Deaf(Honest):
    def _affine(self, c):
        return super()._affine(torch.zeros_like(c))


class Sociable(Honest):
    """Normalises by its batch."""

    def _affine(self, c):
        log_scale, shift = super()._affine(c)
        return log_scale, shift + 0.01 * c.flatten(1).mean()


class Contagious(Honest):
    """One NaN spoils the batch."""

    def _to_latent(self, u, c):
        z, log_det = super()._to_latent(u, c)
        return z + 0 * z.sum(), log_det


class Cleaner(Honest):
    """Replaces what is not a number by one, and hides a fault of the data."""

    def _to_latent(self, u, c):
        return super()._to_latent(u.nan_to_num(), c)


class Unnormalised(Honest):
    """Puts the same density on a half-line twice: its map is two to one."""

    def _to_latent(self, u, c):
        return super()._to_latent(u.abs(), c)


class UnitBlind(Honest):
    def _encode(self, x, c, **how):
        z, _ = super()._encode(x, c, **how)
        return z, self._to_latent(self.x_map.to_latent(x)[0], c)[1]


class Forgetful(Honest):
    """Keeps a number that is not in its state."""

    def __init__(self, *args, **maps):
        super().__init__(*args, **maps)
        self.offset = 0.0

    def _initialize(self, u, c):
        self.offset = float(u.mean()) + 0.1

    def _to_latent(self, u, c):
        return super()._to_latent(u - self.offset, c)

    def _to_data(self, z, c):
        u, log_det = super()._to_data(z, c)
        return u + self.offset, log_det


class Rounded(Honest):
    """Takes a detour that costs float32 its digits."""

    def _to_latent(self, u, c):
        z, log_det = super()._to_latent(u, c)
        return (z + 3e4) - 3e4, log_det


class Global(Honest):
    """Draws from torch's process-wide generator."""

    def _draw(self, context, shape, generator, temperature):
        return super()._draw(context, shape, None, temperature)


class Numb(Honest):
    """A parameter that no gradient reaches."""

    def __init__(self, *args, **maps):
        super().__init__(*args, **maps)
        self.spare = nn.Parameter(torch.zeros(3))


class Detached(Honest):
    """Draws without a path back to the context."""

    def _to_data(self, z, c):
        u, log_det = super()._to_data(z, c.detach())
        return u, log_det


class Impatient(Honest):
    """Reads a number back to the host in every pass."""

    def _to_latent(self, u, c):
        z, log_det = super()._to_latent(u, c)
        assert float(log_det.detach().abs().max()) < 1e6
        return z, log_det


class Chunky(Honest):
    """Depends on where the chunks are cut."""

    def _chunked(self, function, *flat):
        parts = super()._chunked(function, *flat)
        if len(flat[0]) > self.chunk_elements // self.event_shape.numel():
            parts = tuple(p.roll(1, 0) for p in parts)
        return parts


class Far(Honest):
    """A true density, of another scale than the data by far."""

    def _to_latent(self, u, c):
        z, log_det = super()._to_latent(100 * u, c)
        return z, log_det + math.log(100) * u[0].numel()


class Full(Honest):
    """Has a score for a batch of none."""

    def forward(self, x, context=None, index=None):
        scores = super().forward(x, context, index)
        return scores if len(scores) else scores.new_zeros(1)


class Homeless(Honest):
    """Its default lies outside its own search space."""

    space = (5, 9)


class ContextBound(Honest):
    """Takes no unconditional data."""

    def __init__(self, event, context, **maps):
        super().__init__(event, context, **maps)
        if self.context_shape.numel() == 0:
            raise ValueError("needs a context")


class Misplaced(Honest):
    """Gives every event the first of the contexts that they share."""

    def _each(self, function, x, c, index):
        return super()._each(function, x, c, index if index is None else 0 * index)


class Differentiating(Honest):
    """Finds its log|det| by autograd, which inference mode has none of."""

    def _to_latent(self, u, c):
        with torch.enable_grad():
            leaf = u if u.requires_grad else u.detach().requires_grad_()
            z, log_det = super()._to_latent(leaf, c)
            torch.autograd.grad(z.sum(), leaf, create_graph=True)
        return z, log_det


class Linearised(Honest):
    """Its scores have the right gradient, and none of higher order."""

    def _base(self, c):
        class Base(DiagonalNormal):
            def log_prob(self, z):
                at = z.detach()
                return super().log_prob(at) - (at * (z - at)).flatten(1).sum(1)

        return Base()


class Homebound(Honest):
    """Right where it was made."""

    def _matrix(self):
        return super()._matrix() + torch.zeros(len(self.mix), 1)


class Homesick(Honest):
    """Calculates with numbers on the CPU, and comes back."""

    def _base(self, c):
        class Base(DiagonalNormal):
            def log_prob(self, z):
                return super().log_prob(z.cpu())

        return Base()


class Courier(Honest):
    """Sends a number to the device in every step."""

    def _affine(self, c):
        log_scale, shift = super()._affine(c)
        return log_scale, shift + torch.tensor(0.0, device=c.device)


FAULTS = {
    "log_det_matches_autograd": [WrongLogDet],
    "round_trip": [NotTheInverse],
    "samples_agree_with_density": [OtherBase, OtherScores, Global],
    "context_matters": [Deaf],
    "events_do_not_meet": [Sociable, Contagious, Cleaner],
    "integrates_to_one_in_1d": [WrongLogDet, Unnormalised],
    "integrates_to_one_in_2d": [WrongLogDet, Unnormalised],
    "units_shift_the_density": [UnitBlind],
    "saves_and_loads": [Forgetful],
    "float64_agrees": [Rounded],
    "seed_repeats": [Global],
    "gradients_flow": [Numb, Detached],
    "step_does_not_wait": [Impatient, Courier],
    "works_on_a_gpu": [Homebound, Homesick],
    "broadcasting": [Chunky],
    "shared_contexts": [Misplaced],
    "inference_mode": [Differentiating],
    "second_derivatives": [Linearised],
    "unconditional": [ContextBound],
    "starts_near_the_data": [Far],
    "empty_batch": [Full],
    "default_is_in_its_search_space": [Homeless],
}


@pytest.fixture
def planted(register, monkeypatch):
    """Registers a flow class, and gives its name."""
    # the suite trains each model once a session; a planted one is trained once a test
    monkeypatch.setattr(_flow_case, "_trained", _flow_case._trained.__wrapped__)

    def plant(flow, **attributes):
        @dataclass(frozen=True)
        class Config:
            family: ClassVar[str] = "planted"
            backend: ClassVar[str] = "here"
            events: ClassVar[str] = "any"
            contexts: ClassVar[str] = "any"
            inverse: ClassVar[str] = "closed form"
            paper: ClassVar[str] = "none"

            width: int = 4

            @classmethod
            def suggest(cls, trial):
                return cls(width=trial.suggest_int("width", *flow.space))

            def build(self, event_shape, context_shape, *, x_map=None, context_map=None):
                return flow(event_shape, context_shape, x_map=x_map, context_map=context_map)

        for name, value in attributes.items():
            setattr(Config, name, value)
        Config.__name__ = flow.__name__
        return register(MODELS, Config)

    return plant


@pytest.mark.usefixtures("_every_check_applies")
def test_honest_flow_passes_every_check(planted):
    assert check_flow(planted(Honest)) == {}


@pytest.mark.parametrize(
    ("check", "fault"),
    [(check, fault) for check, faults in FAULTS.items() for fault in faults],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_planted_fault_is_caught_by_the_check_named_for_it(planted, check, fault):
    case = case_of(planted(fault))
    with pytest.raises((AssertionError, ValueError)) as caught:
        CHECKS[check](case)
    assert str(caught.value)


def test_every_check_has_a_planted_fault():
    assert set(CHECKS) == set(FAULTS)


@pytest.mark.usefixtures("_every_check_applies")
def test_check_that_a_model_excuses_is_not_run_and_its_reason_is_returned(planted):
    name = planted(Deaf, exempt={"context_matters": "it is a baseline without one"})
    case = case_of(name)
    with pytest.raises(AssertionError, match="log q changed by at most"):
        CHECKS["context_matters"](case)
    # a deaf flow has no gradient to its context either
    excuses = {"context_matters": "it is a baseline without one", "gradients_flow": "nor a gradient to it"}
    assert check_flow(planted(Deaf, exempt=excuses)) == excuses


def test_excuse_for_a_check_that_does_not_exist_is_refused(planted):
    with pytest.raises(ValueError, match=r"honest is exempt from unknown checks \['context_maters'\]"):
        check_flow(planted(Honest, exempt={"context_maters": "a misspelling would excuse nothing"}))


def test_model_states_its_own_case(planted):
    case = case_of(planted(Honest, conformance={"event": (1, 2, 2), "plane": None, "tolerance": 1e-2}))
    assert (case.event, case.plane, case.tolerance) == ((1, 2, 2), None, 1e-2)


def test_small_options_are_given_to_models_that_have_them():
    assert dict(case_of("maf").options) == {"num_steps": 2, "hidden_features": 32}
    assert dict(case_of("gaussian").options) == {}


# -- the watch over the host ----------------------------------------------------------------------------------------

WAITS = {
    "item": lambda t: t.sum().item(),
    "float": lambda t: float(t[0]),
    "truth of a comparison": lambda t: bool((t > 0).any()),
    "nonzero": lambda t: t.nonzero(),
    "boolean mask": lambda t: t[t > 0],
    "masked_select": lambda t: t.masked_select(t > 0),
    "assignment by mask": lambda t: t.clone().__setitem__(t > 0, torch.zeros(1)),
    "unique": lambda t: t.unique(),
    "equal": lambda t: torch.equal(t, t),
    "where of one argument": lambda t: torch.where(t > 0),
    "allclose": lambda t: torch.allclose(t, t),
    "count of each": lambda t: (t > 0).long().bincount(),
    # these look on the host at whether the factorisation went well
    "cholesky": lambda t: torch.linalg.cholesky(torch.eye(2)),
    "solve": lambda t: torch.linalg.solve(torch.eye(2), torch.eye(2)),
    "inverse": lambda t: torch.linalg.inv(torch.eye(2)),
}

FREE = {
    "arithmetic": lambda t: (t * 2 + 1).exp().sum(),
    "where": lambda t: torch.where(t > 0, t, -t),
    "index by integers": lambda t: t[torch.tensor([0, 1])],
    "sort": lambda t: t.sort(),
    "triangular solve": lambda t: torch.linalg.solve_triangular(torch.eye(2), torch.eye(2), upper=True),
    "log-determinant": lambda t: torch.linalg.slogdet(torch.eye(2)),
    "random numbers": lambda t: torch.randperm(5),
    "gradient": lambda t: torch.autograd.grad((t.requires_grad_() ** 2).sum(), t),
}


@pytest.mark.parametrize("what", WAITS)
def test_operation_that_waits_is_noticed(what):
    with pytest.raises(AssertionError, match="for which a GPU's host has to wait"), NoHostSync():
        WAITS[what](torch.linspace(-1, 1, 5))


@pytest.mark.parametrize("what", FREE)
def test_operation_that_does_not_wait_passes(what):
    with NoHostSync():
        FREE[what](torch.linspace(-1, 1, 5))


def test_nothing_is_watched_outside():
    with NoHostSync():
        pass
    assert math.isfinite(float(torch.ones(1)))
