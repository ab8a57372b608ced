"""In words, how far a point statistic is above its floor, and what of that may be chance."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from flowzoo.report.table import Cell

PLAIN = 2.0  # floors from which a difference is plain
_ERRORS = 2.0  # standard errors, within which a difference is none
_ONE_CLOUD = 0.75  # times 1 / sqrt(events): the error of C2ST less its floor, by simulation of flows without fault


def beside_floor(metric: str, value: float, floor: float, cells: Sequence[Cell]) -> str:
    """``"at its floor"``, ``"above its floor"``, a comparison with twice the floor, or nothing.

    Value and floor of a flow without fault have one expectation (``metrics._points.compare``). What is above its floor
    by two standard errors at most is at it. Where that error is not known a distance, which is never zero, is told by
    its ratio to the floor: without fault, of independent events of one column, it reaches two once in 40 times, and of
    several columns less often.

    Args:
        metric: ``"c2st"`` or ``"sw"``.
        value: of the draws.
        floor: of real events.
        cells: of one model, its seeds.
    """
    error = error_above_floor(metric, cells)
    if not math.isnan(error):
        return "at its floor" if value - floor <= _ERRORS * error else "above its floor"
    if metric == "c2st":
        return ""
    return "less than twice its floor" if value < PLAIN * floor else "twice its floor or more"


def error_above_floor(metric: str, cells: Sequence[Cell]) -> float:
    """Standard error of a point statistic less its floor, both means over the seeds; NaN where it is not known.

    It is over clouds, which test groups or folds have, as pairs of value and floor. One cloud does not tell; there the
    error of C2ST is that of independent events, or of groups where these are fewer.

    Args:
        metric: ``"c2st"`` or ``"sw"``.
        cells: of one model, its seeds.
    """
    kept = [cell.scores for cell in cells if f"{metric}.floor_by_group" in cell.scores]
    above = [scores[f"{metric}.by_group"] - scores[f"{metric}.floor_by_group"] for scores in kept]
    if not above or any(each.shape != above[0].shape for each in above):
        return math.nan
    if len(above[0]) > 1:
        return float(torch.stack(above).mean(0).std() / len(above[0]) ** 0.5)
    if not {f"{metric}.points", "group"} <= kept[0].keys():
        return math.nan
    events = min(2 * int(kept[0][f"{metric}.points"]), len(kept[0]["group"].unique()))
    return _ONE_CLOUD / events**0.5
