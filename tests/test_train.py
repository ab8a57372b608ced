"""Training: survives a kill at any step, sees validation only, stops when it should, says why."""

import dataclasses
import io
import itertools
import math
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import torch
from torch import nn

from flowzoo import FitConfig, build, fit, load, progress, trainer
from flowzoo.checkpoint import CheckpointError, load_tensors
from flowzoo.config import ConfigError, make
from flowzoo.data import Data, Levels, Splits, configure
from flowzoo.descent import Descent
from flowzoo.flow import ConditionalFlow
from flowzoo.seeding import generator
from flowzoo.stepper import Stepper
from flowzoo.train_config import rate_at
from flowzoo.validation import _choice, mean_nll


def integers(count=60, seed=0):
    """Integer events that follow their context; 42 of 60 are for training."""
    source = generator(seed, "data")
    c = torch.randn(count, 2, generator=source)
    x = (2 + c[:, :1] + torch.randn(count, 3, generator=source)).round().clamp(0, 4).long()
    return Splits.make(Data(x, c, levels=Levels(0, 1, 5)), seed=seed)


def images():
    source = generator(0, "data")
    x = torch.randint(5, (40, 1, 4, 4), generator=source)
    return Splits.make(Data(x, levels=Levels(0, 1, 5), augment=("flip", "shift")))


def fresh(splits, seed=0):
    x_map, context_map = splits.maps()
    image = len(splits.data.event_shape) == 3
    return build(
        "cglow" if image else "maf",
        splits.data.event_shape,
        splits.data.context_shape,
        x_map=x_map,
        context_map=context_map,
        generator=generator(seed, "init"),
        num_steps=1,
        hidden_features=4 if image else (4,),
    )


@pytest.fixture(scope="module")
def data():
    return integers()


class Killed(BaseException):
    """Nothing in the library catches it."""


def kill_at(step):
    def on_step(now):
        if now == step:
            raise Killed

    return on_step


def outcome(flow, result):
    """All that a run leaves behind, but how long it took."""
    values = dataclasses.asdict(result)
    del values["seconds"]
    return {k: v.tolist() for k, v in flow.state_dict().items()}, values


# -- killed and resumed ---------------------------------------------------------------------------------------------

RUNS = {
    # two batches an epoch: several epochs; validations and checkpoints that do not coincide
    "cosine": (integers, FitConfig(steps=43, batch_size=16, evaluate_every=7, checkpoint_every=10, lr=1e-2)),
    "early stop": (
        integers,
        FitConfig(
            steps=200, batch_size=16, evaluate_every=2, checkpoint_every=5, patience=3, lr=1e-2, warmup=0, ema=0.5
        ),
    ),
    "plateau, batch larger than the data": (
        integers,
        FitConfig(
            steps=43, batch_size=1000, evaluate_every=3, checkpoint_every=10, schedule="plateau", patience=6, lr=0.02
        ),
    ),
    "no average, no clip": (
        integers,
        FitConfig(steps=43, batch_size=5, evaluate_every=10, checkpoint_every=10, ema=0, clip=0, weight_decay=0.1),
    ),
    "augmented images": (images, FitConfig(steps=23, batch_size=8, evaluate_every=5, checkpoint_every=10, lr=1e-2)),
}


@pytest.fixture(scope="module", params=RUNS)
def run(request):
    """A run's splits, options and undisturbed outcome."""
    make, config = RUNS[request.param]
    splits = make()
    flow = fresh(splits)
    return splits, config, outcome(flow, fit(flow, splits, config))


def last_of(expected):
    return expected[1]["steps"]


@pytest.mark.parametrize("step", [1, 9, 10, 11, 12, 20, "last but one", "last"])
def test_killed_run_resumes_bit_for_bit(run, step, tmp_path):
    splits, config, expected = run
    last = last_of(expected)
    step = {"last": last, "last but one": last - 1}.get(step, step)
    assert step <= last
    path = tmp_path / "state.safetensors"
    with pytest.raises(Killed):
        fit(fresh(splits), splits, config, checkpoint=path, on_step=kill_at(step))
    assert path.exists() == (step >= config.checkpoint_every)
    taken = []
    flow = fresh(splits, seed=1)  # whatever weights it starts from: they are in the checkpoint
    if not path.exists():
        flow = fresh(splits)
    result = fit(flow, splits, config, checkpoint=path, on_step=taken.append)
    assert outcome(flow, result) == expected
    # the work up to the last checkpoint was not done again
    saved = step // config.checkpoint_every * config.checkpoint_every
    assert taken == list(range(saved + 1, last + 1))


