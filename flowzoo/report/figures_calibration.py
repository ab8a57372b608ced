"""How far posteriors can be trusted: ranks, coverage, distances to reference points, z-scores; a row for each model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from flowzoo.report._catalogue import Array, legend, legend_rows
from flowzoo.report._style import DASHES, PALETTE, REAL, WIDTH, Shown, Style, entry, frame, lowest_seeds, text, verbatim
from flowzoo.report.table import Cell

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# What each column is drawn from, in the order of the page; a model without it has an empty panel.
ARRAYS = ("sbc.pit", "hpd.alpha", "tarp.fraction", "posterior_error.z")
PARAMETERS = 12  # that have a line, of more the first
LIKELIHOOD = "log-likelihood"
_CONTRACTION = "posterior_error.contraction_by_observation"
_BAND = "#E2E2E2"
_GREY = "#8A8A8A"
_TALL, _HEAD, _IN_ROW = 2.35, 0.75, 7  # inches of a row and of the title; entries of the legend in a line
_Z = 4.5  # beyond which a z-score is a triangle at the edge
_LEAST_CONTRACTION = -0.5  # as for z
_RIGHTMOST = 1.02  # and at most 1
_LEFT = -54  # points, where a row's name stands
_ERRORS = 2.0  # standard errors, within which an area is none


def calibrated(cells: Sequence[Cell], known: Mapping[str, Style]) -> list[Shown]:
    """By dataset, the models with any array of a calibration test, their lowest seed each.

    Args:
        cells: finished cells, failed ones too.
        known: a style for each model.
    """
    found = lowest_seeds(cells, lambda scores: any(_usable(scores, name) for name in ARRAYS))
    return [
        Shown(name, next(iter(models.values())).record.labels, {m: cell.scores for m, cell in models.items()}, known)
        for name, models in found.items()
    ]


def calibration(found: Shown) -> Figure:
    r"""A page with a row for each model; columns that no model has arrays for are left out.

    - Ranks (SBC): of each parameter, and in black of the log-likelihood, the empirical distribution function of the
      randomised rank less the diagonal. Grey is where the whole of one such line stays in 95 % of all cases if the
      posterior is exact.
    - Coverage: share of observations whose truth lies in the region of highest density of each credibility, with a
      pointwise bootstrap band of 95 %; written out, the area to the diagonal and its standard error. Below the diagonal
      is overconfident.
    - Reference points (TARP): distribution function of the share of draws nearer to the reference than the truth, of
      each kind of reference, and the simultaneous band of an exact posterior.
    - z-score of the truth against contraction of the variance, a point for each observation and parameter; written
      out, mean and standard deviation of z, which are 0 and 1 of an exact posterior.

    Args:
        found: models with arrays: ``sbc.pit`` (N, D), ``sbc.pit_log_likelihood`` (N,), ``hpd.alpha`` (N,) and
            ``hpd.level``, ``.lower``, ``.upper`` (K,), ``tarp.fraction`` (kinds, N), ``posterior_error.z`` and
            ``.contraction_by_observation`` (N, D). Any may be absent.

    Raises:
        ValueError: if no model has any.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    panels = [(name, draw) for name, draw in _PANELS.items() if any(_usable(s, name) for s in found.scores.values())]
    if not panels:
        raise ValueError(f"no arrays of a calibration test: expected one of {', '.join(ARRAYS)}")
    entries = _legend(found)
    rows = len(found.scores)
    notes = [f"the first {PARAMETERS} of {_dim(found)} parameters"] if _dim(found) > PARAMETERS else []
    page = max(WIDTH * len(panels) / len(_PANELS), 5.0)
    in_row = max(1, round(_IN_ROW * page / WIDTH))
    height = _TALL * page / WIDTH * len(_PANELS) / len(panels) * rows + _HEAD + 0.2 * legend_rows(entries, in_row)
    figure = Figure(figsize=(page, height), layout=ConstrainedLayoutEngine(h_pad=0.05, w_pad=0.05))
    grid = figure.subplots(rows, len(panels), squeeze=False, sharex="col", sharey="col")
    for row, (model, scores) in enumerate(found.scores.items()):
        for column, (name, draw) in enumerate(panels):
            at = grid[row, column]
            title, across, up = _WORDS[name]
            if _usable(scores, name):
                draw(at, scores)
            else:
                at.text(0.5, 0.5, "not computed", transform=at.transAxes, ha="center", fontsize=9, color=_GREY)
            frame(at, labelsize=8, pad=3)
            at.set_ylabel(up, fontsize=9)
            at.tick_params(labelleft=True)
            if row == 0:
                at.set_title(title, fontsize=10, pad=6)
            if row == rows - 1:
                at.set_xlabel(across, fontsize=9)
        at = grid[row, 0]
        place: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points"}
        name_it: dict[str, Any] = {"fontsize": 11, "fontweight": "bold", "rotation": 90, "ha": "center", "va": "center"}
        at.annotate(verbatim(model), (0, 0.5), (_LEFT, 0), **place, **name_it)
    if any(name == ARRAYS[-1] for name, _ in panels):
        # Below all points are the words.
        ends = {"xlim": (_least_contraction(found), _RIGHTMOST), "ylim": (-_Z - 1.6, _Z + 0.5)}
        grid[0, -1].set(yticks=(-4, -2, 0, 2, 4), **ends)
    title = f"{verbatim(found.dataset)}: calibration of the posteriors"
    figure.suptitle(title, fontsize=12, fontweight="bold", x=0.02, ha="left")
    legend(figure, entries, in_row, "; ".join(notes))
    return figure


