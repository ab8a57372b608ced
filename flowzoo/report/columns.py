"""Which columns people see, under which heading, and how a row fills them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from flowzoo.report.table import Table
from flowzoo.report.words import word

Row = dict[str, Any]


class Shown(NamedTuple):
    """A column for people: heading with unit, the columns of the frame behind it, and how a row fills it.

    It is shown where a row has a number in ``decisive``, by default the first of ``sources``.
    """

    heading: str
    sources: tuple[str, ...]
    text: Callable[[Row], str]
    decisive: str = ""

    def found_in(self, rows: Iterable[Row]) -> bool:
        """Whether there is something to show."""
        return any(has(row, self.decisive or self.sources[0]) for row in rows)


def name_of(heading: str) -> str:
    """A heading without its unit."""
    return heading.rsplit(" (", 1)[0]


def has(row: Row, column: str) -> bool:
    """Whether a row has a number there."""
    return not math.isnan(row.get(column, math.nan))


def by_dataset(table: Table) -> dict[str, list[Row]]:
    """The rows of a table, by dataset, in their order."""
    rows: dict[str, list[Row]] = {}
    for row in table.frame.to_dict("records"):
        rows.setdefault(row["dataset"], []).append({str(k): v for k, v in row.items()})
    return rows


def significant(value: float, digits: int = 3) -> str:
    """A number to some significant digits, trailing zeros kept, without an exponent where it is readable so.

    >>> significant(0.05), significant(1234.5), significant(3.2e-7)
    ('0.0500', '1234', '3.20e-07')
    """
    if not math.isfinite(value):
        return str(value)
    if 10**digits - 0.5 <= abs(value) < 1e7:
        return f"{value:.0f}"
    return f"{value:#.{digits}g}".rstrip(".")


def rounded(value: float, error: float) -> tuple[str, str]:
    """A value to the digit of its error, and the error to two significant digits.

    >>> rounded(-1.23456, 0.0123), rounded(98765.4, 321.0), rounded(1.5, float("nan"))
    (('-1.235', '0.012'), ('98770', '320'), ('1.500', ''))
    """
    if not math.isfinite(error) or error <= 0:
        return significant(value, 4), "0" if error == 0 else ""
    # By way of the rounded text, so that 0.0996 counts as 0.10.
    decimals = 1 - int(f"{error:.1e}".split("e")[1])
    if decimals > 6:  # far below anything that matters here; a row of zeros would be harder to read
        return f"{value:.6f}", f"{error:.0e}"
    places = max(decimals, 0)
    return f"{round(value, decimals) + 0.0:.{places}f}", f"{round(error, decimals):.{places}f}"


def plus_minus(value: float, error: float) -> str:
    """A value to the digit of its error, and the error, if there is one."""
    return " ± ".join(filter(None, rounded(value, error)))


def with_error(row: Row, value: str, error: str) -> str:
    """``plus_minus`` of two columns; empty where there is no value."""
    return plus_minus(row[value], row[error]) if has(row, value) else ""


def plain(name: str, digits: int = 3) -> Callable[[Row], str]:
    """A value to some significant digits."""
    return lambda row: significant(row[name], digits) if has(row, name) else ""


def with_floor(name: str, digits: int = 3, floor: str = "") -> Callable[[Row], str]:
    """A value with its noise floor behind it, in brackets; ``floor`` is the column, mostly ``<name>_floor``."""

    def text(row: Row) -> str:
        beside = plain(floor or f"{name}_floor", digits)(row)
        return plain(name, digits)(row) + (f" ({beside})" if beside and has(row, name) else "")

    return text


def with_word(name: str, digits: int = 2) -> Callable[[Row], str]:
    """A value with what to think of it."""

    def text(row: Row) -> str:
        from flowzoo.metrics import columns  # every metric's file: when a table is made, not before

        known = columns().get(name)
        said = word(known, row[name]) if known is not None and has(row, name) else ""
        return f"{plain(name, digits)(row)} {said}".rstrip()

    return text


def with_published(row: Row) -> str:
    """C2ST against reference posteriors, and in brackets what others published."""
    published = plain("c2st_published")(row)
    return with_word("c2st", 3)(row) + (f" ({published})" if published else "")


def count(row: Row) -> str:
    """A number of parameters: 12345678 is 12.3M."""
    value = row["num_parameters"] if has(row, "num_parameters") else 0.0
    for scale, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * scale:  # from where three digits round up into the next letter
            return significant(value / scale) + letter
    return f"{value:.0f}" if has(row, "num_parameters") else ""


MAIN = (
    Shown("NLL ± SE (nats)", ("nll_nats", "nll_se"), lambda row: with_error(row, "nll_nats", "nll_se")),
    Shown("± seeds (nats)", ("nll_seed_se",), plain("nll_seed_se", 2)),
    Shown("bits/dim", ("bits_per_dim",), plain("bits_per_dim", 4)),
    Shown("NLL/dim (nats)", ("nll_per_dim",), plain("nll_per_dim", 4)),
    Shown("excess (nats)", ("excess_nll",), plain("excess_nll")),
    Shown(
        "ΔNLL ± SE (nats)",
        ("delta_nll", "delta_se"),
        lambda row: "best" if row["best"] else with_error(row, "delta_nll", "delta_se"),
    ),
    Shown("validation (nats)", ("validation_nll",), plain("validation_nll", 5), "tuning_gain"),
    Shown(
        "gain of tuning ± SE (nats)",
        ("tuning_gain", "tuning_gain_se"),
        lambda row: with_error(row, "tuning_gain", "tuning_gain_se"),
    ),
    Shown("context use (nats)", ("context_use",), plain("context_use")),
    Shown(
        "context gain ± SE (nats)",
        ("context_gain", "context_gain_se"),
        lambda row: with_error(row, "context_gain", "context_gain_se"),
    ),
    Shown("± seeds of the gain (nats)", ("context_gain_seed_se",), plain("context_gain_seed_se", 2)),
    Shown("class accuracy", ("class_accuracy",), plain("class_accuracy")),
    Shown("SW (floor) (spreads)", ("sw", "sw_floor"), with_floor("sw")),
    Shown("draws (s/1000)", ("sample_seconds_per_1000",), plain("sample_seconds_per_1000")),
    Shown("params", ("num_parameters",), count),
    Shown("train (s)", ("train_seconds",), plain("train_seconds")),
)

_FIELD_STATISTICS = (
    ("P(k) mean R²", "pk_mean_r2", 4),
    ("P(k) std R²", "pk_std_r2", 4),
    ("P(k) error", "pk_error", 2),
    ("pixel W1", "pixel_w1", 2),
    ("peaks", "peaks_error", 2),
    ("Minkowski", "minkowski_error", 2),
    ("bispectrum", "bispectrum_error", 2),
    ("scattering", "scattering_distance", 2),
)
FIELDS = tuple(
    Shown(f"{heading} (floor)", (name, f"{name}_floor"), with_floor(name, digits))
    for heading, name, digits in _FIELD_STATISTICS
)

# What fits into 120 characters; energy says nearly what MMD² does, and it and the rest are in the CSV.
_POINT_STATISTICS = (
    ("MMD²", "mmd", 2),
    ("KS", "ks", 2),
    ("correlation", "correlation_error", 2),
    ("PQMass", "pqm_chi2", 2),
    ("coverage", "coverage", 2),
)
POINTS = (
    # Against reference posteriors it has no floor, and stands with the posteriors.
    Shown("C2ST (floor)", ("c2st", "c2st_floor"), with_floor("c2st"), "c2st_floor"),
    *(
        Shown(f"{heading} (floor)", (name, f"{name}_floor"), with_floor(name, digits))
        for heading, name, digits in _POINT_STATISTICS
    ),
)

_POSTERIORS = (
    ("all tests p", "calibration_p"),
    ("SBC p", "sbc_p"),
    ("HPD p", "hpd_p"),
    ("TARP p", "tarp_p"),
    ("coverage error", "coverage_error"),
    ("contraction", "contraction"),
    ("RMSE (prior sd)", "posterior_rmse"),
)
POSTERIORS = (
    Shown("C2ST (published NPE)", ("c2st", "c2st_published"), with_published, "c2st_observations"),
    *(Shown(heading, (name,), with_word(name)) for heading, name in _POSTERIORS),
    Shown(
        "log q(truth) ± SE (nats)",
        ("log_posterior_truth", "log_posterior_truth_se"),
        lambda row: with_error(row, "log_posterior_truth", "log_posterior_truth_se"),
    ),
)

_PARTS = (("", MAIN), ("field statistics", FIELDS), ("point statistics", POINTS), ("posteriors", POSTERIORS))


def parts() -> list[tuple[str, tuple[Shown, ...]]]:
    """A dataset has a block of each of these that has something to say: what its title adds, and the columns."""
    return [*_PARTS, ("other metrics", _of_others())]


def _of_others() -> tuple[Shown, ...]:
    """Every column of the metrics that are not flowzoo's own, but for floors, which stand beside their column."""
    from flowzoo.registry import METRICS

    try:
        kinds = [METRICS.get(name) for name in METRICS.names()]
    except ImportError:  # one lacks its package: the numbers of the others still stand
        return ()
    columns = [column for kind in kinds if not kind.__module__.startswith("flowzoo.") for column in kind.columns]
    floors = {column.floor for column in columns}
    return tuple(
        Shown(f"{column.name} (floor)", (column.name, column.floor), with_floor(column.name, floor=column.floor))
        if column.floor
        else Shown(column.name, (column.name,), with_word(column.name, 3))
        for column in columns
        if column.name not in floors
    )


# That these are empty needs a word only beside models that have them.
OPTIONAL = {
    *("nll_seed_se", "bits_per_dim", "excess_nll", "nll_per_dim", "validation_nll", "tuning_gain", "tuning_gain_se"),
    *("context_gain", "context_gain_se", "context_gain_seed_se", "class_accuracy"),
    # Where no model has them, the reason is that of SW, which stands in the first block.
    *(source for column in POINTS for source in column.sources),
    *("c2st_observations", "c2st_published", "log_posterior_truth", "log_posterior_truth_se"),
}