class Clock:
    """Stands for the module ``time`` of the trainer; each step takes 25 seconds, each checkpoint so many."""

    def __init__(self, monkeypatch, path, save_seconds=0.0):
        self.now, self.saved = 1000.0, []
        write = trainer.save_tensors

        def save(to, tensors, meta):
            write(to, tensors, meta)
            assert to == path
            self.saved.append(meta["state"]["step"])
            self.now += save_seconds

        monkeypatch.setattr(trainer, "save_tensors", save)
        monkeypatch.setattr(trainer, "time", self)

    def monotonic(self):
        return self.now

    def on_step(self, step):
        self.now += 25.0


LATE = FitConfig(steps=20, batch_size=16, evaluate_every=1000, checkpoint_every=1000, lr=1e-2)


def test_slow_steps_are_saved_every_minute_and_resume_bit_for_bit(data, tmp_path, monkeypatch):
    whole = fresh(data)
    expected = outcome(whole, fit(whole, data, LATE))
    path = tmp_path / "state.safetensors"
    clock = Clock(monkeypatch, path)

    def on_step(step):
        clock.on_step(step)
        if step == 11:
            raise Killed

    with pytest.raises(Killed):
        fit(fresh(data), data, LATE, checkpoint=path, on_step=on_step)
    assert clock.saved == [4, 7, 10]  # at 75 seconds since the start, and since the last: not every 1000 steps
    taken, flow = [], fresh(data, seed=1)
    result = fit(flow, data, LATE, checkpoint=path, on_step=taken.append)
    assert taken == list(range(11, 21))
    assert outcome(flow, result) == expected


def test_checkpoint_that_takes_long_is_rare(data, tmp_path, monkeypatch):
    path = tmp_path / "state.safetensors"
    clock = Clock(monkeypatch, path, save_seconds=10.0)
    fit(fresh(data), data, LATE, checkpoint=path, on_step=clock.on_step)
    assert clock.saved == [4, 13, 20]  # ten seconds of two hundred; and the last one


def test_fast_steps_are_saved_by_their_number_alone(data, tmp_path, monkeypatch):
    path = tmp_path / "state.safetensors"
    clock = Clock(monkeypatch, path)
    fit(fresh(data), data, dataclasses.replace(LATE, checkpoint_every=6), checkpoint=path)
    assert clock.saved == [6, 12, 18, 20]


def test_early_stop_is_one(run):
    _, config, (_, values) = run
    stopped = values["reason"].startswith("stopped at step")
    assert stopped == (values["steps"] < config.steps)


def test_killed_again_and_again(run, tmp_path):
    splits, config, expected = run
    path = tmp_path / "state.safetensors"
    for extra in itertools.count(1):
        flow = fresh(splits)
        try:
            # each life is a few steps longer than to the next checkpoint
            result = fit(flow, splits, config, checkpoint=path, on_step=kill_at(11 * extra))
            break
        except Killed:
            continue
    assert outcome(flow, result) == expected
    assert extra >= 2


def test_kill_after_training_does_not_train_again(run, tmp_path):
    splits, config, expected = run
    path, taken = tmp_path / "state.safetensors", []
    fit(fresh(splits), splits, config, checkpoint=path)
    flow = fresh(splits)
    result = fit(flow, splits, config, checkpoint=path, on_step=taken.append)
    assert outcome(flow, result) == expected
    assert taken == []


@pytest.mark.parametrize("which", ["first", "second", "last"])
def test_kill_while_a_checkpoint_is_written_leaves_the_one_before(run, which, tmp_path, monkeypatch):
    splits, config, expected = run
    writes = (last_of(expected) - 1) // config.checkpoint_every + 1
    fatal = {"first": 1, "second": 2, "last": writes}[which]
    path, calls, replace = tmp_path / "state.safetensors", [], os.replace

    def killed(source, target):
        calls.append(target)
        if len(calls) == fatal:
            raise Killed
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", killed)
        with pytest.raises(Killed):
            fit(fresh(splits), splits, config, checkpoint=path)
    assert [p.name for p in tmp_path.iterdir()] == ["state.safetensors"] * (fatal > 1)
    flow = fresh(splits)
    assert outcome(flow, fit(flow, splits, config, checkpoint=path)) == expected