def parameter_names(labels: Mapping[str, Sequence[str]], count: int) -> list[str]:
    """What the parameters are called: as the context is, or where it is not of so many numbers, as the events are.

    Args:
        labels: ``Record.labels``; ``theta_names`` are taken first, if there are any.
        count: of parameters.
    """
    for kind in ("theta_names", "context_names", "names"):
        if len(labels.get(kind, ())) == count:
            return [entry(labels, kind, i) for i in range(count)]
    return [f"theta_{i + 1}" for i in range(count)]


def _ranks(at: Axes, scores: Mapping[str, Tensor]) -> None:
    """SBC: differences of distribution functions, and the band of one of them."""
    from matplotlib.ticker import MaxNLocator

    from flowzoo.metrics._calibration import ecdf_difference

    pit = scores["sbc.pit"].double().cpu()
    z, difference, low, high = ecdf_difference(pit.T[:PARAMETERS])
    grid = _ended(z, 1.0)
    at.fill_between(grid, _ended(low), _ended(high), color=_BAND, linewidth=0)
    at.axhline(0, color=_GREY, linewidth=0.7)
    for i, line in enumerate(difference):
        style = _style(i)
        at.plot(grid, _ended(line), color=style.colour, linestyle=style.dash, linewidth=1.2)
    if _usable(scores, "sbc.pit_log_likelihood"):
        line = ecdf_difference(scores["sbc.pit_log_likelihood"].double().cpu())[1]
        at.plot(grid, _ended(line), color=REAL, linewidth=1.2)
    at.set_xlim(0, 1)
    at.yaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))


def _coverage(at: Axes, scores: Mapping[str, Tensor]) -> None:
    """HPD: coverage against credibility, and which way it is off."""
    from flowzoo.metrics.hpd import coverage_error

    alpha = scores["hpd.alpha"].double().cpu()
    at.plot((0, 1), (0, 1), color=_GREY, linewidth=0.7)
    if all(_usable(scores, f"hpd.{name}") for name in ("level", "lower", "upper")):
        level, low, high = (_array(scores[f"hpd.{name}"]) for name in ("level", "lower", "upper"))
        at.fill_between(level, low, high, color=_BAND, linewidth=0)
    steps = np.arange(len(alpha) + 1) / len(alpha)
    at.step([0.0, *alpha.sort().values.tolist(), 1.0], [*steps, 1.0], where="post", color=REAL, linewidth=1.3)
    error, se = coverage_error(alpha)
    said = "overconfident" if error < 0 else "underconfident"
    # NaN, the error of a single observation, tells nothing either.
    said = said if abs(error) > _ERRORS * se else "zero within its error"
    # On the side where the curve is not.
    _write(at, f"area {error:+.3f} ± {se:.3f}\n{said}", above=error < 0)
    at.set(xlim=(0, 1), ylim=(0, 1))


def _references(at: Axes, scores: Mapping[str, Tensor]) -> None:
    """TARP: distribution functions by kind of reference."""
    from flowzoo.metrics._calibration import ecdf_difference

    fraction = scores["tarp.fraction"].double().cpu()
    z, difference, low, high = ecdf_difference(fraction)
    grid = _ended(z, 1.0)
    at.fill_between(grid, grid + _ended(low), grid + _ended(high), color=_BAND, linewidth=0)
    at.plot((0, 1), (0, 1), color=_GREY, linewidth=0.7)
    for i, line in enumerate(difference):
        at.plot(grid, grid + _ended(line), **_kind(i))
    at.set(xlim=(0, 1), ylim=(0, 1))
    kinds = _kinds(len(fraction))
    handles = [at.lines[-len(kinds) + i] for i in range(len(kinds))]
    at.legend(handles, kinds, loc="upper left", fontsize=7.5, frameon=False, borderaxespad=0.2, handlelength=1.8)


