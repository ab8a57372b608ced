"""Power laws of the excess NLL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import brentq, curve_fit

SERIES = ("n_train", "parameters", "seconds")
LEAST = 3  # points
SURE = 2.0  # errors from zero: the logarithm of less is noise


def fits_of(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A line for each dataset, model and series of which there are points enough."""
    found = []
    pairs = dict.fromkeys((line["dataset"], line["model"]) for line in lines)
    for dataset, model in pairs:
        own = [c for c in lines if (c["dataset"], c["model"]) == (dataset, model) and "failed" not in c]
        for series in SERIES:
            points = [c for c in own if series in c["series"] and c["excess"] > SURE * c["excess_se"]]
            if len(points) >= LEAST and len({c[series] for c in points}) >= LEAST:
                x, y, se = (np.array([c[key] for c in points], float) for key in (series, "excess", "excess_se"))
                line = {"what": "fit", "dataset": dataset, "model": model, "against": series}
                found.append({**line, **power_law(x, y, se), "low": x.min(), "high": x.max(), "points": len(points)})
    return found


def power_law(x: np.ndarray, y: np.ndarray, error: np.ndarray) -> dict[str, float]:
    r"""Least squares of :math:`\ln y = \ln a - \alpha \ln x` with errors :math:`\sqrt{(\sigma/y)^2 + s^2}`.

    s is the scatter about the line that makes chi^2 the number of degrees of freedom, 0 if the errors explain it.

    Args:
        x: positive.
        y: positive.
        error: of y.

    Returns:
        ``exponent`` alpha and its ``error``, ``at_one`` a, and ``scatter`` s.
    """
    u, v, own = np.log(x), np.log(y), error / y
    centre = u.mean()  # so that the errors of the two do not depend on each other

    def line(u: np.ndarray, level: float, slope: float) -> np.ndarray:
        return level - slope * (u - centre)

    def fitted(scatter: float) -> tuple[np.ndarray, np.ndarray, float]:
        sigma = np.sqrt(own**2 + scatter**2)
        best, covariance = curve_fit(line, u, v, p0=(v.mean(), 0.0), sigma=sigma, absolute_sigma=True)
        return best, covariance, float((((v - line(u, *best)) / sigma) ** 2).sum()) - (len(u) - 2)

    scatter = 0.0 if fitted(0.0)[2] <= 0 else float(brentq(lambda s: fitted(s)[2], 0.0, 10.0 + float(np.ptp(v))))
    best, covariance, _ = fitted(scatter)
    return {
        "exponent": float(best[1]),
        "error": float(np.sqrt(covariance[1, 1])),
        "at_one": float(np.exp(best[0] + best[1] * centre)),
        "scatter": scatter,
    }