def test_process_that_is_really_killed_resumes_bit_for_bit(tmp_path):
    splits, config = integers(), RUNS["cosine"][1]
    undisturbed = fresh(splits)
    expected = outcome(undisturbed, fit(undisturbed, splits, config))
    path = tmp_path / "state.safetensors"
    script = f"""
        import os, signal, sys
        sys.path.insert(0, {os.path.dirname(__file__)!r})
        from test_train import RUNS, fit, fresh, integers
        splits = integers()
        def on_step(step):
            if step == 33:
                os.kill(os.getpid(), signal.SIGKILL)
        fit(fresh(splits), splits, RUNS["cosine"][1], checkpoint={str(path)!r}, on_step=on_step)
    """
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # sums of another order are other bits
    died = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], env=os.environ | threads)
    assert died.returncode == -signal.SIGKILL
    flow = fresh(splits)
    assert outcome(flow, fit(flow, splits, config, checkpoint=path)) == expected


CHANGES = {
    "options": lambda s, c: (fresh(s), s, dataclasses.replace(c, lr=0.5), 0),
    "seed": lambda s, c: (fresh(s), s, c, 1),
    "data": lambda s, c: (fresh(integers(seed=3)), integers(seed=3), c, 0),
    "model": lambda s, c: (build("nice", (3,), (2,), num_steps=1, x_map=s.maps()[0]), s, c, 0),
}


@pytest.mark.parametrize("what", CHANGES)
def test_checkpoint_of_another_run_is_refused(data, what, tmp_path):
    path, config = tmp_path / "state.safetensors", FitConfig(steps=3, batch_size=16)
    fit(fresh(data), data, config, checkpoint=path)
    before = path.read_bytes()
    flow, splits, config, seed = CHANGES[what](data, config)
    with pytest.raises(CheckpointError, match="written by a run with other options or other data") as caught:
        fit(flow, splits, config, seed=seed, checkpoint=path)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before


def test_state_of_training_is_not_taken_for_a_flow(data, tmp_path):
    path = tmp_path / "state.safetensors"
    fit(fresh(data), data, FitConfig(steps=3), checkpoint=path)
    with pytest.raises(CheckpointError, match="holds no flow"):
        load(path)


def test_compiled_training_is_saved_by_the_names_of_the_flow_and_resumes(data, tmp_path, monkeypatch):
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda module: real(module, backend="eager"))
    config = FitConfig(steps=12, batch_size=16, evaluate_every=5, checkpoint_every=5, engine="compile")
    undisturbed = fresh(data)
    expected = outcome(undisturbed, fit(undisturbed, data, config))
    path = tmp_path / "state.safetensors"
    with pytest.raises(Killed):
        fit(fresh(data), data, config, checkpoint=path, on_step=kill_at(7))
    kept = {key.removeprefix("flow.") for key in load_tensors(path)[0] if key.startswith("flow.")}
    assert kept == set(undisturbed.state_dict())
    flow = fresh(data)
    assert outcome(flow, fit(flow, data, config, checkpoint=path)) == expected


# -- seeds ----------------------------------------------------------------------------------------------------------


def test_same_seed_same_bits_other_seed_other_bits(data):
    config = FitConfig(steps=10, batch_size=16, evaluate_every=5)
    seeds = (0, 0, 1)
    flows = [fresh(data) for _ in seeds]
    outcomes = [outcome(flow, fit(flow, data, config, seed=seed)) for flow, seed in zip(flows, seeds, strict=True)]
    assert outcomes[0] == outcomes[1]
    assert outcomes[0] != outcomes[2]


def test_training_leaves_the_process_wide_generator_alone(data):
    before = torch.get_rng_state()
    fit(fresh(data), data, FitConfig(steps=5))
    assert torch.equal(torch.get_rng_state(), before)


def test_checkpoints_do_not_change_the_result(data, tmp_path):
    config = FitConfig(steps=20, batch_size=16, evaluate_every=5, checkpoint_every=3)
    flows = [fresh(data), fresh(data)]
    paths = [None, tmp_path / "state.safetensors"]
    outcomes = [outcome(f, fit(f, data, config, checkpoint=p)) for f, p in zip(flows, paths, strict=True)]
    assert outcomes[0] == outcomes[1]


# -- what is seen ---------------------------------------------------------------------------------------------------


def test_test_events_are_not_looked_at(data):
    config = FitConfig(steps=20, batch_size=16, evaluate_every=5)
    clean = fresh(data)
    expected = outcome(clean, fit(clean, data, config))
    poisoned = dataclasses.replace(
        data,
        test=dataclasses.replace(
            data.test,
            x=torch.full_like(data.test.x, math.nan),
            contexts=torch.full_like(data.test.contexts, math.nan),
        ),
    )
    flow = fresh(data)
    assert outcome(flow, fit(flow, poisoned, config)) == expected


