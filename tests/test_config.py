"""Options into frozen dataclasses: text is coerced, a fault is one line that says what exists."""

import json
from dataclasses import dataclass
from typing import ClassVar, Literal

import pytest

from flowzoo.config import ConfigError, fields, make, to_dict
from flowzoo.registry import MODELS
from flowzoo.train import FitConfig


@dataclass(frozen=True)
class Options:
    label: ClassVar[str] = "not an option"

    num_steps: int = 4
    lr: float = 1e-3
    hidden_features: int | tuple[int, ...] = (64, 64)
    padding: Literal["zeros", "circular"] = "zeros"
    minutes: float | None = None
    verbose: bool = False

    def __post_init__(self):
        if self.num_steps < 1:
            raise ValueError("num_steps must be at least 1")


def test_class_variables_are_no_options():
    assert fields(Options) == ["num_steps", "lr", "hidden_features", "padding", "minutes", "verbose"]


def test_text_becomes_the_annotated_type():
    made = make(Options, {"num_steps": "8", "lr": "1e-3", "verbose": "true", "minutes": "0.5"}, "it")
    assert made == Options(num_steps=8, lr=1e-3, verbose=True, minutes=0.5)
    assert type(made.num_steps) is int


@pytest.mark.parametrize(("given", "expected"), [(32, 32), ("32", 32), ([32, 16], (32, 16)), ((8,), (8,))])
def test_widths_are_an_int_or_a_sequence(given, expected):
    assert make(Options, {"hidden_features": given}, "it").hidden_features == expected


def test_misspelt_option_suggests_the_nearest_and_lists_all():
    with pytest.raises(ConfigError) as caught:
        make(Options, {"num_step": 3}, "maf")
    assert str(caught.value) == (
        "maf has no option 'num_step': did you mean 'num_steps'? "
        "its options are num_steps, lr, hidden_features, padding, minutes, verbose"
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_steps": "eight"}, r"^maf\.num_steps: .*integer.* \(got 'eight'\)$"),
        ({"num_steps": 2.5}, r"^maf\.num_steps: .* \(got 2\.5\)$"),
        ({"padding": "mirror"}, r"^maf\.padding: .*'zeros' or 'circular' \(got 'mirror'\)$"),
        ({"num_steps": 0}, r"^maf: num_steps must be at least 1$"),
    ],
)
def test_value_that_does_not_fit_is_one_line(values, message):
    with pytest.raises(ConfigError, match=message) as caught:
        make(Options, values, "maf")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", MODELS.names())
def test_configs_of_all_models_survive_json(name):
    cls = MODELS.get(name)
    text = json.dumps(to_dict(cls()))
    assert make(cls, json.loads(text), name) == make(cls, {}, name)


def test_training_options_survive_json():
    config = FitConfig(lr=3e-4, minutes=1.5, schedule="plateau")
    assert make(FitConfig, json.loads(json.dumps(to_dict(config))), "train") == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ema": 1.0}, r"train: ema must be in \[0, 1\); got 1.0"),
        ({"batch_size": 0}, "train: batch_size must be at least 1; got 0"),
        ({"evaluate_every": 0}, "train: evaluate_every must be at least 1; got 0"),
        ({"lr": 0.0}, "train: steps must not be negative, lr and minutes must be positive"),
        ({"minutes": 0}, "train: steps must not be negative, lr and minutes must be positive"),
    ],
)
def test_training_options_out_of_range_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        make(FitConfig, values, "train")
