"""A word for a number: good, doubtful or bad, by the thresholds of its column."""

from __future__ import annotations

import math

from flowzoo.metrics import Column

GOOD, DOUBTFUL, BAD = "good", "doubtful", "bad"


def word(column: Column, value: float) -> str:
    """What to think of a value; empty for a column without thresholds, or no number.

    A column that is better at zero is judged by its size.

    >>> word(Column("p", "higher", "a p-value", good=0.05, bad=0.001), 0.01)
    'doubtful'
    """
    if column.good is None or column.bad is None or math.isnan(value):
        return ""
    size, good, bad = (abs(value) if column.better == "zero" else value), column.good, column.bad
    if column.better == "higher":
        size, good, bad = -size, -good, -bad
    return GOOD if size <= good else BAD if size >= bad else DOUBTFUL
