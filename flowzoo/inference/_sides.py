"""Which of the two sides of a flow is theta."""

from __future__ import annotations

from typing import TypeVar

T = TypeVar("T")


def sides(theta: str, event: T, context: T) -> tuple[T, T]:
    """What is theta's and what is the observation's, of what is the event's and what is the context's.

    Args:
        theta: ``context`` for a likelihood p(x | theta), ``event`` for a posterior p(theta | x).
        event: of the event: its shape, say, or its names.
        context: the same of the context.

    >>> sides("context", "x", "c")
    ('c', 'x')
    """
    return (context, event) if theta == "context" else (event, context)