def _scores(at: Axes, scores: Mapping[str, Tensor]) -> None:
    """z against contraction, those beyond the axes at their edges."""
    z, contraction = _array(scores["posterior_error.z"]), _array(scores[_CONTRACTION])
    count = min(z.shape[1], PARAMETERS)
    for level, dash in ((0, "-"), (-2, ":"), (2, ":")):
        at.axhline(level, color=_GREY, linewidth=0.7, linestyle=dash, zorder=0)
    # One draw order for all parameters, or the last would hide the others.
    colours = np.broadcast_to([_style(i).colour for i in range(count)], (len(z), count)).ravel()
    x, y = contraction[:, :count].ravel(), z[:, :count].ravel()
    order = np.argsort(np.modf(np.arange(len(x)) * 0.6180339887)[0], kind="stable")  # mixed, by the golden ratio
    x, y, colours = x[order], y[order], colours[order]
    inside = (np.abs(y) <= _Z) & (x >= _LEAST_CONTRACTION)
    size = float(np.clip(2500 / max(len(x), 1), 2, 9))
    how: dict[str, Any] = {"linewidths": 0, "alpha": 0.6, "rasterized": True, "clip_on": False}
    at.scatter(x[inside], y[inside], size, c=colours[inside], **how)
    for side, mark in ((y > _Z, "^"), (y < -_Z, "v"), ((np.abs(y) <= _Z) & (x < _LEAST_CONTRACTION), "<")):
        edge = x[side].clip(_LEAST_CONTRACTION), y[side].clip(-_Z, _Z)
        at.scatter(*edge, 12, c=colours[side], marker=mark, **how)
    _write(at, f"z: mean {z.mean():+.2f}, sd {z.std():.2f}")


_PANELS = dict(zip(ARRAYS, (_ranks, _coverage, _references, _scores), strict=True))
_WORDS = {  # by array, the title of its panels and of their axes
    "sbc.pit": ("ranks (SBC)", "rank of the truth", "ECDF less diagonal"),
    "hpd.alpha": ("highest-density regions", "credibility", "expected coverage"),
    "tarp.fraction": ("reference points (TARP)", "share of draws nearer", "ECDF"),
    "posterior_error.z": ("posterior means", "contraction", "z-score"),
}


def _usable(scores: Mapping[str, Tensor], name: str) -> bool:
    """Whether an array is there, has observations, and is finite; z needs its contraction."""
    found = scores.get(name)
    if found is None or not found.numel() or not bool(found.isfinite().all()):
        return False
    return name != "posterior_error.z" or _usable(scores, _CONTRACTION)


def _dim(found: Shown) -> int:
    """How many parameters there are, as far as the arrays tell."""
    for scores in found.scores.values():
        for name in ("sbc.pit", "posterior_error.z"):
            if _usable(scores, name):
                return scores[name].shape[1]
    return 0


def _least_contraction(found: Shown) -> float:
    """Where the axis of all rows begins."""
    each = [_array(scores[_CONTRACTION]).min() for scores in found.scores.values() if _usable(scores, ARRAYS[-1])]
    return float(np.clip(min(each) - 0.02, _LEAST_CONTRACTION, 0.0))


def _kinds(count: int) -> list[str]:
    from flowzoo.metrics.tarp import KINDS

    return [KINDS[i] if i < len(KINDS) else f"kind {i + 1}" for i in range(count)]


def _kind(i: int) -> dict[str, Any]:
    """How a kind of reference is drawn: all parameters are in it, so it has the colour of none."""
    return {"color": REAL, "linestyle": DASHES[i % len(DASHES)], "linewidth": 1.2}


def _style(i: int) -> Style:
    """Of a parameter."""
    return Style(PALETTE[i % len(PALETTE)], DASHES[i // len(PALETTE) % len(DASHES)])


def _legend(found: Shown) -> dict[str, Any]:
    """By label, what stands before it."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    entries: dict[str, Any] = {}
    for i, name in enumerate(parameter_names(found.labels, _dim(found))[:PARAMETERS]):
        style = _style(i)
        entries[text(name)] = Line2D([], [], color=style.colour, linestyle=style.dash, linewidth=2)
    if any(_usable(scores, "sbc.pit_log_likelihood") for scores in found.scores.values()):
        entries[LIKELIHOOD] = Line2D([], [], color=REAL, linewidth=2)
    entries["95 % band (of coverage: bootstrap)"] = Patch(color=_BAND)
    return entries


def _write(at: Axes, content: str, *, above: bool = False) -> None:
    """At the lower right, or at the upper left."""
    said = content.replace("-", "\N{MINUS SIGN}")
    how: dict[str, Any] = {"ha": "left", "va": "top"} if above else {"ha": "right", "va": "bottom"}
    at.text(*((0.04, 0.96) if above else (0.97, 0.04)), said, transform=at.transAxes, fontsize=8, **how)


def _ended(inner: Tensor, last: float = 0.0) -> Array:
    """Values inside of [0, 1], with what they are at its ends: 0 and, of a difference, 0 again."""
    return np.array([0.0, *inner.tolist(), last])


def _array(values: Tensor) -> Array:
    found: Array = values.double().cpu().numpy()
    return found
