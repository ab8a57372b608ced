"""A study by one worker: what is tried, what counts, what fails, and that a kill does not show."""

from __future__ import annotations

import errno
import itertools
import math
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
import yaml
from optuna.exceptions import StorageInternalError

from flowzoo import FitConfig, models, train
from flowzoo.config import ConfigError
from flowzoo.harness import settings
from flowzoo.lease import take
from flowzoo.stepper import Stepper
from flowzoo.tune import StudyError, TuneConfig, worker
from flowzoo.tune.sampling import Pruner
from flowzoo.tune.trial import _Report

TRIALS = 5


class Killed(BaseException):
    """Nothing in the library catches it."""


def slow(value: Any) -> Any:
    return pytest.param(value, marks=pytest.mark.slow)


def fail_from(call: int, error: BaseException) -> Any:
    """A counter that raises at one call, and what it has counted."""
    count = [0]

    def tick() -> None:
        count[0] += 1
        if count[0] == call:
            raise error

    return tick


@pytest.fixture(scope="module")
def undisturbed(problem_in: Any, memory: Path) -> Any:
    problem = problem_in(memory / "undisturbed")
    return problem(trials=TRIALS, pruner="halving"), problem.trials()


# -- what is tried --------------------------------------------------------------------------------------------------


def test_trial_0_is_the_config_as_it_stands_and_the_best_is_never_worse(problem: Any) -> None:
    tuned = problem(trials=4)
    study = problem.study()
    first = study.trials[0]
    assert first.params == {
        "hidden_features": 128,
        "train.lr": problem.fit.lr,
        "train.batch_size": 64,
        "train.weight_decay": 0.0,
    }
    flow = problem.build(problem.model)
    alone = train.fit(flow, problem.splits, problem.fit, seed=0)
    assert first.value == -alone.validation_nll
    assert tuned.default_value == first.value
    assert tuned.value == max(t.value for t in study.trials) >= first.value
    assert tuned.counts == {"complete": 4, "pruned": 0, "failed": 0, "lost": 0}
    best = study.best_trial
    assert tuned.number == best.number > 0
    assert (tuned.fit.lr, tuned.model.hidden_features) == (best.params["train.lr"], best.params["hidden_features"])


@pytest.mark.slow
def test_best_config_trained_anew_gives_the_value_that_the_study_has(problem: Any) -> None:
    tuned = problem(trials=3)
    again = train.fit(problem.build(tuned.model), problem.splits, tuned.fit, seed=0)
    assert -again.validation_nll == tuned.value


def test_same_seed_gives_the_same_trials_and_another_one_others(problem: Any, undisturbed: Any) -> None:
    tuned, trials = undisturbed
    again = problem(trials=TRIALS, pruner="halving")
    assert problem.trials() == trials
    assert (again.model, again.fit, again.value) == (tuned.model, tuned.fit, tuned.value)
    problem("other", trials=3, seed=1)
    other = problem.trials("other")
    assert other[0][2] == trials[0][2]
    assert other[1][2] != trials[1][2]


def test_bad_trials_are_pruned_and_the_first_one_never(problem: Any, undisturbed: Any) -> None:
    states = [state for _, state, *_ in undisturbed[1]]
    assert states[0] == "COMPLETE"
    assert "PRUNED" in states
    # the config as it stands is by far the worst, and is finished all the same
    problem.fit = replace(problem.fit, lr=1e-4, batch_size=512)
    problem.given = {**problem.given, "given_train": ("steps", "batch_size")}
    for pruner in ("hyperband", "halving", "median"):
        tuned = problem(pruner, trials=2, pruner=pruner)
        first, second = problem.study(pruner).trials
        assert first.state.name == "COMPLETE"
        assert max(first.intermediate_values) == 12
        assert second.value > first.value
        assert tuned.number == 1


def test_pruned_trial_says_when_and_trained_less(undisturbed: Any) -> None:
    pruned = [t for t in undisturbed[1] if t[1] == "PRUNED"]
    for _, _, _, values, reported, reason in pruned:
        assert max(reported) < 12
        assert values == [reported[max(reported)]]
        assert reason == f"worse than others at step {max(reported)}"


