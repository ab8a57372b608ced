"""Numbers with errors, as a paper writes them."""

from __future__ import annotations

import math

_TWO_DIGITS = 354  # of an error's first three digits, up to which two are kept
_LONG = (-4, 5)  # powers of ten, from which on numbers are divided by it


def interval_text(median: float, up: float, down: float) -> str:
    r"""A median and its errors, in the digits that these are worth: two where the smaller error begins with 1, 2 or 3.

    The rule of the Particle Data Group (Review of Particle Physics, Introduction, section 5.3: 100 to 354 two digits,
    355 to 949 one), for the smaller of two errors.

    >>> interval_text(0.3121, 0.0204, 0.0312), interval_text(12345678.0, 2000.0, 2100.0), interval_text(2.0, 0.0, 0.0)
    ('$0.312^{+0.020}_{-0.031}$', '$(1.23457^{+0.00020}_{-0.00021})\\times 10^{7}$', '$2$ (constant)')
    """
    errors = [error for error in (up, down) if error > 0]
    if not errors:
        return f"${median:.6g}$ (constant)"
    power = power_of(max(abs(median), up, down))
    smaller = min(errors) / 10.0**power
    leading = math.floor(math.log10(smaller))
    three = round(smaller / 10.0 ** (leading - 2))
    # 0.97 is 1.0, with two digits again.
    places = -leading + (1 if three <= _TWO_DIGITS else 0)
    places = min(max(0, places), 12)
    # Adding 0 makes a 0 of -0.
    middle, above, below = (f"{round(value / 10.0**power, places) + 0.0:.{places}f}" for value in (median, up, down))
    whole = f"{middle}^{{+{above}}}_{{-{below}}}"
    return f"$({whole})\\times 10^{{{power}}}$" if power else f"${whole}$"


def power_of(size: float) -> int:
    """Of ten, by which numbers of that size are divided where they are long; else 0."""
    power = math.floor(math.log10(float(f"{size:.6g}"))) if size > 0 else 0
    return power if power >= _LONG[1] or power <= _LONG[0] else 0
