"""Power spectra of each model beside that of real maps, and their ratio."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median_low
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from flowzoo.report._style import CONTEXTS, REAL, WIDTH, Shown, context_text, entry, frame, model_lines, text, verbatim

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NEEDED = (
    *("power_spectrum.context", "power_spectrum.k", "power_spectrum.real_mean", "power_spectrum.real_std"),
    "power_spectrum.drawn_mean",
)
FLOOR = "power_spectrum.floor_by_context"
LEAST, MOST = 0.1, 1.0  # how far the ratio's axis may go from 1
MARKS = 14  # of a line that is beyond it
_SCATTER, _ERROR = "#DDDDDD", "#C4C4C4"


def channels(found: Shown) -> list[str]:
    """A name for each figure of a dataset, one per channel."""
    real = found.first["power_spectrum.real_mean"]
    if real.ndim == 2:
        return [""]
    return [entry(found.labels, "names", i) or str(i) for i in range(real.shape[1])]


def spectra(found: Shown, channel: int = 0) -> Figure:
    r"""P(k) at the contexts of the lowest, the middle and the highest mean power, and the ratio to that of real maps.

    The light band is the scatter of real maps: up to :math:`\bar P + \sigma`, with the standard deviation of a single
    map, and by the same factor down, where :math:`\bar P - \sigma` may be negative. The band of the ratio is what real
    maps differ by from other real maps: the floor of the metric, a median over k of half of them against the other
    half, spread over k as :math:`\sigma(k) / \bar P(k)` (by one factor, the median over contexts).

    The ratio's axis is made for the better half of the models; what lies beyond is marked by triangles at its edge.

    Args:
        found: models with ``power_spectrum.k (B,)``, ``.real_mean``, ``.real_std``, ``.drawn_mean`` ``(K, [C,] B)``,
            and ``.context (K, *context)``.
        channel: which one is shown.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    first = found.first
    mean, std = (_of(first[f"power_spectrum.{name}"], channel) for name in ("real_mean", "real_std"))
    drawn = {m: _of(scores["power_spectrum.drawn_mean"], channel) for m, scores in found.scores.items()}
    order = mean.log().mean(-1).nan_to_num(-math.inf, -math.inf, -math.inf).argsort()
    chosen = order[torch.linspace(0, len(order) - 1, CONTEXTS).round().long()].unique_consecutive().tolist()
    error = _error(first, mean, std)
    k = first["power_spectrum.k"].double() / (1.0 if found.labels.get("side") else 2 * math.pi)

    width = WIDTH if len(chosen) > 1 else 0.6 * WIDTH
    legend = _legend(found, error is not None)
    rows = math.ceil(len(legend) / (6 if len(chosen) > 1 else 3))
    layout = ConstrainedLayoutEngine(h_pad=0.05, w_pad=0.05, hspace=0.02, wspace=0.02)
    figure = Figure(figsize=(width, 5.4 + 0.19 * rows), layout=layout)
    grid = figure.subplots(2, len(chosen), sharex=True, sharey="row", squeeze=False, height_ratios=(2.4, 1))
    half = _half_width([_ratio(values[chosen], mean[chosen]) for values in drawn.values()])
    if error is not None:
        half = min(MOST, max(half, 2 * float(error[chosen].quantile(0.5))))
    for (above, below), c in zip(grid.T, chosen, strict=True):
        _spectrum(above, k, mean[c], std[c], {m: values[c] for m, values in drawn.items()}, found)
        _ratios(below, k, {m: _ratio(values[c], mean[c]) for m, values in drawn.items()}, error, c, half, found)
        values = context_text(first["power_spectrum.context"][c], found.labels, 0.9 * width / len(chosen))
        above.set_title(values, fontsize=10)
    grid[0, 0].set_ylim(*_limits(mean[chosen], std[chosen], [values[chosen] for values in drawn.values()]))
    _axes(grid, found, channel)
    names = channels(found)
    of = f" ({text(names[channel])})" if len(names) > 1 else ""
    title = f"{verbatim(found.dataset)}{of}: power spectra at held-out contexts"
    figure.suptitle(title, fontsize=12, fontweight="bold", x=0.06, ha="left")
    # A note is the title of the legend, where the layout keeps it apart from all else.
    note = {"title": found.note, "title_fontsize": 8, "alignment": "left"} if found.note else {}
    full = math.ceil(len(legend) / rows)
    look: dict[str, Any] = {"ncols": full, "frameon": False, "fontsize": 9, **note}
    figure.legend(list(legend.values()), list(legend), loc="outside lower center", **look)
    return figure


def _spectrum(at: Axes, k: Tensor, mean: Tensor, std: Tensor, drawn: Mapping[str, Tensor], found: Shown) -> None:
    factor = 1 + std / mean
    at.fill_between(k.numpy(), (mean / factor).numpy(), (mean * factor).numpy(), color=_SCATTER, linewidth=0)
    at.plot(k.numpy(), mean.numpy(), color=REAL, linewidth=2.2)
    for model, values in drawn.items():
        style = found.styles[model]
        positive = torch.where(values > 0, values, torch.nan)
        at.plot(k.numpy(), positive.numpy(), color=style.colour, linestyle=style.dash, linewidth=1.4)
    at.set_xscale("log")
    at.set_yscale("log")


