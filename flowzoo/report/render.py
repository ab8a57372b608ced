"""A table for people, rounded by its errors: terminal, Markdown, LaTeX; and for programs: CSV, all digits."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowzoo.report.columns import OPTIONAL, Row, Shown, by_dataset, has, name_of, parts
from flowzoo.report.table import Missing, Table
from flowzoo.report.verdict import Verdict

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, Group, RenderResult

BOLD = "bold: the best, and every model whose paired, group-clustered difference from it is within two standard errors"
ERRORS = (
    "NLL: nats per test event in data units, mean over seeds; SE: standard error over test groups; "
    "ΔNLL: NLL minus that of the best, paired by event"
)
GAIN = (
    "context gain: NLL of the same config trained without context minus NLL; ± over test groups, for one training of "
    "each (the level of context noise chosen on validation): what trainings differ by is not in it"
)
TUNING = (
    "-tuned: the best config of a study on validation; gain of tuning: NLL of the default config minus that of the"
    " tuned, paired by event; validation: NLL of the validation split, mean over seeds"
)
SEEDS = "± seeds: standard error of the mean over seeds"
# What a narrow terminal goes without, first things first. A number is never cut.
_NEEDLESS = re.compile("are of images|not images|pixels are too few|has no prior|no reference posteriors")
_SELF_EVIDENT = {"nll_nats", "nll_per_dim", "bits_per_dim"}  # or said by the legend
_LEAST = (
    *("log q(truth)", "RMSE", "contraction", "coverage error", "TARP p", "HPD p", "SBC p"),
    *("coverage", "PQMass", "correlation", "KS", "MMD²"),
    *("scattering", "bispectrum", "Minkowski", "peaks", "pixel W1", "P(k) std R²", "class accuracy"),
    *("NLL/dim", "params", "train", "draws", "± seeds of the gain", "± seeds", "SW (floor)", "context use", "excess"),
    *("bits/dim", "context gain ± SE", "validation"),
)


@dataclass(frozen=True)
class Block:
    """One dataset's part of a table, as text; an empty text is a value that is not there.

    ``dataset`` is its name, ``bold`` says which rows are the best or tied with it; ``reasons`` are footnotes on cells
    that failed and values that are missing, ``legend`` those on what the columns mean.
    """

    dataset: str
    title: str
    headings: list[str]
    rows: list[list[str]]
    bold: list[bool]
    reasons: list[str]
    legend: list[str]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich import box, measure, table
        from rich.text import Text

        unbounded, left_out = options.update(width=10**4), list[str]()
        for least in ("", *_LEAST):
            left_out += {least}.intersection(map(name_of, self.headings))
            keep = [i for i, heading in enumerate(self.headings) if name_of(heading) not in left_out]
            view = table.Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False)
            for i in keep:
                # Texts, so that no bracket is read as markup; the unit stands under the name.
                lines = "\n".join(self.headings[i].removesuffix(")").rsplit(" (", 1))
                heading = Text(lines.replace("/dim", "\n/dim").replace("context ", "context\n"))
                view.add_column(heading, justify="right" if i else "left", no_wrap=True)
            for row, bold in zip(self.rows, self.bold, strict=True):
                view.add_row(*(Text(row[i]) for i in keep), style="bold" if bold else None)
            if measure.Measurement.get(console, unbounded, view).maximum <= options.max_width:
                break
        yield Text(self.title, style="italic")
        yield view
        narrow = [f"not shown at this width: {', '.join(left_out)}"] if left_out else []
        for text in (*self.reasons, *narrow, ""):
            yield Text(_line(text), no_wrap=True, overflow="ellipsis")


def to_terminal(table: Table) -> Group:
    """A rich renderable: a table per dataset, its reasons beneath it in one line each, and one legend.

    Made for 120 characters. With fewer, the least important columns are left out, and named.
    """
    from rich.console import Group
    from rich.text import Text

    found = blocks(table)
    legend = dict.fromkeys(text for block in found for text in block.legend)
    return Group(*found, *(Text(text, style="dim") for text in legend or ([] if found else ["no cells"])))


def to_csv(table: Table) -> str:
    """All columns; floats in the shortest text that reads back the same, a missing value as nothing.

    Read it with ``pandas.read_csv(..., dtype={"split_hash": str})``: a hash of digits alone is not a number.
    """
    return table.frame.to_csv(index=False, lineterminator="\n")


def to_markdown(table: Table, verdicts: Sequence[Verdict] = ()) -> str:
    """A section per dataset: heading, verdict, pipe table, reasons as a list; one legend at the end."""
    found, parts = blocks(table), []
    left = {verdict.dataset: verdict for verdict in verdicts}
    for block in found:
        lines = [f"### {_markdown(block.title)}", ""]
        verdict = left.pop(block.dataset, None)
        if verdict is not None:
            said = [f"Take {verdict.take}", *verdict.lines] if verdict.take else verdict.lines
            lines += [" ".join(f"{_markdown(text)}." for text in said), ""]
        lines.append("| " + " | ".join(_markdown(text) for text in block.headings) + " |")
        lines.append("| " + " | ".join(["---", *["---:"] * (len(block.headings) - 1)]) + " |")
        for row, bold in zip(block.rows, block.bold, strict=True):
            texts = [_markdown(text) for text in row]
            marked = [f"**{text}**" for text in texts[:2]] if bold else texts[:2]
            lines.append("| " + " | ".join([*marked, *texts[2:]]) + " |")
        parts.append("\n".join([*lines, "", *(f"- {_markdown(text)}" for text in block.reasons), ""]))
    legend = dict.fromkeys(text for block in found for text in block.legend)
    return "\n".join([*parts, *(f"- {_markdown(text)}" for text in legend), ""])


def to_latex(table: Table) -> str:
    """A ``table`` environment per dataset; needs the package booktabs and UTF-8 input."""
    parts = []
    for block in blocks(table):
        lines = ["% \\usepackage{booktabs}", "\\begin{table}", "\\centering"]
        lines.append(f"\\caption{{{_latex(block.title)}}}")
        lines.append(f"\\begin{{tabular}}{{l{'r' * (len(block.headings) - 1)}}}")
        lines += ["\\toprule", " & ".join(_latex(text) for text in block.headings) + r" \\", "\\midrule"]
        for row, bold in zip(block.rows, block.bold, strict=True):
            # A hyphen in a number is a minus sign; in the name of a model it is a hyphen.
            texts = [_latex(row[0]), *(_latex(text).replace("-", "$-$") for text in row[1:])]
            marked = [f"\\textbf{{{text}}}" for text in texts[:2]] if bold else texts[:2]
            lines.append(" & ".join([*marked, *texts[2:]]) + r" \\")
        lines += ["\\bottomrule", "\\end{tabular}", "\\par\\medskip\\footnotesize\\raggedright"]
        lines += [f"{_latex(text)}\\par" for text in (*block.reasons, *block.legend)]
        parts.append("\n".join([*lines, "\\end{table}", ""]))
    return "\n".join(parts)


def blocks(table: Table) -> list[Block]:
    """The table as text, a block per dataset, with the columns that have something to say there."""
    found: list[Block] = []
    every = parts()
    for dataset, of_dataset in by_dataset(table).items():
        for part, columns in every:
            block = _block(dataset, of_dataset, table.missing, part, columns)
            if not part or len(block.headings) > 1:
                found.append(block)
            else:  # a block of no columns: its reasons stand below the one before, but where they go without saying
                found[-1].reasons.extend(text for text in block.reasons if not _NEEDLESS.search(text))
    return found


def _block(dataset: str, rows: list[Row], missing: list[Missing], part: str, columns: Sequence[Shown]) -> Block:
    shown = [column for column in columns if column.found_in(rows)]
    if part:
        finished = [row["model"] for row in rows if row["seeds"]]
        return Block(
            dataset,
            f"{dataset}, {part}{_of_how_many(rows) if part == 'posteriors' else ''}",
            ["model", *(column.heading for column in shown)],
            [[row["model"], *(column.text(row) for column in shown)] for row in rows],
            [False for _ in rows],
            _why([entry for entry in missing if entry.dataset == dataset], shown, finished, columns),
            _meanings(shown),
        )
    if any(column.sources == ("bits_per_dim",) for column in shown):
        shown = [column for column in shown if column.sources != ("nll_per_dim",)]
    if any(row["status"] != "ok" for row in rows):
        shown.append(Shown("status", ("status",), lambda row: str(row["status"])))
    seeds = max(row["seeds"] for row in rows)
    split = [f"split {row['split_hash'][:12]}" for row in rows if row["split_hash"]]
    title = ", ".join([dataset, *split[:1], f"{seeds} seed{'s' * (seeds != 1)}"])
    reasons = [f"{row['model']} {row['status']}: {row['reason']}" for row in rows if row["status"] != "ok"]
    finished = [row["model"] for row in rows if row["seeds"]]
    reasons += _why([entry for entry in missing if entry.dataset == dataset], shown, finished, columns)
    legend = [BOLD] if any(row["best"] for row in rows) else []
    legend += [ERRORS] if finished else []
    legend += [GAIN] if any(column.sources[0] == "context_gain" for column in shown) else []
    legend += [TUNING] if any(column.sources[0] == "tuning_gain" for column in shown) else []
    legend += [SEEDS] if any(column.sources == ("nll_seed_se",) for column in shown) else []
    return Block(
        dataset,
        title,
        ["model", *(column.heading for column in shown)],
        [[row["model"], *(column.text(row) for column in shown)] for row in rows],
        [bool(row["tied"]) for row in rows],
        reasons,
        [*legend, *_meanings(shown)],
    )


def _of_how_many(rows: list[Row]) -> str:
    """Of how many test observations the p-values are: with more of them the same fault has a smaller p."""
    counts = sorted({round(row["calibration_observations"]) for row in rows if has(row, "calibration_observations")})
    return f" of {' or '.join(map(str, counts))} test observations" if counts else ""


def _why(missing: list[Missing], shown: list[Shown], finished: list[str], columns: Sequence[Shown]) -> list[str]:
    """Reasons as footnotes, one line for all the columns and models that share one."""
    headings = {source: name_of(column.heading) for column in columns for source in column.sources}
    # That continuous data have no bits, or one seed no scatter, needs a word only beside models that do.
    wanted = headings.keys() - (OPTIONAL - {source for column in shown for source in column.sources})
    models: dict[tuple[str, str], dict[str, None]] = {}  # dicts for sets that keep their order
    for entry in missing:
        if entry.column in wanted:
            models.setdefault((entry.reason, headings[entry.column]), {})[entry.model] = None
    alike: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (reason, heading), found in models.items():
        alike.setdefault((reason, tuple(found)), []).append(heading)
    return [
        f"{', '.join(names)}{'' if set(found) == set(finished) else ' of ' + ', '.join(found)}: {reason}"
        for (reason, found), names in alike.items()
    ]


def _meanings(shown: list[Shown]) -> list[str]:
    """What the metrics say of the columns that are more than an NLL or a cost."""
    from flowzoo import metrics

    try:
        columns = metrics.columns()
    except ImportError:  # a metric of a third party lacks its package: the numbers still stand
        return []
    wanted = [c for c in shown if c.sources[0] not in _SELF_EVIDENT and c.sources[0] in columns]
    return [f"{name_of(c.heading)}: {columns[c.sources[0]].meaning}" for c in wanted]


def _line(text: str) -> str:
    return " ".join(text.split())


def _markdown(text: str) -> str:
    return "".join(f"\\{c}" if c in "\\|*_`<[" else c for c in _line(text))


def _latex(text: str) -> str:
    return "".join(_LATEX.get(c, c) for c in _line(text))


_LATEX = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "Δ": r"$\Delta$",
}
