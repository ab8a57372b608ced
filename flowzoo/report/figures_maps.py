"""A gallery: real maps of some contexts, and below them what each model draws at the same context."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from flowzoo.report._style import (
    CONTEXTS,
    INK,
    REAL,
    WIDTH,
    Shown,
    bare,
    context_text,
    entry,
    text,
    verbatim,
    width,
    with_unit,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

NEEDED = ("examples.context", "examples.real", "examples.drawn")
PERCENTILES = (1.0, 99.0)  # of the real maps, between which the colours run
DECADES = 1.5  # spanned by positive values between them, above which the colours run with the logarithm
_NAN = "#FF00FF"  # no colour of viridis: what is not finite stands out
# In inches.
_TILE, _PAGE, _GAP, _BLOCK_GAP, _RIGHT, _LINE = 1.75, 11.0, 0.05, 0.28, 0.2, 0.19
_BAR, _BELOW_BAR, _SWATCH = 0.11, 0.54, 0.06


def channels(found: Shown) -> list[str]:
    """A name for each gallery of a dataset: one in colour for bytes of red, green and blue, else one per channel."""
    count = found.first["examples.real"].shape[2]
    if count == 1 or _is_rgb(found):
        return [""]
    return [entry(found.labels, "names", i) or str(i) for i in range(count)]


def gallery(found: Shown, channel: int = 0) -> Figure:
    """Blocks of maps, one per context, with a row of real ones and a row for each model.

    All maps of a context have one scale of colours, from the first to the 99th percentile of the real ones; it runs
    with the logarithm where positive values span decades. A context that is a map is shown above them, on a scale of
    its own. Three channels of bytes are shown in colour, from the lowest to the highest level. Non-finite pixels are
    magenta.

    Args:
        found: models with ``examples.context (K, *context)`` and ``examples.real`` and ``.drawn (K, n, C, H, W)``;
            and ``examples.given (K, C', H', W')`` where contexts are, or have, images.
        channel: which one is shown, where it is not all three.
    """
    from matplotlib.figure import Figure

    rgb = _is_rgb(found)
    real = found.first["examples.real"][:CONTEXTS]
    context = found.first["examples.context"][:CONTEXTS]
    blocks = len(real)
    columns = min(real.shape[1], found.first["examples.drawn"].shape[1], 4 if blocks < CONTEXTS else 3)
    scales = [None if rgb else _scale(part[:, channel]) for part in real]
    rows = [("real", REAL, real, channel, scales)]
    given = found.first.get("examples.given")
    if given is not None:  # a map too, in colours of its own
        shown = given[:CONTEXTS, None].expand(-1, columns, -1, -1, -1)
        rows.insert(0, ("given", INK, shown, 0, [_scale(part[:1, 0]) for part in shown]))
    apart = len(rows)
    for model, scores in found.scores.items():
        rows.append((model, found.styles[model].colour, scores["examples.drawn"][:CONTEXTS], channel, scales))

    left = 0.35 + max(width(name) for name, *_ in rows)
    free = WIDTH - left - _RIGHT - (blocks - 1) * _BLOCK_GAP - blocks * (columns - 1) * _GAP
    wide = min(_TILE, max(1.0, _PAGE / len(rows)), free / (blocks * columns))
    high = wide * real.shape[-2] / real.shape[-1]
    block = columns * (wide + _GAP) - _GAP
    titles = [context_text(c, found.labels, block) if len(c) or given is None else "" for c in context]
    title = _title(found, channel)
    # Room for the title, at 12 bold points, where there are few small maps.
    page = left + max(blocks * (block + _BLOCK_GAP) - _BLOCK_GAP, 1.4 * width(title)) + _RIGHT
    top = 0.55 + _LINE * (1 + max(line.count("\n") for line in titles))
    bottom = (0.15 if rgb else _BAR + _BELOW_BAR) + (_LINE if found.note else 0)
    height = top + len(rows) * (high + _GAP) + 2 * _GAP + bottom
    figure = Figure(figsize=(page, height))

    def axes(x: float, y: float, w: float, h: float) -> Axes:
        """Of a rectangle in inches, y downwards from the top to its upper edge."""
        return figure.add_axes((x / page, 1 - (y + h) / height, w / page, h / height))

    def write(x: float, y: float, content: str, **how: Any) -> None:
        figure.text(x / page, 1 - y / height, content, **how)

    write(left, 0.14, title, fontsize=12, fontweight="bold", va="top")
    for row, (name, colour, maps, which, colours) in enumerate(rows):
        # What is drawn is set off a little.
        y = top + row * (high + _GAP) + (2 * _GAP if row >= apart else 0)
        swatch = axes(left - 0.06 - _SWATCH, y, _SWATCH, high)
        swatch.set_axis_off()
        swatch.add_patch(_filled(colour))
        weight = "bold" if maps is real else "normal"
        write(left - 0.2, y + high / 2, verbatim(name), fontsize=10, fontweight=weight, ha="right", va="center")
        for b in range(blocks):
            for column in range(columns):
                at = axes(left + b * (block + _BLOCK_GAP) + column * (wide + _GAP), y, wide, high)
                bare(at)
                _show(at, maps[b, column], which, colours[b], found)
    for b, (values, scale) in enumerate(zip(titles, scales, strict=True)):
        x = left + b * (block + _BLOCK_GAP)
        size = min(10.0, 10 * (block + 0.5 * _BLOCK_GAP) / max(1e-6, *map(width, values.split("\n"))))  # some are wide
        write(x + block / 2, top - 0.08, values, fontsize=size, ha="center", va="bottom")
        if scale is not None:
            _bar(figure, axes(x, height - bottom + 0.08, block, _BAR), scale, found, channel)
    if found.note:
        write(left, height - 0.06, found.note, fontsize=8, color=INK, va="bottom")
    return figure


def _show(at: Axes, picture: Tensor, channel: int, scale: Normalize | None, found: Shown) -> None:
    if scale is None:
        low, high = _levels(found)
        at.imshow(((picture.movedim(0, -1).float() - low) / (high - low)).nan_to_num(0, 1, 0).clamp(0, 1).numpy())
        return
    values = picture[channel].float()
    # Beyond the scale is the colour of its end; without a positive value a logarithm would be nothing at all.
    inside = values.clamp(scale.vmin, scale.vmax)
    at.imshow(np.ma.masked_invalid(torch.where(values.isfinite(), inside, torch.nan).numpy()), cmap=_map(), norm=scale)


def _bar(figure: Figure, at: Axes, scale: Normalize, found: Shown, channel: int) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import MaxNLocator

    ticks = None if isinstance(scale, LogNorm) else MaxNLocator(4)
    bar = figure.colorbar(ScalarMappable(scale, _map()), cax=at, orientation="horizontal", extend="both", ticks=ticks)
    bar.outline.set_linewidth(0.4)
    at.tick_params(labelsize=8, width=0.4, length=2.5, color=INK, labelcolor=INK)
    at.minorticks_off()
    label = with_unit(entry(found.labels, "names", channel), entry(found.labels, "units", channel))
    at.set_xlabel(label or "x", fontsize=9, labelpad=2)


def _map() -> Any:
    from matplotlib import colormaps

    return colormaps["viridis"].with_extremes(bad=_NAN)


def _scale(real: Tensor) -> Normalize:
    """The colours of a context, of its real maps ``(n, H, W)``."""
    from matplotlib.colors import LogNorm, Normalize

    values = real[real.isfinite()].double().numpy()
    low, high = np.percentile(values, PERCENTILES) if len(values) else (0.0, 1.0)
    if low > 0 and high > low * 10**DECADES:
        return LogNorm(float(low), float(high))
    if not high > low:
        low, high = low - 0.5, low + 0.5
    return Normalize(float(low), float(high))


def _filled(colour: str) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((0, 0), 1, 1, facecolor=colour, edgecolor="none")


def _is_rgb(found: Shown) -> bool:
    return found.first["examples.real"].shape[2] == 3 and len(found.labels.get("levels", ())) == 3


def _levels(found: Shown) -> tuple[float, float]:
    low, step, count = (float(value) for value in found.labels["levels"])
    return low, low + step * max(count - 1, 1)


def _title(found: Shown, channel: int) -> str:
    names = channels(found)
    of = f" ({text(names[channel])})" if len(names) > 1 else ""
    side = " ".join(found.labels.get("side", ()))
    return f"{verbatim(found.dataset)}{of}: real, and drawn at the same context" + (f"; {side} a side" if side else "")