def _ratios(
    at: Axes, k: Tensor, ratios: Mapping[str, Tensor], error: Tensor | None, c: int, half: float, found: Shown
) -> None:
    if error is not None:
        at.fill_between(k.numpy(), (1 - error[c]).numpy(), (1 + error[c]).numpy(), color=_ERROR, linewidth=0)
    at.axhline(1, color=REAL, linewidth=1)
    for model, ratio in ratios.items():
        style = found.styles[model]
        at.plot(k.numpy(), ratio.numpy(), color=style.colour, linestyle=style.dash, linewidth=1.4)
        for beyond, edge, marker in ((ratio > 1 + half, 1 + half, "^"), (ratio < 1 - half, 1 - half, "v")):
            marked = k[beyond][:: math.ceil(len(k) / MARKS)]
            if len(marked):
                where = (marked.numpy(), [edge] * len(marked))
                at.plot(*where, marker, color=style.colour, markersize=3.5, clip_on=False, zorder=5)
    at.set_ylim(1 - half, 1 + half)


def _axes(grid: Any, found: Shown, channel: int) -> None:
    """Labels, ticks and lines of all panels."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    wavenumber, power = _units(found, channel)
    for at in grid.flat:
        frame(at, labelsize=8.5)
    for at in grid[1]:
        at.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        at.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        at.xaxis.set_minor_formatter(NullFormatter())
        at.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        at.set_xlabel(f"$k$  [{wavenumber}]", fontsize=10)
    name = entry(found.labels, "names", channel)
    what = f"$P(k)$ of {text(name)}" if name else "$P(k)$"
    grid[0, 0].set_ylabel(f"{what}  [{power}]" if power else what, fontsize=10)
    grid[1, 0].set_ylabel("model / real", fontsize=10)


def _legend(found: Shown, banded: bool) -> dict[str, Any]:
    """By label, what stands before it."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    real = (Patch(color=_SCATTER), Line2D([], [], color=REAL, linewidth=2.2))
    entries: dict[str, Any] = {r"real maps: mean, 1$\sigma$ of one": real}
    if banded:
        entries["real against real"] = Patch(color=_ERROR)
    return entries | model_lines(found)


def _of(values: Tensor, channel: int) -> Tensor:
    return (values if values.ndim == 2 else values[:, channel]).double()


def _ratio(drawn: Tensor, real: Tensor) -> Tensor:
    ratio = drawn / real
    return torch.where(ratio.isfinite(), ratio, torch.nan)


def _error(first: Mapping[str, Tensor], mean: Tensor, std: Tensor) -> Tensor | None:
    """Relative difference of real maps from real maps ``(K, B)``; None if the metric did not tell its floor."""
    if FLOOR not in first or first[FLOOR].shape != mean.shape[:1]:
        return None
    relative = std / mean
    factor = (first[FLOOR].double() / relative.quantile(0.5, -1)).quantile(0.5)
    return factor * relative if factor.isfinite() else None


def _half_width(ratios: Sequence[Tensor]) -> float:
    """How far the ratio's axis goes from 1: all but the wildest points of the better half of the models."""
    away = [(ratio - 1).abs()[ratio.isfinite()] for ratio in ratios]
    widths = [float(part.quantile(0.98)) for part in away if len(part)]
    return min(MOST, max(LEAST, 1.15 * median_low(widths))) if widths else LEAST


def _limits(mean: Tensor, std: Tensor, drawn: Sequence[Tensor]) -> tuple[float, float]:
    """Of P(k): all of the means, but of no model further than a factor 30 beyond the real ones."""
    low, high = float(mean.square().div(mean + std).min()), float((mean + std).max())
    values = torch.cat([part.flatten() for part in drawn])
    values = values[values.isfinite() & (values > 0)]
    if not (0 < low <= high < math.inf):
        return 0.1, 10.0
    if len(values):
        low = min(low, max(float(values.min()), low / 30))
        high = max(high, min(float(values.max()), high * 30))
    return low / 1.25, high * 1.25


def _units(found: Shown, channel: int) -> tuple[str, str]:
    """Of k and of P(k)."""
    unit = entry(found.labels, "units", channel)
    square = f"{_to_the(unit, '2')} " if unit else ""
    if not found.labels.get("side"):
        return r"2$\pi$ / side", f"{square}side$^2$"
    length = entry(found.labels, "side", 1)
    if not length:
        return "1 / length", square.strip()
    inverse = "/".join(reversed(length.split("/"))) if length.count("/") == 1 else _to_the(length, "{-1}")
    return inverse, f"{square}{_to_the(length, '2')}"


def _to_the(unit: str, power: str) -> str:
    """A unit to a power, in brackets where it is more than a word."""
    return f"{text(unit) if unit.isalpha() else f'({text(unit)})'}$^{power}$"