def test_early_stopping_looks_at_validation(data):
    config = FitConfig(steps=20, batch_size=16, evaluate_every=5)
    other = dataclasses.replace(data, validation=data.train)
    flows = [fresh(data), fresh(data)]
    results = [fit(flow, splits, config) for flow, splits in zip(flows, (data, other), strict=True)]
    assert results[0].validation_nll != results[1].validation_nll
    # and training does not: its losses are the same
    losses = [[row["train_nll"] for row in result.history[1:]] for result in results]
    assert losses[0] == losses[1]


def test_flow_holds_the_weights_of_the_best_validation(data):
    config = FitConfig(steps=60, batch_size=16, evaluate_every=3, lr=0.3, warmup=0, patience=0)
    flow = fresh(data)
    result = fit(flow, data, config)
    assert not flow.training
    nlls = {row["step"]: row["validation_nll"] for row in result.history}
    assert result.validation_nll == min(nlls.values()) == nlls[result.best_step]
    assert mean_nll(flow, data.validation.fixed, data.validation.context) == result.validation_nll
    assert result.best_step < 60  # the rate is far too high: it ends worse than it was


def test_validation_scores_a_fixed_choice_of_so_many_events(data):
    scored = []
    for _ in range(2):
        flow = fresh(data)
        flow.register_forward_pre_hook(lambda module, args: scored.append(args[0]) if not module.training else None)
        fit(flow, data, FitConfig(steps=4, evaluate_every=2, validation_events=4))
    assert [len(x) for x in scored] == [4] * 6
    assert all(torch.equal(x, scored[0]) for x in scored)
    assert all(bool((row == data.validation.fixed).all(1).any()) for row in scored[0])


def test_train_nll_is_the_mean_since_the_last_validation(data, monkeypatch):
    losses = []
    forward = ConditionalFlow.forward

    def noted(self, *given):
        out = forward(self, *given)
        if self.training:
            losses.append(float(-out.detach().mean()))
        return out

    monkeypatch.setattr(ConditionalFlow, "forward", noted)
    result = fit(fresh(data), data, FitConfig(steps=10, batch_size=16, evaluate_every=4))
    assert [row["step"] for row in result.history] == [0, 4, 8, 10]
    for row, part in zip(result.history[1:], (losses[:4], losses[4:8], losses[8:]), strict=True):
        assert row["train_nll"] == pytest.approx(sum(part) / len(part), rel=1e-6)


def test_training_reaches_a_known_density():
    data = configure("linear_gaussian", {"num_events": 2000, "dim": 2, "context_dim": 1}).load()
    splits = Splits.make(data)
    x_map, context_map = splits.maps()
    flow = build("maf", (2,), (1,), x_map=x_map, context_map=context_map, generator=generator(0, "init"), num_steps=2)
    fit(flow, splits, FitConfig(steps=200, batch_size=256, lr=5e-3))
    truth = data.true_log_prob(splits.test.x, splits.test.context)
    excess = float((truth - flow.log_prob(splits.test.x, splits.test.context)).mean().detach())
    assert -0.02 < excess < 0.05


# -- when it goes wrong ---------------------------------------------------------------------------------------------


def poisoned(data, event):
    x = data.train.x.clone()
    x[event] = math.nan
    return dataclasses.replace(data, train=dataclasses.replace(data.train, x=x))


class Counted(ConditionalFlow):
    """u ~ N(mu, 1), whose scores fail in chosen ways."""

    def __init__(self, fail=lambda flow, score: score):
        super().__init__((3,), (2,))
        self.mu = nn.Parameter(torch.zeros(3))
        self.fail, self.steps = fail, 0

    def _to_latent(self, u, c):
        self.steps += self.training
        return u - self.mu, self.fail(self, u.new_zeros(len(u)))


