"""Pictures of an autoencoder: originals above reconstructions, and images as one latent after another moves."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from flowzoo.report._style import INK, WIDTH, bare, text, verbatim, width, with_unit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEPS = (-2.0, -1.0, 0.0, 1.0, 2.0)  # standard deviations by which a latent is moved
LATENTS = 8  # that are shown of more
CHANNELS = 4  # of originals and reconstructions
PERCENTILES = (1.0, 99.0)  # of the originals, between which the colours run
_DPI = 150
_NAN = "#FF00FF"  # no colour of viridis: what is not finite stands out
# In inches.
_TILE, _GAP, _TOP, _RIGHT, _BAR, _BELOW_BAR = 1.25, 0.05, 0.62, 0.2, 0.11, 0.5


def reconstruction(
    originals: Tensor, reconstructions: Tensor, ids: Sequence[str], names: Sequence[str] = (), units: Sequence[str] = ()
) -> Figure:
    """Two rows for each channel, the originals above; both have the colours of the originals.

    Args:
        originals: ``(n, C, H, W)`` in data units.
        reconstructions: of the same shape.
        ids: of the galaxies, one for each image.
        names: of the channels.
        units: of the channels.
    """
    rows, labels, bars = [], [], []
    for c in range(min(originals.shape[1], CHANNELS)):
        scale = _range(originals[:, c])
        rows += [(originals[:, c], scale), (reconstructions[:, c], scale)]
        labels += ["original", "reconstructed"]
        bars.append((scale, _label(names, units, c)))
    return _grid("Test galaxies that the autoencoder never saw", rows, labels, [verbatim(i) for i in ids], bars)


def traversal(
    images: Tensor,
    latents: Sequence[int],
    spreads: Sequence[float],
    names: Sequence[str] = (),
    units: Sequence[str] = (),
) -> Figure:
    """A row for each latent, which moves from left to right through ``STEPS`` while the others stay at their mean.

    Args:
        images: ``(latents, steps, C, H, W)`` in data units; the first channel is shown.
        latents: which they are.
        spreads: standard deviation of each over the training images.
        names: of the channels.
        units: of the channels.
    """
    scale = _range(images[:, :, 0])
    rows = [(row[:, 0], scale) for row in images]
    labels = [f"latent {i}\n(std {spread:.2g})" for i, spread in zip(latents, spreads, strict=True)]
    columns = [f"{step:+g} std" if step else "mean" for step in STEPS]
    of = f" ({text(names[0])})" if images.shape[2] > 1 and names else ""
    title = f"One latent moved, the others at their mean{of}"
    return _grid(title, rows, labels, columns, [(scale, _label(names, units, 0))])


def png(figure: Figure) -> bytes:
    """A figure as the content of a file; the same figure gives the same bytes."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=_DPI, metadata={"Software": None})
    return content.getvalue()


def _grid(
    title: str,
    rows: Sequence[tuple[Tensor, tuple[float, float]]],
    labels: Sequence[str],
    columns: Sequence[str],
    bars: Sequence[tuple[tuple[float, float], str]],
) -> Figure:
    """Rows ``(n, H, W)`` of maps, each with its range of colours, and a bar for each range below them."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    colours = colormaps["viridis"].with_extremes(bad=_NAN)
    count = len(columns)
    left = 0.3 + max(width(line) for label in labels for line in label.split("\n"))
    tile = min(_TILE, (WIDTH - left - _RIGHT) / count)
    wide = count * (tile + _GAP) - _GAP
    # Room for the title, at 12 bold points, where there are few columns.
    page = max(left + wide + _RIGHT, 1.4 * width(title) + 0.3)
    bottom = _BAR + _BELOW_BAR
    height = _TOP + len(rows) * (tile + _GAP) + bottom
    figure = Figure(figsize=(page, height))
    figure.text(0.15 / page, 1 - 0.12 / height, title, fontsize=12, fontweight="bold", va="top")
    for r, ((maps, (low, high)), label) in enumerate(zip(rows, labels, strict=True)):
        y = _TOP + r * (tile + _GAP)
        at_label = ((left - 0.1) / page, 1 - (y + tile / 2) / height)
        figure.text(*at_label, label, fontsize=10, ha="right", va="center")
        for c in range(count):
            x = left + c * (tile + _GAP)
            at = figure.add_axes((x / page, 1 - (y + tile) / height, tile / page, tile / height))
            shown = np.ma.masked_invalid(maps[c].float().numpy())
            at.imshow(shown, cmap=colours, vmin=low, vmax=high)
            bare(at)
            if r == 0:
                at.set_title(columns[c], fontsize=9, color=INK, pad=3)
    each = wide / len(bars)
    for b, ((low, high), label) in enumerate(bars):
        at = figure.add_axes(
            (
                (left + b * each) / page,
                (bottom - _BAR) / height,
                (each - (0.3 if b < len(bars) - 1 else 0)) / page,
                _BAR / height,
            )
        )
        bar = figure.colorbar(
            ScalarMappable(Normalize(low, high), colours), cax=at, orientation="horizontal", extend="both"
        )
        bar.outline.set_linewidth(0.4)
        at.tick_params(labelsize=8, width=0.4, length=2.5, color=INK, labelcolor=INK)
        at.set_xlabel(label, fontsize=9, labelpad=2)
    return figure


def _range(maps: Tensor) -> tuple[float, float]:
    """The colours of some maps."""
    values = maps[maps.isfinite()].double()
    low, high = np.percentile(values.numpy(), PERCENTILES) if len(values) else (0.0, 1.0)
    return (float(low), float(high)) if high > low else (float(low) - 0.5, float(low) + 0.5)


def _label(names: Sequence[str], units: Sequence[str], channel: int) -> str:
    name, unit = (part[channel] if channel < len(part) else "" for part in (names, units))
    return with_unit(name, unit) or (f"channel {channel}" if channel else "x")
