"""What the suites share: checks by name, exemptions, and how numbers are compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch import Tensor

C = TypeVar("C")


class NotApplicable(Exception):
    """A check declines an entry that it has nothing to say of, with the reason; it is neither passed nor failed."""


def named(namespace: Mapping[str, Any]) -> dict[str, Callable[[Any], None]]:
    """The checks of a module by name, without the ``check_`` that their functions begin with, in their order."""
    found = {name.removeprefix("check_"): value for name, value in namespace.items() if name.startswith("check_")}
    return {name: value for name, value in found.items() if callable(value)}


def exemptions(cls: type) -> dict[str, str]:
    """The checks that an entry declares it cannot pass, with the reasons: its class attribute ``exempt``."""
    return dict(getattr(cls, "exempt", {}))


def run(checks: Mapping[str, Callable[[C], None]], case: C, name: str, excused: Mapping[str, str]) -> dict[str, str]:
    """Run every check that is not excused.

    Returns:
        The checks that say nothing of the case, because they are excused or do not apply, with the reasons.

    Raises:
        AssertionError: with the check and the figure that failed.
        ValueError: if a check is excused that does not exist.
    """
    reasons = dict(excused)
    unknown = set(reasons) - set(checks)
    if unknown:
        raise ValueError(f"{name} is exempt from unknown checks {sorted(unknown)}; known are {', '.join(checks)}")
    for check, function in checks.items():
        if check in reasons:
            continue
        try:
            function(case)
        except NotApplicable as reason:
            reasons[check] = str(reason)
        except Exception as error:
            error.add_note(f"in the check {check} of {name}")
            raise
    return reasons


def close(found: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    """Largest error, relative to 1 + |expected|, within the tolerance."""
    difference = (found - expected).abs() / (1 + expected.abs())
    worst = float(difference.max())
    if not worst <= tolerance:
        raise AssertionError(f"{what}: off by {worst:.2e}, allowed {tolerance:.0e}")
