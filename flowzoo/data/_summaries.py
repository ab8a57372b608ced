"""Contexts from the particles themselves: ``log10 sum(mass)``, ``median(age)``, ``p10(age)``, ``count()``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from flowzoo.config import ConfigError

_STATISTICS: dict[str, Callable[[np.ndarray], float]] = {
    "sum": lambda column: float(column.sum(dtype=np.float64)),
    "mean": lambda column: float(column.mean(dtype=np.float64)),
    "median": lambda column: float(np.median(column)),
    "std": lambda column: float(column.std(dtype=np.float64)),
    "min": lambda column: float(column.min()),
    "max": lambda column: float(column.max()),
}


class Summary(NamedTuple):
    """A statistic of a column, over the particles of one galaxy.

    Args:
        name: as it is written, without ``log10``: the name of the context column, which stays in its own units.
        statistic: ``sum``, ``mean``, ..., ``count``, or ``p10`` for the 10th percentile.
        column: of the files; ``""`` for the count.
        log10: whether the network is to see the logarithm.
    """

    name: str
    statistic: str
    column: str
    log10: bool

    def __call__(self, columns: Mapping[str, np.ndarray]) -> float:
        """Its value for the particles in these columns, of which there is one at least."""
        if self.statistic == "count":
            return float(len(next(iter(columns.values()))))
        column = columns[self.column]
        if column.dtype.kind == "b":  # which has no percentiles
            column = column.astype(np.float64)
        if self.statistic in _STATISTICS:
            return _STATISTICS[self.statistic](column)
        return float(np.percentile(column, float(self.statistic[1:])))


def parse(text: str) -> Summary:
    """Read ``[log10] statistic(column)``.

    >>> parse("log10 sum(mass)")
    Summary(name='sum(mass)', statistic='sum', column='mass', log10=True)

    Raises:
        ConfigError: for another text, with the statistics that there are.
    """
    match = re.fullmatch(r"(log10\s+)?([\w.]+)\s*\(\s*(.*?)\s*\)", text.strip())
    if match is None:
        raise ConfigError(f"a summary is [log10] statistic(column), such as 'log10 sum(mass)'; got '{text}'")
    log10, statistic, column = match.groups()
    percentile = re.fullmatch(r"p(\d+(?:\.\d+)?)", statistic)
    if statistic not in _STATISTICS and statistic != "count" and not (percentile and float(percentile[1]) <= 100):
        known = ", ".join(_STATISTICS)
        raise ConfigError(f"summary '{text}': no statistic '{statistic}'; they are count(), {known}, p0 to p100")
    if bool(column) == (statistic == "count"):
        needs = "counts particles and takes no column" if column else "needs a column"
        raise ConfigError(f"summary '{text}': {statistic}() {needs}")
    return Summary(f"{statistic}({column})", statistic, column, bool(log10))


def parse_all(words: Sequence[str]) -> list[Summary]:
    """Read several.

    Raises:
        ConfigError: as ``parse``, and if two would have the same name.
    """
    found = [parse(word) for word in words]
    names = [summary.name for summary in found]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"summary '{name}' is given twice")
    return found
