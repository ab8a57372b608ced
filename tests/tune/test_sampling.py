"""Samplers and pruners by name: what they need of Optuna, whatever its version."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from flowzoo.tune.sampling import SAMPLERS, Pruner, Sampler

# -- sampling -------------------------------------------------------------------------------------------------------


def params(sampler: str, seed: int, trials: int = 9, leave_out: str = "") -> list[dict[str, Any]]:
    """What a study tries; ``leave_out`` names what its first trial does not have."""
    present = {"x": 0.5, "n": 3, "kind": "a"}
    study = optuna.create_study(direction="maximize", sampler=Sampler(sampler, seed, present))
    for number in range(trials):
        trial, total = study.ask(), 0.0
        if number or leave_out != "x":
            total += trial.suggest_float("x", 0.0, 1.0)
        total += trial.suggest_int("n", 1, 9) + len(trial.suggest_categorical("kind", ["a", "bb", "ccc", "dddd"]))
        study.tell(trial, total)
    return [trial.params for trial in study.trials]


@pytest.fixture(params=SAMPLERS)
def sampler(request: pytest.FixtureRequest) -> str:
    if request.param == "cmaes":
        pytest.importorskip("cmaes")
    return str(request.param)


def test_every_sampler_heeds_the_seed_in_every_parameter(sampler: str) -> None:
    one, other = params(sampler, 0), params(sampler, 1)
    assert one == params(sampler, 0)
    assert one[0] == other[0] == {"x": 0.5, "n": 3, "kind": "a"}
    for name in one[0]:
        assert [p[name] for p in one[1:]] != [p[name] for p in other[1:]]
        assert len({p[name] for p in one[1:]}) > 1


def test_low_discrepancy_sequence_covers_each_part_once_and_begins_in_no_corner() -> None:
    found = params("qmc", 3, trials=17)[1:]
    assert sorted(int(16 * p["x"]) for p in found) == list(range(16))
    assert (found[0]["x"], found[0]["n"]) != (0.0, 1)


def test_what_the_low_discrepancy_sequence_leaves_out_differs_between_trials() -> None:
    found = params("qmc", 3, leave_out="x")[1:]
    assert len({p["x"] for p in found}) == len(found)


@pytest.mark.parametrize("name", ["gp", "qmc", "tpe"])
def test_parameter_that_the_first_trial_lacks_is_searched_without_a_warning(
    name: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optuna.logging.get_logger("optuna"), "propagate", True)
    found = params(name, 0, trials=12, leave_out="x")
    assert not caplog.records
    assert "x" not in found[0]
    assert all("x" in p for p in found[1:])


def test_tpe_draws_together_what_the_first_trial_lacks_too() -> None:
    study = optuna.create_study(sampler=Sampler("tpe", 0, {}))
    for _ in range(8):
        trial = study.ask()
        value = trial.suggest_float("x", 0.0, 1.0) if trial.number else 0.0
        study.tell(trial, value + trial.suggest_float("y", 0.0, 1.0))
    assert set(study.ask().relative_params) == {"x", "y"}


# -- pruning --------------------------------------------------------------------------------------------------------


def test_verdict_that_a_kill_cut_off_is_given_again() -> None:
    study = optuna.create_study(direction="maximize", pruner=Pruner("halving", 90, 10))
    for value in (3.0, 2.0, 1.0):
        trial = study.ask()
        trial.report(value, 10)
        assert trial.should_prune() == (trial.number > 0)
    assert study.trials[2].system_attrs  # the rung is taken down
    assert trial.should_prune()  # as the one asks who goes on with it
    trial.report(1.5, 20)
    assert not trial.should_prune()  # passed, as Optuna has it


def test_no_trial_is_pruned_before_its_time_nor_the_first_one_ever() -> None:
    for name in ("hyperband", "halving", "median"):
        study = optuna.create_study(direction="maximize", pruner=Pruner(name, 900, 10))
        for number in range(12):
            trial = study.ask()
            for step in (0, 50, 99):
                trial.report(-float(number), step)
                assert not trial.should_prune()
            study.tell(trial, -float(number))
    for name in ("hyperband", "halving", "median"):
        study = optuna.create_study(direction="maximize", pruner=Pruner(name, 900, 10))
        trials = [study.ask() for _ in range(12)]
        for trial in trials[::-1]:
            trial.report(float(trial.number), 899)
        study.tell(trials[-1], 11.0)
        assert not trials[0].should_prune()


def test_hyperband_ends_bad_trials_and_lets_the_sampler_see_all() -> None:
    study = optuna.create_study(direction="maximize", study_name="s", pruner=Pruner("hyperband", 90, 1))
    ended = 0
    for number in range(30):
        trial = study.ask()
        for step in range(0, 91, 10):
            trial.report(-float(number), step)
            if trial.should_prune():
                ended += 1
                study.tell(trial, state=TrialState.PRUNED)
                break
        else:
            study.tell(trial, -float(number))
    assert 10 < ended < 30
    assert optuna.pruners._filter_study(study, study.trials[5]) is study
