"""A search space holds the defaults of the config that it belongs to: a study begins with them."""

from __future__ import annotations

import warnings
from typing import Any

from flowzoo import config as configs
from flowzoo.nets import widths


def require_default_in_space(config: Any) -> None:
    """The same of any config class with ``suggest``.

    Raises:
        AssertionError: if the space has something that is no option, or a default lies outside.
    """
    from optuna.trial import FixedTrial

    default = config()
    values = {name: getattr(default, name) for name in configs.fields(config)}
    for name, value in values.items():
        # an int stands for that many equal layers
        if isinstance(value, tuple) and value and type(value[0]) is int and widths(value[0]) == value:
            values[name] = value[0]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a number out of its range is only warned of
            suggested = config.suggest(FixedTrial(values))
    except (ValueError, UserWarning) as error:
        raise AssertionError(f"{config.__name__}() is not in the search space of suggest: {error}") from None
    wrong = [name for name, value in values.items() if getattr(suggested, name) not in (value, getattr(default, name))]
    if wrong:
        raise AssertionError(f"suggest with the defaults of {', '.join(wrong)} gives other ones")
