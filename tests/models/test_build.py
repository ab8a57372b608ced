"""``flowzoo.build``: names, options, and what it refuses."""

from __future__ import annotations

import subprocess
import sys

import pytest

import flowzoo
from flowzoo.config import ConfigError
from flowzoo.registry import UnknownName


def test_cnf_is_what_the_field_calls_galacticflow() -> None:
    flow = flowzoo.build("cnf", (2,), (1,), num_steps=1, hidden_features=8)
    assert flow.recipe is not None
    assert flow.recipe["model"] == "galacticflow"


@pytest.mark.parametrize(
    ("name", "options"),
    [("maf", {"num_steps": 0}), ("nsf", {"hidden_features": [16, 0]}), ("cglow", {"num_steps": -1})],
)
def test_a_count_below_one_is_refused(name: str, options: dict) -> None:
    with pytest.raises(ConfigError, match=r"counts must be at least 1; got"):
        flowzoo.build(name, (2,), **options)


def test_a_misspelt_option_names_the_right_one() -> None:
    with pytest.raises(ConfigError, match="maf has no option 'num_step': did you mean 'num_steps'"):
        flowzoo.build("maf", (2,), num_step=3)


def test_an_unknown_name_lists_the_zoo() -> None:
    with pytest.raises(UnknownName, match="known models are bpf, cglow"):
        flowzoo.build("transformer", (2,))


def test_text_options_are_coerced_as_from_the_command_line() -> None:
    flow = flowzoo.build("maf", (2,), num_steps="2", hidden_features="16")
    assert flow.recipe is not None
    unset = {"embed": None, "embed_features": 16, "context_image": None}
    assert flow.recipe["config"] == {**unset, "num_steps": 2, "hidden_features": 16, "activation": "relu"}


def test_importing_zuko_leaves_torchs_argument_checks_on() -> None:
    # in a process of its own: where someone else imported zuko first, its setting is left alone
    code = """
import flowzoo, torch
flowzoo.build("maf", (2,))
try:
    torch.distributions.Normal(0.0, -1.0)
except ValueError:
    print("checked")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "checked"
