from collections.abc import Generator
from typing import Any

import pytest

from flowzoo.testing import NotApplicable, pretended_gpu


def _skipping() -> Generator[None, Any, Any]:
    try:
        return (yield)
    except NotApplicable as reason:  # no pretended GPU, on a machine that has a real one
        pytest.skip(str(reason))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None, Any, Any]:
    return (yield from _skipping())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, Any, Any]:
    return (yield from _skipping())


@pytest.fixture
def _every_check_applies() -> None:
    """Those that need a pretended GPU too."""
    with pretended_gpu():
        pass