@pytest.mark.parametrize("evaluate_every", [1, 3, 100])
def test_nan_loss_stops_names_its_step_and_keeps_the_last_good_weights(data, evaluate_every):
    config = FitConfig(steps=100, batch_size=4, evaluate_every=evaluate_every, schedule="constant", warmup=0, lr=1e-2)
    order = torch.randperm(len(data.train), generator=generator(0, "order"))
    spoiled = poisoned(data, int(order[25]))  # in the seventh batch of the first epoch
    flow = fresh(data)
    result = fit(flow, spoiled, config)
    assert result.status == "diverged"
    assert result.reason == "the loss was not finite at step 7"
    assert all(math.isfinite(row["validation_nll"]) for row in result.history)
    assert mean_nll(flow, data.validation.fixed, data.validation.context) == result.validation_nll
    # up to the step before, all was as without the poison
    clean = fresh(data)
    good = fit(clean, data, dataclasses.replace(config, steps=6 // evaluate_every * evaluate_every))
    assert outcome(flow, result)[0] == outcome(clean, good)[0]
    assert result.best_step == good.best_step


def test_divergence_is_found_again_after_a_kill(data, tmp_path):
    config = FitConfig(steps=100, batch_size=4, evaluate_every=50, checkpoint_every=5)
    spoiled = poisoned(data, int(torch.randperm(len(data.train), generator=generator(0, "order"))[25]))
    path = tmp_path / "state.safetensors"
    with pytest.raises(Killed):
        fit(fresh(data), spoiled, config, checkpoint=path, on_step=kill_at(12))
    result = fit(fresh(data), spoiled, config, checkpoint=path)
    assert result.reason == "the loss was not finite at step 7"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_validation_that_is_not_finite_diverges_and_is_never_the_best(data, value):
    def fail(flow, score):
        # a sound loss, and after two steps a validation that is not
        return score + (value if not flow.training and flow.steps >= 2 else 0.0)

    flow = Counted(fail)
    result = fit(flow, data, FitConfig(steps=10, evaluate_every=1, ema=0, batch_size=16))
    assert result.status == "diverged"
    assert result.reason == f"the validation NLL was {-value} at step 2"
    assert result.best_step in (0, 1)
    assert math.isfinite(result.validation_nll)


@pytest.mark.parametrize("value", [math.nan, -math.inf, math.inf])
def test_start_that_is_not_finite_is_forgotten_once_training_is(data, value):
    flow = Counted(lambda flow, score: score + (value if not flow.training and flow.steps == 0 else 0.0))
    result = fit(flow, data, FitConfig(steps=10, evaluate_every=5, batch_size=16))
    assert result.status == "ok"
    assert result.best_step == 10
    assert math.isfinite(result.validation_nll)
    assert [row["step"] for row in result.history] == [5, 10]


# -- when to stop ---------------------------------------------------------------------------------------------------


def test_no_better_validation_stops_after_the_patience(data):
    flow = Counted(lambda flow, score: score - 0.1 * flow.steps)
    result = fit(flow, data, FitConfig(steps=1000, evaluate_every=2, patience=4, lr=1e-9))
    assert result.reason == "stopped at step 8: no better validation in 4 evaluations"
    assert result.status == "ok"
    assert result.best_step == 0


def test_patience_of_zero_never_stops(data):
    flow = Counted(lambda flow, score: score - 0.1 * flow.steps)
    result = fit(flow, data, FitConfig(steps=50, evaluate_every=2, patience=0, lr=1e-9))
    assert result.reason == "took all 50 steps"


def test_clock_stops_and_what_was_learnt_since_the_last_validation_counts(data):
    started = time.monotonic()
    flow = Counted()
    with torch.no_grad():
        flow.mu.fill_(50.0)
    result = fit(flow, data, FitConfig(steps=10**6, minutes=0.005, evaluate_every=10**5, warmup=0))
    assert time.monotonic() - started < 5
    assert result.reason == f"stopped at step {result.steps}: used all 0.005 minutes"
    assert result.seconds == pytest.approx(0.3, abs=0.3)
    assert result.best_step == result.steps > 0
    assert float(flow.mu.detach().max()) < 50
    assert [row["step"] for row in result.history] == [0, result.steps]


def test_no_steps_initialise_and_validate(data):
    flow = fresh(data)
    result = fit(flow, data, FitConfig(steps=0))
    assert result.steps == 0
    assert result.reason == "took all 0 steps"
    assert math.isfinite(result.validation_nll)


def test_closed_form_model_has_nothing_to_train(tmp_path):
    data = configure("linear_gaussian", {"num_events": 3000, "dim": 2, "context_dim": 1}).load()
    splits = Splits.make(data)
    x_map, context_map = splits.maps()
    flow = build("gaussian", (2,), (1,), x_map=x_map, context_map=context_map)
    path = tmp_path / "state.safetensors"
    result = fit(flow, splits, FitConfig(), checkpoint=path)
    assert (result.status, result.steps, result.reason) == ("ok", 0, "closed form: nothing to train")
    truth = -data.true_log_prob(splits.validation.x, splits.validation.context).mean()
    assert result.validation_nll == pytest.approx(float(truth), abs=0.02)
    assert not path.exists()


@pytest.mark.parametrize("steps", [0, 1])
def test_data_dependent_initialisation_is_where_the_average_starts(steps):
    splits = images()
    flow = fresh(splits)
    fit(flow, splits, FitConfig(steps=steps, lr=1e-12, warmup=0))
    # at this rate the weights are those of the initialisation, which every actnorm had a part in
    expected = fresh(splits)
    source = generator(0, "initialize")
    expected.initialize(*splits.train.batch(torch.randperm(len(splits.train), generator=source), source))
    for name, found in flow.state_dict().items():
        torch.testing.assert_close(found, expected.state_dict()[name], atol=1e-6, rtol=0)
    assert any(bool(value.any()) for name, value in flow.state_dict().items() if name.endswith("layers.0.mean"))


# -- rates ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def rates(monkeypatch):
    seen = []
    set_rate = Descent.set_rate

    def noted(self, rate):
        seen.append(rate)
        set_rate(self, rate)

    monkeypatch.setattr(Descent, "set_rate", noted)
    return seen


@pytest.mark.parametrize("schedule", ["cosine", "plateau", "constant"])
def test_rate_rises_to_its_peak_and_never_reaches_zero(data, rates, schedule):
    config = FitConfig(steps=100, lr=1e-2, warmup=0.1, schedule=schedule, evaluate_every=5, patience=0, lr_floor=0.01)
    fit(Counted(lambda flow, score: score - 0.1 * flow.steps), data, config)
    assert len(rates) == 100
    assert rates[:10] == pytest.approx([1e-3 * (i + 1) for i in range(10)])
    assert max(rates) == pytest.approx(1e-2)
    assert min(rates[10:]) >= 1e-4
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))


