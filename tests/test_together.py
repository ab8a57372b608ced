"""Several flows trained at once: each as it would come out alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from flowzoo import FitConfig, checkpoint, data, fit, models, preempt
from flowzoo.data import Splits
from flowzoo.flow import ConditionalFlow
from flowzoo.joint import Joint
from flowzoo.seeding import generator
from flowzoo.stepper import Stepper
from flowzoo.train import FitResult, NotTogether, fit_together

SMALL = {"maf": {"num_steps": 2}, "nsf": {"num_steps": 2}, "galacticflow": {"num_steps": 3}}
SMALL |= {"cglow": {"num_steps": 2, "hidden_features": 16}}
CONFIG = FitConfig(steps=40, evaluate_every=10, checkpoint_every=15, batch_size=64)
SEEDS = (3, 4, 5)


@pytest.fixture(scope="module")
def splits() -> Splits:
    return Splits.make(data.configure("two_moons", {"num_events": 400}).load())


@pytest.fixture(scope="module")
def digits() -> Splits:
    return Splits.make(data.configure("digits", {}).load())


def build(splits: Splits, name: str, seed: int) -> ConditionalFlow:
    model, shape = models.configure(name, SMALL.get(name, {})), splits.data.event_shape
    return models.build_from(model, shape, splits.data.context_shape, *splits.maps(), generator(seed, "init"))


def alone(splits: Splits, name: str, config: FitConfig = CONFIG) -> tuple[list[ConditionalFlow], list[FitResult]]:
    flows = [build(splits, name, seed) for seed in SEEDS]
    return flows, [fit(flow, splits, config, seed=seed) for flow, seed in zip(flows, SEEDS, strict=True)]


def together(splits: Splits, name: str, config: FitConfig = CONFIG) -> tuple[list[ConditionalFlow], list[FitResult]]:
    flows = [build(splits, name, seed) for seed in SEEDS]
    return flows, fit_together(flows, splits, config, seeds=SEEDS)


def require_alike(flows: list[ConditionalFlow], others: list[ConditionalFlow]) -> None:
    """The same steps up to rounding, which is that of products of many matrices where alone it is of one."""
    for a, b in zip(flows, others, strict=True):
        for p, q in zip(a.parameters(), b.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", ["maf", "nsf", "sospf", "nice", "realnvp", "cglow"])
def test_each_comes_out_as_alone(splits: Splits, digits: Splits, name: str) -> None:
    used = digits if name == "cglow" else splits
    _, expected = alone(used, name)
    _, found = together(used, name)
    for one, other in zip(expected, found, strict=True):
        assert (one.status, one.steps, one.best_step) == (other.status, other.steps, other.best_step)
        assert other.validation_nll == pytest.approx(one.validation_nll, abs=0.01)
        assert [row["step"] for row in one.history] == [row["step"] for row in other.history]
        assert other.together == len(SEEDS)
    assert len({round(result.validation_nll, 6) for result in found}) == len(SEEDS)


def test_gradients_are_those_of_each_alone_up_to_rounding(splits: Splits) -> None:
    # Of one number a linear map is rounded otherwise; a training makes more of it with every step.
    steppers, joint = (
        [Stepper(build(splits, "galacticflow", i), splits.train, CONFIG, i) for i in SEEDS] for _ in "ab"
    )
    for stepper in steppers:
        stepper.step()
    Joint(joint).step()
    for one, other in zip(steppers, joint, strict=True):
        torch.testing.assert_close(other.descent.loss_sum, one.descent.loss_sum, rtol=1e-5, atol=1e-5)
        for p, q in zip(one.descent.parameters, other.descent.parameters, strict=True):
            assert p.grad is not None
            torch.testing.assert_close(q.grad, p.grad, rtol=1e-4, atol=1e-5 * float(p.grad.abs().max()))


@pytest.mark.parametrize("name", ["maf", "nsf", "sospf", "bpf", "realnvp"])
def test_weights_are_those_of_each_alone_and_every_flow_has_tensors_of_its_own(
    splits: Splits, tmp_path: Path, name: str
) -> None:
    expected, found = alone(splits, name)[0], together(splits, name)[0]
    require_alike(found, expected)
    for flow in found:
        assert all(p.untyped_storage().nbytes() == p.numel() * p.element_size() for p in flow.parameters())
    checkpoint.save(found[0], tmp_path / "flow.safetensors")
    again = checkpoint.load(tmp_path / "flow.safetensors")
    assert all(torch.equal(p, q) for p, q in zip(again.parameters(), found[0].parameters(), strict=True))


def test_who_has_learnt_enough_leaves_and_the_others_go_on(splits: Splits) -> None:
    config = FitConfig(steps=400, evaluate_every=5, patience=2, batch_size=64, lr=5e-3)
    expected, found = (way(splits, "maf", config)[1] for way in (alone, together))
    assert len({result.steps for result in found}) > 1
    for one, other in zip(expected, found, strict=True):
        assert other.reason.endswith("no better validation in 2 evaluations")
        assert other.validation_nll == pytest.approx(one.validation_nll, abs=0.01)


def test_one_that_diverges_costs_the_others_nothing(splits: Splits) -> None:
    expected, flows = alone(splits, "maf")[0], [build(splits, "maf", seed) for seed in SEEDS]
    with torch.no_grad():
        next(flows[1].parameters()).fill_(torch.nan)
    found = fit_together(flows, splits, CONFIG, seeds=SEEDS)
    assert [result.status for result in found] == ["ok", "diverged", "ok"]
    assert found[1].reason == "the loss was not finite at step 1"
    require_alike([flows[0], flows[2]], [expected[0], expected[2]])


class Killed(BaseException):
    """Nothing in the library catches it."""


@pytest.mark.parametrize("after", [7, 22])
def test_training_that_was_killed_goes_on_together_or_alone(
    splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    expected, paths = alone(splits, "maf")[0], [tmp_path / f"{seed}.state.safetensors" for seed in SEEDS]
    step, taken = Joint.step, []

    def killed(self: Joint) -> None:
        taken.append(step(self))
        if len(taken) == after:
            raise Killed

    flows = [build(splits, "maf", seed) for seed in SEEDS]
    with monkeypatch.context() as patch:
        patch.setattr(Joint, "step", killed)
        with pytest.raises(Killed):
            fit_together(flows, splits, CONFIG, seeds=SEEDS, checkpoints=paths)
    assert [path.exists() for path in paths] == [after > 15] * len(SEEDS)
    first = build(splits, "maf", SEEDS[0])
    fit(first, splits, CONFIG, seed=SEEDS[0], checkpoint=paths[0])
    require_alike([first], expected[:1])
    flows = [build(splits, "maf", seed) for seed in SEEDS]
    results = fit_together(flows, splits, CONFIG, seeds=SEEDS, checkpoints=paths)  # of which one is over
    require_alike(flows, expected)
    assert [result.steps for result in results] == [CONFIG.steps] * len(SEEDS)


def test_process_that_shall_end_leaves_a_checkpoint_of_each(
    splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, paths = alone(splits, "maf")[0], [tmp_path / f"{seed}.state.safetensors" for seed in SEEDS]
    step, taken = Joint.step, []

    def asked(self: Joint) -> None:
        taken.append(step(self))
        if len(taken) == 7:
            preempt.ask()

    flows = [build(splits, "maf", seed) for seed in SEEDS]
    try:
        with monkeypatch.context() as patch:
            patch.setattr(Joint, "step", asked)
            with pytest.raises(preempt.Preempted):
                fit_together(flows, splits, CONFIG, seeds=SEEDS, checkpoints=paths)
    finally:
        preempt.forget()
    assert len(taken) == 7
    assert all(path.exists() for path in paths)
    flows = [build(splits, "maf", seed) for seed in SEEDS]
    fit_together(flows, splits, CONFIG, seeds=SEEDS, checkpoints=paths)
    require_alike(flows, expected)


# -- what cannot be


@pytest.mark.parametrize(
    ("names", "options", "says"),
    [
        (("gaussian", "gaussian"), {}, "there is nothing to train"),
        (("maf", "nice"), {}, "they are of different architectures"),
        (("maf", "maf"), {"context_noise": (0.0, 0.1)}, "several levels of context_noise are tried one after another"),
        (("maf", "maf"), {"engine": "compile"}, "the engine compile is for one flow"),
        (("ffjord", "ffjord"), {}, "Error: "),
        (("gf", "gf"), {}, "vmap would go through .*special_log_ndtr one by one"),
    ],
)
def test_what_cannot_be_trained_at_once_says_why(
    splits: Splits, names: tuple[str, str], options: dict[str, Any], says: str
) -> None:
    flows = [build(splits, name, seed) for seed, name in enumerate(names)]
    with pytest.raises(NotTogether, match=says) as caught:
        fit_together(flows, splits, replace(CONFIG, **options), seeds=(0, 1))
    assert "\n" not in str(caught.value)


def test_step_that_fails_has_been_taken_by_nobody(splits: Splits) -> None:
    flows = [build(splits, "ffjord", i) for i in (0, 1)]
    steppers = [Stepper(flow, splits.train, CONFIG, i) for i, flow in enumerate(flows)]
    before = [[p.clone() for p in flow.parameters()] for flow in flows]
    joint = Joint(steppers)
    with pytest.raises(NotTogether):
        joint.step()
    assert [stepper.count for stepper in steppers] == [0, 0]
    after = [list(flow.parameters()) for flow in flows]
    assert all(torch.equal(p, q) for a, b in zip(before, after, strict=True) for p, q in zip(a, b, strict=True))


# -- on a GPU; on a pretended one: tests/test_on_a_gpu.py


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["maf", "nsf", "sospf", "galacticflow"])
def test_steps_of_a_graph_are_those_of_the_flows(splits: Splits, name: str) -> None:
    there = Splits.make(splits.data, device="cuda")
    made = {}
    for engine in ("eager", "auto"):
        config = replace(CONFIG, engine=engine)
        made[engine] = Joint([Stepper(build(there, name, i).cuda(), there.train, config, i) for i in SEEDS])
        for _ in range(20):
            made[engine].step()
    assert made["auto"].words == "graph"
    for one, other in zip(made["eager"].steppers, made["auto"].steppers, strict=True):
        for p, q in zip(one.descent.parameters, other.descent.parameters, strict=True):
            torch.testing.assert_close(q, p, rtol=1e-4, atol=1e-5)
