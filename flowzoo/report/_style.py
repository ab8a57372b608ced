"""What the figures of a run share: which cells are shown, a colour for each model, and text as it should look."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from flowzoo.report.table import Cell

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

Dash = Literal["-", "--", ":", "-."]

CONTEXTS = 3  # that fit side by side on a page
WIDTH = 10.0  # inches of a figure with so many
REAL = "#000000"
INK = "#333333"  # of ticks and labels
# Okabe & Ito, the colours that people who confuse red and green tell apart, without black (the real maps) and
# yellow (too faint on white). Where they are used up, the dashes change.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES: tuple[Dash, ...] = ("-", "--", ":", "-.")

# The Greek letters that the labels of data are spelt with; capitals that look Latin are left as they are.
_LETTERS = (
    "alpha beta gamma delta epsilon zeta eta theta kappa lambda mu nu xi pi rho sigma tau phi chi psi omega "
    "Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega"
)
_GREEK = "|".join(_LETTERS.split())
_SUBSCRIPT = re.compile(rf"\b({_GREEK}|[A-Za-z])_([A-Za-z0-9]+)\b")
_LETTER = re.compile(rf"(?<![\\\w$])({_GREEK})(\d*)\b")
_COMMAND = re.compile(rf"\\({_GREEK})")
_MOST_VALUES = 6  # of a context that are written out
_INCHES = 0.088  # of a letter at 10 points


@dataclass(frozen=True)
class Style:
    """How a model is drawn, in every figure of a run."""

    colour: str
    dash: Dash


@dataclass(frozen=True)
class Shown:
    """The models of a dataset that can be compared in a figure.

    Args:
        dataset: its name.
        labels: ``Record.labels`` of the first cell.
        scores: by model, the tensors of the cell with its lowest seed, in the order of the cells.
        styles: by model.
        left_out: models that drew at other contexts than the first one.
    """

    dataset: str
    labels: Mapping[str, Sequence[str]]
    scores: Mapping[str, Mapping[str, Tensor]]
    styles: Mapping[str, Style]
    left_out: tuple[str, ...] = ()

    @property
    def first(self) -> Mapping[str, Tensor]:
        """The tensors of the first model, of which the real side is shown."""
        return next(iter(self.scores.values()))

    @property
    def note(self) -> str:
        """Who is not in the figure, and why; empty if all are."""
        return f"left out, because drawn at other contexts: {', '.join(self.left_out)}" if self.left_out else ""


def styles(cells: Sequence[Cell]) -> dict[str, Style]:
    """A style for each model, in the order in which they appear."""
    models = dict.fromkeys(cell.record.model for cell in cells)
    count = len(PALETTE)
    return {m: Style(PALETTE[i % count], DASHES[i // count % len(DASHES)]) for i, m in enumerate(models)}


def shown(cells: Sequence[Cell], needed: Sequence[str], known: Mapping[str, Style]) -> list[Shown]:
    """By dataset, the models that have the needed tensors, their lowest seed each, where there is a model at least.

    Args:
        cells: finished cells, failed ones too.
        needed: names of tensors, the first of them the contexts, which must agree for models to be compared.
        known: a style for each model.
    """
    result = []
    for dataset, models in lowest_seeds(cells, lambda scores: all(name in scores for name in needed)).items():
        first = next(iter(models.values()))
        # Contexts that are not finite agree with none, not even with themselves.
        alike = [m for m, cell in models.items() if _alike(cell.scores, first.scores, needed)]
        others = tuple(m for m in models if m not in alike)
        if alike:
            result.append(Shown(dataset, first.record.labels, {m: models[m].scores for m in alike}, known, others))
    return result


def lowest_seeds(
    cells: Sequence[Cell], able: Callable[[Mapping[str, Tensor]], bool]
) -> Mapping[str, Mapping[str, Cell]]:
    """By dataset and model, of the cells that are finished and whose tensors can be shown that of the lowest seed."""
    found: dict[str, dict[str, Cell]] = {}
    for cell in cells:
        if cell.record.status == "ok" and able(cell.scores):
            models = found.setdefault(cell.record.dataset, {})
            if cell.record.model not in models or cell.record.seed < models[cell.record.model].record.seed:
                models[cell.record.model] = cell
    return found


def _alike(one: Mapping[str, Tensor], other: Mapping[str, Tensor], names: Sequence[str]) -> bool:
    if any(one[name].shape != other[name].shape for name in names):
        return False
    return torch.allclose(one[names[0]].double(), other[names[0]].double(), rtol=1e-5, atol=1e-8)


def frame(at: Axes, **ticks: Any) -> None:
    """Thin lines on all four sides of a panel, and ticks inwards."""
    look: dict[str, Any] = {"which": "both", "color": INK, "labelcolor": INK, "width": 0.5, "direction": "in"}
    at.tick_params(**look, top=True, right=True, **ticks)
    for spine in at.spines.values():
        spine.set(linewidth=0.6, color=INK)


def bare(at: Axes) -> None:
    """The frame of a picture: a hair, and no ticks."""
    at.set_xticks([])
    at.set_yticks([])
    for spine in at.spines.values():
        spine.set(linewidth=0.4, color=INK)


def model_lines(found: Shown, **look: Any) -> dict[str, Line2D]:
    """For a legend, by the names of the models, their lines."""
    from matplotlib.lines import Line2D

    each = {model: found.styles[model] for model in found.scores}
    how = {"linewidth": 2, **look}
    return {verbatim(m): Line2D([], [], color=style.colour, linestyle=style.dash, **how) for m, style in each.items()}


def text(plain: str) -> str:
    r"""A label as mathematics where it is meant so; all else as it is.

    >>> text("Omega_m"), text("log10 N_HI"), text("cm^-2"), text("stellar_mass in $")
    ('$\\Omega_{\\mathrm{m}}$', 'log$_{10}$ $N_{\\mathrm{HI}}$', 'cm$^{-2}$', 'stellar_mass in \\$')
    """
    out = verbatim(plain)
    out = _SUBSCRIPT.sub(lambda m: f"${_letter(m[1])}_{{\\mathrm{{{m[2]}}}}}$", out)
    out = _LETTER.sub(lambda m: f"$\\{m[1]}_{{{m[2]}}}$" if m[2] else f"$\\{m[1]}$", out)
    out = re.sub(r"\blog10\b", "log$_{10}$", out)
    return re.sub(r"\^(-?\d+)", r"$^{\1}$", out)


def with_unit(name: str, unit: str) -> str:
    """``name [unit]`` as ``text``, either of which may be empty."""
    return " ".join(filter(None, [text(name), f"[{text(unit)}]" if unit else ""]))


def entry(labels: Mapping[str, Sequence[str]], name: str, index: int, default: str = "") -> str:
    """One of the labels of that name, or the default where there are not so many."""
    found = labels.get(name, ())
    return found[index] if index < len(found) else default


def context_text(context: Tensor, labels: Mapping[str, Sequence[str]], inches: float) -> str:
    """The values of a context as a title: ``Omega_m = 0.31, sigma_8 = 0.82``, the class where it is one of several.

    Args:
        context: ``(*context)``.
        labels: ``Record.labels``.
        inches: how wide a line may be, at 10 points.
    """
    if context.numel() and bool(context.isinf().all()):  # of a population whose members have their own
        return "all test contexts"
    if context.ndim != 1:
        return f"context of {' x '.join(str(n) for n in context.shape)}"
    values = context.tolist()
    if not values:
        return "no context"
    if len(values) > 1 and sorted(values) == [0.0] * (len(values) - 1) + [1.0]:
        hot = values.index(1.0)
        return text(entry(labels, "context_names", hot, f"class {hot}"))
    parts = []
    for i, value in enumerate(values):
        name, unit = entry(labels, "context_names", i, f"c_{i + 1}"), entry(labels, "context_units", i)
        parts.append(f"{text(name)} = {value:.3g}{' ' if unit else ''}{text(unit)}")
    if len(parts) > _MOST_VALUES:
        parts[_MOST_VALUES - 1 :] = [f"{len(parts) - _MOST_VALUES + 1} more"]
    lines = parts[:1]
    for part in parts[1:]:
        together = f"{lines[-1]}, {part}"
        if width(together) <= inches:
            lines[-1] = together
        else:
            lines.append(part)
    return ",\n".join(lines)


def width(written: str) -> float:
    """About how many inches a ``text`` of 10 points takes; ten bold points take a sixth more."""
    return _INCHES * len(re.sub(r"[${}_^]", "", re.sub(r"\\mathrm|\\", "", _COMMAND.sub("x", written))))


def verbatim(plain: str) -> str:
    """A name as it is: of a dollar sign no mathematics is made."""
    return plain.replace("$", r"\$")


def _letter(base: str) -> str:
    return base if len(base) == 1 else f"\\{base}"
