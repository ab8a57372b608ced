from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from flowzoo import FitConfig
from flowzoo.config import ConfigError
from flowzoo.models import configure
from flowzoo.registry import MODELS, MissingDependency
from flowzoo.tune import Space
from flowzoo.tune.space import within


def drawn(space: Space, **options: Any) -> tuple[Any, optuna.trial.Trial]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=3))
    trial = study.ask()
    return space.drawn(trial, **options), trial


def test_what_the_user_set_is_neither_searched_nor_registered() -> None:
    model = configure("maf", {"num_steps": 7, "activation": "silu"})
    fit = FitConfig(lr=0.5, steps=3)
    space = Space(model, fit, frozenset({"num_steps", "activation"}), frozenset({"lr", "steps"}))
    assert set(space.asked) == {"hidden_features", "train.batch_size", "train.weight_decay"}
    (got, training), trial = drawn(space)
    assert set(trial.params) == set(space.asked)
    assert (got.num_steps, got.activation, training.lr, training.steps) == (7, "silu", 0.5, 3)
    assert got.hidden_features == trial.params["hidden_features"]
    assert training.batch_size == trial.params["train.batch_size"]


def test_options_that_suggest_does_not_know_keep_the_present_value() -> None:
    space = Space(configure("nsf", {"embed": None}), FitConfig(clip=1.5, ema=0.0, evaluate_every=7))
    (_, training), _ = drawn(space)
    assert (training.clip, training.ema, training.evaluate_every) == (1.5, 0.0, 7)


def test_first_trial_is_the_config_to_the_letter_and_registers_it() -> None:
    space = Space(MODELS.get("maf")(), FitConfig())
    study = optuna.create_study()
    study.enqueue_trial(dict(space.present))
    trial = study.ask()
    assert space.drawn(trial, as_it_stands=True) == (space.model, space.fit)
    assert trial.params["hidden_features"] == 128  # which is (128, 128)
    assert trial.params["train.lr"] == FitConfig().lr
    assert set(trial.params) == set(space.asked)


def test_present_value_outside_of_the_space_is_used_all_the_same_and_not_registered() -> None:
    space = Space(configure("maf", {"hidden_features": [3, 5]}), FitConfig(lr=0.5))
    assert not {"hidden_features", "train.lr"} & set(space.present)
    assert {"hidden_features", "train.lr"} <= set(space.asked)
    (got, training), trial = drawn(space, as_it_stands=True)
    assert (got.hidden_features, training.lr) == ((3, 5), 0.5)
    assert "train.lr" not in trial.params


def test_parameters_give_the_configs_of_their_trial_again() -> None:
    space = Space(MODELS.get("sospf")(), FitConfig())
    configs, trial = drawn(space)
    assert configs != (space.model, space.fit)
    assert space.of_params(trial.params) == configs


def test_training_is_searched_only_if_asked() -> None:
    space = Space(MODELS.get("maf")(), FitConfig(), training=False)
    assert not [name for name in space.asked if name.startswith("train.")]
    assert drawn(space)[0][1] == FitConfig()


def test_space_that_asks_for_what_is_no_option_is_refused() -> None:
    @dataclass(frozen=True)
    class Odd:
        width: int = 3

        @classmethod
        def suggest(cls, trial: Any) -> Odd:
            return cls(width=2 ** trial.suggest_int("log_width", 1, 4))

    with pytest.raises(ConfigError, match=r"Odd.suggest asks for 'log_width', which is none of its options: width"):
        Space(Odd(), FitConfig())  # type: ignore[arg-type]


def test_config_without_suggest_has_nothing_to_search() -> None:
    @dataclass(frozen=True)
    class Plain:
        width: int = 3

    assert not Space(Plain(), FitConfig(), training=False).asked  # type: ignore[arg-type]


@pytest.mark.parametrize("name", MODELS.names())
def test_default_of_every_model_lies_in_its_space(name: str) -> None:
    try:
        space = Space(MODELS.get(name)(), FitConfig())
    except MissingDependency as error:
        pytest.skip(str(error))
    assert set(space.present) == set(space.asked)


@pytest.mark.parametrize(
    ("distribution", "value", "expected"),
    [
        (IntDistribution(2, 10), 10, (10,)),
        (IntDistribution(2, 10), 11, None),
        (IntDistribution(2, 10, step=2), 5, None),
        (IntDistribution(2, 10, step=2), 6, (6,)),
        (IntDistribution(0, 10), True, None),
        (FloatDistribution(1e-4, 1e-2, log=True), 1e-2, (1e-2,)),
        (FloatDistribution(1e-4, 1e-2, log=True), 2e-2, None),
        (FloatDistribution(1.0, 3.0), None, None),
        (CategoricalDistribution((64, 128)), (128, 128), (128,)),
        (CategoricalDistribution((64, 128)), (128, 64), None),
        (CategoricalDistribution((64, 128)), (128, 128, 128), None),
        (CategoricalDistribution((0, 1)), False, None),
        (CategoricalDistribution((True, False)), False, (False,)),
        (CategoricalDistribution((None, "a")), None, (None,)),
    ],
)
def test_value_lies_within(distribution: Any, value: Any, expected: Any) -> None:
    assert within(distribution, value) == expected


def test_a_space_around_another_config_is_another_one() -> None:
    space = Space(MODELS.get("maf")(), FitConfig())
    assert replace(space, fit=FitConfig(lr=1e-3)).present["train.lr"] == 1e-3
