"""Every registered model passes the conformance suite: a model is tested by existing."""

from __future__ import annotations

import pytest

from flowzoo.registry import MODELS
from flowzoo.testing import CHECKS, NotApplicable, case_of, exempt, require_default_in_space
from flowzoo.train_config import FitConfig


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", MODELS.names())
def test_model_conforms(name: str, check: str) -> None:
    excused = exempt(name)
    if check in excused:
        pytest.skip(f"{name} declares: {excused[check]}")
    try:
        CHECKS[check](case_of(name))
    except NotApplicable as reason:
        pytest.skip(f"{name}: {reason}")


@pytest.mark.parametrize("name", MODELS.names())
def test_exemptions_name_checks_that_exist(name: str) -> None:
    assert set(exempt(name)) <= set(CHECKS)


def test_default_training_is_in_its_search_space() -> None:
    require_default_in_space(FitConfig)