def test_cosine_ends_at_its_floor(data, rates):
    fit(Counted(), data, FitConfig(steps=100, lr=1e-2, warmup=0, lr_floor=0.05))
    assert rates[0] == pytest.approx(1e-2)
    assert rates[50] == pytest.approx(1e-2 * (0.05 + 0.95 / 2))
    assert rates[99] == pytest.approx(5e-4, rel=0.02)


def test_plateau_halves_the_rate_where_nothing_improves_and_leaves_it_where_something_does(data, rates):
    config = FitConfig(steps=40, lr=1e-6, warmup=0, schedule="plateau", evaluate_every=2, patience=4, lr_floor=0.0)
    worse = dataclasses.replace(config, patience=40)
    fit(Counted(lambda flow, score: score - 0.1 * flow.steps), data, worse)
    # every 20 stale evaluations of 2 steps: none in the first 40 steps
    assert rates == [1e-6] * 40
    rates.clear()
    fit(Counted(lambda flow, score: score - 0.1 * flow.steps), data, dataclasses.replace(config, patience=6))
    # stale from step 2 on: halved after 3 evaluations, and stopped after 6
    assert rates == [1e-6] * 6 + [5e-7] * 6
    rates.clear()
    fit(Counted(lambda flow, score: score + 0.1 * flow.steps), data, config)
    assert rates == [1e-6] * 40


def test_clock_drives_the_rate_where_it_is_the_tighter_budget(data, rates):
    fit(Counted(), data, FitConfig(steps=10**6, minutes=0.005, lr=1e-2, warmup=0))
    assert rates[0] > 0.9e-2
    assert rates[-1] < 2e-3
    assert min(rates) >= 1e-4


# -- the bar --------------------------------------------------------------------------------------------------------


def test_bar_goes_to_stderr_and_only_if_wanted(data, capfd):
    fit(fresh(data), data, FitConfig(steps=4, evaluate_every=2), label="maf on numbers", show=False)
    assert capfd.readouterr() == ("", "")
    fit(fresh(data), data, FitConfig(steps=4, evaluate_every=2), label="maf on numbers", show=True)
    out, _ = capfd.readouterr()
    assert out == ""


class Terminal(io.StringIO):
    """Something that a person looks at."""

    def isatty(self):
        return True


def test_silenced_process_shows_no_bar_but_one_that_is_forced(monkeypatch):
    def shown(**options):
        monkeypatch.setattr(sys, "stderr", Terminal())
        with progress.bar("long part", 2, **options) as update:
            update(1, "half")
        return "long part" in sys.stderr.getvalue()

    monkeypatch.setattr(progress, "_silent", False)  # and again when this is over
    assert shown()
    progress.silence()  # as a worker does, whose terminal is that of others
    assert not shown()
    assert shown(shown=True)