def test_trial_at_its_end_is_complete_with_its_best_validation(problem: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pruner that is asked at the last step would throw away a trial that is trained, and was good before."""
    fit = train.fit

    def overfits(*args: Any, **options: Any) -> Any:
        second = "trial 1" in options["label"]
        for step, nll in ((3, 2.0), (6, 1.0 if second else 2.0), (12, 3.0 if second else 2.0)):
            options["on_validation"](step, nll)
        return replace(fit(*args, **{**options, "on_validation": None}), validation_nll=1.0 if second else 2.0)

    monkeypatch.setattr(train, "fit", overfits)
    monkeypatch.setattr(Pruner, "prune", lambda self, study, trial: trial.number > 0)
    problem("harsh", trials=2, pruner="median")
    assert problem.trials("harsh")[1][1::4] == ("PRUNED", "worse than others at step 3")
    monkeypatch.setattr(Pruner, "prune", lambda self, study, trial: trial.number > 0 and trial.last_step == 12)
    tuned = problem("late", trials=2, pruner="median")
    assert [t[1] for t in problem.trials("late")] == ["COMPLETE"] * 2
    assert (tuned.number, tuned.value) == (1, -1.0)


@pytest.mark.parametrize(
    "sampler", ["gp", "cmaes", "TPE", *(slow(name) for name in ("random", "qmc", "nsgaii", "nsgaiii"))]
)
def test_every_sampler_by_name(problem: Any, sampler: str) -> None:
    if sampler == "cmaes":
        try:
            import cmaes  # noqa: F401
        except ImportError:
            with pytest.raises(ConfigError, match=r"'cmaes' needs a package .* pip install cmaes$"):
                problem(sampler=sampler)
            return
    problem(trials=3, sampler=sampler)
    params = [t[2] for t in problem.trials()]
    assert params[0]["train.lr"] == problem.fit.lr
    assert len({p["train.lr"] for p in params}) == 3


def test_wrong_sampler_is_one_line_with_those_there_are(problem: Any) -> None:
    with pytest.raises(ConfigError, match=r"no 'tpx'; there are cmaes, gp, nsgaii, nsgaiii, qmc, random, tpe$"):
        problem(sampler="tpx")


def test_config_that_the_user_set_whole_is_one_trial(problem: Any) -> None:
    problem.given = {
        "given_model": ("num_steps", "hidden_features", "activation"),
        "given_train": ("lr", "batch_size", "weight_decay"),
    }
    tuned = problem(trials=9)
    assert tuned.searched == ()
    assert tuned.counts["complete"] == 1
    assert "nothing to search" in tuned.summary()
    assert tuned.model == problem.model


def test_model_without_parameters_has_nothing_to_tune(problem: Any) -> None:
    problem.model = models.configure("gaussian", {})
    problem.given = {}
    tuned = problem(trials=9)
    assert (tuned.searched, tuned.counts["complete"], tuned.fit) == ((), 1, problem.fit)
    assert math.isfinite(tuned.value)


@pytest.mark.slow
def test_training_is_left_alone_where_it_shall_be(problem: Any) -> None:
    tuned = problem(trials=3, training=False)
    assert tuned.searched == ("hidden_features",)
    assert tuned.fit == problem.fit


def test_budget_of_minutes_is_used_and_no_more(problem: Any) -> None:
    problem(trials=1)
    assert len(problem.trials()) == 1
    spent = problem.study().trials[0].user_attrs["seconds"]
    problem(minutes=(spent + 1e-3) / 60)  # what is left is less than a trial: one begins, and is ended
    assert [t[1] for t in problem.trials()] == ["COMPLETE"] * 2
    problem(minutes=(spent + 1e-3) / 60)
    assert len(problem.trials()) == 2


@pytest.mark.slow
def test_larger_budget_goes_on(problem: Any, undisturbed: Any) -> None:
    for trials in (3, 3, TRIALS):
        problem(trials=trials, pruner="halving")
        assert len(problem.trials()) == trials
    assert problem.trials() == undisturbed[1]


@pytest.mark.slow
def test_several_levels_of_noise_are_one_curve(problem: Any) -> None:
    problem.fit = replace(problem.fit, context_noise=(0.0, 0.1))
    problem(trials=2, pruner="hyperband")
    steps = sorted(problem.study().trials[0].intermediate_values)
    assert steps == [0, 3, 6, 9, 12, 13, 16, 19, 22, 25]


def test_found_config_is_a_config_file(problem: Any) -> None:
    tuned = problem(trials=3)
    path = problem.folder / "best.yaml"
    path.write_text(yaml.safe_dump({"data": "two_moons", **tuned.to_settings()}))
    read = settings.read(path, sections={"train": FitConfig})
    assert models.configure("maf", read.models["maf"]) == tuned.model
    assert set(read.train) == {"lr", "batch_size", "weight_decay", "steps"}
    assert read.train["lr"] == tuned.fit.lr
    assert "best.yaml" in str(path)


def test_option_that_is_asked_for_under_a_condition_is_in_the_found_config(
    problem: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def suggest(cls: Any, trial: Any) -> Any:
        features = trial.suggest_categorical("hidden_features", [128, 64])
        return cls(hidden_features=features, num_steps=trial.suggest_int("num_steps", 2, 3) if features == 64 else 1)

    def build(model: Any) -> Any:
        if problem.folder.joinpath("run", "study.db").exists() and model.hidden_features != 64:
            raise ValueError("only what is found by search is left")
        return problem.build(model)

    monkeypatch.setattr(type(problem.model), "suggest", classmethod(suggest))
    problem.given = {"given_model": ("activation",), "given_train": ("steps",)}
    tuned = problem(trials=8, build=build, training=False)
    assert tuned.model.num_steps in (2, 3)
    options = tuned.to_settings()["models"]["maf"]
    assert models.configure("maf", {**options, "activation": problem.model.activation}) == tuned.model


def test_trials_say_where_they_ran(problem: Any) -> None:
    seen: list[int] = []
    problem(trials=2, on_trial=lambda trial: seen.append(trial.number))
    assert seen == [0, 1]
    for trial in problem.study().trials:
        assert trial.user_attrs["device"] == "cpu"
        assert trial.user_attrs["seconds"] > 0
        assert trial.user_attrs["best_step"] in trial.intermediate_values
        assert trial.user_attrs["version"]


# -- what fails -----------------------------------------------------------------------------------------------------

FAILURES = {
    "out of memory": (torch.OutOfMemoryError("CUDA out of memory. Tried\nto"), "out of memory: CUDA out of memory"),
    "model": (RuntimeError("mat1 and mat2\nshapes"), "RuntimeError: mat1 and mat2 shapes"),
    "host memory": (MemoryError(), "out of memory: of the host"),
    "refusal": (ValueError("cannot take it"), "cannot take it"),
    "a file, not the disk": (FileNotFoundError(errno.ENOENT, "none"), "FileNotFoundError: [Errno 2] none"),
}


@pytest.mark.parametrize("what", [*list(FAILURES)[:2], *map(slow, list(FAILURES)[2:])])
def test_trial_that_fails_has_its_reason_and_the_study_goes_on(problem: Any, what: str) -> None:
    error, reason = FAILURES[what]
    tick = fail_from(3, error)  # the second trial; the first build is that of `search`

    def build(model: Any) -> Any:
        tick()
        return problem.build(model)

    tuned = problem(trials=3, build=build)
    assert [t[1] for t in problem.trials()] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert tuned.reasons.keys() == {1}
    assert tuned.reasons[1].startswith(reason)
    assert "\n" not in tuned.reasons[1]
    assert tuned.counts == {"complete": 2, "pruned": 0, "failed": 1, "lost": 0}
    assert not list((problem.folder / "run").glob("*.state*"))


@pytest.mark.parametrize("nll", [-math.inf, slow(math.inf), slow(math.nan)])
def test_value_that_is_not_finite_fails(problem: Any, monkeypatch: pytest.MonkeyPatch, nll: float) -> None:
    fit = train.fit

    def odd(*args: Any, **options: Any) -> Any:
        result = fit(*args, **options)
        return replace(result, validation_nll=nll) if "trial 1" in options["label"] else result

    monkeypatch.setattr(train, "fit", odd)
    tuned = problem(trials=3)
    assert [t[1] for t in problem.trials()] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert tuned.reasons == {1: f"its best validation NLL was {nll}"}
    assert math.isfinite(tuned.value)


def test_training_that_diverges_fails_whatever_it_reached(problem: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Stepper.step

    def poisoned(self: Stepper) -> None:
        step(self)
        if self.count == 5:
            with torch.no_grad():
                self.descent.parameters[0].fill_(math.nan)

    monkeypatch.setattr(Stepper, "step", poisoned)
    tuned = problem(trials=2)
    assert tuned.counts["failed"] == 2
    assert tuned.reasons[0].startswith("diverged: the loss was not finite at step 6")
    assert (tuned.value, tuned.number, tuned.model) == (None, None, problem.model)
    assert "no trial was completed (2 failed): diverged" in tuned.summary()


def test_full_disk_is_not_the_fault_of_the_model(problem: Any) -> None:
    tick = fail_from(3, OSError(errno.ENOSPC, "No space left on device"))

    def build(model: Any) -> Any:
        tick()
        return problem.build(model)

    with pytest.raises(OSError, match="No space left"):
        problem(trials=3, build=build)
    assert [t[1] for t in problem.trials()] == ["COMPLETE", "RUNNING"]
    problem(trials=3)
    assert [t[:2] for t in problem.trials()] == [(0, "COMPLETE"), (1, "COMPLETE"), (2, "COMPLETE")]


# -- a kill does not show -------------------------------------------------------------------------------------------


def patch_to_kill(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, call: int, after: bool = False) -> None:
    """Die in, or right after, one call of a method."""
    method, tick = getattr(owner, name), fail_from(call, Killed())

    def wrapped(*args: Any, **options: Any) -> Any:
        if not after:
            tick()
        result = method(*args, **options)
        if after:
            tick()
        return result

    monkeypatch.setattr(owner, name, wrapped)


RDB = optuna.storages._cached_storage._CachedStorage
MOMENTS = {
    "in the first trial": (Stepper, "step", 7, False),
    "in a later trial": (Stepper, "step", 33, False),
    "at its last step": (Stepper, "step", 24, True),
    "before the first parameter": (RDB, "set_trial_param", 9, False),
    "between two parameters": (RDB, "set_trial_param", 11, False),
    "right after a trial began": (RDB, "create_new_trial", 3, True),
    "after a validation was reported": (RDB, "set_trial_intermediate_value", 12, True),
    "after a rung was taken down": (RDB, "set_trial_system_attr", 5, True),
    "before the end is told": (RDB, "set_trial_state_values", 2, False),
    "after the end is told": (RDB, "set_trial_state_values", 2, True),
    "before the study is described": (RDB, "set_study_user_attr", 2, False),
}


QUICK = ("in a later trial", "after a rung was taken down", "before the end is told")


@pytest.mark.parametrize("moment", [m if m in QUICK else slow(m) for m in MOMENTS])
def test_study_that_was_killed_ends_with_the_very_same_trials(
    problem: Any, undisturbed: Any, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    with monkeypatch.context() as patch:
        patch_to_kill(patch, *MOMENTS[moment])
        with pytest.raises(Killed):
            problem(trials=TRIALS, pruner="halving")
    problem(trials=TRIALS, pruner="halving")
    assert problem.trials() == undisturbed[1]
    assert not list((problem.folder / "run").glob("*.state*"))
    assert not list((problem.folder / "run").glob("*/*.lease"))


@pytest.mark.slow
def test_interrupted_trial_goes_on_from_its_checkpoint(problem: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    step = Stepper.step

    def counted(self: Stepper) -> None:
        step(self)
        steps.append(self.count)
        if len(steps) == 10:
            raise KeyboardInterrupt

    monkeypatch.setattr(Stepper, "step", counted)
    with pytest.raises(KeyboardInterrupt):
        problem(trials=1)
    assert [t[1] for t in problem.trials()] == ["RUNNING"]
    problem(trials=1)
    assert steps == [*range(1, 11), 9, 10, 11, 12]


@pytest.mark.slow
def test_damaged_state_of_a_trial_has_no_say(problem: Any, undisturbed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch_to_kill(patch, Stepper, "step", 10)
        with pytest.raises(Killed):
            problem(trials=TRIALS, pruner="halving")
    state = problem.folder / "run" / "two_moons.maf.0.state.safetensors"
    state.write_bytes(state.read_bytes()[:-7])
    problem(trials=TRIALS, pruner="halving")
    assert problem.trials() == undisturbed[1]


@pytest.mark.slow
def test_trial_that_kills_its_worker_again_and_again_fails_in_the_end(
    problem: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "ATTEMPTS", 3)

    def deadly(model: Any) -> Any:
        if model.hidden_features != (128, 128):
            raise Killed
        return problem.build(model)

    for _ in range(4):
        with pytest.raises(Killed):
            problem(trials=2, build=deadly)
    tuned = problem(trials=2, build=deadly)
    assert [t[1] for t in problem.trials()] == ["COMPLETE", "FAIL"]
    assert tuned.reasons[1].startswith("its worker died 4 times without a new validation")


# -- others ---------------------------------------------------------------------------------------------------------


def test_study_of_something_else_is_refused_with_both_hashes(problem: Any) -> None:
    problem(trials=1)
    known = problem.study().user_attrs["flowzoo.hash"]
    for change, what in (
        (lambda: problem(trials=1, seed=1), "seeds"),
        (lambda: problem(trials=1, depends_on={"file": "edited"}), "depends_on"),
        (lambda: problem(trials=1, training=False), "space"),
    ):
        with pytest.raises(StudyError, match=rf"has hash {known}, this command \w{{16}} \({what} changed\)"):
            change()
    problem.fit = replace(problem.fit, clip=1.0)
    with pytest.raises(StudyError, match=r"\(train changed\)"):
        problem(trials=1)
    assert len(problem.trials()) == 1


def test_study_that_is_not_ours_is_refused(problem: Any) -> None:
    (problem.folder / "run").mkdir()
    study = optuna.create_study(study_name="two_moons.maf", storage=f"sqlite:///{problem.folder}/run/study.db")
    study.enqueue_trial({"x": 1})
    with pytest.raises(StudyError, match=r"'two_moons.maf' that is not flowzoo's; give another --study"):
        problem(trials=1)


def test_trial_that_another_has_failed_meanwhile_is_dropped(problem: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Stepper.step

    def stolen(self: Stepper) -> None:
        step(self)
        if self.count == 2 and len((study := problem.study()).trials) == 2:
            study.tell(1, state=optuna.trial.TrialState.FAIL)

    monkeypatch.setattr(Stepper, "step", stolen)
    tuned = problem(trials=3)
    assert [t[1] for t in problem.trials()] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert tuned.counts == {"complete": 3, "pruned": 0, "failed": 0, "lost": 1}
    assert not list((problem.folder / "run").glob("*.state*"))


def test_trial_of_a_worker_that_lives_is_waited_for_and_taken_over_when_it_dies(
    problem: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch_to_kill(patch, Stepper, "step", 15)
        with pytest.raises(Killed):
            problem(trials=2)
    lease = take(problem.folder / "run" / "study.db.leases" / "two_moons.maf.1.lease")
    assert lease is not None
    said: list[str] = []

    def say(line: str, file: Any) -> None:
        said.append(line)
        assert [t[1] for t in problem.trials()] == ["COMPLETE", "RUNNING"]
        lease.release()

    monkeypatch.setattr(worker, "print", say, raising=False)
    problem(trials=2)
    assert said == ["two_moons.maf: waiting for a trial of another worker"]
    assert [t[:2] for t in problem.trials()] == [(0, "COMPLETE"), (1, "COMPLETE")]


def test_trial_of_a_journal_that_came_without_its_leases_is_taken_over_when_it_stands_still(
    problem: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"journal:{problem.folder}/study.log"
    with monkeypatch.context() as patch:
        patch_to_kill(patch, Stepper, "step", 15)
        with pytest.raises(Killed):
            problem(trials=2, storage=url)
    shutil.rmtree(problem.folder / "study.log.leases")
    monkeypatch.setattr(worker, "STILL", 0.1)
    began = time.monotonic()
    tuned = problem(trials=2, storage=url, heartbeat=10)
    assert time.monotonic() - began > 1
    assert tuned.counts == {"complete": 2, "pruned": 0, "failed": 0, "lost": 0}


def test_storage_that_is_gone_is_not_the_fault_of_the_model(problem: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*args: Any) -> None:
        raise StorageInternalError("An exception is raised") from ConnectionError("server closed the\nconnection")

    with monkeypatch.context() as patch:
        patch.setattr(RDB, "set_trial_intermediate_value", gone)
        with pytest.raises(StudyError, match=r"does not answer: ConnectionError: server closed the connection$"):
            problem(trials=2)
    problem(trials=2)
    assert [t[:2] for t in problem.trials()] == [(0, "COMPLETE"), (1, "COMPLETE")]


def test_trial_whose_lease_was_lost_is_left_to_who_has_it(problem: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = itertools.count(1)
    monkeypatch.setattr(_Report, "__call__", lost_at(7, _Report.__call__, calls))
    told: list[int] = []
    problem(trials=2, on_trial=lambda trial: told.append(trial.number))
    assert next(calls) > 7
    assert told == [0, 1]  # dropped once, and then ours again
    assert [t[:2] for t in problem.trials()] == [(0, "COMPLETE"), (1, "COMPLETE")]


def lost_at(call: int, method: Any, calls: Any) -> Any:
    def report(self: Any, step: int, nll: float) -> None:
        if next(calls) == call:
            self.lease._lost = True
            self.lease.path.unlink()
        method(self, step, nll)

    return report


def test_trial_that_was_asked_for_beyond_the_budget_does_not_count(
    problem: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    used, calls = worker.Worker._is_used, itertools.count(1)
    # Asked for the fifth time, after two trials, it sees what was there before another one began the second of them.
    monkeypatch.setattr(worker.Worker, "_is_used", lambda self, trials: next(calls) != 5 and used(self, trials))
    tuned = problem(trials=2)
    assert [(t[1], t[5]) for t in problem.trials()] == [("COMPLETE", None)] * 2 + [("FAIL", worker.BEYOND)]
    assert tuned.counts == {"complete": 2, "pruned": 0, "failed": 0, "lost": 0}
    problem(trials=3)
    assert [t[1] for t in problem.trials()] == ["COMPLETE", "COMPLETE", "FAIL", "COMPLETE"]


@pytest.mark.parametrize("state", ["RUNNING", "WAITING"])
def test_trial_beyond_the_budget_that_a_dead_worker_left_does_not_count(problem: Any, state: str) -> None:
    problem(trials=2)
    home = problem.study().trials[0].user_attrs["home"]
    problem.study().add_trial(
        optuna.create_trial(state=optuna.trial.TrialState[state], user_attrs={"home": home}, system_attrs={})
    )
    tuned = problem(trials=2)
    assert [(t[1], t[5]) for t in problem.trials()] == [("COMPLETE", None)] * 2 + [("FAIL", worker.BEYOND)]
    assert tuned.counts == {"complete": 2, "pruned": 0, "failed": 0, "lost": 0}


def test_trial_lost_right_before_its_end_was_told_counts_once(
    problem: Any, undisturbed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pruned = next(t for t in undisturbed[1] if t[1] == "PRUNED")
    with monkeypatch.context() as patch:
        patch_to_kill(patch, RDB, "set_trial_state_values", pruned[0] + 1)
        with pytest.raises(Killed):
            problem(trials=TRIALS, pruner="halving")
    study = problem.study()
    assert problem.trials()[-1][1::4] == ("RUNNING", pruned[5]), "the reason is there, the end was not told"
    study.tell(pruned[0], state=optuna.trial.TrialState.FAIL)  # as a storage does that lost sight of it
    with pytest.warns(optuna.exceptions.ExperimentalWarning):
        again = optuna.storages.RetryHeartbeatStaleTrialCallback()
    again(study, study.trials[pruned[0]])
    tuned = problem(trials=TRIALS, pruner="halving")
    assert tuned.counts["lost"] == 1
    assert sum(tuned.counts.values()) == TRIALS + 1
    assert tuned.reasons == {}
    found = problem.trials()[pruned[0] + 1]
    assert (found[2], found[4]) == (pruned[2], pruned[4]), "the same parameters, and the same validations"


def test_study_can_have_a_prefix_and_no_path(problem: Any) -> None:
    assert problem(trials=1, study="mine").study == "mine.two_moons.maf"
    for name in ("../x", "/x", "a..b", "a/b", "", "a\0b", "a b", ".hidden"):
        with pytest.raises(ValueError, match="study must be letters"):
            TuneConfig(study=name)


@pytest.mark.parametrize(
    "option", [{"trials": 0}, {"minutes": 0.0}, {"minutes": math.nan}, {"heartbeat": 0}, {"storage": ""}]
)
def test_option_that_cannot_be_is_refused(option: Any) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(option))} must be"):
        TuneConfig(**option)