# -- what the flow is shown between steps ---------------------------------------------------------------------------


def recomputing(splits, seed=0):
    x_map, context_map = splits.maps()
    shapes = splits.data.event_shape, splits.data.context_shape
    options = {"num_steps": 4, "hidden_features": 4, "reversible": True}
    flow = build("cglow", *shapes, x_map=x_map, context_map=context_map, generator=generator(seed, "init"), **options)
    return flow


def test_flow_is_prepared_at_the_start_at_validations_and_where_a_resumed_run_will_begin(data):
    flow, steps, seen = fresh(data), [0], []
    flow.prepare = lambda x, context: seen.append((steps[-1], x, context))
    fit(flow, data, FitConfig(steps=12, batch_size=16, evaluate_every=5, checkpoint_every=8), on_step=steps.append)
    # on_step comes after: a step that has been taken shows as the one before
    assert [step for step, _, _ in seen] == [0, 4, 7, 9]
    assert all(x.shape == (16, 3) and torch.equal(x, seen[0][1]) for _, x, _ in seen)


@pytest.mark.parametrize("step", [4, 9, 17])
def test_run_that_recomputes_with_anchors_resumes_bit_for_bit(step, tmp_path, monkeypatch):
    # So small a tolerance that where the anchors stand changes with the weights.
    monkeypatch.setattr("flowzoo.models._glow.DRIFT", 2e-7)
    splits = images()
    config = FitConfig(steps=20, batch_size=8, evaluate_every=5, checkpoint_every=3, lr=1e-2)
    flow, anchors = recomputing(splits), []
    expected = outcome(flow, fit(flow, splits, config, on_step=lambda _: anchors.append(str(flow.anchors))))
    assert len(set(anchors)) > 1, "the anchors never moved: nothing is tested"
    path = tmp_path / "state.safetensors"
    with pytest.raises(Killed):
        fit(recomputing(splits), splits, config, checkpoint=path, on_step=kill_at(step))
    again = recomputing(splits, seed=1) if path.exists() else recomputing(splits)
    assert outcome(again, fit(again, splits, config, checkpoint=path)) == expected


def test_run_in_another_memory_layout_resumes_bit_for_bit(tmp_path):
    splits = images()
    config = FitConfig(steps=12, batch_size=8, evaluate_every=5, checkpoint_every=3, lr=1e-2)

    def fresh_one(seed=0):
        x_map, context_map = splits.maps()
        shapes = splits.data.event_shape, splits.data.context_shape
        options = {"num_steps": 1, "hidden_features": 4, "channels_last": True}
        return build("cglow", *shapes, x_map=x_map, context_map=context_map, generator=generator(seed, "i"), **options)

    flow = fresh_one()
    expected = outcome(flow, fit(flow, splits, config))
    path = tmp_path / "state.safetensors"
    with pytest.raises(Killed):
        fit(fresh_one(), splits, config, checkpoint=path, on_step=kill_at(8))
    again = fresh_one(seed=1)
    assert outcome(again, fit(again, splits, config, checkpoint=path)) == expected


def test_exponential_rate_falls_by_its_factor_every_ten_steps_and_not_below_the_floor():
    config = FitConfig(steps=10_000, lr=1.0, schedule="exponential", decay=0.5, warmup=0.0, lr_floor=0.01)
    rates = [rate_at(config, step, 0.0, 1.0) for step in (0, 10, 20, 9_999)]
    assert rates == pytest.approx([1.0, 0.01 + 0.99 / 2, 0.01 + 0.99 / 4, 0.01])


def memorised():
    """Groups whose context says nothing, though a flow can tell the training groups apart by it."""
    groups = torch.arange(400) // 20
    source = generator(1, "memorised")
    x = 2 * torch.randn(20, 2, generator=source)[groups] + torch.randn(400, 2, generator=source)
    data = Data(x=x, context=torch.randn(20, 3, generator=source), context_index=groups, groups=groups)
    return Splits.make(data, fractions=(0.4, 0.5, 0.1))


def small(splits):
    x_map, context_map = splits.maps()
    maps = {"x_map": x_map, "context_map": context_map}
    return build("maf", (2,), (3,), num_steps=2, hidden_features=32, generator=generator(0, "init"), **maps)


def test_level_of_context_noise_is_the_one_with_the_best_validation(tmp_path):
    splits = memorised()
    options = {"steps": 150, "evaluate_every": 15, "batch_size": 64, "lr": 5e-3}
    nll = {}
    for level in (0.0, 1.0):
        flow = small(splits)
        nll[level] = fit(flow, splits, FitConfig(**options, context_noise=level), show=False).validation_nll
        alone = flow.state_dict()
    assert nll[1.0] < nll[0.0] - 0.1  # else there is nothing to choose
    flow = small(splits)
    state = tmp_path / "state.safetensors"
    both = FitConfig(**options, context_noise=(0.0, 1.0))
    chosen = fit(flow, splits, both, show=False, checkpoint=state)
    assert chosen.validation_nll == nll[1.0]
    assert "context_noise 1 chosen by validation NLL (0: " in chosen.reason
    assert all(torch.equal(value, alone[name]) for name, value in flow.state_dict().items())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["state.noise0.safetensors", "state.noise1.safetensors"]
    again = small(splits)
    steps = []
    assert fit(again, splits, both, show=False, checkpoint=state, on_step=steps.append).reason == chosen.reason
    assert steps == []  # both were over
    assert all(torch.equal(value, alone[name]) for name, value in again.state_dict().items())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"context_noise": -1}, "context_noise must be a number >= 0"),
        ({"context_noise": [0.1, 0.1]}, "or different ones"),
        ({"context_noise": []}, "context_noise must be"),
        ({"context_dropout": 1}, r"context_dropout must be in \[0, 1\)"),
        ({"decay": 0}, r"decay must be in \(0, 1\]"),
        ({"optimizer": "sgd"}, "train.optimizer"),
    ],
)
def test_option_that_cannot_be_is_refused(options, says):
    with pytest.raises(ConfigError, match=says):
        make(FitConfig, options, "train")


def test_validation_of_balanced_groups_takes_as_many_events_of_each():
    groups = torch.tensor([0] * 4000 + [1] * 4000 + [2] * 4000 + [3] * 60 + [4] * 60 + [5] * 60)
    data = Data(x=torch.randn(len(groups), 2), groups=groups, balanced=True)
    part = Splits.make(data, fractions=(0.2, 0.6, 0.2)).validation
    assert len(part) > 300
    x, index, weights = _choice(part, 300, seed=0)
    own = part.groups[[int((part.x == row).all(1).nonzero()[0, 0]) for row in x]]
    assert torch.bincount(own)[own.unique()].tolist() == [min(75, int((part.groups == g).sum())) for g in own.unique()]
    totals = torch.stack([weights[own == g].sum() for g in own.unique()])
    torch.testing.assert_close(totals, totals.mean().expand_as(totals))
    assert len(index) == len(x)


def test_time_is_shared_out_among_levels_of_noise():
    config = FitConfig(minutes=3.0, context_noise=(0.0, 1.0, 2.0))
    assert config.at_level(1) == FitConfig(minutes=1.0, context_noise=1.0)


# -- validations are told -------------------------------------------------------------------------------------------


def test_every_validation_is_told_and_none_twice_after_a_kill(data, tmp_path):
    config = FitConfig(steps=20, batch_size=16, evaluate_every=3, checkpoint_every=4)
    told = []

    def killing(step, nll):
        told.append((step, nll))
        if step == 9:
            raise Killed

    path = tmp_path / "state"
    with pytest.raises(Killed):
        fit(fresh(data), data, config, checkpoint=path, on_validation=killing)
    again = []
    result = fit(fresh(data), data, config, checkpoint=path, on_validation=lambda *row: again.append(row))
    history = [(row["step"], row["validation_nll"]) for row in result.history]
    assert [step for step, _ in told] == [0, 3, 6, 9]
    assert [step for step, _ in again] == [9, 12, 15, 18, 20]  # from the checkpoint of step 8 on
    assert told == history[:4]
    assert again == history[3:]


def test_validations_of_several_levels_of_noise_are_told_one_after_another(data):
    told = []
    config = FitConfig(steps=4, evaluate_every=2, context_noise=(0.0, 0.5), patience=0)
    fit(fresh(data), data, config, on_validation=lambda step, nll: told.append(step))
    assert told == [0, 2, 4, 5, 7, 9]


def test_validation_that_is_not_finite_is_not_told(data, monkeypatch):
    step = Stepper.step

    def poisoned(self):
        step(self)
        if self.count == 5:
            with torch.no_grad():
                self.descent.averages[0].fill_(math.nan)

    monkeypatch.setattr(Stepper, "step", poisoned)
    told = []
    config = FitConfig(steps=9, evaluate_every=3)
    assert fit(fresh(data), data, config, on_validation=lambda step, _: told.append(step)).status == "diverged"
    assert told == [0, 3]
